"""Pictures with index masks: where the masks lie, which value is which class, and a mask as class numbers.

A folder with `images` and `masks` (or `annotations`, as ADE20K's), in which a mask has the path of its picture and ends on
.png; or Cityscapes' `leftImg8bit` and `gtFine`. The value of a pixel is its class. A file `classes.csv` with the columns
value and name says which values there are: one without a name counts for nothing, as 255 does anywhere. Without it, classes
are named by ADE20K's `objectInfo150.txt` or are Cityscapes' own, or else are all values that are found.
"""

import csv
import hashlib
import io
import re
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from tutelage.batch import IGNORED
from tutelage.data.decode import MAX_PIXELS
from tutelage.data.reading import Unreadable, read
from tutelage.errors import DataError, listed

_UNKNOWN = 254
CITYSCAPES = (
    "road", "sidewalk", "building", "wall", "fence", "pole", "traffic light", "traffic sign", "vegetation", "terrain",
    "sky", "person", "rider", "car", "truck", "bus", "train", "motorcycle", "bicycle",
)  # fmt: skip


class Layout(NamedTuple):
    """Where pictures and masks lie below a folder."""

    pictures: str
    masks: str
    ending: str = ""
    """What takes the place of the end of a picture's name; by default .png of its suffix."""


LAYOUTS = (
    Layout("images", "masks"),
    Layout("images", "annotations"),
    Layout("leftImg8bit", "gtFine", "_gtFine_labelTrainIds.png"),
)


@dataclass(frozen=True, eq=False)
class Masks:
    """The masks of a source's pictures, by number."""

    root: Path
    names: tuple[str, ...]
    """Paths below `root`; empty where a picture has none."""
    classes: tuple[str, ...]
    table: NDArray[np.uint8]
    """The class of each of the 256 values."""

    def read(self, i: int) -> UInt8[Tensor, "h w"]:
        """Of picture `i`: the class of each pixel, 255 where it counts for nothing. Raises DataError D-30, D-32, D-33."""
        path = self.root / self.names[i]
        values = _values(path)
        found = self.table[values]
        if (found == _UNKNOWN).any():
            wrong = sorted(set(values[found == _UNKNOWN].tolist()))
            raise DataError(
                "D-33",
                f"{path} has the value{'s' * (len(wrong) > 1)} {listed([str(v) for v in wrong])}, which is no class: there "
                f"are {len(self.classes)}.",
                todo=f"Name all values in {self.root / 'classes.csv'}; one without a name counts for nothing.",
            )
        return torch.from_numpy(found)

    @property
    def values(self) -> tuple[int, ...]:
        """The value of each class."""
        return tuple(int(np.flatnonzero(self.table == number)[0]) for number in range(len(self.classes)))

    def digest(self) -> bytes:
        """A hash of names, lengths and classes."""
        h = hashlib.sha256("\0".join((*self.names, *self.classes)).encode("utf-8", "surrogateescape"))
        lengths = [(self.root / name).stat().st_size if name else 0 for name in self.names]
        h.update(np.array(lengths, dtype="<i8").tobytes() + self.table.tobytes())
        return h.digest()


def layout_of(root: Path) -> Layout | None:
    """How the folder is laid out; None where it has no masks."""
    there = (each for each in LAYOUTS if (root / each.pictures).is_dir() and (root / each.masks).is_dir())
    return next(there, None)


def check_layout(root: Path) -> Layout:
    """How the folder is laid out. Raises DataError D-34."""
    if layout := layout_of(root):
        return layout
    raise DataError(
        "D-34",
        f"{root} has no pictures with masks.",
        "Segmentation learns which pixel is what.",
        "Put pictures in images/ and masks of the same names (.png, the value of a pixel is its class) in masks/.",
    )


