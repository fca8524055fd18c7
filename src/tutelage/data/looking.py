"""What the header of a file says of its picture, and how far the file is checked when a set is opened."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image

from tutelage.data import npy, tiff
from tutelage.data.decode import (
    DEEP_MODES,
    GREY_MODES,
    check_array,
    decoded,
    num_channels,
    open_image,
    orientation,
    refusing,
)
from tutelage.data.reading import Contents, Ends, Identity, Unreadable, read, read_ends


@dataclass(frozen=True, slots=True)
class Look:
    """What a file's header says of the picture that `decode` will give."""

    format: str
    mode: str
    size: tuple[int, int]
    """Height and width in pixels, upright; of a huge JPEG `decode` gives less."""
    channels: int
    deep: bool
    """More than 8 bits per channel: decoded to float32."""
    identity: Identity
    mark: int
    """The same for files of the same bytes, and very rarely for others."""
    several: bool = False
    """It moves or has pages: its first picture is the one."""


def look(path: Path) -> Look:
    """What the header says, no pixel decoded. Raises `Unreadable`, and DataError D-08 where the disk fails."""
    return _look(path, read_ends(path))


def check(path: Path) -> Look:
    """`look`, after every pixel was decoded once; JPEGs at an eighth of their size, which reads all of their data."""
    contents = read(path)
    seen = _look(path, contents.ends, contents)
    decoded(contents.data, path.suffix, small=True)
    return seen


def check_end(path: Path) -> Look:
    """`look`, after a search for the mark that ends a file of its format: finds most truncated files at no cost."""
    ends = read_ends(path)
    seen = _look(path, ends)
    head, tail, (length, _) = ends
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


def _look(path: Path, ends: Ends, contents: Contents | None = None) -> Look:
    if path.suffix.lower() == ".npy":
        with refusing():
            described = npy.describe(ends.head)
        if described.end > ends.identity.length:
            raise Unreadable("truncated")
        return _of_array("NPY", described.shape, described.dtype, ends)
    if contents is None and _needs_all(ends):
        contents = read(path)
    data = ends.head if contents is None else contents.data
    if tiff.needed(data):
        with refusing():
            return _of_array("TIFF", *tiff.describe(data), ends)
    try:
        image = open_image(data)
    except Unreadable:
        if contents is not None or len(ends.head) == ends.identity.length:
            raise
        image = open_image(read(path).data)  # metadata may fill more than the beginning
    height, width = image.height, image.width
    # Pillow's TIFF sizes are upright already, and it would decode a whole PNG to look for an orientation after it.
    asks = image.format != "TIFF" and (image.format != "PNG" or _may_turn(ends))
    if asks and orientation(image) in (5, 6, 7, 8):
        height, width = width, height
    mode, mark = image.mode, ends.mark
    kind = "JPEG" if image.format == "MPO" else str(image.format)
    grey, deep = mode in GREY_MODES, mode in DEEP_MODES
    return Look(kind, mode, (height, width), 1 if grey else 3, deep, ends.identity, mark, _has_several(image))


def _has_several(image: Image.Image) -> bool:
    """Whether a file moves or has pages; phones keep a preview beside a JPEG, which counts for nothing."""
    try:
        return image.format != "MPO" and bool(getattr(image, "is_animated", False))
    except Exception:  # what follows the first picture may be damaged
        return False


def _needs_all(ends: Ends) -> bool:
    """TIFFs keep their header anywhere, WebP is parsed whole, and a PNG's orientation may follow its pixels."""
    head, _, (length, _) = ends
    anywhere = head.startswith((b"II", b"MM", b"RIFF")) or (head.startswith(b"\x89PNG") and _may_turn(ends))
    return anywhere and length > len(head)


def _may_turn(ends: Ends) -> bool:
    """Whether a PNG has one of the chunks that can tell an orientation."""
    return any(name in ends.head or name in ends.tail for name in (b"eXIf", b"Raw profile type exif", b"com.adobe.xmp"))


def _of_array(kind: str, shape: tuple[int, ...], dtype: np.dtype[np.generic], ends: Ends) -> Look:
    check_array(shape, dtype)
    size, deep = (shape[0], shape[1]), dtype != np.uint8
    return Look(kind, str(dtype), size, num_channels(shape), deep, ends.identity, ends.mark)
