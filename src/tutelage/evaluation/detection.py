"""How well a detection run finds what lies on pictures it was not trained on: COCO's average precision."""

import math
import time
from typing import Any

import torch
from torch import Tensor

from tutelage.average_precision import FoundObjects, Precision
from tutelage.data.index import Pictures, open_data
from tutelage.data.joint import framed
from tutelage.detections import Found
from tutelage.detector import Detector, find, load_detector
from tutelage.errors import DataError
from tutelage.evaluation.features import Say, normalised
from tutelage.evaluation.parts import Parts, asked, holdout_of, known_parts, refuse_other_classes, seen_before
from tutelage.evaluation.result import Evaluation, Row, Score, remember

VERSION = 1
"""Goes up when the protocol's numbers change."""


def evaluate_detection(
    where: str, data: str, *, device: torch.device | str | None = None, say: Say | None = None
) -> Evaluation:
    """Average precision of the detector of a run on held-out and on test pictures, each whole; those without objects too.

    Of boxes, and of masks where the run learned them; the last is the result. Raises CheckpointError where there is no
    detector, DataError D-40 to D-44 for a set without COCO JSON, D-36 where its classes are others, D-10 without test pictures.
    """
    start, detector = time.perf_counter(), load_detector(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_data(data, annotation="objects", holdout=holdout_of(where))
    refuse_other_classes(where, detector.classes, "finds other kinds of objects", data, opened.train.classes)
    if not len(opened.test.labelled()):
        raise DataError("D-10", f"{opened.name} has no objects to test on.")
    _, notes = known_parts(opened)
    notes += seen_before(where, opened)
    detector.method.to(device)
    parts = Parts(opened.train, opened.held_out, opened.test)
    held_out, test = (_found(detector, part, device, say) for part in (parts.held_out, parts.test))
    kinds = {"boxes": "bbox"} | ({"masks": "segm"} if detector.method.settings.masks else {})
    rows = []
    for name, of in kinds.items():
        known = held_out.precision(of).ap if len(parts.held_out.labelled()) else None
        rows.append(Row(name, {"AP": _score(known, test.precision(of))}))
    found = Evaluation(
        protocol=f"detection/{VERSION}",
        settings={},
        teacher=None,
        rows=tuple(rows),
        notes=tuple(notes),
        seconds=round(time.perf_counter() - start, 3),
        **asked(where, detector, opened, parts),
    )
    remember(where, [found])
    return found


def _score(held_out: float | None, test: Precision) -> Score:
    by_class = {name: None if math.isnan(ap) else round(ap, 4) for name, ap in test.by_class.items()}
    told = {name: getattr(test, name) for name in ("ap50", "ap75", "small", "medium", "large")}
    details: dict[str, Any] = {name: None if math.isnan(value) else value for name, value in told.items()}
    return Score(held_out, test.ap, {**details, "ap": by_class})


def _found(detector: Detector, pictures: Pictures, device: torch.device | str, say: Say | None) -> FoundObjects:
    gathered = FoundObjects(detector.classes, masks=detector.method.settings.masks)
    for i in range(len(pictures)):
        number, picture = pictures.fetch(i)
        truth, sides = pictures.objects(number, picture), (picture.shape[-2], picture.shape[-1])
        assert truth is not None
        if number == i:  # or else it cannot be read, and another one was read in its place
            gathered.add(truth, objects_of(detector, picture, sides, device), sides)
        if say:
            say(f"detection  {i + 1:,} of {len(pictures):,} pictures")
    return gathered


def objects_of(detector: Detector, picture: Tensor, sides: tuple[int, int], device: torch.device | str) -> Found:
    """What lies on a picture [c, h, w], uint8 or float in 0..1, in the pixels of its file of `sides` (height, width)."""
    view, inside = framed(picture, detector.size, detector.short)
    return find(
        detector.method, normalised(view[None].to(device), detector.statistics, detector.channels), inside, sides
    )
