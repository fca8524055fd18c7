"""What was found: every file is looked at when a set is opened, and what gives no picture is left out and listed."""

import os
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tutelage.data.listing import Listing
from tutelage.data.looking import Look, check, check_end
from tutelage.data.quarantine import in_unicode, refuse_many, top_reasons
from tutelage.data.reading import Unreadable
from tutelage.data.remembered import recall, remember
from tutelage.data.sources import FileSource, out_of_memory
from tutelage.errors import DataError, printable

MAX_CHECKED = 10_000
"""Up to this many files are decoded once when a set is opened; of larger sets, header and end-of-file mark are read."""
_SUFFIX_FORMATS = {".jpg": "JPEG", ".jpeg": "JPEG", ".tif": "TIFF", ".tiff": "TIFF"}


@dataclass(frozen=True)
class Found:
    """What was found when a set was opened."""

    num_pictures: int
    sizes: Counter[tuple[int, int]]
    """How many pictures have which height and width."""
    modes: Counter[str]
    channels: int
    unreadable: tuple[tuple[str, str], ...] = ()
    """Name and reason of each file that was left out."""
    other_files: Counter[str] = field(default_factory=Counter)
    notes: tuple[str, ...] = ()

    def lines(self) -> list[str]:
        """For people: a line of numbers, then what was left out and how the set was divided."""
        plural = "" if self.channels == 1 else "s"
        head = f"data  {self.num_pictures:,} pictures · {self.channels} channel{plural} · {self._sizes()}"
        modes = ", ".join(mode for mode, _ in self.modes.most_common(4))
        lines = [f"{head} · {modes}" + (f" · {len(self.unreadable):,} unreadable" if self.unreadable else "")]
        lines += [f"      left out: {printable(name)} ({printable(reason)})" for name, reason in self.unreadable[:5]]
        if len(self.unreadable) > 5:
            lines.append(f"      left out: {len(self.unreadable) - 5:,} more")
        if self.other_files:
            kinds = ", ".join(f"{suffix} {count:,}" for suffix, count in self.other_files.most_common(4))
            lines.append(f"      other files: {printable(kinds)}")
        return lines + [f"      {printable(note)}" for note in self.notes]

    def _sizes(self) -> str:
        (height, width), count = self.sizes.most_common(1)[0]
        if len(self.sizes) == 1:
            return f"{height}x{width}"
        sides = [min(size) for size in self.sizes], [max(size) for size in self.sizes]
        return f"{height}x{width} ({count / self.num_pictures:.0%}), sides from {min(sides[0])} to {max(sides[1])}"


@dataclass(frozen=True, eq=False)
class Readable:
    """The readable files of a listing, with their labels and parts."""

    source: FileSource
    labels: tuple[str, ...]
    parts: tuple[str, ...]
    sizes: tuple[tuple[int, int], ...]
    """(height, width) of each."""
    found: Found


def open_files(listing: Listing, cache: Path | None) -> Readable:
    """The files of a listing that give pictures; looks at the files of large sets are kept in `cache`.

    Raises DataError D-02, D-04 (ten or more unreadable, over 5 %), D-06 or D-08, and MachineError R-24.
    """
    looks = _look_at_all(listing, cache)
    unreadable = {
        in_unicode(name): look for name, look in zip(listing.names, looks, strict=True) if isinstance(look, str)
    }
    if len(unreadable) == len(listing.names):
        what = (
            f"found 0 pictures in {listing.root}: all {len(looks):,} files are unreadable: {top_reasons(unreadable)}."
        )
        raise DataError("D-02", what)
    refuse_many(listing.root, unreadable, len(listing.names))
    rows = [
        (name, label, part, look)
        for name, label, part, look in zip(listing.names, listing.labels, listing.parts, looks, strict=True)
        if isinstance(look, Look)
    ]
    names, labels, parts, seen = zip(*rows, strict=True)
    found = Found(
        num_pictures=len(seen),
        sizes=Counter(look.size for look in seen),
        modes=Counter(look.mode for look in seen),
        channels=_channels(listing.root, names, seen),
        unreadable=tuple(unreadable.items()),
        other_files=listing.other_files,
        notes=(*listing.notes, *listing.label_notes, *_misnamed(names, seen), *_of_several(names, seen)),
    )
    source = FileSource(
        listing.root,
        names,
        found.channels,
        any(look.deep for look in seen),
        np.array([look.identity for look in seen], dtype=np.int64),
        np.array([look.mark for look in seen], dtype=np.uint64),
        unreadable,
    )
    return Readable(source, labels, parts, tuple(look.size for look in seen), found)


def _look_at_all(listing: Listing, cache: Path | None) -> list[Look | str]:
    """What each file shows, or the reason why it shows nothing."""
    if len(listing.names) <= MAX_CHECKED:
        return _examine(listing.root, listing.names, check)
    known = recall(cache, listing.root, listing.names) if cache else {}
    new = [name for name in listing.names if name not in known]
    looks = dict(zip(new, _examine(listing.root, new, check_end), strict=True))
    if new and cache:
        remember(cache, listing.root, known | {name: look for name, look in looks.items() if isinstance(look, Look)})
    return [known.get(name) or looks[name] for name in listing.names]


def _examine(root: Path, names: Sequence[str], ask: Callable[[Path], Look]) -> list[Look | str]:
    def look_at(name: str) -> Look | str:
        try:
            return ask(root / name)
        except Unreadable as unreadable:
            return unreadable.reason
        except MemoryError:
            raise out_of_memory(root / name) from None

    with ThreadPoolExecutor() as pool:
        try:
            return list(pool.map(look_at, names))
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise


def _misnamed(names: tuple[str, ...], looks: tuple[Look, ...]) -> list[str]:
    """A note on files whose content is of another format than their suffix says: they are read all the same."""
    wrong = []
    for name, look in zip(names, looks, strict=True):
        suffix = os.path.splitext(name)[1].lower()  # noqa: PTH122 - a Path for each of millions takes seconds
        if _SUFFIX_FORMATS.get(suffix, suffix[1:].upper()) != look.format:
            wrong.append(f"{name} is {look.format}")
    return [f"{len(wrong):,} files are of another format than their names say ({wrong[0]})"] if wrong else []


def _of_several(names: tuple[str, ...], looks: tuple[Look, ...]) -> list[str]:
    """A note on files that hold more than a picture."""
    found = [name for name, look in zip(names, looks, strict=True) if look.several]
    return [f"{len(found):,} files move or have pages: the first picture of each counts ({found[0]})"] if found else []


def _channels(root: Path, names: tuple[str, ...], looks: tuple[Look, ...]) -> int:
    """Of the whole set: what all pictures have, or 3 where some are grey and the others in colour."""
    first: dict[int, str] = {}
    for name, look in zip(names, looks, strict=True):
        first.setdefault(look.channels, name)
    if len(first) == 1 or set(first) == {1, 3}:
        return max(first)
    kinds = ", ".join(f"{channels} ({name})" for channels, name in sorted(first.items()))
    raise DataError(
        "D-06", f"the pictures in {root} have different numbers of channels: {kinds}.", todo="Keep one kind."
    )
