"""A picture from a file, or the reason why there is none.

Policy: only formats of the allow-list are opened, whatever a file is called; sizes are checked on the header before a
pixel is decoded; a truncated file is refused, never filled with grey; transparency lies on white; EXIF orientation is
applied; of several frames or pages the first counts.
"""

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from tutelage.data import tiff

T = TypeVar("T")

# Pillow warns about broken metadata and about sizes; both are handled here, file by file.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
MAX_PIXELS = 178_956_970
"""Twice Pillow's own warning level: the size at which it speaks of a decompression bomb."""

_TRANSPOSE = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_ORIENTATION = 0x0112
_GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
_DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


class Unreadable(Exception):  # noqa: N818 - a state of a file, which the index counts and lists
    """A file that gives no picture, with the reason in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


@dataclass(frozen=True)
class Look:
    """What a file's header says of the picture that `decode` will give."""

    mode: str
    size: tuple[int, int]
    """Height and width in pixels."""
    channels: int
    deep: bool
    """More than 8 bits per channel: decoded to float32."""


def decode(path: Path) -> Tensor:
    """The picture [c, h, w]: uint8, or float32 in 0..1 where the file has more than 8 bits per channel.

    16-bit colour PNGs come as 8 bits (Pillow keeps no more). Raises `Unreadable`.
    """
    if path.suffix.lower() == ".npy":
        return _from_array(_open_array(path))
    data = _read(path)
    if tiff.needed(data):
        return _from_array(_ask_tiff(tiff.read, data))
    image, orientation = _load(data)
    if orientation in _TRANSPOSE:
        image = image.transpose(_TRANSPOSE[orientation])
    return _from_array(_pixels(image))


def look(path: Path) -> Look:
    """What the header says, no pixel decoded. Raises `Unreadable`."""
    if path.suffix.lower() == ".npy":
        array = _open_array(path)
        _check_array(array)
        return Look(str(array.dtype), *_shape(array.shape), deep=array.dtype != np.uint8)
    data = _read(path)
    if tiff.needed(data):
        described = _ask_tiff(tiff.describe, data)
        return Look(described.dtype, *_shape(described.shape), deep=described.dtype != "uint8")
    image = _open(data)
    height, width = image.height, image.width
    # Pillow's TIFF sizes are upright already.
    if image.format != "TIFF" and _orientation(image) in (5, 6, 7, 8):
        height, width = width, height
    grey = image.mode in _GREY_MODES
    return Look(image.mode, (height, width), 1 if grey else 3, deep=image.mode in _DEEP_MODES)


def check(path: Path) -> Look:
    """`look`, after every pixel was decoded once; JPEGs at an eighth of their size, which reads all of their data."""
    seen = look(path)
    if path.suffix.lower() == ".npy":
        decode(path)
        return seen
    data = _read(path)
    if tiff.needed(data):
        _from_array(_ask_tiff(tiff.read, data))
    else:
        _from_array(_pixels(_load(data, draft=True)[0]))
    return seen


def check_end(path: Path) -> Look:
    """`look`, after a search for the mark that ends a file of its format: finds most truncated files at no cost."""
    seen = look(path)
    with path.open("rb") as file:
        head = file.read(12)
        length = file.seek(0, 2)
        file.seek(max(0, length - 65536))
        tail = file.read()
    whole = True
    if head.startswith(b"\xff\xd8"):
        whole = b"\xff\xd9" in tail
    elif head.startswith(b"\x89PNG"):
        whole = b"IEND" in tail
    elif head.startswith(b"GIF8"):
        whole = b"\x3b" in tail[-64:]
    elif head.startswith(b"RIFF"):
        whole = int.from_bytes(head[4:8], "little") + 8 <= length
    if not whole:
        raise Unreadable("truncated")
    return seen


def to_channels(picture: Tensor, channels: int) -> Tensor:
    """The picture [c, h, w] with the given number of channels: grey is repeated, colour becomes luma (BT.601).

    Raises `Unreadable` for any other change.
    """
    have = picture.shape[0]
    if have == channels:
        return picture
    if have == 1 and channels == 3:
        return picture.expand(3, -1, -1).contiguous()
    if have == 3 and channels == 1:
        return rgb_to_grayscale(picture)  # type: ignore[no-any-return]
    raise Unreadable(f"{have} channels where the set has {channels}")


