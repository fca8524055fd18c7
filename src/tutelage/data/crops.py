"""Cutting and resizing: the crop of every view, and the plain view of evaluations."""

import math
from typing import NamedTuple

import torch
from jaxtyping import UInt8
from torch import Tensor
from torch.nn import functional as F

from tutelage.batch import Objects
from tutelage.data.order import Draws


class Box(NamedTuple):
    """A rectangle of pixels inside a picture."""

    top: int
    left: int
    height: int
    width: int


def eval_view(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """The middle of a picture [c, h, w] at `size` (H, W), in its dtype, with no randomness.

    The picture is resized (bicubic, antialiased) until it just covers `size`, or 256/224 of it where `size` is at
    least 96 on both sides, as ImageNet's evaluations do; then `size` is cut out of the middle. Sides are never
    stretched.
    """
    _, height, width = picture.shape
    return _middle(resized(picture, _covering((height, width), size)), size)


def eval_mask(mask: UInt8[Tensor, "h w"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2"]:
    """The mask that belongs to the `eval_view` of its picture."""
    height, width = mask.shape
    return _middle(resized_mask(mask, _covering((height, width), size))[None], size)[0]


def _covering(sides: tuple[int, int], size: tuple[int, int]) -> tuple[int, int]:
    margin = 256 / 224 if min(size) >= 96 else 1.0
    factor = max(round(wanted * margin) / side for side, wanted in zip(sides, size, strict=True))
    height, width = (max(wanted, int(side * factor + 1e-6)) for side, wanted in zip(sides, size, strict=True))
    return height, width


def _middle(picture: Tensor, size: tuple[int, int]) -> Tensor:
    top, left = (picture.shape[-2] - size[0]) // 2, (picture.shape[-1] - size[1]) // 2
    return picture[:, top : top + size[0], left : left + size[1]].contiguous()


def random_box(height: int, width: int, scale: tuple[float, float], ratio: tuple[float, float], draws: Draws) -> Box:
    """A crop by the rule of RandomResizedCrop: ten tries for area and ratio, then the largest central one allowed."""
    for _ in range(10):
        area = height * width * draws.uniform(*scale)
        aspect = math.exp(draws.uniform(math.log(ratio[0]), math.log(ratio[1])))
        h, w = round(math.sqrt(area / aspect)), round(math.sqrt(area * aspect))
        if 0 < h <= height and 0 < w <= width:
            return Box(draws.integer(height - h + 1), draws.integer(width - w + 1), h, w)
    aspect = min(max(width / height, ratio[0]), ratio[1])
    h, w = max(1, min(height, round(width / aspect))), max(1, min(width, round(height * aspect)))
    return Box((height - h) // 2, (width - w) // 2, h, w)


def crop_and_flip(
    picture: Tensor,
    size: tuple[int, int],
    draws: Draws,
    scale: tuple[float, float],
    ratio: tuple[float, float],
    flip: float,
) -> Tensor:
    """A random box of the picture at `size`, mirrored with probability `flip`; `ratio` is times that of the output."""
    shape = size[1] / size[0]
    _, height, width = picture.shape
    box = random_box(height, width, scale, (ratio[0] * shape, ratio[1] * shape), draws)
    crop = picture[:, box.top : box.top + box.height, box.left : box.left + box.width]
    view = resized(crop, size)
    return view.flip(-1) if draws.uniform() < flip else view


def resized(picture: Tensor, size: tuple[int, int]) -> Tensor:
    """A picture [c, h, w] at `size` (H, W): bicubic and antialiased; floats stay in 0..1, which a cubic may leave."""
    found = F.interpolate(picture[None], size=size, mode="bicubic", antialias=True)[0]
    return found.clamp_(0, 1) if found.is_floating_point() else found


def resized_objects(objects: Objects, sides: tuple[int, int], size: tuple[int, int]) -> Objects:
    """Objects of a picture of `sides` (height, width) when it gets a `size`."""
    if size == sides:
        return objects
    boxes = objects.boxes * torch.tensor([size[1] / sides[1], size[0] / sides[0]] * 2)
    masks = [resized_mask(mask.to(torch.uint8), size).bool() for mask in objects.masks]
    return objects._replace(boxes=boxes, masks=torch.stack(masks) if masks else objects.masks.new_zeros(0, *size))


def resized_mask(mask: UInt8[Tensor, "h w"], size: tuple[int, int]) -> UInt8[Tensor, "h2 w2"]:
    """A mask at `size` (H, W): of each pixel the class that lies under its middle."""
    if mask.shape == size:
        return mask
    return F.interpolate(mask[None, None], size=size, mode="nearest-exact")[0, 0]
