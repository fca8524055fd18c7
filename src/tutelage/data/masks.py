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
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import UInt8
from numpy.typing import NDArray
from torch import Tensor

from tutelage.batch import IGNORED
from tutelage.data.mask_files import MaskLook, look_at_masks, read_values
from tutelage.errors import DataError, listed

_UNKNOWN = 254
"""In the table of a set: a value that is no class."""
MAX_ASPECT = 100
"""A picture with a side more than so many times the other is refused: its short side is brought to a window's, which would
make a picture of gigabytes of it."""
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
    shown: tuple[frozenset[int], ...]
    """The classes that each picture's mask has a pixel of, by number; none where it has no mask, or one that counts for
    nothing."""

    def read(self, i: int) -> UInt8[Tensor, "h w"]:
        """Of picture `i`: the class of each pixel, 255 where it counts for nothing.

        Raises DataError D-30, D-32, D-33, all of a file that was changed since the set was opened.
        """
        path = self.root / self.names[i]
        values = read_values(path)
        found = self.table[values]
        if (found == _UNKNOWN).any():
            wrong = frozenset(values[found == _UNKNOWN].tolist())
            raise _no_class(self.root, [f"{path} ({_told(wrong)})"], 1, len(self.classes))
        return torch.from_numpy(found)

    def unseen(self, pictures: NDArray[np.int64]) -> list[str]:
        """The classes that no mask of these pictures has a pixel of."""
        seen = frozenset[int]().union(*(self.shown[i] for i in pictures.tolist()))
        return [name for number, name in enumerate(self.classes) if number not in seen]

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


def open_masks(
    root: Path, layout: Layout, names: Sequence[str], sizes: Sequence[tuple[int, int]], cache: Path | None = None
) -> Masks:
    """The masks of the pictures of these names and sizes (height, width); each is read once, to see its values.

    `cache` is where what was seen of large sets is kept. Raises DataError D-30 to D-35, D-37, D-38.
    """
    for name, size in zip(names, sizes, strict=True):
        check_aspect(name, size)
    found = tuple(mask_of(root, layout, name) for name in names)
    there = [(name, size) for name, size in zip(found, sizes, strict=True) if name]
    if not there:
        raise DataError("D-34", f"no picture in {root / layout.pictures} has a mask in {root / layout.masks}.")
    looks = dict(zip((name for name, _ in there), look_at_masks(root, [name for name, _ in there], cache), strict=True))
    _check_sizes(there, looks)
    values = _named_values(root, layout) or _found_values(looks)
    ignored = {IGNORED, *(value for value, name in values.items() if not name)}
    if all(look.values <= ignored for look in looks.values()):
        raise DataError(
            "D-37",
            f"no pixel of the {len(there):,} masks of {root} counts: all are 255, or a value without a name.",
            "There is nothing to learn from them.",
            "Save class numbers as values (255 counts for nothing), and name them in classes.csv.",
        )
    classes, table = _numbered(root, values)
    _check_values(root, looks, table, len(classes))
    shown = {name: frozenset(table[list(look.values - ignored)].tolist()) for name, look in looks.items()}
    return Masks(root, found, classes, table, tuple(shown.get(name, frozenset()) for name in found))


def _numbered(root: Path, values: dict[int, str]) -> tuple[tuple[str, ...], NDArray[np.uint8]]:
    """The classes in the order of their values, and the class of each of the 256 values. Raises DataError D-34."""
    classes = [(value, name) for value, name in sorted(values.items()) if name]
    if not 2 <= len(classes) < _UNKNOWN:
        raise DataError(
            "D-34",
            f"the masks of {root} tell {len(classes)} classes apart.",
            "They look like pictures." if len(classes) > 2 else "",
            f"Two are the least, {_UNKNOWN - 1} the most.",
        )
    table = np.full(256, _UNKNOWN, dtype=np.uint8)
    table[[IGNORED, *values]] = IGNORED
    for number, (value, _) in enumerate(classes):
        table[value] = number
    return tuple(name for _, name in classes), table


def check_aspect(name: str, size: tuple[int, int]) -> None:
    """Raise D-38 for a picture too thin to be looked at in windows; `size` is (height, width)."""
    if max(size) > MAX_ASPECT * min(size):
        raise DataError(
            "D-38",
            f"{name} has {size[1]:,} x {size[0]:,} pixels: one side is more than {MAX_ASPECT} times the other.",
            "Segmentation brings the short side to a window's, and the long one would not fit into memory.",
            "Cut it into pieces, or take it out.",
        )


def mask_of(root: Path, layout: Layout, picture: str) -> str:
    """The path of a picture's mask below the root; empty where there is none."""
    ending = layout.ending or ".png"
    stem = re.sub(r"_leftImg8bit$", "", str(PurePosixPath(picture).with_suffix("")))
    name = f"{layout.masks}/{stem}{ending}"
    return name if (root / name).is_file() else ""


def _check_sizes(masks: list[tuple[str, tuple[int, int]]], looks: dict[str, MaskLook]) -> None:
    """Raise D-31 where a mask has other sides than its picture."""
    wrong = [
        f"{Path(name).name} ({looks[name].size[1]} x {looks[name].size[0]}, not {w} x {h})"
        for name, (h, w) in masks
        if looks[name].size != (h, w)
    ]
    if wrong:
        raise DataError(
            "D-31",
            f"{len(wrong):,} of {len(masks):,} masks have another size than their picture: {listed(wrong)}.",
            "A pixel of the mask must be a pixel of the picture (turned as its EXIF says).",
        )


def _check_values(root: Path, looks: dict[str, MaskLook], table: NDArray[np.uint8], num_classes: int) -> None:
    """Raise D-33 where a mask has a value that is no class."""
    unknown = frozenset(np.flatnonzero(table == _UNKNOWN).tolist())
    wrong = [f"{name} ({_told(look.values & unknown)})" for name, look in looks.items() if look.values & unknown]
    if wrong:
        raise _no_class(root, wrong, len(looks), num_classes)


def _no_class(root: Path, wrong: list[str], masks: int, num_classes: int) -> DataError:
    many = f"{len(wrong):,} of {masks:,} masks have values that are no class"
    return DataError(
        "D-33",
        f"{many}: {listed(wrong)}. There are {num_classes} classes.",
        "Of such a pixel nobody knows what it shows.",
        f"Name all values in {root / 'classes.csv'}; one without a name counts for nothing.",
    )


def _told(values: frozenset[int]) -> str:
    return listed([str(value) for value in sorted(values)])


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


def _found_values(looks: dict[str, MaskLook]) -> dict[int, str]:
    """Every value that is found, named by its number."""
    seen = frozenset[int]().union(*(look.values for look in looks.values()))
    return {value: str(value) for value in sorted(seen - {IGNORED})}
