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

    A picture that is in two parts is not for training.
    """
    told, found = Told(), named_files(root)
    for part in ("train", "val", "test") if found["train"] else ():
        for path in found[part]:  # one after the other: each may take gigabytes
            try:
                file = read_coco(root, path, part)
            except DataError as error:
                told.notes.append(f"warning: a COCO file tells nothing of these pictures: {error}")
                continue
            told.files.append(path.relative_to(root).as_posix())
            told.parts |= dict.fromkeys(file.pictures.values(), part)
            told.learned |= {file.pictures[image] for image, rows in file.objects.items() if can_be_learned(rows)}
    return told


def in_coco_parts(root: Path, told: Told) -> tuple[Listing, frozenset[str]]:
    """The pictures of a folder in the parts that COCO files tell, and which of them detection can learn from.

    They are those in `images`, if all that are told of are there. One that is not told of is trained on; but where folders
    have the names of parts (train2017), only if its own is for training: otherwise it is left out. Class folders divide the
    pictures whatever is told.
    """
    inside = "images/" if all(name.startswith("images/") for name in told.parts) else ""
    listing = list_folder(root / inside)
    folders = [part_of(name.partition("/")[0]) if "/" in name else "" for name in listing.names]
    if any(listing.labels) and not any(folders):
        note = "warning: the class folders divide the pictures, whatever COCO files tell of them"
        return replace(listing, notes=(*told.notes, note)), frozenset()
    unnamed = ["train" if folder == "train" or not any(folders) else "" for folder in folders]
    parts = {name: told.parts.get(inside + name) or own for name, own in zip(listing.names, unnamed, strict=True)}
    notes, learned = list(told.notes), told.learned
    if "train" in parts.values():
        notes.append(f"parts, and pictures with objects, are those of {' and '.join(told.files)}")
    else:  # pictures for testing alone: who names these means them
        parts, learned = dict.fromkeys(parts, "train"), set[str]()
    kept = tuple(name for name, part in parts.items() if part)
    if others := sorted({name.partition("/")[0] for name, part in parts.items() if not part}):
        notes.append(f"{len(parts) - len(kept):,} pictures that no COCO file names are left out, in {listed(others)}")
    if gone := sorted(told.parts.keys() - {inside + name for name in kept}):
        notes.append(f"warning: {len(gone):,} pictures that COCO files name are not among these: {listed(gone)}")
    divided = replace(
        listing,
        names=kept,
        labels=("",) * len(kept),
        parts=tuple(parts[name] for name in kept),
        notes=tuple(notes),
        label_notes=(),
    )
    return divided, frozenset(name for name in kept if inside + name in learned)
