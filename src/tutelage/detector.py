"""What a detection run hands on: encoder and heads in a folder, and what lies on a whole picture."""

from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.data.index import Statistics
from tutelage.detections import Found
from tutelage.encoder import BackboneSettings
from tutelage.handed_on import Described, folder_of, read_method, write_whole_method
from tutelage.methods.detection import Detection, DetectionSettings

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
def find(method: Detection, x: Float[Tensor, "1 c h w"], inside: tuple[int, int], sides: tuple[int, int]) -> Found:
    """What lies on a picture of `sides` (height, width), in its pixels, on the CPU.

    `x` and `inside` are the normalised picture and its part, as `data.joint.framed` gives them.
    """
    (found,) = method.find(x, [inside])
    return found.cpu().resized((sides[0] / inside[0], sides[1] / inside[1]), sides)


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
