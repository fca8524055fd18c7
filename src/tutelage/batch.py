"""What travels from the data to a method: `Stream` says what a method needs, `Batch` is what it gets."""

import math
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from tutelage.errors import SettingsError

Annotation = Literal["classes", "masks", "objects", "tags"]
"""What is known of a picture: its class, that of each pixel, what lies where, or what people wrote to it."""
IGNORED = 255
"""The class of pixels that count for nothing."""


class Stream(NamedTuple):
    """What a method asks of one stream of pictures."""

    views: tuple[str, ...]
    """By name, in order."""
    masks: int = 0
    """Rows of mask keys for each picture; one for each view when 0."""
    labels: Literal["any", "known", "unknown", "tagged"] = "any"
    """Whether its pictures are those with a label, those without, those with a tag, or all."""
    share: int = 1
    """Its part of a batch: that much of the sum of all streams' shares."""
    oversample: float = 0.0
    """Pictures with tags that less than this share of the pictures have come several times in an epoch."""

    @property
    def num_keys(self) -> int:
        """Rows of mask keys for each picture."""
        return self.masks or len(self.views)


def shared_out(batch_size: int, streams: dict[str, Stream], unit: int = 1) -> dict[str, int]:
    """How many pictures of a batch each stream gets, by their shares.

    Raises SettingsError C-25 where they do not divide it, with the nearest size that they do, a multiple of `unit`.
    """
    parts = sum(stream.share for stream in streams.values())
    if batch_size % parts:
        unit = math.lcm(unit, parts)
        shares = " + ".join(f"{stream.share} {name}" for name, stream in streams.items())
        raise SettingsError(
            "C-25",
            f"batch_size {batch_size} is no multiple of {parts} = {shares}.",
            "Every step takes pictures of each stream in these shares.",
            f"Use a batch_size of {max(1, round(batch_size / unit)) * unit}.",
        )
    return {name: batch_size // parts * stream.share for name, stream in streams.items()}


class Objects(NamedTuple):
    """What lies on a picture."""

    boxes: Float[Tensor, "n 4"]
    """x0, y0, x1, y1 in pixels."""
    labels: Int[Tensor, " n"]
    """Class numbers."""
    crowd: Bool[Tensor, " n"]
    """Groups that are not told apart: neither to be found nor wrong to be found."""
    masks: Bool[Tensor, "n h w"]

    def to(self, device: torch.device | str) -> "Objects":
        """The same objects on another device."""
        return Objects(*(tensor.to(device, non_blocking=True) for tensor in self))


@dataclass(frozen=True)
class Batch:
    """Pictures of one stream, with everything random about them already drawn.

    `views` are uint8 in 0..255 (or float32 in 0..1 for pictures of more than 8 bits) until `normalised`.
    `keys` holds rows of uniform numbers per picture, one for each mask that its stream asks for (by default one for
    each view); a mask hides the patches with the largest keys.
    """

    views: tuple[Tensor, ...]  # each [b, c, h, w]
    keys: tuple[Float[Tensor, "b n"], ...]
    labels: Int[Tensor, " b"]
    """Class numbers, -1 where unknown."""
    indices: Int[Tensor, " b"]
    """Which picture of the set each row is."""
    links: Int[Tensor, " k"] = field(default_factory=lambda: torch.zeros(0, dtype=torch.int64))
    """A hash of each row's place in the run and the picture due there (`data.order.links`); none outside a run."""
    masks: UInt8[Tensor, "b h w"] | None = None
    """Of the first view, in sets with masks: the class of each pixel, 255 where it counts for nothing."""
    objects: tuple[Objects, ...] = ()
    """Of the first view of each picture, in sets with objects: what lies where."""
    tags: Int[Tensor, "b most"] | None = None
    """In sets with tags: the class numbers of each picture's tags, each once, then -1."""

    def to(self, device: torch.device | str) -> "Batch":
        """The same batch on another device."""
        return replace(
            self,
            views=tuple(view.to(device, non_blocking=True) for view in self.views),
            keys=tuple(keys.to(device, non_blocking=True) for keys in self.keys),
            labels=self.labels.to(device, non_blocking=True),
            indices=self.indices.to(device, non_blocking=True),
            masks=None if self.masks is None else self.masks.to(device, non_blocking=True),
            objects=tuple(each.to(device) for each in self.objects),
            tags=None if self.tags is None else self.tags.to(device, non_blocking=True),
        )

    def normalised(self, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> "Batch":
        """The same batch with float views of (about) mean 0 and standard deviation 1 in every channel."""
        return replace(self, views=tuple(normalise(view, mean, std) for view in self.views))


def to_unit(pictures: Tensor) -> Tensor:
    """Pictures in 0..1: of uint8 divided by 255, of floats as they are."""
    return pictures / 255 if pictures.dtype == torch.uint8 else pictures


def normalise(pictures: Tensor, mean: Float[Tensor, " c"], std: Float[Tensor, " c"]) -> Float[Tensor, "b c h w"]:
    """(x - mean) / std per channel, of pictures in 0..255 (uint8) or 0..1 (float), in the dtype of `mean`."""
    scale = 255 if pictures.dtype == torch.uint8 else 1
    x = pictures.to(mean.dtype) / scale
    return (x - mean[:, None, None]) / std[:, None, None]
