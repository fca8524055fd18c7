"""Views of pictures together with their masks: what moves a pixel moves its class."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from tutelage.batch import IGNORED
from tutelage.config import Positive, Settings, Share
from tutelage.data.crops import Box, resized, resized_mask
from tutelage.data.order import Draws

_TRIES = 10


class _Change(NamedTuple):
    change: Callable[[Tensor, float], Tensor]
    low: float
    high: float
    channels: tuple[int, ...]
    """Of pictures that can have it."""


_CHANGES = {
    "brightness": _Change(tv.adjust_brightness, 0.875, 1.125, (1, 3)),
    "contrast": _Change(tv.adjust_contrast, 0.5, 1.5, (1, 3)),
    "saturation": _Change(tv.adjust_saturation, 0.5, 1.5, (3,)),
    "hue": _Change(tv.adjust_hue, -0.05, 0.05, (3,)),
}
"""torchvision's RandomPhotometricDistort."""


class SegmentView(Settings):
    """Another size, a crop, a flip and other colours, as BEiT's and MAE's segmentation (docs/methods/segmentation.md)."""

    scale: tuple[Positive, Positive] = (0.5, 2.0)
    """Short side of the picture in units of the crop's, from and to, before it is cropped."""
    most_of_one: Share = 0.75
    """A crop of which one class takes more is drawn again, up to ten times."""
    flip: Share = 0.5
    """Probability of a left-right flip."""
    distort: Share = 0.5
    """Probability of each change of colour: brightness, contrast, saturation, hue (SSD's distortion, torchvision's ranges)."""

    def __call__(
        self, picture: Tensor, mask: UInt8[Tensor, "h w"], size: tuple[int, int], draws: Draws
    ) -> tuple[Tensor, UInt8[Tensor, "h2 w2"]]:
        """A view [c, H, W] of a picture [c, h, w], in its dtype, and its mask; `size` is (H, W).

        Where the picture is smaller than the crop, the rest is of the crop's mean colour and counts for nothing.
        """
        sides = picture.shape[-2:]
        factor = draws.uniform(*self.scale) * max(size[0] / sides[0], size[1] / sides[1])
        height, width = (max(1, round(side * factor)) for side in sides)
        picture, mask = resized(picture, (height, width)), resized_mask(mask, (height, width))
        box = self._box(mask, size, draws)
        picture, mask = _cut(picture, box), _cut(mask, box)
        if draws.uniform() < self.flip:
            picture, mask = picture.flip(-1), mask.flip(-1)
        return _padded(self._distorted(picture, draws), size), _fill(mask, size, IGNORED)

    def _box(self, mask: Tensor, size: tuple[int, int], draws: Draws) -> Box:
        """Where to cut: the first of ten boxes in which no class takes more than its share."""
        h, w = (min(side, wanted) for side, wanted in zip(mask.shape, size, strict=True))
        for _ in range(_TRIES):
            box = Box(draws.integer(mask.shape[0] - h + 1), draws.integer(mask.shape[1] - w + 1), h, w)
            counts = torch.bincount(_cut(mask, box).flatten().long(), minlength=256)[:IGNORED]
            if 0 < counts.max() <= self.most_of_one * counts.sum():
                break
        return box

    def _distorted(self, x: Tensor, draws: Draws) -> Tensor:
        """Changes that the picture's channels allow; contrast comes before saturation and hue or after, by a coin."""
        early, drawn = draws.uniform() < 0.5, {}
        for name, (_, low, high, channels) in _CHANGES.items():
            applied, strength = draws.uniform() < self.distort, draws.uniform(low, high)
            if applied and x.shape[0] in channels:
                drawn[name] = strength
        names = ["brightness", "saturation", "hue"]
        names.insert(1 if early else 3, "contrast")
        for name in names:
            if name in drawn:
                x = _CHANGES[name].change(x, drawn[name])
        return x


def _cut(x: Tensor, box: Box) -> Tensor:
    return x[..., box.top : box.top + box.height, box.left : box.left + box.width]


def _fill(x: Tensor, size: tuple[int, int], value: int | float) -> Tensor:
    """Filled up to `size` on the right and below."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


def _padded(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Each channel filled up with its mean."""
    means = picture.float().mean((-2, -1)).to(picture.dtype).tolist()
    return torch.stack([_fill(channel, size, mean) for channel, mean in zip(picture, means, strict=True)])
