"""Where pictures lie: files on disk, or one array in memory; and the parts of it that are trained or tested on."""

import hashlib
import threading
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from tutelage.batch import Objects
from tutelage.data.crops import resized_mask
from tutelage.data.decode import decoded, to_channels
from tutelage.data.looking import look
from tutelage.data.masks import Masks
from tutelage.data.objects import Instances
from tutelage.data.quarantine import in_unicode, refuse_many
from tutelage.data.reading import Identity, Unreadable, read, sha256
from tutelage.data.tags import Tags
from tutelage.errors import DataError, MachineError

IN_FLIGHT: dict[int, Path] = {}
"""The file that each thread is reading or decoding now, by the thread's number: what to name where one hangs."""
_MOST_TRIES = 100


@runtime_checkable
class Source(Protocol):
    """Pictures by number, all with the same number of channels and the same depth."""

    @property
    def failed(self) -> dict[str, str]:
        """Pictures that turned out to be damaged after the set was opened, with the reason."""
        ...

    @property
    def hashes(self) -> dict[str, str]:
        """The SHA-256 of the bytes of each that failed."""
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
        """Picture `i` [c, h, w], uint8 or float32 in 0..1. Raises `Unreadable` where it is damaged."""
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
    identities: NDArray[np.int64]
    """Length and time of change of each file when the set was opened, [n, 2]."""
    marks: NDArray[np.uint64]
    """Equal for files of the same bytes, and very rarely for others."""
    left_out: dict[str, str]
    """Files that gave no picture when the set was opened, with the reason."""
    failed: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)
    """The SHA-256 of the bytes of each that failed."""

    def __len__(self) -> int:
        return len(self.names)

    def name(self, i: int) -> str:
        """The path below `root`, with forward slashes."""
        return self.names[i]

    def picture(self, i: int) -> Tensor:
        """Picture `i`, decoded.

        Raises `Unreadable` where it is damaged, and remembers so in `failed`; DataError D-04 when these are too many,
        D-07 where the file is not what it was when the set was opened, D-08 where the disk fails; MachineError R-24.
        """
        name = self.names[i]
        IN_FLIGHT[threading.get_ident()] = self.root / name
        try:
            return self._decoded(i, name, self._as_opened(i))
        finally:
            IN_FLIGHT.pop(threading.get_ident())

    def _decoded(self, i: int, name: str, data: bytes) -> Tensor:
        try:
            picture = to_channels(decoded(data, Path(name).suffix), self.channels)
        except Unreadable as damaged:
            self.hashes[in_unicode(name)] = hashlib.sha256(data).hexdigest()
            self.failed[in_unicode(name)] = damaged.reason
            refuse_many(self.root, self.left_out | self.failed, len(self) + len(self.left_out))
            raise
        except MemoryError:
            raise out_of_memory(self.root / name) from None
        return picture.float() / 255 if self.deep and picture.dtype == torch.uint8 else picture

    def sha256(self, i: int) -> str | None:
        """Of the bytes of file `i`; None where they cannot be read."""
        return sha256(self.root / self.names[i])

    def _as_opened(self, i: int) -> bytes:
        path, opened = self.root / self.names[i], Identity(*self.identities[i].tolist())
        try:
            data, now = read(path)
        except Unreadable as gone:
            raise _changed(path, gone.reason) from None
        if now.length != opened.length:
            raise _changed(path, f"{opened.length:,} bytes then, {now.length:,} now")
        if now.modified != opened.modified:
            raise _changed(path, "written to since")
        return data

    def digest(self) -> bytes:
        """A hash of names and lengths."""
        h = hashlib.sha256("\0".join(self.names).encode("utf-8", "surrogateescape"))
        h.update(self.identities[:, 0].astype("<i8").tobytes())
        return h.digest()


