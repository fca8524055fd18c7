"""What lies in a folder, or is named by a list or a CSV file: names, labels and parts, before any picture is opened."""

import codecs
import csv
import io
import os
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tutelage.data.decode import EXTENSIONS
from tutelage.errors import DataError, listed, nearest

_PARTS = {"train": "train", "training": "train", "test": "test", "testing": "test"} | dict.fromkeys(
    ("val", "valid", "validation"), "val"
)
_COCO = re.compile(r"(train|val|test|unlabeled)\d{4}")
_JUNK = ("thumbs.db", "desktop.ini")
_LONGEST_FIELD = 1 << 24
"""Characters of a field of a table: a caption may be long."""
_SURROGATE = re.compile("[\ud800-\udfff]")
"""What stands for a byte that is no UTF-8."""


@dataclass(frozen=True)
class Listing:
    """Files in the order of their names."""

    root: Path
    names: tuple[str, ...]
    """Paths below `root`, with forward slashes."""
    labels: tuple[str, ...]
    """The class of each; empty where unknown."""
    parts: tuple[str, ...]
    """"train", "test" or "val" for each, all "train" where the set is not divided."""
    other_files: Counter[str]
    """Files that are no pictures by their suffix: how many of each."""
    notes: tuple[str, ...] = ()
    label_notes: tuple[str, ...] = ()
    """Where the labels are from, and what is odd about them."""


def list_data(path: Path, sets: Sequence[str] = ()) -> Listing:
    """The files of a folder, a CSV file or a text list. Raises DataError D-01, D-02, D-12, D-13.

    Where there is none of them, the nearest of the named `sets` is offered.
    """
    if path.is_dir():
        return list_folder(path)
    if not path.is_file():
        offer = f"Check --data, or name a set. {nearest(path.name, sets)}" if sets else "Check --data."
        raise DataError("D-01", f"there is no file or folder {path}.", todo=offer)
    if path.suffix.lower() == ".csv":
        return list_csv(path)
    if path.suffix.lower() in (".txt", ".list", ".lst"):
        return list_text(path)
    raise DataError("D-01", f"{path} is neither a folder, nor a list (.txt), nor a table (.csv).")


def list_folder(root: Path) -> Listing:
    """Every picture below `root`; labels where the first level of folders tells them.

    Divided: when all pictures lie in folders called `train` and `test`, `val`, `valid` or `validation`, or as COCO calls
    them. Class folders: when (in each part) every picture lies below a first-level folder and there are two such folders or
    more; in all other cases there are no labels.
    """
    found: list[str] = []
    other: Counter[str] = Counter()
    for name in _walk(root, other):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of millions takes minutes
        if suffix in EXTENSIONS:
            found.append(name)
        else:
            other[suffix or "(no suffix)"] += 1
    other = +other  # without what was counted as none
    names = tuple(sorted(found))
    if not names:
        raise DataError(
            "D-02", f"found 0 pictures in {root} and its subfolders{_others(other)}.", todo=_looked_for(root)
        )
    own = tuple(map(part_of, names))
    depth = int(all(own))
    parts = own if depth and "train" in own else ("train",) * len(names)
    labels = _class_of(names, parts, depth)
    folders = sorted(set(labels) - {""})
    notes = [f"{len(folders)} class folders give the labels: {listed(folders)}"] if folders else []
    if folders and (empty := _without_pictures(root, names, depth)):
        what = "folders beside them have" if len(empty) > 1 else "folder beside them has"
        notes.append(f"{len(empty)} {what} no picture: {listed(empty)}")
    return Listing(root, names, labels, parts, other, label_notes=tuple(notes))


def part_of(name: str) -> str:
    """The part that the first folder of a path tells, also as COCO calls it (train2017, unlabeled2017); empty if none."""
    folder, slash, _ = name.lower().partition("/")
    if not slash:
        return ""
    if coco := _COCO.fullmatch(folder):
        return "train" if coco[1] == "unlabeled" else coco[1]
    return _PARTS.get(folder, "")


