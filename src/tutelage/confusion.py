"""How well masks are predicted: a table of pixels by class, and intersection over union."""

from typing import NamedTuple

import torch
from jaxtyping import Float, Int, Integer
from torch import Tensor


class Overlap(NamedTuple):
    """What a table of pixels says."""

    miou: float
    """Mean intersection over union of the classes that are there, or are predicted."""
    accuracy: float
    """Share of pixels that are named right."""
    iou: Float[Tensor, " c"]
    """Of each class; nan where it is neither there nor predicted."""


def confusion(
    predicted: Integer[Tensor, "*shape"], truth: Integer[Tensor, "*shape"], num_classes: int
) -> Int[Tensor, "c c"]:
    """How many pixels of class i (row) are named j (column); pixels whose truth is no class do not count."""
    counts = (truth >= 0) & (truth < num_classes)
    pairs = truth[counts].long() * num_classes + predicted[counts].long()
    return torch.bincount(pairs, minlength=num_classes**2).view(num_classes, num_classes)


def overlap(table: Int[Tensor, "c c"]) -> Overlap:
    """IoU_c = TP / (TP + FP + FN), of pixels pooled over all pictures; the mean is over classes that occur (Everingham et
    al., IJCV 2010).
    """
    counts = table.double()
    right = counts.diagonal()
    union = counts.sum(0) + counts.sum(1) - right
    iou = torch.where(union > 0, right / union, torch.nan)
    return Overlap(float(iou.nanmean()), float(right.sum() / counts.sum()), iou)
