"""What a classifier says of pictures: a table for programs, and a sheet of pictures for people."""

from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from tutelage.batch import to_unit
from tutelage.classifiers import Classifier, load_any_classifier
from tutelage.data.index import Pictures, open_data
from tutelage.durable import write_whole
from tutelage.errors import MachineError
from tutelage.evaluation.features import Say, logits_of
from tutelage.pictures import show
from tutelage.sheet import BAD, GOOD, QUIET, Cell, save, sheet
from tutelage.tables import Entry, csv_text, plain

TOP = 3
"""Classes that are told of each picture, the most probable first."""
COLUMNS, ROWS = 8, 5


class Prediction(NamedTuple):
    """What a classifier says of one picture."""

    name: str
    classes: tuple[str, ...]
    """The most probable first; none where the picture cannot be read."""
    probabilities: tuple[float, ...]
    known: str = ""
    """Its class, where the set tells one that the classifier knows."""


def predict(
    where: str,
    data: str,
    out: Path,
    *,
    device: torch.device | str | None = None,
    workers: int = 0,
    say: Say | None = None,
) -> list[Prediction]:
    """Name the classes of every picture of `data` by the classifier of a run, and write OUT/predictions.csv and .png.

    The table has the columns path, label, score and those of the next two classes, in the order of the set; a picture that
    cannot be read has empty ones. A path that a spreadsheet would take for a formula begins with `./`, which is the same path.
    Raises CheckpointError K-07 where there is no classifier, what `open_data` raises, MachineError R-03.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    classifier = load_any_classifier(where)
    classifier.vit.to(device)
    opened = open_data(data, holdout=0.0, divided=False)
    pictures = opened.everything
    shown: list[tuple[Prediction, Tensor]] = []
    found: list[Prediction] = []
    every = max(1, len(pictures) // (COLUMNS * ROWS))
    for one, picture in _predictions(classifier, pictures, device, workers, say):
        if len(found) % every == 0 and len(shown) < COLUMNS * ROWS:
            shown.append((one, picture))
        found.append(one)
    found += [Prediction(name, (), ()) for name, _ in opened.found.unreadable]
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "predictions.csv", table(found).encode("utf-8", "surrogateescape"))
        save(_drawn(shown, len(found)), out / "predictions.png")
    except OSError as error:
        raise MachineError("R-03", f"{out} cannot be written: {error.strerror or error}.") from error
    return found


def table(predictions: list[Prediction]) -> str:
    """CSV with a line for each picture; scores are probabilities, 0 to 1."""
    more = [f"{name}_{place}" for place in range(2, TOP + 1) for name in ("label", "score")]
    rows: list[list[Entry]] = [["path", "label", "score", *more]]
    for one in predictions:
        pairs = zip(one.classes, one.probabilities, strict=True)
        told: list[Entry] = [cell for name, p in pairs for cell in (name, round(p, 4))]
        rows.append([plain(one.name, "./"), *told, *[""] * (2 * TOP - len(told))])
    return csv_text(rows)


def _predictions(
    classifier: Classifier, pictures: Pictures, device: torch.device | str, workers: int, say: Say | None
) -> Iterator[tuple[Prediction, Float[Tensor, "c h w"]]]:
    """In order, each with the picture as the classifier sees it, in 0..1."""
    k, i = min(TOP, len(classifier.classes)), 0
    for batch, logits in logits_of(classifier, pictures, device=device, workers=workers, say=say):
        best = logits.softmax(1).topk(k)
        rows = zip(batch.views[0], best.indices.tolist(), best.values.tolist(), batch.indices.tolist(), strict=True)
        for picture, ids, probabilities, number in rows:
            name, label = pictures.name(i), int(pictures.labels[i])
            # Of a picture that turned out to be damaged another one was read.
            told = (tuple(classifier.classes[c] for c in ids), tuple(probabilities)) if number == i else ((), ())
            known = pictures.classes[label] if label >= 0 else ""
            known = known if known in classifier.classes else ""
            yield Prediction(name, *told, known), to_unit(picture)
            i += 1


def _drawn(shown: list[tuple[Prediction, Tensor]], count: int) -> Image.Image:
    """Some of the pictures with their most probable class, green where it is known to be right, red where not."""

    def cell(one: Prediction, picture: Tensor) -> Cell:
        if not one.classes:
            return Cell(show(picture), "unreadable", BAD)
        ink = QUIET if not one.known else GOOD if one.known == one.classes[0] else BAD
        return Cell(show(picture), f"{one.classes[0]} {one.probabilities[0]:.0%}", ink)

    cells = [cell(*one) for one in shown]
    rows = [cells[i : i + COLUMNS] for i in range(0, len(cells), COLUMNS)]
    note = f"{len(cells)} of {count:,} pictures, evenly spread, with the most probable class and its probability."
    known = any(one.known for one, _ in shown)
    note += " Green names are the pictures' own classes, red ones are not." if known else ""
    return sheet("Predictions", note, rows)
