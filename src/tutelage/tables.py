"""CSV that reads back as it was, and in which no spreadsheet finds a formula."""

import csv
import io
from collections.abc import Iterable, Sequence

Entry = str | float
"""Text is quoted, numbers are not."""


def csv_text(rows: Iterable[Sequence[Entry]]) -> str:
    """The rows as CSV; the first names the columns."""
    text = io.StringIO()
    # NOTE a footgun: with fewer quotes Python leaves a bare "\\r" in a name, behind which a reader begins a new row.
    writer = csv.writer(text, lineterminator="\n", quoting=csv.QUOTE_NONNUMERIC)
    writer.writerows([plain(cell) if isinstance(cell, str) else cell for cell in row] for row in rows)
    return text.getvalue()


def plain(text: str, before: str = "'") -> str:
    """A cell that no spreadsheet takes for a formula, by a character before it where it would."""
    return before + text if text[:1] in ("=", "+", "-", "@", "\t", "\r") else text
