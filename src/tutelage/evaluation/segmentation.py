"""How well a segmentation run names the pixels of pictures it was not trained on: mean intersection over union."""

import math
import time

import torch
from jaxtyping import UInt8
from torch import Tensor

from tutelage.confusion import Overlap, confusion, overlap
from tutelage.data.index import Pictures, open_data
from tutelage.errors import DataError
from tutelage.evaluation.features import Say, normalised
from tutelage.evaluation.parts import asked, holdout_of, known_parts, refuse_other_classes, seen_before
from tutelage.evaluation.result import Evaluation, Row, Score, remember
from tutelage.segmenter import Segmenter, load_segmenter

VERSION = 1
"""Goes up when the protocol's numbers change."""


def evaluate_segmentation(
    where: str, data: str, *, device: torch.device | str | None = None, say: Say | None = None
) -> Evaluation:
    """MIoU of the segmenter of a run on held-out and on test pictures with masks, each whole, at its own size.

    Pixels are pooled over the pictures. Raises CheckpointError where there is no segmenter, DataError D-30 to D-38 for a set
    without masks or with such as cannot be right, D-36 where its classes are others, D-10 without test pictures.
    """
    start, segmenter = time.perf_counter(), load_segmenter(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    opened = open_data(data, annotation="masks", holdout=holdout_of(where))
    refuse_other_classes(where, segmenter.classes, "names other classes of pixels", data, opened.train.classes)
    parts, notes = known_parts(opened)
    notes += seen_before(where, opened)
    if not len(parts.test):
        raise DataError(
            "D-10",
            f"{opened.name} has no masks to test on.",
            "Mean intersection over union cannot be measured without them.",
            "Give the pictures of its test part masks in which a pixel counts.",
        )
    segmenter.method.to(device)
    test = _overlap(segmenter, parts.test, device, say)
    held_out = _overlap(segmenter, parts.held_out, device, say).miou if len(parts.held_out) else None
    found_iou = zip(segmenter.classes, test.iou.tolist(), strict=True)
    iou = {name: None if math.isnan(value) else round(value, 4) for name, value in found_iou}
    score = Score(held_out, test.miou, {"pixel_accuracy": test.accuracy, "iou": iou})
    found = Evaluation(
        protocol=f"segmentation/{VERSION}",
        settings={},
        teacher=None,
        rows=(Row("segmenter", {"mIoU": score}),),
        notes=tuple(notes),
        seconds=round(time.perf_counter() - start, 3),
        **asked(where, segmenter, opened, parts),
    )
    remember(where, [found])
    return found


def _overlap(segmenter: Segmenter, pictures: Pictures, device: torch.device | str, say: Say | None) -> Overlap:
    num_classes = len(segmenter.classes)
    table = torch.zeros(num_classes, num_classes, dtype=torch.int64)
    for i in range(len(pictures)):
        number, picture = pictures.fetch(i)
        mask = pictures.mask(number, picture)
        assert mask is not None
        table += confusion(classes_of(segmenter, picture.to(device)), mask, num_classes)
        if say:
            say(f"segmentation  {i + 1:,} of {len(pictures):,} pictures")
    return overlap(table)


def classes_of(segmenter: Segmenter, picture: Tensor) -> UInt8[Tensor, "h w"]:
    """The most probable class of each pixel of a picture [c, h, w], uint8 or float in 0..1, on the CPU."""
    x = normalised(picture[None], segmenter.statistics, segmenter.channels)[0]
    return segmenter.classes_of(x).cpu()
