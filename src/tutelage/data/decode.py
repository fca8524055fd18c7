"""A picture from the bytes of a file, or the reason why there is none.

Policy: only formats of the allow-list are opened, whatever a file is called; sizes are checked on the header before a
pixel is decoded; a truncated file is refused, never filled with grey; transparency lies on white; EXIF orientation is
applied; of several frames or pages the first counts; a huge JPEG is decoded at a half, a quarter or an eighth.
"""

import re
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError
from torch import Tensor
from torchvision.transforms.v2.functional import rgb_to_grayscale

from tutelage.data import npy, tiff
from tutelage.data.reading import ENDS, Unreadable, read

# Pillow warns about broken metadata and about sizes; both are handled here, file by file.
warnings.filterwarnings("ignore", module=r"PIL\.")

FORMATS = ("JPEG", "PNG", "WEBP", "BMP", "TIFF", "GIF")
EXTENSIONS = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".npy")
MAX_PIXELS = 2**26
"""8192 x 8192: decoding takes some 500 MB at most. Larger pictures are refused on their header; of a JPEG ..."""
MAX_JPEG_PIXELS = 2**27
"""... twice as many are taken, because it need not be decoded whole."""
FULL_PIXELS = 2**24
"""4096 x 4096: a JPEG of more is decoded at half its sides, or at a quarter or an eighth, down to this many.

More than 2048 x 2048 remain. A crop of 8 % of that still has 580 pixels a side: no view of up to 512 is enlarged. A
JPEG of 12,000 x 8,000 then takes a quarter of the time (0.57 s, not 2.0 s) and of the memory (230 MB, not 920 MB).
"""

_BAND = 2**22
"""Pixels that are converted at a time, so that the temporary copies stay small."""
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
_PNG, _JPEG = b"\x89PNG\r\n\x1a\n", b"\xff\xd8"
_TRANSPARENT_MODES = ("LA", "La", "PA", "RGBA", "RGBa")
GREY_MODES = ("1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N")
DEEP_MODES = ("I", "F", "I;16", "I;16L", "I;16B", "I;16N")


def decode(path: Path) -> Tensor:
    """The picture [c, h, w]: uint8, or float32 in 0..1 where the file has more than 8 bits per channel.

    16-bit colour PNGs come as 8 bits (Pillow keeps no more). Raises `Unreadable`, and DataError D-08 where the disk
    fails.
    """
    return decoded(read(path).data, path.suffix)


def decoded(data: bytes, suffix: str, *, small: bool = False) -> Tensor:
    """As `decode`, of the bytes of a file; `small`: JPEGs at an eighth of their size. Raises `Unreadable`."""
    if suffix.lower() == ".npy":
        with refusing():
            check_array(*npy.describe(data)[:2])
            return _from_array(npy.read(data))
    if tiff.needed(data):
        with refusing():
            check_array(*tiff.describe(data))
            return _from_array(tiff.read(data))
    with refusing():
        return _from_array(_pixels(_upright(_load(data, small))))


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


@contextmanager
def refusing() -> Iterator[None]:
    """Parsers and decoders raise anything on damaged data: a reason of `Unreadable`, unless memory ran out."""
    try:
        yield
    except (Unreadable, MemoryError):
        raise
    except ImportError:
        raise Unreadable("a TIFF of this kind needs: pip install 'tutelage[tiff]'") from None
    except Exception as error:
        text = " ".join(str(error).split()) or type(error).__name__
        raise Unreadable("truncated" if "truncated" in text.lower() else f"damaged: {text}"[:120]) from None


def open_image(data: bytes) -> Image.Image:
    """The picture with its header read and its size checked. Raises `Unreadable`."""
    if data.startswith(_PNG):
        data = b"".join(piece for piece in _pieces(data) if not _is_left_out(piece))
    most = MAX_JPEG_PIXELS if data.startswith(_JPEG) else MAX_PIXELS
    with refusing():
        try:
            image = Image.open(BytesIO(data), formats=FORMATS)
        except UnidentifiedImageError:
            raise Unreadable(_guess(data)) from None
        except Image.DecompressionBombError as bomb:
            told = re.search(r"\d+", str(bomb))  # Image size (3600000000 pixels) exceeds limit ...
            raise Unreadable(_too_large(int(told[0]) if told else 0, most)) from None
    if image.width * image.height > most:
        raise Unreadable(_too_large(image.width * image.height, most))
    return image


def orientation(image: Image.Image) -> int:
    """As EXIF says, 1 to 8; 1 where it says nothing or nothing sensible."""
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # broken EXIF is no reason to lose the pixels
        return 1


def check_array(shape: tuple[int, ...], dtype: np.dtype[np.generic]) -> None:
    """Raise `Unreadable` unless an array of this shape [h, w] or [h, w, c] and type can be a picture."""
    if len(shape) not in (2, 3):
        raise Unreadable(f"shape {shape}: pictures are [height, width] or [height, width, channels]")
    if 0 in shape:
        raise Unreadable("no pixels")
    if shape[0] * shape[1] > MAX_PIXELS:
        raise Unreadable(_too_large(shape[0] * shape[1], MAX_PIXELS))
    if shape[0] * shape[1] * num_channels(shape) > 4 * MAX_PIXELS:
        raise Unreadable(f"more than {4 * MAX_PIXELS:,} values")
    if dtype not in (np.uint8, np.uint16) and dtype.kind != "f":
        raise Unreadable(f"dtype {dtype}: pictures are uint8, uint16 or floats in 0..1")


