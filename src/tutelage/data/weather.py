"""Corruptions by weather (Hendrycks and Dietterich, ICLR 2019, section 3): snow, frost, fog and brightness."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tutelage.data.fields import blurred, clouds, filtered, line, scaled, uniforms
from tutelage.data.order import Draws

Picture = Float[Tensor, "c h w"]
"""In 0..1; what comes out may leave the range, and is cut off behind."""
_ICE = (0.80, 0.90, 1.0)
"""Colour of frost on pictures with three channels."""
_ARMS = (48.0, 32.0, 20.0, 12.0)
"""Lengths of the crystals' arms, in pixels of a 224-pixel picture ..."""
_COVER = 2.0
"""... how many there are of each in the square of that side, where the soft noise is 1 ..."""
_BRIGHT = 7.0
"""... and how bright their arms are, which are two such pixels wide."""


def snow(x: Picture, draws: Draws, share: float, size: float, fall: float, keep: float) -> Picture:
    """Flakes in `share` of the places, `size` wide and smeared by `fall` in their slanting way, over a paler picture.

    Half of the flakes are the others turned by 180 degrees, as in the published set. There they come from one
    noise that is enlarged and cut off at a threshold; here their share is given, and so grows with severity.
    """
    _, height, width = x.shape
    size = max(1.0, scaled(size, x))
    rows, cols = (math.ceil(side / size) for side in (height, width))
    seeds = (uniforms(draws, 1, rows, cols) < share).float() * (0.5 + 0.5 * uniforms(draws, 1, rows, cols))
    flakes = F.interpolate(seeds[None], size=(height, width), mode="bilinear")[0]
    fall = scaled(fall, x)
    flakes = filtered(flakes, line(fall, fall / 2, math.radians(draws.uniform(45.0, 135.0))))
    flakes = flakes * (1 + fall / size / 2)  # a smeared flake is longer, and not as much fainter
    pale = torch.maximum(x, 1.5 * x.mean(dim=0, keepdim=True) + 0.5)
    return keep * x + (1 - keep) * pale + flakes + flakes.flip(-1, -2)


def frost(x: Picture, draws: Draws, keep: float, ice: float) -> Picture:
    """`keep` of the picture, and `ice` of ice crystals upon it.

    The published set pastes photographs of frost. This is a texture: stars with six arms, large and small, denser where a
    soft noise is high, and a haze; so it has no feathers of ice, and no two pictures share it.
    """
    _, height, width = x.shape
    ground = clouds(draws, height, width, 1.8)
    crystals = torch.zeros(1, height, width)
    for arm in _ARMS:
        length = max(1.0, scaled(arm, x))
        turn = draws.uniform(0.0, math.pi / 3)
        arms = torch.stack([line(length, length / 2, turn + k * math.pi / 3) for k in range(3)]).sum(dim=0)
        nuclei = uniforms(draws, 1, height, width) < ground**2 * _COVER / length**2
        crystals += filtered(nuclei.float(), arms + arms.flip(0, 1)) * length * scaled(_BRIGHT, x)
    texture = 1 - torch.exp(-0.5 * ground**2 - blurred(crystals, scaled(0.8, x))[0])
    colour = torch.tensor(_ICE if len(x) == 3 else (1.0,))[:, None, None]
    return keep * x + ice * colour * texture


def fog(x: Picture, draws: Draws, density: float, decay: float) -> Picture:
    """Clouds of half to full density over a picture that keeps its brightest value.

    Each octave of the clouds is `decay` times as faint as the one before, as in the diamond-square noise of the
    published set; this one is made in the frequency domain.
    """
    brightest = float(x.max())
    mist = density * (0.5 + 0.5 * clouds(draws, x.shape[1], x.shape[2], 1 + math.log2(decay)))
    return (x + mist) * brightest / max(brightest + density, 1e-6)


def brightness(x: Picture, draws: Draws, more: float) -> Picture:
    """The value of HSV raised by `more`, hue and saturation as they are: every channel grows by the same factor."""
    value = x.amax(dim=0, keepdim=True)
    higher = (value + more).clamp(max=1)
    return torch.where(value > 0, x * higher / value.clamp(min=1e-6), higher)
