"""TIFF files that Pillow cannot hold, read through the optional `tifffile`: five or more channels, or deep colour."""

import logging
import struct
from io import BytesIO
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

# What tifffile logs of a damaged file is the reason why it is left out, and said there.
logging.getLogger("tifffile").setLevel(logging.CRITICAL + 1)

_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL = 258, 277
_BYTE_ORDERS = {b"II*\0": "<", b"MM\0*": ">"}


class Described(NamedTuple):
    """Of the first page: [h, w, c] and the type of its values."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def needed(data: bytes) -> bool:
    """Whether this is a TIFF that Pillow refuses (over four channels) or would cut to 8 bits (deep colour)."""
    order = _BYTE_ORDERS.get(data[:4])
    if order is None:
        return False
    try:
        samples, bits = _first_page(data, order)
    except struct.error:  # damaged: Pillow gives the reason
        return False
    return samples > 4 or (samples > 1 and bits > 8)


def describe(data: bytes) -> Described:
    """What the header of the first page says. Raises ImportError without tifffile."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages[0]
        shape = page.shape
        if page.axes.startswith("S"):  # one plane a channel
            shape = (*shape[1:], shape[0])
        return Described(tuple(shape), np.dtype(page.dtype))


def read(data: bytes) -> NDArray[np.generic]:
    """The first page [h, w, c]. Raises ImportError without tifffile."""
    import tifffile

    with tifffile.TiffFile(BytesIO(data)) as file:
        page = file.pages[0]
        array: NDArray[np.generic] = page.asarray()
        return np.moveaxis(array, 0, -1) if page.axes.startswith("S") else array


def _first_page(data: bytes, order: str) -> tuple[int, int]:
    """Samples per pixel and bits per sample (of the first sample) in the first directory."""
    samples, bits = 1, 1
    (start,) = struct.unpack_from(order + "I", data, 4)
    (count,) = struct.unpack_from(order + "H", data, start)
    for entry in range(start + 2, start + 2 + 12 * count, 12):
        tag, _, length = struct.unpack_from(order + "HHI", data, entry)
        if tag not in (_BITS_PER_SAMPLE, _SAMPLES_PER_PIXEL):
            continue
        # Both are 16-bit numbers; more than two of them do not fit into the entry, which then says where they are.
        at = entry + 8 if length <= 2 else struct.unpack_from(order + "I", data, entry + 8)[0]
        (value,) = struct.unpack_from(order + "H", data, at)
        samples, bits = (value, bits) if tag == _SAMPLES_PER_PIXEL else (samples, value)
    return samples, bits
