"""The files of masks: read with their refusals, and looked at when a set is opened: how large each is and which values it has.

Every mask is decoded once for that; of a set of more than 10,000 what was seen is kept from one start to the next, as of
pictures.
"""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from tutelage.data.decode import MAX_PIXELS
from tutelage.data.looking import Look
from tutelage.data.reading import Identity, Unreadable, read
from tutelage.data.remembered import recall, remember
from tutelage.errors import DataError

MAX_UNKEPT = 10_000
"""Up to this many masks are read anew at every start."""


@dataclass(frozen=True, slots=True)
class MaskLook:
    """What was seen of a mask."""

    size: tuple[int, int]
    """Height and width in pixels."""
    values: frozenset[int]
    """That a pixel has, 0 to 255."""
    identity: Identity


def read_values(path: Path) -> NDArray[np.uint8]:
    """The values of a mask, [h, w]; of a palette the indices, of one bit 0 and 1. Raises DataError D-30, D-32."""
    return _read(path)[0]


def look_at_masks(root: Path, names: Sequence[str], cache: Path | None) -> list[MaskLook]:
    """What is seen of the masks of these names below `root`. Raises DataError D-30, D-32.

    `cache` is where looks at large sets are kept.
    """
    # Apart from the looks at pictures: a folder of masks may be opened as pictures too.
    keep = cache / "masks" if cache and len(names) > MAX_UNKEPT else None
    known = {name: _of_kept(look) for name, look in recall(keep, root, names).items()} if keep else {}
    new = [name for name in names if name not in known]
    with ThreadPoolExecutor() as pool:
        try:
            seen = dict(zip(new, pool.map(lambda name: _look(root / name), new), strict=True))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    if keep and new:
        remember(keep, root, {name: _to_keep(look) for name, look in (known | seen).items()})
    return [known.get(name) or seen[name] for name in names]


def _look(path: Path) -> MaskLook:
    values, identity = _read(path)
    present = np.flatnonzero(np.bincount(values.ravel(), minlength=256))
    return MaskLook((values.shape[0], values.shape[1]), frozenset(present.tolist()), identity)


def _to_keep(look: MaskLook) -> Look:
    """As looks at pictures are kept, the values in the place of the mode."""
    return Look("PNG", " ".join(map(str, sorted(look.values))), look.size, 1, False, look.identity, 0)


def _of_kept(look: Look) -> MaskLook:
    return MaskLook(look.size, frozenset(map(int, look.mode.split())), look.identity)


def _read(path: Path) -> tuple[NDArray[np.uint8], Identity]:
    try:
        contents = read(path)
        image = Image.open(io.BytesIO(contents.data), formats=("PNG",))
    except (Unreadable, OSError, SyntaxError, ValueError, Image.DecompressionBombError) as error:
        reason = error.reason if isinstance(error, Unreadable) else "it is no PNG"
        raise DataError("D-30", f"the mask {path} cannot be read: {reason}.") from error
    if image.width * image.height > MAX_PIXELS:
        raise DataError("D-30", f"the mask {path} has {image.width} x {image.height} pixels, too many.")
    if image.mode not in ("1", "L", "P"):
        raise DataError(
            "D-32",
            f"the mask {path} is of mode {image.mode}, not of numbers of 8 bits.",
            "The value of a pixel must be its class.",
            "Save masks as grey or palette PNG with the class numbers.",
        )
    try:
        return np.asarray(image).astype(np.uint8), contents.identity
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError("D-30", f"the mask {path} is damaged: {error}.") from error
