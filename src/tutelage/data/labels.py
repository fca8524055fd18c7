"""How many of a set's pictures and labels are used, or which labels: the rest of the pictures count as unlabelled."""

import hashlib
import posixpath
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.listing import Listing, list_csv
from tutelage.data.sources import Pictures
from tutelage.data.splits import name_hashes, take
from tutelage.errors import DataError, SettingsError, listed, nearest


def is_table(wanted: str) -> bool:
    """Whether labels are given by a file rather than by a number."""
    return wanted.lower().endswith(".csv")


def share_of(wanted: str, known: int) -> float:
    """The share of `known` labels that "40" or "10%" asks for. Raises SettingsError C-14, DataError D-23."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)(%?)", wanted.strip())
    number = float(found[1]) if found else 0.0
    if not found or number <= 0 or (found[2] and number > 100) or (not found[2] and number != int(number)):
        raise SettingsError(
            "C-14",
            f"labels is '{wanted}'.",
            "It is a number of labels over all classes, a share of them, or a table.",
            "Use --labels 40, --labels 10% or --labels labels.csv.",
        )
    if known == 0:
        raise DataError("D-23", "the training pictures have no labels to choose from.", todo="Give a labelled set.")
    if not found[2] and number > known:
        raise DataError(
            "D-23",
            f"labels asks for {int(number):,}, but only {known:,} training pictures have one.",
            todo="Ask for fewer, or label more.",
        )
    return number / 100 if found[2] else number / known


def few(pictures: Pictures, wanted: str, seed: int) -> Pictures:
    """The same pictures with only as many labels, as nearly as possible alike in every class, chosen by the seed."""
    known = np.flatnonzero(pictures.labels >= 0)
    share = share_of(wanted, len(known))
    hashes = name_hashes([pictures.name(int(i)) for i in known])
    kept = known[take(hashes, pictures.labels[known], share, f"labels {seed}")]
    labels: NDArray[np.int64] = np.full_like(pictures.labels, -1)
    labels[kept] = pictures.labels[kept]
    missing = [pictures.classes[k] for k in np.setdiff1d(pictures.labels[known], labels[kept])]
    if missing:
        raise DataError(
            "D-23",
            f"labels {wanted} leaves {len(missing)} of {len(pictures.classes)} classes without one: {listed(missing)}.",
            "A class that nobody shows cannot be learned.",
            f"Use at least --labels {len(pictures.classes)}, or more where classes are uneven.",
        )
    return replace(pictures, labels=labels)


def fewer(pictures: Pictures, share: float, seed: int) -> Pictures:
    """A share of the pictures, as nearly as possible of every class, chosen by the seed. Raises DataError D-27."""
    hashes = name_hashes([pictures.name(i) for i in range(len(pictures))])
    kept = pictures.subset(take(hashes, pictures.labels, share, f"pictures {seed}"))
    if not len(kept):
        raise DataError(
            "D-27",
            f"a share of {share:g} leaves none of {len(pictures):,} training pictures.",
            todo="Use a larger --share.",
        )
    return kept


def fingerprint_with(fingerprint: str, pictures: Pictures) -> str:
    """A set's fingerprint that also tells which training pictures and labels are used."""
    used = pictures.ids.astype("<i8").tobytes() + pictures.labels.astype("<i8").tobytes()
    return hashlib.sha256(fingerprint.encode() + used).hexdigest()


def labelled_by(listing: Listing, table: Path) -> Listing:
    """The listing with the labels of a table, and no others: columns `path` and `label`.

    Paths are below the table's folder or below the listing's. Raises DataError D-13 and what `list_csv` raises; D-24 where a
    labelled picture is not in the listing, D-28 where the table knows classes beside those of the class folders.
    """
    rows = list_csv(table)
    find = finder(listing.names, table, listing.root)
    labels, lost = [""] * len(listing.names), []
    for name, label in zip(rows.names, rows.labels, strict=True):
        if (found := find(name)) is None:
            lost.append(name)
        elif labels[found] not in ("", label):
            raise DataError(
                "D-13", f"{table} has two labels for {listing.names[found]}: {labels[found]} and {label}.",
                todo="Leave one of the rows.",
            )  # fmt: skip
        else:
            labels[found] = label
    if lost:
        raise DataError(
            "D-24",
            f"{table} labels {len(lost):,} pictures that are not in {listing.root}: {listed(lost)}.",
            "Paths are below the folder of the table or below DATA.",
            "Mend the paths, or remove the rows.",
        )
    counts = Counter(label for label in labels if label)
    _check_classes(counts, set(listing.labels) - {""}, table)
    note = f"{table.name}: {counts.total():,} labels of {len(counts)} classes; the other pictures count as unlabelled"
    return replace(listing, labels=tuple(labels), label_notes=(note, *rows.label_notes))


def _check_classes(counts: Counter[str], folders: set[str], table: Path) -> None:
    """Refuse, where class folders are the table's classes, a class that is none of them: a word that was mistyped."""
    unknown = sorted(counts.keys() - folders)
    if unknown and counts.keys() & folders:
        raise DataError(
            "D-28",
            f"{table} names {len(unknown)} classes that are no class folder: {listed(unknown)}.",
            "It names class folders too, so these would be further classes, of a few pictures.",
            f"{nearest(unknown[0], sorted(folders))} Or move the pictures of the class into a folder.",
        )


def finder(names: Sequence[str], table: Path, root: Path) -> Callable[[str], int | None]:
    """Tells which of the pictures under `root` a table's path means: it is below that, or below the table's folder."""
    places = {name: k for k, name in enumerate(names)}
    folder, top = str(table.parent.resolve()), str(root.resolve())

    def find(path: str) -> int | None:
        if path in places:  # as most are written
            return places[path]
        plain = posixpath.normpath(path)
        below = posixpath.relpath(posixpath.join(folder, path), top)
        return next((places[name] for name in (plain, below) if name in places), None)

    return find
