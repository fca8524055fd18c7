"""What was found: every file is looked at when a set is opened, and what gives no picture is left out and listed."""

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tutelage.data.decode import Look, Unreadable, check, check_end
from tutelage.data.listing import Listing
from tutelage.data.sources import FileSource
from tutelage.errors import DataError

MAX_CHECKED = 10_000
"""Up to this many files are decoded once when a set is opened; of larger sets, header and end-of-file mark are read."""
MAX_UNREADABLE = 0.05
"""Share of unreadable files above which a set is refused ..."""
FEW_UNREADABLE = 10
"""... unless they are fewer than this."""


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
        lines += [f"      left out: {_printable(name)} ({reason})" for name, reason in self.unreadable[:5]]
        if len(self.unreadable) > 5:
            lines.append(f"      left out: {len(self.unreadable) - 5:,} more")
        if self.other_files:
            kinds = ", ".join(f"{suffix} {count:,}" for suffix, count in self.other_files.most_common(4))
            lines.append(f"      other files: {kinds}")
        return lines + [f"      {_printable(note)}" for note in self.notes]

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
    found: Found


def open_files(listing: Listing) -> Readable:
    """The files of a listing that give pictures. Raises DataError D-02, D-04 (ten or more unreadable, over 5 %), D-06."""
    examine = check if len(listing.names) <= MAX_CHECKED else check_end

    def look_at(name: str) -> Look | str:
        try:
            return examine(listing.root / name)
        except Unreadable as unreadable:
            return unreadable.reason

    with ThreadPoolExecutor() as pool:
        looks = list(pool.map(look_at, listing.names))
    unreadable = tuple((name, look) for name, look in zip(listing.names, looks, strict=True) if isinstance(look, str))
    _refuse_many_unreadable(listing, unreadable)
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
        unreadable=unreadable,
        other_files=listing.other_files,
        notes=listing.notes,
    )
    lengths = np.array([(listing.root / name).stat().st_size for name in names], dtype=np.int64)
    source = FileSource(listing.root, names, found.channels, any(look.deep for look in seen), lengths)
    return Readable(source, labels, parts, found)


def _refuse_many_unreadable(listing: Listing, unreadable: tuple[tuple[str, str], ...]) -> None:
    count, total = len(unreadable), len(listing.names)
    reasons = Counter(reason for _, reason in unreadable)
    top = ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))
    if count == total:
        raise DataError("D-02", f"found 0 pictures in {listing.root}: all {total:,} files are unreadable: {top}.")
    if count >= FEW_UNREADABLE and count > MAX_UNREADABLE * total:
        raise DataError(
            "D-04",
            f"{count:,} of {total:,} files in {listing.root} are unreadable: {top}; {_printable(unreadable[0][0])}...",
            f"Up to {MAX_UNREADABLE:.0%} are left out; more than that looks like a copy that was cut short.",
            "Remove or repair them.",
        )


def _channels(root: Path, names: tuple[str, ...], looks: tuple[Look, ...]) -> int:
    """Of the whole set: what all pictures have, or 3 where some are grey and the others in colour."""
    first: dict[int, str] = {}
    for name, look in zip(names, looks, strict=True):
        first.setdefault(look.channels, name)
    if len(first) == 1 or set(first) == {1, 3}:
        return max(first)
    kinds = ", ".join(f"{channels} ({_printable(name)})" for channels, name in sorted(first.items()))
    raise DataError(
        "D-06", f"the pictures in {root} have different numbers of channels: {kinds}.", todo="Keep one kind."
    )


def _printable(text: str) -> str:
    """The text in one line and without bytes that are no characters."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "surrogatepass").decode() for c in text)
