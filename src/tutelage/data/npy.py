"""Arrays in `.npy` files: pictures with any number of channels. Nothing is unpickled, and no file is mapped."""

from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.lib import format as npy_format
from numpy.typing import NDArray

from tutelage.data.reading import Unreadable


class Described(NamedTuple):
    """What the header says."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    in_columns: bool
    """Stored column by column (Fortran's order)."""
    start: int
    """Where the values begin, in bytes."""

    @property
    def end(self) -> int:
        """The length that the file must have."""
        return self.start + int(np.prod(self.shape, dtype=object)) * self.dtype.itemsize


def describe(head: bytes) -> Described:
    """What the first bytes of a file say. Raises `Unreadable`, or whatever NumPy's parser raises on damaged ones."""
    file = BytesIO(head)
    version = npy_format.read_magic(file)
    if version not in ((1, 0), (2, 0)):
        raise Unreadable(f"version {version} of the npy format is not known")
    read = npy_format.read_array_header_1_0 if version == (1, 0) else npy_format.read_array_header_2_0
    shape, in_columns, dtype = read(file)
    if dtype.hasobject or dtype.subdtype or dtype.fields:
        raise Unreadable("an array of Python objects or of records is not opened")
    if any(side < 0 for side in shape):
        raise Unreadable("a negative shape")
    if len(shape) == 3 and shape[2] > max(4, min(shape[:2])):  # most likely [channels, height, width]
        raise Unreadable(f"shape {shape}: pictures are [height, width] or [height, width, channels]")
    return Described(tuple(map(int, shape)), dtype, bool(in_columns), file.tell())


def read(data: bytes) -> NDArray[np.generic]:
    """The array. Raises as `describe` does."""
    described = describe(data)
    if len(data) < described.end:
        raise Unreadable("truncated")
    values = np.frombuffer(data[described.start : described.end], described.dtype)
    array = values.reshape(described.shape, order="F" if described.in_columns else "C")
    return array.astype(array.dtype.newbyteorder("="), copy=False)
