"""Pictures that cannot be used: how many may be left out, and when the set is refused."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path

from tutelage.errors import DataError

MAX_UNREADABLE = 0.05
"""Share of unreadable files above which a set is refused ..."""
FEW_UNREADABLE = 10
"""... unless they are fewer than this."""


def refuse_many(root: Path, unreadable: Mapping[str, str], total: int) -> None:
    """Raise DataError D-04 when too many of the files are unreadable; their reasons by name, counted with the top three."""
    count = len(unreadable)
    if count >= FEW_UNREADABLE and count > MAX_UNREADABLE * total:
        first = next(iter(unreadable))
        raise DataError(
            "D-04",
            f"{count:,} of {total:,} files in {root} are unreadable: {top_reasons(unreadable)}; {first}...",
            f"Up to {MAX_UNREADABLE:.0%} are left out; more than that looks like a copy that was cut short.",
            "Remove or repair them.",
        )


def top_reasons(unreadable: Mapping[str, str]) -> str:
    """The three most frequent reasons with their counts."""
    reasons = Counter(unreadable.values())
    return ", ".join(f"{reason} ({n})" for reason, n in reasons.most_common(3))


def in_unicode(name: str) -> str:
    r"""The name as it can be written to a file: of a name that is no UTF-8, its other bytes as `\xff`."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
