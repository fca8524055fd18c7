"""Pictures that lie in two parts of a set, byte for byte: what is tested on them was learned by heart."""

from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.data.sources import FileSource

MAX_COMPARED = 2_000
"""Pictures of a part that are compared byte by byte with those of the other; more are not, which bounds the time."""


class Shared(NamedTuple):
    """How many pictures of a part are in another part too, and a pair of names."""

    num: int
    more: bool
    """Further ones are likely, and were not compared."""
    example: tuple[str, str]

    def told(self, total: int, what: str) -> str:
        """`warning: 3 of 8 pictures for testing are in training too, byte for byte (a.png is b.png)`, of `total` pictures."""
        count = f"{'at least ' if self.more else ''}{self.num:,} of {total:,}"
        return f"warning: {count} {what} too, byte for byte ({self.example[0]} is {self.example[1]})"


def shared(source: FileSource, part: NDArray[np.bool_], other: NDArray[np.bool_]) -> Shared | None:
    """The pictures of `part` that are in `other` too, or None where there are none.

    Only files with the same length and the same first and last 64 KiB, hashed when the set was opened, are compared by
    their SHA-256: on a set without duplicates this reads nothing. Raises DataError D-08 where the disk fails.
    """
    first: dict[int, int] = {}
    for i in np.flatnonzero(other & np.isin(source.marks, source.marks[part])).tolist():
        first.setdefault(int(source.marks[i]), i)
    alike = [(i, first[int(source.marks[i])]) for i in np.flatnonzero(part).tolist() if int(source.marks[i]) in first]
    with ThreadPoolExecutor() as pool:
        same = pool.map(lambda pair: source.sha256(pair[0]) == source.sha256(pair[1]), alike[:MAX_COMPARED])
        pairs = [pair for pair, is_same in zip(alike, same, strict=False) if is_same]
    if not pairs:
        return None
    names = source.name(pairs[0][0]), source.name(pairs[0][1])
    return Shared(len(pairs), len(alike) > MAX_COMPARED, names)