def num_channels(shape: tuple[int, ...]) -> int:
    """Of an array [h, w] or [h, w, c]."""
    return shape[2] if len(shape) == 3 else 1


def _load(data: bytes, small: bool) -> Image.Image:
    image = open_image(data)
    if image.format in ("JPEG", "MPO"):
        parts = 8 if small else 1
        while image.width * image.height > FULL_PIXELS * parts**2 and parts < 8:
            parts *= 2
        if parts > 1:
            image.draft(None, (max(1, image.width // parts), max(1, image.height // parts)))
    if image.format == "PNG":
        _check_sums(data)
    image.load()
    return image


def _check_sums(png: bytes) -> None:
    """Raise `Unreadable` where pixels differ from their checksum, which Pillow does not compare."""
    for piece in _pieces(png):
        if piece[4:8] == b"IDAT" and zlib.crc32(piece[4:-4]) != int.from_bytes(piece[-4:], "big"):
            raise Unreadable("damaged, or truncated: a checksum is wrong")


def _pieces(png: bytes) -> Iterator[bytes]:
    """The signature of a PNG and its chunks, with length, name, data and checksum; the last may be cut short."""
    yield png[:8]
    at = 8
    while at < len(png):
        end = at + 12 + int.from_bytes(png[at : at + 4], "big")
        yield png[at:end]
        at = end


def _is_left_out(piece: bytes) -> bool:
    """Colour profiles and texts that may be huge once unpacked: no pixel depends on them."""
    return piece[4:8] in (b"iCCP", b"zTXt") or (piece[4:8] in (b"tEXt", b"iTXt") and len(piece) > ENDS)


def _upright(image: Image.Image) -> Image.Image:
    turn = _TRANSPOSE.get(orientation(image))
    return image if turn is None else image.transpose(turn)


def _pixels(image: Image.Image) -> NDArray[np.generic]:
    """[h, w] or [h, w, 3], on white where the image is transparent."""
    if image.mode in DEEP_MODES:
        return _deep(np.asarray(image))
    grey = image.mode in GREY_MODES
    pixels = np.empty((image.height, image.width) if grey else (image.height, image.width, 3), np.uint8)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(image.height, top + rows))) if rows < image.height else image
        pixels[top : top + rows] = _on_white(band, grey)
    return pixels


def _on_white(image: Image.Image, grey: bool) -> NDArray[np.uint8]:
    if image.mode not in _TRANSPARENT_MODES and "transparency" not in image.info:
        return np.asarray(image.convert("L" if grey else "RGB"))
    rgba = image.convert("RGBA")
    rgb = Image.alpha_composite(Image.new("RGBA", rgba.size, "white"), rgba).convert("RGB")
    return np.asarray(rgb)[..., 0] if grey else np.asarray(rgb)


def _deep(array: NDArray[np.generic]) -> NDArray[np.generic]:
    if array.dtype == np.int32:  # Pillow's mode I: 16 bits in a wider box
        if array.min() < 0 or array.max() > 65535:
            raise Unreadable("32-bit integers of unknown range")
        return array.astype(np.uint16)
    return array


def _from_array(array: NDArray[np.generic]) -> Tensor:
    """[c, h, w] of [h, w] or [h, w, c]: uint8, or float32 in 0..1."""
    check_array(array.shape, array.dtype)
    if array.dtype == np.uint16:
        array = np.divide(array, np.float32(65535), dtype=np.float32)
    elif array.dtype.kind == "f":
        array = array.astype(np.float32)
        if not (np.isfinite(array).all() and array.min() >= 0 and array.max() <= 1):
            raise Unreadable("floats outside 0..1")
    chw = array[None] if array.ndim == 2 else np.moveaxis(array, 2, 0)
    return torch.from_numpy(np.require(chw, requirements=["C", "W"]))


def _too_large(pixels: int, most: int) -> str:
    return f"{pixels:,} pixels, more than {most:,}"


def _guess(data: bytes) -> str:
    """What a file that is none of the formats seems to be."""
    head = data[:512].lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return "not a picture (looks like HTML)"
    for mark, name in ((b"%pdf", "PDF"), (b"%!ps", "EPS"), (b"8bps", "PSD"), (b"<svg", "SVG"), (b"<?xml", "XML")):
        if head.startswith(mark):
            return f"format {name} is not enabled"
    if head.startswith(b"simple  ="):
        return "format FITS is not enabled"
    if data[4:8] == b"ftyp":
        return "format HEIC or AVIF is not enabled"
    if all(byte in b"\t\n\r" or 32 <= byte < 127 for byte in data[:512]):
        return "not a picture (looks like text)"
    return "not a picture, or a damaged header"
