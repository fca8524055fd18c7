"""What corruptions are made of: random fields, filters and moves of pixels. Pictures are float [c, h, w] in 0..1."""

import math

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tutelage.data.order import Draws

REFERENCE = 224
"""Short side, in pixels, of the pictures for which lengths are told."""


def scaled(length: float, x: Float[Tensor, "c h w"]) -> float:
    """A length in pixels of a 224-pixel picture, in those of `x`: by the short side."""
    return length * min(x.shape[-2:]) / REFERENCE


def uniforms(draws: Draws, *shape: int) -> Tensor:
    """Numbers in [0, 1), each on its own."""
    return torch.from_numpy(draws.uniforms(math.prod(shape))).reshape(shape)


def normals(draws: Draws, *shape: int) -> Tensor:
    """Numbers from the standard normal distribution, by its quantiles: within 5.5 deviations."""
    u = uniforms(draws, *shape).double() + 2.0**-25  # of 24 bits: neither 0 nor 1
    return torch.special.ndtri(u).float()  # type: ignore[no-any-return]


def clouds(draws: Draws, height: int, width: int, slope: float) -> Float[Tensor, "h w"]:
    """Noise whose amplitude falls as frequency^-slope, from 0 to 1: the larger the slope, the softer.

    It is cut from one of twice the size, because what the Fourier transform makes repeats at its edges.
    """
    n = 2 * max(height, width)
    frequency = torch.hypot(torch.fft.fftfreq(n)[:, None], torch.fft.rfftfreq(n)[None])
    frequency[0, 0] = torch.inf
    spectrum = torch.fft.rfft2(normals(draws, n, n)) * frequency**-slope
    field = torch.fft.irfft2(spectrum, s=(n, n))[:height, :width]
    low, high = field.aminmax()
    return (field - low) / (high - low).clamp(min=1e-12)  # type: ignore[no-any-return]


def filtered(x: Float[Tensor, "c h w"], kernel: Float[Tensor, "odd1 odd2"]) -> Float[Tensor, "c h w"]:
    """Each channel convolved with a kernel whose weights are first made to sum to 1. Edges go on outwards."""
    rows, cols = (side // 2 for side in kernel.shape)
    wide = F.pad(x[:, None], (cols, cols, rows, rows), mode="replicate")[:, 0]
    size = wide.shape[1:]  # by Fourier transforms: a kernel of 40 x 40 is as quick as one of 3 x 3
    product = torch.fft.rfft2(wide) * torch.fft.rfft2(kernel / kernel.sum(), s=size)
    return torch.fft.irfft2(product, s=size)[:, 2 * rows :, 2 * cols :]  # type: ignore[no-any-return]


def blurred(x: Float[Tensor, "c h w"], deviation: float) -> Float[Tensor, "c h w"]:
    """A Gaussian blur; the deviation is in pixels."""
    reach = math.ceil(3 * deviation)
    kernel = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / max(deviation, 1e-3)) ** 2)
    return filtered(filtered(x, kernel[None]), kernel[:, None])


def line(length: float, deviation: float, angle: float) -> Float[Tensor, "k k"]:
    """A kernel that smears a pixel to one side, over `length` pixels and ever weaker, as a normal density falls."""
    reach = math.ceil(length) + 1
    places = torch.arange(-reach, reach + 1)[:, None]
    way = torch.linspace(0, length, 2 * reach + 1)
    rows, cols = ((1 - (places - way * f(angle)).abs()).clamp(min=0) for f in (math.sin, math.cos))  # [k, steps]
    return (rows * torch.exp(-0.5 * (way / deviation) ** 2)) @ cols.T


def moved(x: Float[Tensor, "c h w"], down: Tensor, right: Tensor) -> Float[Tensor, "c h w"]:
    """Each pixel taken from so many pixels further down and right (bilinear; mirrored at the edges)."""
    _, height, width = x.shape
    rows = torch.arange(height)[:, None] + down
    cols = torch.arange(width)[None] + right
    grid = torch.stack(
        torch.broadcast_tensors((2 * cols + 1) / width - 1, (2 * rows + 1) / height - 1), dim=-1
    )  # [h, w, 2]: x before y, in -1..1
    return F.grid_sample(x[None], grid[None], padding_mode="reflection", align_corners=False)[0]
