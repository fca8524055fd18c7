"""What COCO files beside pictures mean to pretraining: which are kept from it, and which have objects."""

from dataclasses import dataclass, field, replace
from pathlib import Path

from tutelage.data.listing import Listing, list_folder, part_of
from tutelage.data.objects import can_be_learned, named_files, read_coco
from tutelage.errors import DataError, listed


@dataclass
class Told:
    """What COCO files tell of pictures, by their paths below the folder."""

    files: list[str] = field(default_factory=list)
    """Those that could be read."""
    parts: dict[str, str] = field(default_factory=dict)
    learned: set[str] = field(default_factory=set)
    """The pictures with an object that detection can learn from."""
    notes: list[str] = field(default_factory=list)


def told_by_coco(root: Path) -> Told:
    """What the COCO files of a folder tell, if one of them is for training; notes say which tell nothing, and why.

    A picture that is in two parts is not for training; pictures that are not there count for nothing.
    """
    told, found = Told(), named_files(root)
    for part in ("train", "val", "test") if found["train"] else ():
        for path in found[part]:  # one after the other: each may take gigabytes
            try:
                file = read_coco(root, path, part, whole=False)
            except DataError as error:
                told.notes.append(f"warning: a COCO file tells nothing of these pictures: {error}")
                continue
            told.files.append(path.relative_to(root).as_posix())
            told.parts |= dict.fromkeys(file.pictures.values(), part)
            told.learned |= {file.pictures[image] for image, rows in file.objects.items() if can_be_learned(rows)}
    return told


def in_coco_parts(root: Path, told: Told) -> Listing:
    """The pictures of a folder in the parts that COCO files tell.

    They are those in `images`, if all that are told of are there. One that is not told of is trained on; but where folders
    have the names of parts (train2017), only if its own is for training: otherwise it is left out. Class folders, which divide
    the pictures whatever is told, are those in folders of parts, or beside pictures that are not in `images`.
    """
    inside = "images/" if all(name.startswith("images/") for name in told.parts) else ""
    found = list_folder(root / inside)
    folders = tuple(map(part_of, found.names))
    some, every = any(folders), all(folders)
    if any(found.labels) and (every if some else not inside):
        note = "warning: the class folders divide the pictures, whatever COCO files tell of them"
        return replace(found, notes=(*told.notes, note))
    own = ("train" if folder == "train" or not some else "" for folder in folders)
    parts = {inside + name: told.parts.get(inside + name, part) for name, part in zip(found.names, own, strict=True)}
    kept = {name: part for name, part in parts.items() if part}
    notes = [*told.notes, f"parts, and pictures with objects, are those of {' and '.join(told.files)}"]
    if inside:
        notes.append("the pictures of images/ are taken")
    if out := parts.keys() - kept.keys():
        tops = listed(sorted({name.removeprefix(inside).partition("/")[0] for name in out}))
        notes.append(f"{len(out):,} pictures that no COCO file names are left out, in {tops}")
    if gone := sorted(told.parts.keys() - kept.keys()):
        notes.append(f"warning: {len(gone):,} pictures that COCO files name are not among these: {listed(gone)}")
    names = tuple(kept)
    return Listing(root, names, ("",) * len(names), tuple(kept.values()), found.other_files, tuple(notes))
