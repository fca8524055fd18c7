"""What a segmentation run hands on: encoder and decoder in a folder, and the classes of a whole picture's pixels."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from pydantic import ValidationError
from safetensors.torch import save_file
from torch import Tensor
from torch.nn import functional as F

from tutelage.config import Settings, read_json
from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.errors import CheckpointError
from tutelage.export.proof import to_compare, write_proven
from tutelage.foreign import read_safetensors
from tutelage.methods.segmentation import Segmentation, SegmentationSettings, to_pixels

FILE, TENSORS = "segmenter.json", "model.safetensors"


class _Described(Settings):
    """What segmenter.json says."""

    backbone: BackboneSettings
    method: SegmentationSettings
    channels: int
    classes: tuple[str, ...]
    values: tuple[int, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]


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

    def write(place: Path) -> None:
        (place / FILE).write_text(described.model_dump_json(indent=2) + "\n", encoding="utf-8")
        tensors = {name: tensor.cpu().float().contiguous().clone() for name, tensor in method.state_dict().items()}
        save_file(tensors, place / TENSORS, metadata={"format": "pt"})

    @torch.no_grad()
    def difference(place: Path) -> float:
        theirs = load_segmenter(str(place)).method
        return float((to_compare(method).logits(sample) - theirs.logits(sample)).abs().max())

    return write_proven(folder, write, difference, reader="tutelage", todo="Please report it.", mark=FILE)


def has_segmenter(where: str) -> bool:
    """Whether there is one in the run, or in the folder that the run wrote."""
    return (_folder_of(where) / FILE).is_file()


def load_segmenter(where: str) -> Segmenter:
    """The segmenter of a run, or in the folder that the run wrote, in eval mode on the CPU. Raises CheckpointError."""
    folder = _folder_of(where)
    if not (folder / FILE).is_file():
        raise CheckpointError(
            "K-07", f"{where} has no segmenter.", "A run of tutelage segment writes one at its end.",
            "Name such a run, or its folder segmenter.",
        )  # fmt: skip
    try:
        told = _Described.model_validate_json(json.dumps(read_json(folder / FILE)))
        tensors = read_safetensors(folder / TENSORS)
    except (ValueError, ValidationError, OSError) as error:
        raise CheckpointError("K-03", f"{folder} cannot be read: {str(error).splitlines()[0]}.") from error
    with torch.device("meta"):  # what the settings claim takes no memory before it is compared
        claimed = {name: tensor.shape for name, tensor in _built(told).state_dict().items()}
    if claimed != {name: tensor.shape for name, tensor in tensors.items()}:
        raise CheckpointError("K-30", f"the tensors of {folder} are not those of its settings.")
    method = _built(told)
    method.load_state_dict(tensors)
    statistics = Statistics(told.mean, told.std)
    size = told.backbone.size
    return Segmenter(method.eval(), statistics, size, told.channels, told.classes, told.values, str(folder))


def _folder_of(where: str) -> Path:
    """The run's folder segmenter, where it has one."""
    path = Path(where).expanduser()
    return path / "segmenter" if (path / "segmenter" / FILE).is_file() else path


def _built(told: _Described) -> Segmentation:
    return told.method.build(build_vit(told.backbone, told.channels), len(told.classes))