def _without_pictures(root: Path, names: Sequence[str], depth: int) -> list[str]:
    """The folders where class folders are, `depth` below `root`, under which no picture lies."""
    shown = {"/".join(name.split("/")[: depth + 1]) for name in names}
    parts = sorted({name.split("/")[0] for name in names}) if depth else [""]
    beside = [
        path for part in parts for path in sorted((root / part).iterdir()) if path.is_dir() and not path.is_symlink()
    ]
    found = [path.relative_to(root).as_posix() for path in beside if not path.name.startswith((".", "__MACOSX"))]
    return [name for name in found if name not in shown]


def _walk(root: Path, other: Counter[str]) -> Iterator[str]:
    """Files below `root`, relative to it; hidden ones are counted in `other`. No folder comes twice, so links cannot circle."""
    seen: set[tuple[int, int]] = set()
    for folder, subfolders, files in os.walk(root, followlinks=True, onerror=refuse_folder):
        here = Path(folder)
        status = here.stat()
        if (status.st_dev, status.st_ino) in seen:
            subfolders.clear()
            continue
        seen.add((status.st_dev, status.st_ino))
        # Links come last: a picture that is reachable both ways keeps the name of where it lies.
        subfolders[:] = sorted(
            (name for name in subfolders if not name.startswith((".", "__MACOSX"))),
            key=lambda name: ((here / name).is_symlink(), name),
        )
        below = "" if here == root else f"{here.relative_to(root).as_posix()}/"
        shown = [name for name in files if not name.startswith(".") and name.lower() not in _JUNK]
        other["(hidden)"] += len(files) - len(shown)
        yield from (below + name for name in shown)


def refuse_folder(error: OSError) -> NoReturn:
    """Raise DataError D-05 for the folder that could not be listed."""
    raise DataError("D-05", f"the folder {error.filename} cannot be read: {error.strerror}.") from error


def _class_of(names: tuple[str, ...], parts: tuple[str, ...], depth: int) -> tuple[str, ...]:
    """The class of each file: the folder at `depth` of its path, in the parts where these are class folders."""
    paths = [name.split("/") for name in names]
    folders: dict[str, set[str]] = {}
    for part in ("train", "test", "val"):
        members = [path for path, p in zip(paths, parts, strict=True) if p == part]
        found = {path[depth] for path in members} if all(len(path) > depth + 1 for path in members) else set()
        folders[part] = found if len(found) > 1 or found <= folders.get("train", set()) else set()
    return tuple(path[depth] if folders[part] else "" for path, part in zip(paths, parts, strict=True))


def list_text(path: Path) -> Listing:
    """The pictures named one a line, relative to the list's folder."""
    lines = enumerate(re.split(r"\r\n|\r|\n", _text(path)), start=1)
    return _listed(path, [Row(number, _name(path, line), "", "train") for number, line in lines if line.strip()])


def list_csv(path: Path) -> Listing:
    """The pictures in column `path`, with an optional `label` (empty: unknown) and `split` (empty: train)."""
    rows = read_table(path, "path, and optionally label and split")
    return _listed(path, [_row(path, number, values) for number, values in rows])


def read_table(path: Path, wanted: str) -> Iterator[tuple[int, dict[str, str]]]:
    """The rows of a CSV file with a column `path`, by the names of its columns in lower case, each with its last line's number.

    `wanted` tells a user which columns there may be. Raises DataError D-13.
    """
    longest = csv.field_size_limit(_LONGEST_FIELD)
    table = csv.DictReader(io.StringIO(_text(path), newline=""))
    try:
        table.fieldnames = [name.strip().lower() for name in table.fieldnames or ()]
        columns = tuple(table.fieldnames)
        if "path" not in columns:
            raise DataError(
                "D-13",
                f"{path}, line 1: there is no column 'path'; the columns are {', '.join(map(repr, columns)) or 'none'}.",
                todo=f"The first line names the columns: {wanted}, with commas between.",
            )
        for values in table:
            _refuse_other_fields(path, table.line_num, values)
            yield table.line_num, values
    except csv.Error as error:
        todo = "Shorten the field." if "larger than field limit" in str(error) else _quote_commas()
        raise DataError("D-13", f"{path}, row {table.reader.line_num}: {error}.", todo=todo) from error
    finally:
        csv.field_size_limit(longest)


