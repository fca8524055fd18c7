"""The labelled pictures that teach, choose and test, and their features."""

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from tutelage.classifiers import Classifier
from tutelage.config import read_json, shortened
from tutelage.data.index import Data, Pictures
from tutelage.data.splits import HOLDOUT
from tutelage.detector import Detector
from tutelage.errors import CheckpointError, DataError, listed
from tutelage.evaluation.features import Features
from tutelage.export.sources import run_of
from tutelage.segmenter import Segmenter
from tutelage.weights import reading


class Parts(NamedTuple):
    """Labelled pictures."""

    train: Pictures
    held_out: Pictures
    """To choose by: token, learning rate, C."""
    test: Pictures
    """Asked once, for the result."""

    @property
    def counts(self) -> dict[str, int]:
        """How many pictures each has, by its name."""
        return {name: len(part) for name, part in self._asdict().items()}

    def spread(self, train_pictures: int) -> "Parts":
        """At most so many training pictures, evenly spread over them, and at most a quarter as many held-out ones."""
        return self._replace(
            train=self.train.spread(train_pictures), held_out=self.held_out.spread(max(1, train_pictures // 4))
        )


class Labelled(NamedTuple):
    """One kind of feature of one part."""

    x: Float[Tensor, "n d"]
    y: Int[Tensor, " n"]


class Split(NamedTuple):
    """One kind of feature of the parts."""

    train: Labelled
    held_out: Labelled
    test: Labelled


class Seen:
    """Features of each part, computed of its pictures and its name when they are first asked for, and once."""

    def __init__(self, parts: Parts, compute: Callable[[Pictures, str], Features]) -> None:
        self._parts, self._compute = parts, compute

    @cached_property
    def train(self) -> Features:
        """Of the pictures that teach."""
        return self._compute(self._parts.train, "training")

    @cached_property
    def held_out(self) -> Features:
        """Of the pictures to choose by."""
        return self._compute(self._parts.held_out, "held out")

    @cached_property
    def test(self) -> Features:
        """Of the test pictures."""
        return self._compute(self._parts.test, "test")

    def split(self, token: str, device: torch.device | str) -> Split:
        """All parts, by the token `cls` or `mean`, on a device."""
        found = (self.train, self.held_out, self.test)
        return Split(*(Labelled(getattr(part, token).to(device), part.labels.to(device)) for part in found))


def known_parts(data: Data) -> tuple[Parts, list[str]]:
    """The labelled pictures of each part, and what to say about the division."""
    notes = [note for note in data.found.notes if "testing" in note or "held out" in note]
    return Parts(data.train.labelled(), data.held_out.labelled(), data.test.labelled()), notes


def holdout_of(where: str) -> float:
    """The share of pictures that the run in `where`, or that wrote the folder `where`, held out of its training.

    The default where it is no run, as then nothing is known. Held-out pictures that were trained on would tell nothing.
    """
    if not (run := _run_of(where)):
        return HOLDOUT
    with reading(run):
        return float(read_json(run / "settings.json").get("holdout", HOLDOUT))


def _run_of(where: str) -> Path | None:
    """The run in `where`, or that wrote what is there: a folder, a checkpoint or a file in one; None where it is no run."""
    path = Path(where).expanduser()
    if not path.exists():  # timm:NAME is no path
        return None
    inside = run_of(str(path.parent if path.is_file() else path))
    return next((place for place in (inside, inside.parent) if (place / "settings.json").is_file()), None)


def seen_before(where: str, data: Data, *, every: bool = False) -> list[str]:
    """A warning for each run that may have learned from pictures that are asked for: that in `where`, and those it began from.

    It is one that was trained on this very set, and kept other pictures of it for testing; or any at all where `every` picture
    is asked for. Parts are compared, not single pictures; of a run of a version that did not keep their hashes nothing is told,
    nor of one that is no longer where it was.
    """
    notes, looked_at, ahead, now = list[str](), list[Path](), [where], data.hashes
    while ahead:
        place = ahead.pop()
        try:
            with reading(Path(place)):
                if not (run := _run_of(place)) or run in looked_at:
                    continue
                looked_at.append(run)
                begun_from = read_json(run / "settings.json").get("init")
                ahead += [str(run / "first"), *([str(begun_from)] if begun_from else [])]
                told = read_json(run / "data.json") if (run / "data.json").is_file() else {}
                then = told.get("hashes", {})
                is_same = "tested" in then and then["pictures"] == now["pictures"]
                if is_same and (every or then["tested"] != now["tested"]):
                    notes.append(
                        f"warning: {run} was trained on this set, and kept {told['test']:,} of its pictures for testing: "
                        "it may have learned from some that are asked for here"
                    )
        except CheckpointError as error:
            notes.append(f"warning: what {shortened(place)} learned from is not known: {error}")
    return notes


def labelled_parts(data: Data, *, choosing: bool = True) -> tuple[Parts, list[str]]:
    """The parts that classifiers learn from, and what to say about them; where nothing is chosen none need be held out.

    Raises DataError D-10 or D-15.
    """
    parts, notes = known_parts(data)
    counts = parts.counts
    if not any(counts.values()):
        raise DataError(
            "D-10",
            f"{data.name} has no labels.",
            "Accuracy cannot be measured without them.",
            "Give class folders, or a CSV file with the columns path and label.",
        )
    empty = [name.replace("_", "-") for name, count in counts.items() if not count and (choosing or name != "held_out")]
    if empty:
        raise DataError(
            "D-10", f"{data.name} has no labelled {' and no '.join(empty)} pictures.", todo="Label more of them."
        )
    if len(set(parts.train.labels.tolist())) < 2:
        raise DataError(
            "D-15", f"the labelled training pictures of {data.name} are all of one class.", todo="Label another."
        )
    unlabelled = len(data.train) + len(data.held_out) + len(data.test) - sum(counts.values())
    if unlabelled:
        notes.append(f"{unlabelled:,} pictures without a label are not used")
    unseen = set(parts.test.labels.tolist()) - set(parts.train.labels.tolist())
    if unseen:
        names = ", ".join(parts.train.classes[k] for k in sorted(unseen)[:5])
        notes.append(f"{len(unseen)} classes have test pictures but no training picture, and count as wrong: {names}")
    return parts, notes


def refuse_other_classes(where: str, own: tuple[str, ...], does: str, data: str, theirs: tuple[str, ...]) -> None:
    """Raise DataError D-36 where a run knows other classes than a set has; `does` says what it does with them."""
    if own != theirs:
        only = listed(sorted(set(own) ^ set(theirs)))
        raise DataError(
            "D-36",
            f"{where} {does} than those of {data}: only one of the two knows {only}.",
            todo="Evaluate it on a set with its classes.",
        )


def asked(where: str, encoder: Classifier | Segmenter | Detector, data: Data, parts: Parts) -> dict[str, Any]:
    """What every evaluation tells of whom it asked about which pictures."""
    return {
        "encoder": where,
        "origin": encoder.origin,
        "architecture": encoder.architecture,
        "data": data.name,
        "fingerprint": data.fingerprint,
        "pictures": parts.counts,
        "num_classes": len(parts.train.classes),
    }
