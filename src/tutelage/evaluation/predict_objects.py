"""What a detection run says of pictures: boxes and outlines as COCO JSON, and a sheet for people."""

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tutelage.average_precision import rows_of
from tutelage.batch import Objects, to_unit
from tutelage.data.crops import resized_objects
from tutelage.data.index import open_data
from tutelage.detector import load_detector
from tutelage.durable import write_whole
from tutelage.errors import MachineError
from tutelage.evaluation.detection import objects_of
from tutelage.evaluation.features import Say
from tutelage.pictures import detections
from tutelage.sheet import save

SHOWN = 12
SURE = 0.5
"""Objects that are counted and drawn have this score or more; the table has all."""


class FoundInPictures(NamedTuple):
    """What was predicted of a set."""

    pictures: int
    counts: Counter[str]
    """Objects with a score of a half or more, by class."""


def predict_objects(
    where: str, data: str, out: Path, *, device: torch.device | str | None = None, say: Say | None = None
) -> FoundInPictures:
    """Write OUT/predictions.json, which COCO's tools read, and OUT/predictions.png.

    Its images are those of `data` by name, its categories those that the run learned from, its annotations have boxes, scores
    and, where the run learned them, outlines as run lengths. A picture that cannot be read is left out. `data` is what
    `open_data` takes. Raises CheckpointError K-07 where there is no detector, what `open_data` raises, MachineError R-03.
    """
    detector = load_detector(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    detector.method.to(device)
    pictures = open_data(data, holdout=0.0).everything
    masks, every = detector.method.settings.masks, max(1, len(pictures) // SHOWN)
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    shown: list[tuple[Tensor, list[Objects]]] = []
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
        counts.update(detector.classes[label] for label in found.labels[found.scores >= SURE].tolist())
        if i % every == 0 and len(shown) < SHOWN:
            at = (picture.shape[-2], picture.shape[-1])
            shown.append((to_unit(picture), [resized_objects(found.as_objects(size, SURE), size, at)]))
        if say:
            say(f"predict  {i + 1:,} of {len(pictures):,} pictures")
    categories = [{"id": c, "name": name} for c, name in zip(detector.ids, detector.classes, strict=True)]
    told = {"images": images, "categories": categories, "annotations": annotations}
    note = f"{len(shown)} of {len(images):,} pictures, evenly spread, and what is found with a probability of a half or more."
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_whole(out / "predictions.json", json.dumps(told).encode("utf-8"))
        save(detections(shown, ("picture", "found"), detector.classes, note), out / "predictions.png")
    except OSError as error:
        raise MachineError("R-03", f"{out} cannot be written: {error.strerror or error}.") from error
    return FoundInPictures(len(images), counts)
