"""Pictures with objects: a COCO file for each part, read and checked, and what lies on a picture as boxes and masks.

A folder with `train.json` (and `val.json`, `test.json`), alone or in `annotations`, and pictures in `images`; COCO's own names,
`annotations/instances_train2017.json` and `train2017`, which may be in `images`; CVAT's, `annotations/instances_default.json`;
or Roboflow's, `train/_annotations.coco.json` beside the pictures. Boxes are cut at the picture's border; those outside it or
without area are left out and counted. Crowds are kept apart: they are neither to be found nor wrong to be found.
"""

import hashlib
import json
import os
import posixpath
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from tutelage.batch import Objects
from tutelage.config import parse_json
from tutelage.data.crops import resized_objects
from tutelage.data.listing import part_of, refuse_folder
from tutelage.data.outlines import check_outline, drawn
from tutelage.errors import DataError, listed

MAX_BYTES = 2_000_000_000
"""Of a COCO file: COCO's own training part has 470 MB."""
_BESIDE = "_annotations.coco.json"
"""Roboflow's name of a file in the folder of its pictures."""


@dataclass(frozen=True)
class CocoFile:
    """What a COCO file says of a part."""

    path: Path
    part: str
    pictures: dict[int, str]
    """The path of each picture below the root, by COCO's number."""
    sizes: dict[int, tuple[int, int]]
    objects: dict[int, list[dict[str, Any]]]
    categories: dict[int, str]
    left_out: Counter[str]
    """Objects that were left out, by reason."""