def open_masks(root: Path, layout: Layout, names: Iterable[str], sizes: Iterable[tuple[int, int]]) -> Masks:
    """The masks of the pictures of these names and sizes (height, width). Raises DataError D-30 to D-34."""
    found = tuple(_mask_of(root, layout, name) for name in names)
    there = [(root / name, size) for name, size in zip(found, sizes, strict=True) if name]
    if not there:
        raise DataError("D-34", f"no picture in {root / layout.pictures} has a mask in {root / layout.masks}.")
    _check_sizes(there)
    values = _named_values(root, layout) or _found_values([path for path, _ in there])
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    table[IGNORED] = IGNORED
    classes = [(value, name) for value, name in sorted(values.items()) if name]
    if len(classes) < 2:
        raise DataError("D-34", f"the masks of {root} tell {len(classes)} classes apart.", todo="Two are the least.")
    for value in values:
        table[value] = IGNORED
    for number, (value, _) in enumerate(classes):
        table[value] = number
    return Masks(root, found, tuple(name for _, name in classes), table)


def _mask_of(root: Path, layout: Layout, picture: str) -> str:
    """The path of a picture's mask below the root; empty where there is none."""
    ending = layout.ending or ".png"
    stem = re.sub(r"_leftImg8bit$", "", str(PurePosixPath(picture).with_suffix("")))
    name = f"{layout.masks}/{stem}{ending}"
    return name if (root / name).is_file() else ""


def _open(path: Path) -> Image.Image:
    try:
        image = Image.open(io.BytesIO(read(path).data), formats=("PNG",))
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
    return image


def _values(path: Path) -> NDArray[np.uint8]:
    """The values of a mask, [h, w]; of a palette the indices, of one bit 0 and 1."""
    image = _open(path)
    try:
        return np.asarray(image).astype(np.uint8)
    except (OSError, SyntaxError, ValueError) as error:
        raise DataError("D-30", f"the mask {path} is damaged: {error}.") from error


def _check_sizes(masks: list[tuple[Path, tuple[int, int]]]) -> None:
    """Raise D-31 where a mask has other sides than its picture."""
    with ThreadPoolExecutor() as pool:
        sizes = pool.map(lambda mask: _open(mask[0]).size, masks)
        wrong = [
            f"{path.name} ({width} x {height}, not {w} x {h})"
            for (path, (h, w)), (width, height) in zip(masks, sizes, strict=True)
            if (height, width) != (h, w)
        ]
    if wrong:
        raise DataError(
            "D-31",
            f"{len(wrong):,} of {len(masks):,} masks have another size than their picture: {listed(wrong)}.",
            "A pixel of the mask must be a pixel of the picture (turned as its EXIF says).",
        )


def _named_values(root: Path, layout: Layout) -> dict[int, str]:
    """The names of the values by a file, or Cityscapes' own; none where nothing names them."""
    if (table := root / "classes.csv").is_file():
        return _of_csv(table)
    if (ade := root / "objectInfo150.txt").is_file():
        lines = [line.split("\t") for line in ade.read_text(encoding="utf-8", errors="replace").splitlines()]
        rows = [line for line in lines if line[0].strip().isdigit()]
        return {0: ""} | {int(row[0]): row[-1].split(",")[0].strip() for row in rows}
    return dict(enumerate(CITYSCAPES)) if layout.ending else {}


def _of_csv(path: Path) -> dict[int, str]:
    rows = csv.DictReader(io.StringIO(path.read_text(encoding="utf-8-sig"), newline=""))
    if not {"value", "name"} <= set(rows.fieldnames or ()):
        raise DataError("D-35", f"{path}, line 1: the columns are not value and name.")
    found = {}
    for row in rows:
        value = (row["value"] or "").strip()
        if not (value.isascii() and value.isdigit() and int(value) < IGNORED):
            raise DataError("D-35", f"{path}, row {rows.line_num}: '{value}' is no value of 0 to 254.")
        found[int(value)] = (row["name"] or "").strip()
    return found


def _found_values(masks: list[Path]) -> dict[int, str]:
    """Every value that is found, named by its number."""
    with ThreadPoolExecutor() as pool:
        seen = set().union(*pool.map(lambda path: set(np.unique(_values(path)).tolist()), masks))
    return {value: str(value) for value in sorted(seen - {IGNORED})}
