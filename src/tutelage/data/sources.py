"""Where pictures lie: files on disk, or one array in memory; and the parts of it that are trained or tested on."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from tutelage.data.decode import Unreadable, decode, to_channels
from tutelage.errors import DataError

_MOST_TRIES = 100


@runtime_checkable
class Source(Protocol):
    """Pictures by number, all with the same number of channels and the same depth."""

    @property
    def failed(self) -> dict[str, str]:
        """Pictures that could be read at first and later not, with the reason."""
        ...

    @property
    def channels(self) -> int:
        """Of every picture."""
        ...

    def __len__(self) -> int: ...

    def name(self, i: int) -> str:
        """A name that tells this picture from all others of the source."""
        ...

    def picture(self, i: int) -> Tensor:
        """Picture `i` [c, h, w], uint8 or float32 in 0..1. Raises `Unreadable`."""
        ...

    def digest(self) -> bytes:
        """A hash that changes with the pictures (of files: with their names and lengths)."""
        ...


@dataclass(frozen=True, eq=False)
class FileSource:
    """Pictures in files under `root`."""

    root: Path
    names: tuple[str, ...]
    channels: int
    deep: bool
    """Some pictures have more than 8 bits per channel, so all are given as float32."""
    lengths: NDArray[np.int64]
    """Bytes of each file when the set was opened."""
    failed: dict[str, str] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path below `root`, with forward slashes."""
        return self.names[i]

    def picture(self, i: int) -> Tensor:
        """Picture `i`, decoded. Raises `Unreadable`, and remembers so in `failed`."""
        try:
            picture = to_channels(decode(self.root / self.names[i]), self.channels)
        except Unreadable as unreadable:
            self.failed[self.names[i]] = unreadable.reason
            raise
        return picture.float() / 255 if self.deep and picture.dtype == torch.uint8 else picture

    def digest(self) -> bytes:
        """A hash of names and lengths."""
        h = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        h.update(self.lengths.astype("<i8").tobytes())
        return h.digest()


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures in memory: uint8 [n, h, w] or [n, h, w, c]."""

    images: NDArray[np.uint8]
    prefix: str
    """Picture 7 is called `prefix/00007`."""
    failed: dict[str, str] = field(default_factory=dict)

    @property
    def channels(self) -> int:
        """The last axis; 1 where there is none."""
        return self.images.shape[3] if self.images.ndim == 4 else 1

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of every picture."""
        return self.images.shape[1], self.images.shape[2]

    def __len__(self) -> int:
        return len(self.images)

    def name(self, i: int) -> str:
        """The prefix and the number."""
        return f"{self.prefix}/{i:05d}"

    def picture(self, i: int) -> Tensor:
        """Picture `i`, a copy."""
        image = self.images[i]
        chw = image.transpose(2, 0, 1) if image.ndim == 3 else image[None]
        return torch.from_numpy(np.array(chw, order="C"))

    def digest(self) -> bytes:
        """A hash of every pixel."""
        return hashlib.sha256(np.ascontiguousarray(self.images).tobytes() + str(self.images.shape).encode()).digest()


@dataclass(frozen=True, eq=False)
class Pictures:
    """A part of a source, with labels."""

    source: Source
    ids: NDArray[np.int64]
    """Which picture of the source each is."""
    labels: NDArray[np.int64]
    """Class numbers, -1 where unknown."""
    classes: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_labels(self) -> bool:
        """Whether any picture has a label."""
        return bool((self.labels >= 0).any())

    @property
    def channels(self) -> int:
        """Of every picture."""
        return self.source.channels

    def read(self, i: int) -> Tensor:
        """Picture `i` [c, h, w], uint8 or float32 in 0..1, or what `fetch` puts in its place."""
        return self.fetch(i)[1]

    def fetch(self, i: int) -> tuple[int, Tensor]:
        """Picture `i` with its number, or where it has become unreadable the next readable picture with its own number.

        `source.failed` tells which. Raises DataError D-07 when a hundred in a row cannot be read.
        """
        tries = min(len(self), _MOST_TRIES)
        for k in range(i, i + tries):
            number = k % len(self)
            try:
                return number, self.source.picture(int(self.ids[number]))
            except Unreadable:
                continue
        name, reason = next(reversed(self.source.failed.items()))
        raise DataError("D-07", f"{tries} pictures in a row can no longer be read, the last {name}: {reason}.")

    def name(self, i: int) -> str:
        """The name of picture `i`."""
        return self.source.name(int(self.ids[i]))

    def subset(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Pictures":
        """The chosen pictures: a mask, or their numbers in this part."""
        return replace(self, ids=self.ids[chosen], labels=self.labels[chosen])

    def labelled(self) -> "Pictures":
        """The pictures whose class is known."""
        return self.subset(self.labels >= 0)


@dataclass(frozen=True, eq=False)
class Arrays:
    """A set in memory."""

    source: ArraySource
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()