@dataclass(frozen=True, eq=False)
class Instances:
    """The objects of a source's pictures, by number."""

    classes: tuple[str, ...]
    ids: tuple[int, ...]
    """The COCO category of each class."""
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each picture."""
    rows: tuple[tuple[dict[str, Any], ...], ...]
    """Of each picture: its objects, with `box` (x0, y0, x1, y1, cut), `label`, `crowd` and `outline`."""

    def read(self, i: int, sides: tuple[int, int] | None = None) -> Objects:
        """What lies on picture `i`, at its own size or where it was read at other `sides` (height, width).

        Masks are those of the boxes where there are no outlines.
        """
        height, width = self.sizes[i]
        rows = self.rows[i]
        masks = np.zeros((len(rows), height, width), dtype=np.bool_)
        for k, row in enumerate(rows):
            masks[k] = _mask(row, height, width)
        found = Objects(
            torch.tensor([row["box"] for row in rows], dtype=torch.float32).reshape(-1, 4),
            torch.tensor([row["label"] for row in rows], dtype=torch.int64),
            torch.tensor([row["crowd"] for row in rows], dtype=torch.bool),
            torch.from_numpy(masks),
        )
        return resized_objects(found, (height, width), sides or (height, width))

    def notes(self, files: list[CocoFile], parts: tuple[str, ...]) -> list[str]:
        """What a reader must know: how many objects there are, which were left out, and of what nothing can be learned."""
        count = sum(map(len, self.rows))
        crowds = sum(row["crowd"] for rows in self.rows for row in rows)
        empty = sum(not rows for rows in self.rows)
        crowded = sum(bool(rows) and not can_be_learned(rows) for rows in self.rows)
        learned = {row["label"] for rows, part in zip(self.rows, parts, strict=True) if part == "train" for row in rows}
        untold = [name for number, name in enumerate(self.classes) if number not in learned]
        boxes = sum(row["outline"] is None for rows in self.rows for row in rows)
        left_out = sum((file.left_out for file in files), Counter[str]())
        return [
            f"{count:,} objects of {len(self.classes)} classes" + (f", {crowds:,} of them crowds" if crowds else ""),
            *([f"{empty:,} pictures have no objects, and are not trained on"] if empty else []),
            *([f"{crowded:,} pictures have crowds alone, and are not trained on"] if crowded else []),
            *([f"warning: {boxes:,} objects have no outline: their boxes stand for it"] if boxes else []),
            *(f"warning: {n:,} objects {reason} are left out" for reason, n in left_out.items()),
            *([f"warning: no object to train on is a {listed(untold)}"] if untold else []),
        ]

    def digest(self) -> bytes:
        """A hash of all that is known."""
        return hashlib.sha256(json.dumps([self.classes, self.ids, self.sizes, self.rows]).encode()).digest()


def named_files(root: Path) -> dict[str, list[Path]]:
    """The files of a folder that are COCO's by their names, for each part: train, val, test.

    Raises DataError D-05.
    """
    found: dict[str, list[Path]] = {"train": [], "val": [], "test": []}
    for folder in (root, root / "annotations"):
        try:
            names = sorted(os.listdir(folder))  # noqa: PTH208 - a Path for each of millions takes minutes
        except (FileNotFoundError, NotADirectoryError):
            continue
        except OSError as error:
            refuse_folder(error)
        for name in names:
            part = "train" if name == "instances_default.json" else part_of(f"{_subset(name)}/")
            if part and name.endswith(".json"):
                found[part].append(folder / name)
            elif part and os.path.lexists(folder / name / _BESIDE):
                found[part].append(folder / name / _BESIDE)
    return found


def _subset(name: str) -> str:
    """What a COCO file, or the folder where it lies beside its pictures, is of by its name: train2017."""
    return name.removesuffix(".json").removeprefix("instances_")


def coco_files(root: Path) -> dict[str, Path]:
    """The COCO file of each part, that of training among them. Raises DataError D-40."""
    found = named_files(root)
    for part, paths in found.items():
        if len(paths) > 1:
            raise DataError("D-40", f"{paths[0]} and {paths[1]} are both of the part {part}.", todo="Leave one there.")
    if not found["train"]:
        raise DataError(
            "D-40",
            f"{root} has no train.json, annotations/instances_train2017.json or train/{_BESIDE}.",
            "Detection learns from boxes and outlines.",
            "Put COCO JSON there, and the pictures in images/.",
        )
    return {part: paths[0] for part, paths in found.items() if paths}


def can_be_learned(rows: Sequence[dict[str, Any]]) -> bool:
    """Whether there is something to find among the objects of a picture: one that is no crowd."""
    return not all(row["crowd"] for row in rows)


def read_coco(root: Path, path: Path, part: str, *, whole: bool = True) -> CocoFile:
    """A COCO file, checked but for its outlines. Raises DataError D-40 to D-42.

    If it need not be there as a `whole`, some of its pictures may be missing.
    """
    values = _parsed(path)
    pictures, sizes = {}, {}
    base = _base(root, path, [str(image["file_name"]) for image in values["images"]], whole=whole)
    for image in values["images"]:
        number = _number(path, image, "id")
        if number in pictures:
            raise DataError("D-41", f"{path}: the picture {number} comes twice.")
        pictures[number] = posixpath.normpath(f"{base}{image['file_name']}")
        sizes[number] = _number(path, image, "height"), _number(path, image, "width")
    categories = {_number(path, each, "id"): str(each["name"]) for each in values["categories"]}
    if len(categories) != len(values["categories"]) or len(set(categories.values())) != len(categories):
        raise DataError("D-41", f"{path}: two categories have the same number or name.")
    objects: dict[int, list[dict[str, Any]]] = {number: [] for number in pictures}
    left_out: Counter[str] = Counter()
    for each in values["annotations"]:
        image, category = _number(path, each, "image_id"), _number(path, each, "category_id")
        if image not in pictures or category not in categories:
            what = f"the picture {image}" if image not in pictures else f"the category {category}"
            raise DataError("D-41", f"{path}: the object {each.get('id')} is of {what}, which is not there.")
        box, reason = _box(path, each, sizes[image])
        if reason:
            left_out[reason] += 1
            continue
        told = {"id": each.get("id"), "outline": each.get("segmentation") or None}
        objects[image].append({"box": box, "label": category, "crowd": bool(each.get("iscrowd", 0)), **told})
    return CocoFile(path, part, pictures, sizes, objects, categories, left_out)


def instances_of(files: list[CocoFile], names: tuple[str, ...], sizes: tuple[tuple[int, int], ...]) -> Instances:
    """The objects of the pictures of these names and sizes (height, width), in their order.

    Raises DataError D-41, D-43, and D-44 for an outline that could not be drawn: now, and not when its picture is read.
    """
    categories = files[0].categories
    for other in files[1:]:
        if other.categories != categories:
            raise DataError("D-41", f"the categories of {other.path} are not those of {files[0].path}.")
    numbers = {category: k for k, category in enumerate(sorted(categories))}
    places: dict[str, tuple[CocoFile, int]] = {}
    for file in files:
        for image, name in file.pictures.items():
            if name in places:
                raise DataError(
                    "D-41", f"the picture {name} comes twice: in {places[name][0].path} and in {file.path}."
                )
            places[name] = file, image
    rows, wrong = [], []
    for name, size in zip(names, sizes, strict=True):
        file, image = places[name]
        if file.sizes[image] != size:
            (h, w), (height, width) = file.sizes[image], size
            wrong.append(f"{name} ({w} x {h}, not {width} x {height})")
        rows.append(tuple(_told(row, numbers) for row in file.objects[image]))
    if wrong:
        raise DataError(
            "D-43",
            f"{len(wrong):,} of {len(names):,} pictures have another size than their COCO file says: {listed(wrong)}.",
            "Boxes and outlines would lie beside what they are of.",
        )
    for name in names:
        file, image = places[name]
        _check_outlines(file, image)
    return Instances(tuple(categories[c] for c in numbers), tuple(numbers), sizes, tuple(rows))


def _told(row: dict[str, Any], numbers: dict[int, int]) -> dict[str, Any]:
    """An object with the number of its class, without its own."""
    return {name: value for name, value in row.items() if name != "id"} | {"label": numbers[row["label"]]}


def _check_outlines(file: CocoFile, image: int) -> None:
    """Raise D-44."""
    for row in file.objects[image]:
        if row["outline"] is None:
            continue
        try:
            check_outline(row["outline"], *file.sizes[image])
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise DataError(
                "D-44",
                f"{file.path}: the outline of the object {row['id']} on {file.pictures[image]} cannot be drawn: {error}. "
                f"It begins {json.dumps(row['outline'])[:80]}.",
                todo="Mend it, or leave it out: then the box stands for it.",
            ) from error


def _parsed(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MAX_BYTES:
            raise ValueError(f"it is larger than {MAX_BYTES / 1e9:g} GB")
        values = parse_json(path.read_bytes())
        for name, keys in (
            ("images", ("id", "file_name")),
            ("annotations", ("image_id",)),
            ("categories", ("id", "name")),
        ):
            if not isinstance(values.get(name), list):
                raise ValueError(f"it has no list '{name}'")
            if bad := next((e for e in values[name] if not isinstance(e, dict) or any(k not in e for k in keys)), None):
                raise ValueError(f"one of its {name} has no {' or no '.join(keys)}: {json.dumps(bad)[:80]}")
    except (OSError, ValueError) as error:
        raise DataError("D-40", f"{path} cannot be read as COCO JSON: {error}.") from error
    return values


def _base(root: Path, path: Path, names: list[str], *, whole: bool) -> str:
    """Where below the root the pictures of a file lie, with a slash behind: where most of them are. Raises DataError D-42."""
    if not names:
        raise DataError("D-42", f"{path} names no pictures.", "There is nothing to learn from or to test on.")
    own = f"{_subset((path.parent if path.name == _BESIDE else path).name)}/"
    folders = ["images/", f"images/{own}", own, ""]
    base, missing = folders[0], names
    for folder in (folder for folder in folders if (root / folder).is_dir()):
        absent = [name for name in names if not os.path.isfile(root / folder / name)]  # noqa: PTH113 - never raises
        if len(absent) < len(missing):
            base, missing = folder, absent
        if not missing:
            return base
    if not whole and len(missing) < len(names):
        return base
    raise DataError(
        "D-42",
        f"{path} names {len(names):,} pictures, and {len(missing):,} are not in {root / base}: {listed(missing)}.",
        todo=f"Put them there; {', '.join(folder for folder in folders if folder)} and {root} itself are looked into.",
    )


def _number(path: Path, values: dict[str, Any], name: str) -> int:
    value = values.get(name)
    if not isinstance(value, int) or isinstance(value, bool):
        raise DataError("D-40", f"{path}: {name} is {json.dumps(value)[:80]}, no whole number.")
    return value


def _box(path: Path, values: dict[str, Any], size: tuple[int, int]) -> tuple[tuple[float, ...], str]:
    """(x0, y0, x1, y1) cut at the border, and why the object is left out, if it is."""
    box = values.get("bbox")
    if not (isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) and abs(v) < 1e9 for v in box)):
        raise DataError(
            "D-40", f"{path}: the bbox of the object {values.get('id')} is {json.dumps(box)[:80]}, not 4 numbers."
        )
    x, y, w, h = map(float, box)
    if w <= 0 or h <= 0:
        return (), "without area"
    cut = (max(x, 0.0), max(y, 0.0), min(x + w, float(size[1])), min(y + h, float(size[0])))
    return cut, "" if cut[2] > cut[0] and cut[3] > cut[1] else "outside its picture"


def _mask(row: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of an object, by its outline; those of its box where it has none."""
    if row["outline"] is not None:
        return drawn(row["outline"], height, width)
    x0, y0, x1, y1 = row["box"]
    mask = np.zeros((height, width), dtype=np.bool_)
    mask[int(y0) : int(np.ceil(y1)), int(x0) : int(np.ceil(x1))] = True
    return mask
