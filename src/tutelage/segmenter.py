"""What a segmentation run hands on: encoder and decoder in a folder, and the classes of a whole picture's pixels."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings
from tutelage.handed_on import Described, folder_of, read_method, write_whole_method
from tutelage.methods.segmentation import Segmentation, SegmentationSettings, to_pixels

NAME = "segmenter"


class _Described(Described):
    method: SegmentationSettings
    values: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class Segmenter:
    """An encoder and a decoder, with what their pictures must look like."""

    method: Segmentation
    statistics: Statistics
    size: tuple[int, int]
    """(height, width) of the windows that are looked at, in pixels."""
    channels: int
    classes: tuple[str, ...]
    values: tuple[int, ...]
    """The value of each class in masks."""
    origin: str

    @property
    def architecture(self) -> str:
        """The name of its decoder."""
        return self.method.settings.head

    @torch.no_grad()
    def logits(self, picture: Float[Tensor, "c h w"]) -> Float[Tensor, "classes h w"]:
        """Of every pixel of a picture of any size, normalised.

        The picture is resized until its short side is the window's. Windows lie two thirds of their side apart or less, over
        all of it; where they overlap their logits are averaged (as mmsegmentation's sliding evaluation).
        """
        sides = picture.shape[-2:]
        factor = max(window / side for window, side in zip(self.size, sides, strict=True))
        scaled = tuple(max(window, round(side * factor)) for window, side in zip(self.size, sides, strict=True))
        x = F.interpolate(picture[None], size=scaled, mode="bicubic", antialias=True)[0]
        total, count = x.new_zeros(len(self.classes), *scaled), x.new_zeros(1, *scaled)
        for top in _starts(scaled[0], self.size[0]):
            for left in _starts(scaled[1], self.size[1]):
                here = (..., slice(top, top + self.size[0]), slice(left, left + self.size[1]))
                total[here] += self.method.logits(x[here][None])[0]
                count[here] += 1
        return to_pixels((total / count)[None], sides)[0]


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: at most two thirds of a window apart, the last one at the end."""
    stride = max(1, window * 2 // 3)
    return sorted({min(start, length - window) for start in range(0, length - window + stride, stride)})


def write_segmenter(segmenter: Segmenter, folder: Path, backbone: BackboneSettings, sample: Tensor) -> float:
    """Write a folder that `load_segmenter` reads, compared on a `sample` of normalised pictures; the largest difference.

    Raises what `write_proven` raises.
    """
    method = segmenter.method
    described = _Described(
        backbone=backbone, method=method.settings, channels=segmenter.channels, classes=segmenter.classes,
        values=segmenter.values, mean=segmenter.statistics.mean, std=segmenter.statistics.std,
    )  # fmt: skip

    def load(place: str) -> Segmentation:
        return load_segmenter(place).method

    return write_whole_method(NAME, folder, described, method, lambda network: network.logits(sample), load)


def load_segmenter(where: str) -> Segmenter:
    """The segmenter of a run, or in the folder that the run wrote, in eval mode on the CPU. Raises CheckpointError."""
    told, method = read_method(NAME, where, _Described, "segment")
    assert isinstance(method, Segmentation)
    origin = str(folder_of(NAME, where))
    return Segmenter(method, told.statistics, told.backbone.size, told.channels, told.classes, told.values, origin)