@dataclass(frozen=True, eq=False)
class ArraySource:
    """Pictures in memory: uint8 [n, h, w] or [n, h, w, c]."""

    images: NDArray[np.uint8]
    prefix: str
    """Picture 7 is called `prefix/00007`."""
    failed: dict[str, str] = field(default_factory=dict)
    hashes: dict[str, str] = field(default_factory=dict)

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
        return self._digest

    @cached_property
    def _digest(self) -> bytes:
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
    masks: Masks | None = None
    """Which pixel is what; then `classes` are those of pixels, and `labels` tell by 0 which pictures have a mask."""
    instances: Instances | None = None
    """What lies on each picture; then `classes` are those of objects, and `labels` tell by 0 which pictures have any."""
    tags: Tags | None = None
    """What people wrote to each picture, beside its label."""

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def has_labels(self) -> bool:
        """Whether any picture has a label."""
        return bool((self.labels >= 0).any())

    @property
    def in_memory(self) -> bool:
        """Whether nothing is decoded to read one: threads that read would only wait for one another's Python."""
        return isinstance(self.source, ArraySource)

    @property
    def of_parts(self) -> bool:
        """Whether `labels` only tell which pictures have masks or objects, and are no classes of pictures."""
        return self.masks is not None or self.instances is not None

    @property
    def learned(self) -> tuple[str, ...]:
        """The classes that a classifier is to tell apart: those of tags, where there are any."""
        return self.tags.classes if self.tags else self.classes

    @property
    def num_shown(self) -> int:
        """How many of these classes the pictures show."""
        return (
            int((self.tags.shares(self.ids) > 0).sum()) if self.tags else len(np.unique(self.labels[self.labels >= 0]))
        )

    @property
    def channels(self) -> int:
        """Of every picture."""
        return self.source.channels

    def read(self, i: int) -> Tensor:
        """Picture `i` [c, h, w], uint8 or float32 in 0..1, or what `fetch` puts in its place."""
        return self.fetch(i)[1]

    def fetch(self, i: int) -> tuple[int, Tensor]:
        """Picture `i` with its number, or where it is damaged the next one that is not, with its own number.

        Which one that is depends on nothing but the files, so it is the same after a resume and on any number of
        processes; `source.failed` tells which were damaged. Raises DataError D-04 when a hundred in a row are, and
        what `Source.picture` raises for files that are gone, changed or behind a failing disk: these have no substitute.
        """
        tries = min(len(self), _MOST_TRIES)
        for k in range(i, i + tries):
            number = k % len(self)
            try:
                return number, self.source.picture(int(self.ids[number]))
            except Unreadable:
                continue
        name, reason = next(reversed(self.source.failed.items()))
        raise DataError("D-04", f"{tries} pictures in a row are damaged, the last {name}: {reason}.")

    def mask(self, i: int, picture: Tensor | None = None) -> UInt8[Tensor, "h w"] | None:
        """The class of each pixel of picture `i`, 255 where it counts for nothing; None in a set without masks.

        At its own size, or that of the `picture` as it was read.
        """
        if self.masks is None:
            return None
        mask = self.masks.read(int(self.ids[i]))
        like = mask if picture is None else picture
        sides = (like.shape[-2], like.shape[-1])
        return resized_mask(mask, sides)

    def objects(self, i: int, picture: Tensor | None = None) -> Objects | None:
        """What lies on picture `i`, at its own size or that of the `picture` as it was read; None in a set without objects."""
        sides = None if picture is None else (picture.shape[-2], picture.shape[-1])
        return None if self.instances is None else self.instances.read(int(self.ids[i]), sides)

    def tag_numbers(self, i: int) -> NDArray[np.int64] | None:
        """The numbers of the classes that picture `i` is tagged with; None in a set without tags."""
        return None if self.tags is None else self.tags.of(int(self.ids[i]))

    def own_size(self, i: int) -> tuple[int, int]:
        """(height, width) of picture `i` in its file; a JPEG of more than 16.7 million pixels is read at less."""
        source: Any = self.source
        return look(source.root / self.name(i)).size if isinstance(source, FileSource) else source.size

    def name(self, i: int) -> str:
        """The name of picture `i`."""
        return self.source.name(int(self.ids[i]))

    def subset(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> "Pictures":
        """The chosen pictures: a mask, or their numbers in this part."""
        return replace(self, ids=self.ids[chosen], labels=self.labels[chosen])

    def spread(self, count: int) -> "Pictures":
        """At most so many pictures, evenly spread over them."""
        return self.subset(np.linspace(0, len(self) - 1, min(count, len(self))).astype(np.int64))

    def labelled(self) -> "Pictures":
        """The pictures whose class is known."""
        return self.subset(self.labels >= 0)

    def tagged(self) -> "Pictures":
        """The pictures with a tag."""
        return self if self.tags is None else self.subset(self.tags.counts[self.ids] > 0)


@dataclass(frozen=True, eq=False)
class Arrays:
    """A set in memory."""

    source: ArraySource
    labels: NDArray[np.int64]
    classes: tuple[str, ...]
    parts: tuple[str, ...]
    notes: tuple[str, ...] = ()


def out_of_memory(path: Path) -> MachineError:
    """R-24: it is not the picture's fault, so none takes its place."""
    return MachineError(
        "R-24",
        f"memory ran out while {path} was decoded.",
        todo="Free some, use fewer --workers, or remove the file.",
    )


def _changed(path: Path, how: str) -> DataError:
    return DataError(
        "D-07",
        f"{path} is not the file that it was when the run opened it: {how}.",
        "Another picture in its place would change the run without a trace.",
        "Restore it and run the same command again; for other pictures, begin another run (--init RUN --out OTHER).",
    )
