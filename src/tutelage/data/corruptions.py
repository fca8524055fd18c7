"""Corruptions of the kind of ImageNet-C (Hendrycks and Dietterich, ICLR 2019, arXiv:1903.12261), made when asked for.

Fifteen kinds of four families, each in five severities. A corrupted picture is a pure function of the picture, kind,
severity and draws. Lengths are told in pixels of a 224-pixel picture and shrink with the short side; docs/robustness.md
says what differs from the published set.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from io import BytesIO
from itertools import repeat
from typing import Any, Literal, NamedTuple, get_args

import numpy as np
import torch
from jaxtyping import Float, UInt8
from PIL import Image
from torch import Tensor

from tutelage.data.fields import blurred, filtered, line, moved, normals, scaled, uniforms
from tutelage.data.order import Draws, mix
from tutelage.data.streams import ahead
from tutelage.data.weather import Picture, brightness, fog, frost, snow

Kind = Literal[
    "gaussian-noise", "shot-noise", "impulse-noise",
    "defocus-blur", "glass-blur", "motion-blur", "zoom-blur",
    "snow", "frost", "fog", "brightness",
    "contrast", "elastic", "pixelate", "jpeg",
]  # fmt: skip
KINDS: tuple[Kind, ...] = get_args(Kind)
SEVERITIES = (1, 2, 3, 4, 5)


class Corruption(NamedTuple):
    """A kind and a severity of 1 to 5."""

    kind: Kind
    severity: int


def gaussian_noise(x: Picture, draws: Draws, deviation: float) -> Picture:
    """Normal noise on every value: a dark room."""
    return x + deviation * normals(draws, *x.shape)


def shot_noise(x: Picture, draws: Draws, photons: float) -> Picture:
    """Poisson noise, where a white value counts so many photons: the fewer, the noisier."""
    counts = torch.arange(1, math.ceil(photons + 10 * photons**0.5) + 10)
    levels = torch.arange(256)[:, None].double() / 255 * photons
    # The chance of fewer than `counts` photons, for every level: a number is drawn by where it falls among them.
    chances = torch.special.gammaincc(counts.double(), levels)
    level = (x * 255).round().long()
    ladder = (chances + torch.arange(256)[:, None]).flatten()
    drawn = torch.searchsorted(ladder, (level + uniforms(draws, *x.shape).double()).flatten(), right=True)
    return (drawn.reshape(x.shape) - level * len(counts)).float() / photons


def impulse_noise(x: Picture, draws: Draws, share: float) -> Picture:
    """Salt and pepper: `share` of the values become 0 or 1, as often the one as the other."""
    u = uniforms(draws, *x.shape)
    return torch.where(u < share / 2, 0.0, torch.where(u < share, 1.0, x))


def defocus_blur(x: Picture, draws: Draws, radius: float) -> Picture:
    """Every point becomes a disk, whose rim is a pixel wide and soft."""
    radius = scaled(radius, x)
    reach = math.ceil(radius)
    places = torch.arange(-reach, reach + 1.0)
    return filtered(x, (radius + 1 - torch.hypot(places[:, None], places)).clamp(0, 1))


def glass_blur(x: Picture, draws: Draws, deviation: float, distance: float, times: int) -> Picture:
    """Frosted glass: pixels are taken from near by, several times, between two Gaussian blurs.

    Where `distance` is less than a pixel only some are. The published set swaps neighbours one after the other.
    """
    distance = scaled(distance, x)
    reach = max(1, math.ceil(distance))
    x = blurred(x, scaled(deviation, x))
    for _ in range(times):
        u = uniforms(draws, 3, *x.shape[1:])
        down, right = (u[:2] * (2 * reach + 1)).floor() - reach
        moves = u[2] < distance / reach
        x = moved(x, down * moves, right * moves)
    return blurred(x, scaled(deviation, x))


def motion_blur(x: Picture, draws: Draws, length: float, deviation: float) -> Picture:
    """The camera moves, within 45 degrees of level."""
    return filtered(x, line(scaled(length, x), scaled(deviation, x), math.radians(draws.uniform(-45.0, 45.0))))


def zoom_blur(x: Picture, draws: Draws, largest: float, steps: int) -> Picture:
    """A camera that rushes forwards: the mean of the picture and of `steps` enlargements, 1 to `largest` times."""
    rows, cols = (torch.arange(side) - (side - 1) / 2 for side in x.shape[1:])
    shrinks = [1 / (1 + (largest - 1) * k / (steps - 1)) - 1 for k in range(steps)]
    return (x + sum(moved(x, rows[:, None] * s, cols[None] * s) for s in shrinks)) / (steps + 1)


def contrast(x: Picture, draws: Draws, keep: float) -> Picture:
    """Values come nearer to the mean of their channel; `keep` of the difference stays."""
    mean = x.mean(dim=(1, 2), keepdim=True)
    return mean + keep * (x - mean)


def elastic(x: Picture, draws: Draws, distance: float) -> Picture:
    """Small regions are stretched and squeezed: pixels move by `distance` (root mean square), neighbours alike.

    The published set moves whole pictures too, and at its severities 1 and 2 hardly anything else.
    """
    ways = blurred(normals(draws, 2, *x.shape[1:]), max(0.7, scaled(_STRETCHED, x)))
    down, right = ways / ways.square().mean().sqrt() * scaled(distance, x)
    return moved(x, down, right)


def pixelate(x: Picture, draws: Draws, share: float) -> Picture:
    """Fewer and larger pixels, each the mean of a block: `share` of their number along each side."""
    return _means(x.shape[1], share) @ x @ _means(x.shape[2], share).T


def _means(side: int, share: float) -> Float[Tensor, "side side"]:
    """A matrix that gives each of `side` places the mean of its block."""
    block = torch.arange(side) * max(1, int(side * share)) // side
    same = (block[:, None] == block).float()
    return same / same.sum(dim=1, keepdim=True)


def jpeg(x: Picture, draws: Draws, quality: int) -> Picture:
    """Through a JPEG of that quality; channels that are no colours each through one of their own."""
    if len(x) not in (1, 3):
        return torch.cat([jpeg(channel, draws, quality) for channel in x.split(1)])
    file = BytesIO()
    Image.fromarray((x * 255).round().byte().permute(1, 2, 0).squeeze(2).numpy()).save(file, "JPEG", quality=quality)
    pixels = torch.from_numpy(np.array(Image.open(file))).float() / 255
    return pixels[None] if len(x) == 1 else pixels.permute(2, 0, 1)


_STRETCHED = 6.0
"""Pixels of a 224-pixel picture over which neighbours move alike in `elastic`."""
# A strength for each severity. Those marked * are the published set's; the others were chosen for operators of our own.
_KINDS: dict[Kind, tuple[Callable[..., Tensor], tuple[tuple[Any, ...], ...]]] = {
    "gaussian-noise": (gaussian_noise, ((0.08,), (0.12,), (0.18,), (0.26,), (0.38,))),  # *
    "shot-noise": (shot_noise, ((60.0,), (25.0,), (12.0,), (5.0,), (3.0,))),  # *
    "impulse-noise": (impulse_noise, ((0.03,), (0.06,), (0.09,), (0.17,), (0.27,))),  # *
    "defocus-blur": (defocus_blur, ((3.0,), (4.0,), (6.0,), (8.0,), (10.0,))),  # *
    "glass-blur": (glass_blur, ((0.7, 1.0, 2), (0.9, 2.0, 1), (1.0, 2.0, 3), (1.1, 3.0, 2), (1.5, 4.0, 2))),  # *
    "motion-blur": (motion_blur, ((10.0, 3.0), (15.0, 5.0), (15.0, 8.0), (15.0, 12.0), (20.0, 15.0))),  # *
    "zoom-blur": (zoom_blur, ((1.10, 11), (1.15, 16), (1.20, 11), (1.24, 13), (1.30, 11))),  # *
    "snow": (
        snow,
        (
            (0.008, 3.0, 10.0, 0.85),
            (0.014, 3.0, 12.0, 0.75),
            (0.022, 3.0, 14.0, 0.7),
            (0.03, 3.5, 16.0, 0.6),
            (0.04, 4.0, 18.0, 0.5),
        ),
    ),
    "frost": (frost, ((0.95, 0.4), (0.85, 0.55), (0.75, 0.65), (0.65, 0.75), (0.55, 0.85))),
    "fog": (fog, ((1.2, 2.0), (1.6, 1.95), (2.2, 1.9), (3.0, 1.85), (4.0, 1.8))),
    "brightness": (brightness, ((0.1,), (0.2,), (0.3,), (0.4,), (0.5,))),  # *
    "contrast": (contrast, ((0.4,), (0.3,), (0.2,), (0.1,), (0.05,))),  # *
    "elastic": (elastic, ((1.0,), (1.6,), (2.4,), (3.2,), (4.2,))),
    "pixelate": (pixelate, ((0.6,), (0.5,), (0.4,), (0.3,), (0.25,))),  # *
    "jpeg": (jpeg, ((25,), (18,), (15,), (10,), (7,))),  # *
}


def corrupt(picture: UInt8[Tensor, "c h w"], corruption: Corruption, draws: Draws) -> UInt8[Tensor, "c h w"]:
    """A picture of any number of channels, corrupted. Raises ValueError for a severity that is not 1 to 5."""
    if corruption.severity not in SEVERITIES:
        raise ValueError(f"severity {corruption.severity} is not one of 1 to 5")
    change, strengths = _KINDS[corruption.kind]
    x = change(picture.float() / 255, draws, *strengths[corruption.severity - 1])
    return (x.clamp(0, 1) * 255).round().byte()


def corrupted(
    views: Tensor, numbers: Sequence[int], corruptions: Sequence[Corruption | None], workers: int = 0
) -> Iterator[tuple[Corruption | None, Tensor]]:
    """The pictures [b, c, h, w] under each corruption in turn, None being none; `workers` threads corrupt ahead.

    Draws are those of the picture's number in its set and of the kind: the same snow falls at every severity, only more of
    it. Pictures in 0..1, of more than 8 bits, are rounded to 8 first.
    """
    rounded = views if views.dtype == torch.uint8 else (views * 255).round().byte()

    def job(corruption: Corruption | None) -> tuple[Corruption | None, Tensor]:
        if corruption is None:
            return None, views
        draws = (Draws(mix("corruption", corruption.kind, number)) for number in numbers)
        return corruption, torch.stack([corrupt(*one) for one in zip(rounded, repeat(corruption), draws, strict=False)])

    return ahead(job, corruptions, workers)
