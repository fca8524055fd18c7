"""Views of pictures together with their masks or objects: what moves a pixel moves its class, and the boxes around it."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from pydantic import model_validator
from torch import Tensor
from torch.nn import functional as F
from torchvision.transforms.v2 import functional as tv

from tutelage.batch import IGNORED, Objects
from tutelage.config import Positive, Settings, Share, Width
from tutelage.data.crops import Box, resized, resized_mask, resized_objects
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


class DetectView(Settings):
    """Another size, for some a crop before, and a flip, of a picture with its objects (docs/methods/detection.md)."""

    scale: tuple[Positive, Positive] = (0.8, 1.25)
    """Size in units of that at which the picture just fits, from and to; of a larger one a part is taken (large-scale
    jitter: Ghiasi et al., CVPR 2021, where it is 0.1 to 2)."""
    short: tuple[Width, ...] = ()
    """Short sides in pixels, of which one is drawn instead of a scale; the long side is never more than the encoder's."""
    crop: Share = 0.0
    """Probability of DETR's crop before a size of `short` is drawn: a piece of 384 to 600 px of the picture at a short side of
    400, 500 or 600."""
    flip: Share = 0.5
    """Probability of a left-right flip."""

    @model_validator(mode="after")
    def _crop_of_short(self) -> "DetectView":
        if self.crop and not self.short:
            raise ValueError("a crop goes before a size of short, and there is none")
        return self

    @property
    def test_short(self) -> int | None:
        """The short side of whole pictures that are predicted on; where there is none they just fit."""
        return max(self.short) if self.short else None

    def __call__(
        self, picture: Tensor, objects: Objects, size: tuple[int, int], draws: Draws
    ) -> tuple[Tensor, Objects]:
        """A view [c, H, W] of a picture [c, h, w], in its dtype, and the objects of which a pixel or more is left.

        `size` is (H, W). Where the picture is smaller, the rest, on the right and below, is of the picture's mean colour.
        """
        if draws.uniform() < self.crop:
            sides = picture.shape[-2:]
            side = _DETR_SIDES[draws.integer(len(_DETR_SIDES))]
            picture, objects = _scaled(picture, objects, min(side / min(sides), max(size) / max(sides)))
            low, high = _DETR_CROP
            piece = tuple(min(s, low) + draws.integer(max(0, min(s, high) - low) + 1) for s in picture.shape[-2:])
            picture, objects = _piece(picture, objects, (piece[0], piece[1]), draws)
        sides = picture.shape[-2:]
        factor = min(wanted / side for wanted, side in zip(size, sides, strict=True))
        if self.short:
            factor = min(factor, self.short[draws.integer(len(self.short))] / min(sides))
        else:
            factor *= draws.uniform(*self.scale)
        picture, objects = _piece(*_scaled(picture, objects, factor), size, draws)
        if draws.uniform() < self.flip:
            x0, y0, x1, y1 = objects.boxes.unbind(1)
            boxes = torch.stack([picture.shape[-1] - x1, y0, picture.shape[-1] - x0, y1], 1)
            picture, objects = picture.flip(-1), objects._replace(boxes=boxes, masks=objects.masks.flip(-1))
        return _padded(picture, size), objects._replace(masks=_fill(objects.masks, size, 0))


_DETR_SIDES, _DETR_CROP = (400, 500, 600), (384, 600)


def framed(picture: Tensor, size: tuple[int, int], short: int | None) -> tuple[Tensor, tuple[int, int]]:
    """A whole picture as views show it, and how much of `size` it takes, (height, width): its short side is at most `short`."""
    inside = fitted((picture.shape[-2], picture.shape[-1]), size, short)
    return _padded(resized(picture, inside), size), inside


def fitted(sides: tuple[int, int], size: tuple[int, int], short: int | None) -> tuple[int, int]:
    """(height, width) of a whole picture inside `size`, its short side at most `short`."""
    factor = min(wanted / side for wanted, side in zip(size, sides, strict=True))
    factor = factor if short is None else min(factor, short / min(sides))
    return _times(sides, factor)


def _times(sides: tuple[int, ...], factor: float) -> tuple[int, int]:
    height, width = (max(1, round(side * factor)) for side in sides)
    return height, width


def _scaled(picture: Tensor, objects: Objects, factor: float) -> tuple[Tensor, Objects]:
    sides = (picture.shape[-2], picture.shape[-1])
    size = _times(sides, factor)
    return resized(picture, size), resized_objects(objects, sides, size)


def _piece(picture: Tensor, objects: Objects, size: tuple[int, int], draws: Draws) -> tuple[Tensor, Objects]:
    """A random part of at most `size`, with the objects whose boxes keep a pixel or more of both sides."""
    height, width = (min(side, wanted) for side, wanted in zip(picture.shape[-2:], size, strict=True))
    tops, lefts = picture.shape[-2] - height + 1, picture.shape[-1] - width + 1
    box = Box(draws.integer(tops), draws.integer(lefts), height, width)
    low, high = torch.tensor([box.left, box.top] * 2), torch.tensor([width, height] * 2)
    boxes = (objects.boxes - low).clamp(min=0).minimum(high)
    left = ((boxes[:, 2:] - boxes[:, :2]) >= 1).all(1)
    kept = Objects(boxes, objects.labels, objects.crowd, _cut(objects.masks, box))
    return _cut(picture, box), Objects(*(each[left] for each in kept))


def _cut(x: Tensor, box: Box) -> Tensor:
    return x[..., box.top : box.top + box.height, box.left : box.left + box.width]


def _fill(x: Tensor, size: tuple[int, int], value: int | float) -> Tensor:
    """Filled up to `size` on the right and below."""
    return F.pad(x, (0, size[1] - x.shape[-1], 0, size[0] - x.shape[-2]), value=value)


def _padded(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """Each channel filled up with its mean."""
    means = picture.float().mean((-2, -1)).to(picture.dtype).tolist()
    return torch.stack([_fill(channel, size, mean) for channel, mean in zip(picture, means, strict=True)])
