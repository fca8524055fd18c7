"""What is drawn from a picture: MAE's simple view, DINO's complex view, and the weak and strong ones of FixMatch.

Every parameter is drawn from `Draws`, so a view is a pure function of the picture and the draws' seed.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional as tv

from tutelage.config import NonNegative, Positive, Settings, Share
from tutelage.data.crops import crop_and_flip
from tutelage.data.joint import DetectView, SegmentView
from tutelage.data.order import Draws
from tutelage.data.strong import StrongView

_SMALLEST_SIGMA = 0.3  # the neighbour's weight, exp(-1 / 2 sigma^2), is then below 1/255: nothing to see

_ADJUST = {
    "brightness": tv.adjust_brightness,
    "contrast": tv.adjust_contrast,
    "saturation": tv.adjust_saturation,
    "hue": tv.adjust_hue,
}
_CHANGES = {1: ["brightness", "contrast"], 3: list(_ADJUST)}
"""By number of channels."""


class SimpleView(Settings):
    """A random crop, resized, and a flip (MAE, He et al. 2022, appendix A.1)."""

    scale: tuple[Positive, Positive] = (0.2, 1.0)
    """Share of the picture's area that the crop takes, from and to."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of the crop, from and to; times that of the output where it is not square."""
    flip: Share = 0.5
    """Probability of a left-right flip."""

    def __call__(self, picture: Tensor, size: tuple[int, int], draws: Draws) -> Tensor:
        """A view [c, H, W] of a picture [c, h, w], in its dtype; `size` is (H, W)."""
        return crop_and_flip(picture, size, draws, self.scale, self.ratio, self.flip)


class ComplexView(Settings):
    """DINO's global view (Caron et al. 2021): crop and flip, then colours, blur and solarisation.

    Small pictures: the blur's radius shrinks with the output's short side / 224, and a blur that could not be seen or
    that is wider than the picture is left out (at 32 pixels: always). Saturation, hue, grey and solarisation need
    three channels, brightness and contrast one or three. Colours are computed in float and rounded once.
    """

    transform: Literal["1", "2", "mix"] = "mix"
    """DINO's first global transform (always blurred), its second (some blurred, some solarised), or a coin's choice."""
    scale: tuple[Positive, Positive] = (0.4, 1.0)
    """Share of the picture's area that the crop takes, from and to."""
    ratio: tuple[Positive, Positive] = (3 / 4, 4 / 3)
    """Width over height of the crop, from and to; times that of the output where it is not square."""
    flip: Share = 0.5
    """Probability of a left-right flip."""
    jitter: Share = 0.8
    """Probability of the four changes of colour, which then come in random order."""
    brightness: Share = 0.4
    """Brightness is multiplied by 1 - this to 1 + this."""
    contrast: Share = 0.4
    """Contrast is multiplied by 1 - this to 1 + this."""
    saturation: Share = 0.2
    """Saturation is multiplied by 1 - this to 1 + this."""
    hue: Share = 0.1
    """Hue is turned by up to this share of the circle, at most 0.5."""
    grey: Share = 0.2
    """Probability of a picture without colours."""
    blur: tuple[Share, Share] = (1.0, 0.1)
    """Probability of a blur in the first and in the second transform."""
    radius: tuple[NonNegative, NonNegative] = (0.1, 2.0)
    """Standard deviation of the blur in pixels of a 224-pixel view, from and to."""
    solarise: tuple[Share, Share] = (0.0, 0.2)
    """Probability of inverting the bright half, in the first and in the second transform."""

    def __call__(self, picture: Tensor, size: tuple[int, int], draws: Draws) -> Tensor:
        """A view [c, H, W] of a picture [c, h, w], in its dtype; `size` is (H, W)."""
        second = draws.integer(2) if self.transform == "mix" else int(self.transform) - 1
        crop = crop_and_flip(picture, size, draws, self.scale, self.ratio, self.flip)
        x = crop.float() / 255 if crop.dtype == torch.uint8 else crop
        in_colour = x.shape[0] == 3
        if draws.uniform() < self.jitter:
            x = self._jitter(x, draws)
        if draws.uniform() < self.grey and in_colour:
            x = tv.rgb_to_grayscale(x, num_output_channels=3)
        if draws.uniform() < self.blur[second]:
            x = _blurred(x, draws.uniform(*self.radius) * min(1.0, min(size) / 224))
        if draws.uniform() < self.solarise[second] and in_colour:
            x = tv.solarize(x, 128 / 255)
        return (x * 255).round_().to(torch.uint8) if crop.dtype == torch.uint8 else x

    def _jitter(self, x: Tensor, draws: Draws) -> Tensor:
        left = _CHANGES.get(x.shape[0], [])
        for _ in range(len(left)):
            name = left[draws.integer(len(left))]
            left = [other for other in left if other != name]
            strength = draws.uniform(-1.0, 1.0) * getattr(self, name)
            x = _ADJUST[name](x, strength if name == "hue" else 1 + strength)
        return x


View = SimpleView | ComplexView | StrongView | SegmentView | DetectView


class ViewsSettings(Settings):
    """How each view is drawn."""

    simple: SimpleView = SimpleView()
    """MAE's view: crop and flip."""
    complex: ComplexView = ComplexView()
    """DINO's view: crop, flip, colours, blur, solarisation."""
    weak: SimpleView = SimpleView(scale=(0.08, 1.0))
    """What labels are learned and guessed from: crop and flip."""
    strong: StrongView = StrongView()
    """What guessed labels are learned from: crop, flip, RandAugment, erasing."""
    segment: SegmentView = SegmentView()
    """What segmentation is learned from, with the mask: another size, crop, flip, colours."""
    detect: DetectView = DetectView()
    """What detection is learned from, with the objects: another size, crop, flip."""

    @property
    def by_name(self) -> dict[str, View]:
        """Each view by the name that streams ask for it."""
        return {name: getattr(self, name) for name in type(self).model_fields}


def _blurred(x: Tensor, sigma: float) -> Tensor:
    reach = math.ceil(3 * sigma)
    if sigma < _SMALLEST_SIGMA or 2 * reach + 1 > min(x.shape[-2:]):
        return x
    return tv.gaussian_blur(x, [2 * reach + 1] * 2, [sigma] * 2)  # type: ignore[no-any-return]
