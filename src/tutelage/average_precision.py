"""How well objects are found: COCO's average precision, by pycocotools."""

import contextlib
import io
import math
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from tutelage.batch import Objects
from tutelage.data.outlines import coco_masks, pycocotools
from tutelage.detections import Found


class Precision(NamedTuple):
    """COCO's figures, 0 to 1; nan where there is no such object."""

    ap: float
    """Mean over ten overlaps from 0.5 to 0.95 and over classes of the precision, the mean over 101 recalls."""
    ap50: float
    """At an overlap of 0.5."""
    ap75: float
    """At an overlap of 0.75."""
    small: float
    """Of objects of less than 32^2 pixels."""
    medium: float
    """Of objects from there to 96^2."""
    large: float
    """Of larger ones."""
    by_class: dict[str, float]
    """`ap` of each."""


class FoundObjects:
    """What lies on pictures and what was found there, gathered picture by picture; small, for masks are run lengths."""

    def __init__(self, classes: tuple[str, ...], *, masks: bool) -> None:
        self.classes, self.masks = classes, masks
        self.sizes: list[tuple[int, int]] = []
        self.truth: list[dict[str, Any]] = []
        self.found: list[dict[str, Any]] = []

    def add(self, truth: Objects, found: Found, size: tuple[int, int]) -> None:
        """A picture of `size` (height, width): what lies on it and what was found, in its pixels."""
        image = len(self.sizes)
        self.sizes.append(size)
        masks = zip(truth.boxes.tolist(), truth.labels.tolist(), truth.crowd.tolist(), truth.masks, strict=True)
        for box, label, crowd, mask in masks:
            # COCO's sizes are those of outlines, for boxes too.
            row = {"image_id": image, "category_id": label, "bbox": xywh(box), "area": int(mask.sum())}
            more = {"iscrowd": int(crowd), "id": len(self.truth) + 1, "segmentation": run_lengths(mask)}
            self.truth.append(row | more)
        self.found += [{**row, "image_id": image} for row in rows_of(found, size, masks=self.masks)]

    def precision(self, of: str) -> Precision:
        """The figures of boxes ("bbox") or of masks ("segm")."""
        coco, evaluate = pycocotools("coco").COCO, pycocotools("cocoeval").COCOeval
        with contextlib.redirect_stdout(io.StringIO()):  # it prints what it does
            truth = coco()
            images = [{"id": i, "height": h, "width": w} for i, (h, w) in enumerate(self.sizes)]
            categories = [{"id": i, "name": name} for i, name in enumerate(self.classes)]
            truth.dataset = {"images": images, "annotations": self.truth, "categories": categories, "info": {}}
            truth.createIndex()
            # Of rows with a box pycocotools takes its area for theirs, of masks too.
            rows = [
                {name: value for name, value in row.items() if (of, name) != ("segm", "bbox")} for row in self.found
            ]
            found = truth.loadRes(rows) if rows else coco()
            if not rows:
                found.dataset = {**truth.dataset, "annotations": []}
                found.createIndex()
            done = evaluate(truth, found, of)
            done.evaluate()
            done.accumulate()
            done.summarize()
        ap, ap50, ap75, small, medium, large = (math.nan if value < 0 else float(value) for value in done.stats[:6])
        by_class = done.eval["precision"][:, :, :, 0, -1]  # overlaps, recalls, classes; any size, up to 100 a picture
        told = [by_class[:, :, i][by_class[:, :, i] > -1] for i in range(len(self.classes))]
        means = [float(values.mean()) if values.size else math.nan for values in told]
        return Precision(ap, ap50, ap75, small, medium, large, dict(zip(self.classes, means, strict=True)))


def rows_of(found: Found, size: tuple[int, int], *, masks: bool) -> list[dict[str, Any]]:
    """What was found as COCO's rows, category_id being the number of the class; masks are run lengths as text."""
    rows = [
        {"category_id": label, "bbox": xywh(box), "score": score}
        for box, label, score in zip(found.boxes.tolist(), found.labels.tolist(), found.scores.tolist(), strict=True)
    ]
    if masks:
        return [{**row, "segmentation": run_lengths(mask)} for row, mask in zip(rows, found.pixels(size), strict=True)]
    return rows


def xywh(box: list[float]) -> list[float]:
    """COCO's form of a box: corner, width, height."""
    return [box[0], box[1], box[2] - box[0], box[3] - box[1]]


def run_lengths(mask: Bool[Tensor, "h w"]) -> dict[str, Any]:
    """COCO's form of a mask, with its counts as text."""
    told = coco_masks().encode(np.asfortranarray(mask.to(torch.uint8).numpy()))
    return {"size": [int(side) for side in told["size"]], "counts": told["counts"].decode("ascii")}
