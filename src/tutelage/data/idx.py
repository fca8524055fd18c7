"""idx files (LeCun): how MNIST, Fashion-MNIST, EMNIST and their like are kept, pictures and labels in a file each."""

import gzip
import re
import struct
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.sources import Arrays, ArraySource
from tutelage.errors import DataError

_FILE = re.compile(r"(?P<set>.*?)-?(?P<part>train|t10k|test)-(?P<kind>images|labels)-idx[13]-ubyte(\.gz)?")


def read_idx_folder(folder: Path) -> Arrays | None:
    """The pictures of `train-images-idx3-ubyte` and, where they are, the labels beside it and the test part.

    None for what is no folder, or has no such file. Each file may be gzipped (.gz) and begin with the set's name; the test
    part is called `t10k` or `test`. Classes are called by their numbers. Raises DataError D-22 for a damaged file, or for
    pictures and labels that do not fit.
    """
    files = _files(folder)
    if ("train", "images") not in files:
        return None
    images: list[NDArray[np.uint8]] = []
    labels: list[NDArray[np.int64]] = []
    parts: list[str] = []
    for part, name in (("train", "train"), ("t10k", "test"), ("test", "test")):
        if (part, "images") not in files:
            continue
        pictures = _read(files[part, "images"], axes=3)
        known = _read(files[part, "labels"], axes=1) if (part, "labels") in files else None
        if known is not None and len(known) != len(pictures):
            raise DataError(
                "D-22", f"{folder} has {len(pictures):,} pictures and {len(known):,} labels in its {name} part."
            )
        if images and pictures.shape[1:] != images[0].shape[1:]:
            raise DataError(
                "D-22",
                f"{folder} trains on pictures of {images[0].shape[1:]} pixels and tests on {pictures.shape[1:]}.",
            )
        images.append(pictures)
        labels.append(np.full(len(pictures), -1) if known is None else known.astype(np.int64))
        parts += [name] * len(pictures)
    number = max(int(part.max(initial=-1)) for part in labels) + 1
    classes = tuple(str(k) for k in range(number))
    return Arrays(ArraySource(np.concatenate(images), folder.name), np.concatenate(labels), classes, tuple(parts))


def parse_idx(data: bytes) -> NDArray[np.uint8]:
    """The array of an idx file of bytes: two zeros, type 8, the number of axes, their lengths, the values.

    Raises ValueError.
    """
    if data[:3] != b"\0\0\x08":
        raise ValueError("no idx file of bytes")
    try:
        shape = struct.unpack_from(f">{data[3]}I", data, 4)
    except (struct.error, IndexError):
        raise ValueError("an idx file that ends in its header") from None
    values = np.frombuffer(data, dtype=np.uint8, offset=4 + 4 * data[3])
    if values.size != np.prod(shape, dtype=object):
        raise ValueError(f"an idx file of {values.size} values for a shape of {shape}")
    return values.reshape(shape)


def _files(folder: Path) -> dict[tuple[str, str], Path]:
    """The idx files of a folder by part (train, t10k, test) and kind (images, labels), none of what cannot be read."""
    found: dict[tuple[str, str], Path] = {}
    sets = set()
    for path in sorted(folder.glob("*-ubyte*")):
        if match := _FILE.fullmatch(path.name):
            found[match["part"], match["kind"]] = path
            sets.add(match["set"])
    if len(sets) > 1:
        raise DataError(
            "D-22", f"{folder} holds idx files of {len(sets)} sets: {', '.join(sorted(sets)[:5])}.",
            todo="Put each set into a folder of its own.",
        )  # fmt: skip
    return found


def _read(path: Path, axes: int) -> NDArray[np.uint8]:
    try:
        data = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        values = parse_idx(data)
    except (OSError, EOFError, ValueError) as error:
        raise DataError("D-22", f"{path} cannot be read: {error}.", todo="Fetch it again.") from error
    if values.ndim != axes or not values.size:
        raise DataError("D-22", f"{path} has the shape {values.shape}, where {axes} axes with values are expected.")
    return values