def _refuse_other_fields(path: Path, number: int, values: dict[Any, Any]) -> None:
    if None in values or None in values.values():
        expected = len(values) - (None in values)
        raise DataError("D-13", f"{path}, row {number}: {expected} fields are expected.", todo=_quote_commas())
    if not values["path"].strip():
        raise DataError("D-13", f"{path}, row {number}: the path is empty.")


def _row(path: Path, number: int, values: dict[str, str]) -> "Row":
    label = values.get("label", "").strip()
    if label.lower() in ("nan", "null", "none") or re.fullmatch(r"-\d+(\.0*)?", label):
        raise DataError("D-12", f"{path}, row {number}: '{label}' is no label.", todo="Leave unknown labels empty.")
    part = values.get("split", "").strip().lower() or "train"
    if part not in _PARTS:
        raise DataError("D-12", f"{path}, row {number}: there is no split '{part}'.", todo=nearest(part, _PARTS))
    return Row(number, _name(path, values["path"]), label, _PARTS[part])


class Row(NamedTuple):
    """One picture of a list."""

    number: int
    path: str
    label: str
    part: str


def _name(file: Path, written: str) -> str:
    """The name as it is written; without blanks around it unless there is such a file."""
    bare = written.strip()
    return written if written != bare and (file.parent / written).exists() else bare


def _text(path: Path) -> str:
    """The text of a list. Bytes that are no UTF-8 are kept, because a file's name may have them."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError("D-13", f"{path} cannot be read: {error.strerror}.") from error
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)):
        raise DataError("D-13", f"{path}, line 1: this is UTF-16.", todo="Save it as UTF-8.")
    return data.decode("utf-8-sig", "surrogateescape")


def _refuse_other_encodings(path: Path, row: Row) -> None:
    """Raise D-13 for a row that is no UTF-8, unless its bytes are the name of a file."""
    if is_unicode(row.label) and (is_unicode(row.path) or (path.parent / row.path).exists()):
        return
    raise DataError("D-13", f"{path}, row {row.number}: this is not UTF-8.", todo="Save it as UTF-8.")


def is_unicode(text: str) -> bool:
    """Whether a text came from bytes that were UTF-8."""
    return not _SURROGATE.search(text)


def _listed(path: Path, rows: list[Row]) -> Listing:
    """The rows in the order of their paths. A row may come twice, but not with two labels."""
    by_path: dict[str, Row] = {}
    for row in rows:
        _refuse_other_encodings(path, row)
        name = Path(row.path).as_posix()
        first = by_path.setdefault(name, row)
        if (first.label, first.part) != (row.label, row.part):
            raise DataError("D-13", f"{path}, rows {first.number} and {row.number}: {name} comes twice, and differs.")
    if not by_path:
        raise DataError("D-02", f"found 0 pictures in {path}: no line names one.")
    names = tuple(sorted(by_path))
    twice = len(rows) - len(names)
    return Listing(
        path.parent,
        names,
        tuple(by_path[name].label for name in names),
        tuple(by_path[name].part for name in names),
        Counter(),
        (f"{twice} rows came twice and count once",) if twice else (),
        tuple(_mixed({row.label for row in rows} - {""})),
    )


def _mixed(labels: set[str]) -> list[str]:
    """A note where some labels are numbers and others are words, which is rarely meant."""
    numbers = {label for label in labels if label.isascii() and label.isdigit()}
    words = labels - numbers
    return [f"labels are numbers and words, e.g. {min(numbers)} and {min(words)}"] if numbers and words else []


def _others(other: Counter[str]) -> str:
    if not other:
        return " (no other files)"
    kinds = ", ".join(f"{suffix} {count}" for suffix, count in other.most_common(5))
    return f" ({other.total():,} other files: {kinds})"


PICKLED = {"cifar-10-batches-py": "cifar10", "cifar-100-python": "cifar100"}
"""Folders that torchvision leaves, with the set that each is of."""


def _looked_for(root: Path) -> str:
    found = [name for name in PICKLED if root.name == name or (root / name).is_dir()]
    if found:
        return (
            f"{found[0]} holds pickles, which can run code and are not read: "
            f"--data {PICKLED[found[0]]} fetches the same pictures as plain bytes."
        )
    return f"Looked for {', '.join(EXTENSIONS)}."


def _quote_commas() -> str:
    return 'Put paths with commas between double quotes: "a, b.png".'
