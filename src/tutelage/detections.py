"""What is found on a picture: boxes, classes, scores and masks."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torchvision.ops import clip_boxes_to_image

from tutelage.batch import Objects


class Found(NamedTuple):
    """What is found on a picture, the surest first."""

    boxes: Float[Tensor, "n 4"]
    """x0, y0, x1, y1 in pixels."""
    labels: Int[Tensor, " n"]
    """Class numbers."""
    scores: Float[Tensor, " n"]
    """0 to 1."""
    masks: Float[Tensor, "n 28 28"] | None
    """Probability of each of 28 x 28 cells of a box to be of the object; None of a model of boxes alone."""

    def resized(self, factor: tuple[float, float], size: tuple[int, int]) -> "Found":
        """Boxes times (height, width) factors, cut at a picture of a `size` (height, width)."""
        boxes = self.boxes * self.boxes.new_tensor([factor[1], factor[0]] * 2)
        return self._replace(boxes=clip_boxes_to_image(boxes, size))

    def cpu(self) -> "Found":
        """The same on the CPU."""
        return self._each(Tensor.cpu)

    def surer(self, least: float) -> "Found":
        """Those with a score of `least` or more."""
        return self._each(lambda each: each[self.scores >= least])

    def surest(self, count: int) -> "Found":
        """At most so many, the surest."""
        return self._each(lambda each: each[:count])

    def as_objects(self, size: tuple[int, int]) -> Objects:
        """What is found on a picture of a `size` (height, width), as if it were known."""
        return Objects(self.boxes, self.labels, torch.zeros(len(self.boxes), dtype=torch.bool), self.pixels(size))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Found":
        masks = None if self.masks is None else change(self.masks)
        return Found(change(self.boxes), change(self.labels), change(self.scores), masks)

    def pixels(self, size: tuple[int, int]) -> Tensor:
        """Masks [n, h, w] of a picture of a `size` (height, width): where the probability is above a half."""
        found = torch.zeros(len(self.boxes), *size, dtype=torch.bool)
        if self.masks is None:
            return found
        for pixels, mask, (x0, y0, x1, y1) in zip(found, self.masks.cpu(), self.boxes.tolist(), strict=True):
            rows = slice(max(0, math.floor(y0)), min(size[0], math.ceil(y1)))
            columns = slice(max(0, math.floor(x0)), min(size[1], math.ceil(x1)))
            y, x = _places(rows, y0, y1), _places(columns, x0, x1)
            grid = torch.stack(torch.meshgrid(y, x, indexing="ij")[::-1], -1)[None].to(mask.dtype)
            cells = F.grid_sample(mask[None, None], grid, padding_mode="border", align_corners=False)[0, 0]
            pixels[rows, columns] = (cells > 0.5) & (grid[0].abs().amax(-1) <= 1)
        return found


def _places(pixels: slice, low: float, high: float) -> Float[Tensor, " n"]:
    """Where the middles of pixels lie between two sides of a box, from -1 to 1."""
    middles = torch.arange(pixels.start, max(pixels.start, pixels.stop)) + 0.5
    return 2 * (middles - low) / max(high - low, 1e-3) - 1