def _read(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except PermissionError:
        raise Unreadable("permission denied") from None
    except OSError as error:
        raise Unreadable((error.strerror or "cannot be read").lower()) from None
    if not data:
        raise Unreadable("empty file")
    return data


def _open(data: bytes) -> Image.Image:
    try:
        image = Image.open(BytesIO(data), formats=FORMATS)
    except UnidentifiedImageError:
        raise Unreadable(_guess(data)) from None
    except Image.DecompressionBombError:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels") from None
    except Exception as error:  # Pillow's parsers raise anything on damaged headers
        raise Unreadable(_reason(error)) from None
    if image.width * image.height > MAX_PIXELS:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels")
    return image


def _load(data: bytes, draft: bool = False) -> tuple[Image.Image, int]:
    """The decoded image and its EXIF orientation."""
    image = _open(data)
    try:
        if draft:
            image.draft(None, (1, 1))
        image.load()
    except Exception as error:  # Pillow's decoders raise anything on damaged data
        raise Unreadable(_reason(error)) from None
    return image, _orientation(image)


def _orientation(image: Image.Image) -> int:
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF is no reason to lose the pixels
        return 1


def _pixels(image: Image.Image) -> NDArray[np.generic]:
    """[h, w] or [h, w, 3], on white where the image is transparent."""
    if image.mode in _DEEP_MODES:
        return _deep(np.asarray(image))
    try:
        if image.mode in ("LA", "La", "PA", "RGBA", "RGBa") or "transparency" in image.info:
            grey = image.mode in ("L", "1", "LA", "La")
            rgba = image.convert("RGBA")
            image = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba)
            return np.asarray(image.convert("RGB"))[..., 0] if grey else np.asarray(image.convert("RGB"))
        return np.asarray(image.convert("L" if image.mode in ("1", "L") else "RGB"))
    except Exception as error:  # a mode without a conversion, or transparency that is none
        raise Unreadable(_reason(error)) from None


def _deep(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype == np.int32:  # Pillow's mode I: 16 bits in a wider box
        if array.min() < 0 or array.max() > 65535:
            raise Unreadable("32-bit integers of unknown range")
        return array.astype(np.uint16)
    return array


def _open_array(path: Path) -> NDArray[np.generic]:
    try:
        array: NDArray[np.generic] = np.load(path, mmap_mode="r", allow_pickle=False)
    except PermissionError:
        raise Unreadable("permission denied") from None
    except FileNotFoundError:
        raise Unreadable("no such file or directory") from None
    except Exception as error:  # damaged headers raise anything
        raise Unreadable("empty file" if path.stat().st_size == 0 else _reason(error)) from None
    if array.ndim == 3 and array.shape[2] > max(4, min(array.shape[:2])):  # most likely [channels, height, width]
        raise Unreadable(f"shape {array.shape}: pictures are [height, width] or [height, width, channels]")
    return array


def _ask_tiff(ask: Callable[[bytes], T], data: bytes) -> T:
    try:
        return ask(data)
    except ImportError:
        raise Unreadable("a TIFF of this kind needs: pip install 'tutelage[tiff]'") from None
    except Exception as error:  # damaged files raise anything
        raise Unreadable(_reason(error)) from None


def _check_array(array: NDArray[np.generic]) -> None:
    (height, width), _ = _shape(array.shape)
    if 0 in array.shape:
        raise Unreadable("no pixels")
    if height * width > MAX_PIXELS:
        raise Unreadable(f"more than {MAX_PIXELS:,} pixels")
    if array.dtype not in (np.uint8, np.uint16) and array.dtype.kind != "f":
        raise Unreadable(f"dtype {array.dtype}: pictures are uint8, uint16 or floats in 0..1")


def _shape(shape: tuple[int, ...]) -> tuple[tuple[int, int], int]:
    """Height and width, and the number of channels."""
    if len(shape) not in (2, 3):
        raise Unreadable(f"shape {shape}: pictures are [height, width] or [height, width, channels]")
    return (shape[0], shape[1]), shape[2] if len(shape) == 3 else 1


def _from_array(array: NDArray[np.generic]) -> Tensor:
    """[c, h, w] of [h, w] or [h, w, c]: uint8, or float32 in 0..1."""
    _check_array(array)
    if array.dtype == np.uint16:
        array = array.astype(np.float32) / np.float32(65535)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise Unreadable("floats outside 0..1")
    chw = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return torch.from_numpy(np.array(chw, order="C"))


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())[:120]
    return "truncated" if "truncated" in text.lower() else text or type(error).__name__


def _guess(data: bytes) -> str:
    """What a file that is none of the formats seems to be."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "not a picture (looks like HTML)"
    for mark, name in ((b"%pdf", "PDF"), (b"%!ps", "EPS"), (b"8bps", "PSD"), (b"<svg", "SVG"), (b"<?xml", "XML")):
        if head.startswith(mark):
            return f"format {name} is not enabled"
    if data[4:8] == b"ftyp":
        return "format HEIC or AVIF is not enabled"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:512]):
        return "not a picture (looks like text)"
    return "not a picture, or a damaged header"
