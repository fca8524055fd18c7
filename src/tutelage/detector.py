"""What a detection run hands on: encoder and heads in a folder, and what lies on a whole picture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from tutelage.data.index import Statistics
from tutelage.data.joint import fitted
from tutelage.encoder import BackboneSettings
from tutelage.handed_on import Described, folder_of, read_method, write_whole_method
from tutelage.methods.detection import Detection, DetectionSettings
from tutelage.rcnn import Found

NAME = "detector"


class _Described(Described):
    method: DetectionSettings
    ids: tuple[int, ...]
    short: int | None


@dataclass(frozen=True, eq=False)
class Detector:
    """An encoder and what finds objects on its maps, with what their pictures must look like."""

    method: Detection
    statistics: Statistics
    size: tuple[int, int]
    """(height, width) that pictures are brought into, in pixels."""
    short: int | None
    """The most that their short side gets; without it they fill `size`."""
    channels: int
    classes: tuple[str, ...]
    ids: tuple[int, ...]
    """The COCO category of each class."""
    origin: str

    @property
    def architecture(self) -> str:
        """Which of the R-CNNs it is."""
        return "mask-rcnn" if self.method.settings.stages == 1 else "cascade-mask-rcnn"

    @torch.no_grad()
    def find(self, picture: Float[Tensor, "c h w"]) -> Found:
        """What lies on a picture of any size, normalised: boxes in its pixels."""
        return find(self.method, picture, self.size, self.short)


def find(method: Detection, picture: Float[Tensor, "c h w"], size: tuple[int, int], short: int | None) -> Found:
    """What lies on a normalised picture of any size, which is resized to fit into `size` with its short side at most `short`.

    What it does not fill, on the right and below, is of the mean colour.
    """
    sides = (picture.shape[-2], picture.shape[-1])
    inside = fitted(sides, size, short)
    x = F.interpolate(picture[None], size=inside, mode="bicubic", antialias=True)
    x = F.pad(x, (0, size[1] - inside[1], 0, size[0] - inside[0]))
    (found,) = method.find(x, [inside])
    return found.resized((sides[0] / inside[0], sides[1] / inside[1]), sides)


def write_detector(detector: Detector, folder: Path, backbone: BackboneSettings, sample: Tensor) -> float:
    """Write a folder that `load_detector` reads, compared on a `sample` of normalised pictures; the largest difference.

    Raises what `write_proven` raises.
    """
    method = detector.method
    described = _Described(
        backbone=backbone, method=method.settings, channels=detector.channels, classes=detector.classes, ids=detector.ids,
        short=detector.short, mean=detector.statistics.mean, std=detector.statistics.std,
    )  # fmt: skip

    def load(place: str) -> Detection:
        return load_detector(place).method

    return write_whole_method(NAME, folder, described, method, lambda network: network.answers(sample), load)


def load_detector(where: str) -> Detector:
    """The detector of a run, or in the folder that the run wrote, in eval mode on the CPU. Raises CheckpointError."""
    told, method = read_method(NAME, where, _Described, "detect")
    assert isinstance(method, Detection)
    origin = str(folder_of(NAME, where))
    return Detector(
        method, told.statistics, told.backbone.size, told.short, told.channels, told.classes, told.ids, origin
    )
