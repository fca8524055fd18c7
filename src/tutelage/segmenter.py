"""What a segmentation run hands on: encoder and decoder in a folder, and the classes of a whole picture's pixels."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn import functional as F

from tutelage.data.index import Statistics
from tutelage.encoder import BackboneSettings
from tutelage.export.proof import to_compare
from tutelage.export.to_onnx import described, write_graph
from tutelage.handed_on import Described, folder_of, read_method, write_whole_method
from tutelage.methods.segmentation import Segmentation, SegmentationSettings

NAME = "segmenter"
BLOCK = 2**25
"""Logits that are read out of windows at a time: 128 MB."""
STRETCH = 4
"""Windows of a long side whose logits are kept at a time."""


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
        found = picture.new_empty(len(self.classes), *picture.shape[-2:])
        for rows, columns, logits in self._blocks(picture):
            found[:, rows, columns] = logits
        return found

    @torch.no_grad()
    def classes_of(self, picture: Float[Tensor, "c h w"]) -> UInt8[Tensor, "h w"]:
        """The class with the largest logit of every pixel, in memory that does not grow with picture times classes."""
        found = torch.empty(picture.shape[-2:], dtype=torch.uint8, device=picture.device)
        for rows, columns, logits in self._blocks(picture):
            found[rows, columns] = logits.argmax(0).to(torch.uint8)
        return found

    def _blocks(self, picture: Tensor) -> Iterator[tuple[slice, slice, Tensor]]:
        """Rows, columns and logits of blocks that make up the picture, each of at most `BLOCK` numbers or of one row."""
        (height, width), windows = picture.shape[-2:], self.size
        factor = max(windows[0] / height, windows[1] / width)
        scaled = max(windows[0], round(height * factor)), max(windows[1], round(width * factor))
        mean, std = (picture.new_tensor(values)[:, None, None] for values in self.statistics)
        x = F.interpolate(picture[None], size=scaled, mode="bicubic", antialias=True)[0]
        x = x.clamp(-mean / std, (1 - mean) / std)  # a cubic may leave 0..1; pictures that are learned from cannot
        for part in _parts(height, scaled[0], windows[0]):
            for columns in _parts(width, scaled[1], windows[1]):
                averaged = self._mean(x, part.reach, columns.reach)
                for rows in part.strips(max(1, BLOCK // (len(self.classes) * len(columns.pixels)))):
                    x_, y = columns.between(columns.reach).to(averaged), rows.between(part.reach).to(averaged)
                    grid = torch.stack(torch.meshgrid(x_, y, indexing="xy"), -1)
                    logits = F.grid_sample(averaged[None], grid[None], padding_mode="border", align_corners=False)[0]
                    yield _slice(rows.pixels), _slice(columns.pixels), logits

    def _mean(self, x: Tensor, rows: range, columns: range) -> Tensor:
        """Logits of these rows and columns of a resized picture: the mean over the windows that each pixel lies in."""
        (height, width), (h, w) = x.shape[-2:], self.size
        total, count = x.new_zeros(len(self.classes), len(rows), len(columns)), x.new_zeros(1, len(rows), len(columns))
        for top in _starts(height, h):
            for left in _starts(width, w):
                inside = _shared(range(top, top + h), rows), _shared(range(left, left + w), columns)
                if not all(inside):
                    continue
                logits = self.method.logits(x[:, top : top + h, left : left + w][None])[0]
                here = (..., _slice(inside[0], rows.start), _slice(inside[1], columns.start))
                total[here] += logits[..., _slice(inside[0], top), _slice(inside[1], left)]
                count[here] += 1
        return total / count


class _Places(NamedTuple):
    """Some pixels of a side, and what they are read from: the side resized, each pixel between two of its pixels (bilinear)."""

    pixels: range
    side: int
    resized: int

    @property
    def at(self) -> Float[Tensor, " n"]:
        """Where the middle of each pixel lies on the resized side, in its pixels."""
        middles = torch.arange(self.pixels.start, self.pixels.stop, dtype=torch.float64) + 0.5
        return (middles * (self.resized / self.side) - 0.5).clamp(min=0)

    @property
    def reach(self) -> range:
        """The pixels of the resized side that are read."""
        at = self.at
        return range(int(at[0]), min(int(at[-1]) + 2, self.resized))

    def between(self, reach: range) -> Float[Tensor, " n"]:
        """Where the middles lie between both ends of such pixels of the resized side, from -1 to 1."""
        return (self.at - reach.start + 0.5) * (2 / len(reach)) - 1

    def strips(self, length: int) -> Iterator["_Places"]:
        """The same, so many pixels at a time."""
        for start in range(self.pixels.start, self.pixels.stop, length):
            yield self._replace(pixels=range(start, min(start + length, self.pixels.stop)))


def _parts(side: int, resized: int, window: int) -> Iterator[_Places]:
    """A side in as many parts as there are stretches of `STRETCH` windows on it."""
    count = min(side, math.ceil(resized / (STRETCH * window)))
    for k in range(count):
        yield _Places(range(side * k // count, side * (k + 1) // count), side, resized)


def _starts(length: int, window: int) -> list[int]:
    """Where windows begin: at most two thirds of a window apart, the last one at the end."""
    stride = max(1, window * 2 // 3)
    return sorted({min(start, length - window) for start in range(0, length - window + stride, stride)})


def _shared(a: range, b: range) -> range:
    return range(max(a.start, b.start), min(a.stop, b.stop))


def _slice(part: range, first: int = 0) -> slice:
    return slice(part.start - first, part.stop - first)


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


def write_segmenter_onnx(segmenter: Segmenter, folder: Path) -> float:
    """Write FOLDER/model.onnx and its config.json; the largest difference of what they compute.

    The graph takes `pictures` (normalised, float32 [batch, c, h, w] of one window, of any batch) and gives `logits`
    [batch, classes, h, w]; larger pictures are the caller's to cut into windows. config.json has what `write_onnx` says, and
    the value of each class in masks. Raises as `write_onnx` does.
    """
    graph = _Window(to_compare(segmenter.method)).eval()
    vit = graph.method.student
    more = {"classes": list(segmenter.classes), "values": list(segmenter.values)}
    values = described(vit, segmenter.statistics, ["logits"]) | more
    return write_graph(graph, ["logits"], vit, folder, values, todo="Please report it.")


class _Window(nn.Module):
    """What the file computes."""

    def __init__(self, method: Segmentation) -> None:
        super().__init__()
        self.method = method

    def forward(self, pictures: Tensor) -> tuple[Tensor]:
        return (self.method.logits(pictures),)


def load_segmenter(where: str) -> Segmenter:
    """The segmenter of a run, or in the folder that the run wrote, in eval mode on the CPU. Raises CheckpointError."""
    told, method = read_method(NAME, where, _Described, "segment")
    assert isinstance(method, Segmentation)
    origin = str(folder_of(NAME, where))
    return Segmenter(method, told.statistics, told.backbone.size, told.channels, told.classes, told.values, origin)
