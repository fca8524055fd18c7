"""The strong view that guessed labels are learned from: crop, flip, RandAugment and erasing, as Semi-ViT's.

RandAugment is timm's `rand-m9-mstd0.5-inc1` (Cubuk et al., 2020, with magnitudes that all grow): its fifteen operations, levels
and chances, over torchvision's kernels (docs/design.md says why it is not timm's own). What differs: pixels between pixels are
bilinear, where MAE's code asks timm for bicubic ones; what comes in from outside is grey (128, timm's default) and blended into
the border, where MAE's code gives ImageNet's mean; colours and contrast may differ by one of 255; a grey picture keeps its one
channel; posterising at magnitude 10 leaves black, as timm's did until Pillow refused it.
"""

import math
from collections.abc import Callable

import torch
from torch import Tensor
from torchvision.transforms.v2 import InterpolationMode
from torchvision.transforms.v2 import functional as tv

from tutelage.config import NonNegative, NonNegativeInt, Positive, Settings, Share
from tutelage.data.crops import crop_and_flip
from tutelage.data.order import Draws

GREY = 128
"""What comes into a picture that is turned, sheared or moved."""
Change = Callable[[Tensor, float, float], Tensor]
"""A picture, a strength of 0 to 1 and a sign, to a picture."""


class StrongView(Settings):
    """Crop and flip, some operations of RandAugment, and sometimes a rectangle of noise (Semi-ViT; methods S5)."""

    scale: tuple[Positive, Positive] = (0.08, 1.0)
    """Share of the picture's area that the crop takes, from and to."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of the crop, from and to; times that of the output where it is not square."""
    flip: Share = 0.5
    """Probability of a left-right flip."""
    operations: NonNegativeInt = 2
    """Operations of RandAugment, drawn with replacement; each is applied with probability 1/2."""
    magnitude: NonNegative = 9.0
    """Mean of their magnitude, from 0 to 10."""
    magnitude_std: NonNegative = 0.5
    """Its standard deviation."""
    erase: Share = 0.25
    """Probability that a rectangle of 2 to 33 % of the area becomes noise."""

    def __call__(self, picture: Tensor, size: tuple[int, int], draws: Draws) -> Tensor:
        """A view [c, H, W] of a picture [c, h, w], in its dtype; `size` is (H, W).

        Operations that a picture cannot have are not drawn: changes of colour need three channels, of contrast, brightness
        and sharpness one or three, equalising and posterising 8 bits.
        """
        x = crop_and_flip(picture, size, draws, self.scale, self.ratio, self.flip)
        changes = _changes_of(x)
        for _ in range(self.operations):
            change = changes[draws.integer(len(changes))]
            applied = draws.uniform() < 0.5
            strength = min(10.0, max(0.0, self.magnitude + self.magnitude_std * _normal(draws))) / 10
            sign = 1.0 if draws.uniform() < 0.5 else -1.0
            x = change(x, strength, sign) if applied else x
        return _erased(x, draws) if draws.uniform() < self.erase else x


def _changes_of(x: Tensor) -> list[Change]:
    changes = [_PLAIN, _SHADES if x.shape[0] in (1, 3) else [], _COLOURS if x.shape[0] == 3 else []]
    return [*(change for group in changes for change in group), *(_EIGHT_BITS if x.dtype == torch.uint8 else [])]


def _moved(
    x: Tensor, angle: float = 0.0, shift: tuple[float, float] = (0.0, 0.0), shear: tuple[float, float] = (0.0, 0.0)
) -> Tensor:
    """Turned and sheared by degrees, shifted by shares of width and height."""
    fill = GREY if x.dtype == torch.uint8 else GREY / 255
    pixels = [shift[0] * x.shape[-1], shift[1] * x.shape[-2]]
    centre = [0.0, 0.0] if any(shear) else None  # sheared about the top left corner, turned about the middle
    return tv.affine(  # type: ignore[no-any-return]
        x, angle, pixels, 1.0, list(shear), InterpolationMode.BILINEAR, fill=[float(fill)], center=centre
    )


def _sheared(strength: float, sign: float) -> float:
    return sign * math.degrees(math.atan(0.3 * strength))


def _enhancement(strength: float, sign: float) -> float:
    return max(0.1, 1 + sign * 0.9 * strength)


def _full(x: Tensor) -> float:
    return 255.0 if x.dtype == torch.uint8 else 1.0


def _solarised(x: Tensor, strength: float, sign: float) -> Tensor:
    """What is as bright as the threshold becomes its negative: of 256 levels none at strength 0, all at 1."""
    full = _full(x)
    return torch.where(x >= (256 - int(256 * strength)) * full / 255, tv.invert(x), x)


def _solarised_after_adding(x: Tensor, strength: float, sign: float) -> Tensor:
    """The dark half is brightened by up to 110 of 255."""
    full = _full(x)
    brighter = (x.float() + full * 110 / 255 * strength).clamp(0, full).to(x.dtype)
    return torch.where(x < full * 128 / 255, brighter, x)


_PLAIN: list[Change] = [
    lambda x, m, s: tv.invert(x),
    lambda x, m, s: _moved(x, angle=30.0 * m * s),
    _solarised,
    _solarised_after_adding,
    lambda x, m, s: _moved(x, shear=(_sheared(m, s), 0.0)),
    lambda x, m, s: _moved(x, shear=(0.0, _sheared(m, s))),
    lambda x, m, s: _moved(x, shift=(0.45 * m * s, 0.0)),
    lambda x, m, s: _moved(x, shift=(0.0, 0.45 * m * s)),
]
_SHADES: list[Change] = [
    lambda x, m, s: tv.autocontrast(x),
    lambda x, m, s: tv.adjust_contrast(x, _enhancement(m, s)),
    lambda x, m, s: tv.adjust_brightness(x, _enhancement(m, s)),
    lambda x, m, s: tv.adjust_sharpness(x, _enhancement(m, s)),
]
_COLOURS: list[Change] = [lambda x, m, s: tv.adjust_saturation(x, _enhancement(m, s))]
_EIGHT_BITS: list[Change] = [
    lambda x, m, s: tv.equalize(x),
    lambda x, m, s: tv.posterize(x, 4 - int(4 * m)),
]


def _normal(draws: Draws) -> float:
    """One number from the standard normal distribution (Box and Muller)."""
    radius = math.sqrt(-2 * math.log(1 - draws.uniform()))
    return radius * math.cos(2 * math.pi * draws.uniform())


def _erased(x: Tensor, draws: Draws) -> Tensor:
    """A rectangle of 2 to 33 % of the area and of ratio 0.3 to 3.3 becomes noise, after ten tries as it is."""
    channels, height, width = x.shape
    for _ in range(10):
        area = height * width * draws.uniform(0.02, 1 / 3)
        ratio = math.exp(draws.uniform(math.log(0.3), math.log(1 / 0.3)))
        h, w = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < h < height and 0 < w < width:
            top, left = draws.integer(height - h + 1), draws.integer(width - w + 1)
            noise = torch.from_numpy(draws.uniforms(channels * h * w)).reshape(channels, h, w)
            x = x.clone()
            x[:, top : top + h, left : left + w] = (noise * _full(x)).to(x.dtype)
            return x
    return x
