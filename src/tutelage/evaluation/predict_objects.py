"""What a detection run says of pictures: boxes and outlines as COCO JSON, and a sheet for people."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutelage.average_precision import rows_of
from tutelage.batch import to_unit
from tutelage.data.crops import resized
from tutelage.data.index import open_data
from tutelage.detections import Found
from tutelage.detector import load_detector
from tutelage.durable import write_whole
from tutelage.errors import MachineError
from tutelage.evaluation.detection import objects_of
from tutelage.evaluation.features import Say
from tutelage.pictures import Marked, detections, shown_size
from tutelage.sheet import save

SHOWN, TILE = 12, 400
"""Pictures that are drawn, and pixels of each."""
SURE = 0.5
"""By default objects that are counted and drawn have this score or more; the table has all."""


class FoundInPictures(NamedTuple):
    """What was predicted of a set."""

    pictures: int
    counts: Counter[str]
    """Objects that are sure enough, by class."""


def predict_objects(
    where: str,
    data: str,
    out: Path,
    *,
    score: float = SURE,
    device: torch.device | str | None = None,
    say: Say | None = None,
) -> FoundInPictures:
    """Write OUT/predictions.json, which COCO's tools read, and OUT/predictions.png, which shows objects of a `score` or more.

    Its images are those of `data` by name, its categories those that the run learned from, its annotations have boxes, scores
    and, where the run learned them, outlines as run lengths. A picture that cannot be read is left out. `data` is what
    `open_data` takes. Raises CheckpointError K-07 where there is no detector, what `open_data` raises, MachineError R-03.
    """
    detector = load_detector(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    detector.method.to(device)
    pictures = open_data(data, holdout=0.0, divided=False).everything
    masks, every = detector.method.settings.masks, max(1, len(pictures) // SHOWN)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    shown: list[tuple[Tensor, list[Marked]]] = []
    counts: Counter[str] = Counter()
    for i in range(len(pictures)):
        number, picture = pictures.fetch(i)
        if number != i:
            continue  # it cannot be read, and another one was read in its place
        size = pictures.own_size(i)
        found = objects_of(detector, picture, size, device)
        images.append({"id": i, "file_name": pictures.name(i), "height": size[0], "width": size[1]})
        for row in rows_of(found, size, masks=masks):
            category = detector.ids[row["category_id"]]
            annotations.append(
                {**row, "id": len(annotations) + 1, "image_id": i, "category_id": category, "iscrowd": 0}
            )
        sure = found.surer(score)
        counts.update(detector.classes[label] for label in sure.labels.tolist())
        if i % every == 0 and len(shown) < SHOWN:
            shown.append(_marked(picture, sure, size))
        if say:
            say(f"predict  {i + 1:,} of {len(pictures):,} pictures")
    categories = [{"id": c, "name": name} for c, name in zip(detector.ids, detector.classes, strict=True)]
    told = {"images": images, "categories": categories, "annotations": annotations}
    note = f"{len(shown)} of {len(images):,} pictures, evenly spread, and what is found with a score of {score:.0%} or more."
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "predictions.json", json.dumps(told).encode("utf-8"))
        drawn = detections(shown, ("picture", "found"), detector.classes, note, tile=TILE)
        save(drawn, out / "predictions.png")
    except OSError as error:
        raise MachineError("R-03", f"{out} cannot be written: {error.strerror or error}.") from error
    return FoundInPictures(len(images), counts)


def _marked(picture: Tensor, found: Found, size: tuple[int, int]) -> tuple[Tensor, list[Marked]]:
    """A picture as it is shown, and what is found on it in its pixels; `size` (height, width) is that of its file."""
    at = shown_size(picture, TILE)
    there = found.resized((at[0] / size[0], at[1] / size[1]), at)
    return to_unit(resized(picture, at)), [Marked(there.as_objects(at), tuple(there.scores.tolist()))]
