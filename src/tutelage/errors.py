"""The errors a user can meet. Each says what happened, what it means and what to do, and carries its exit code."""

import difflib
import errno
from collections.abc import Iterable, Sequence

_LONGEST = 2000
"""Characters of a part of an error: names from outside may be longer."""


class TutelageError(Exception):
    """Printed as "CODE: what happened. What it means. What to do.", without a traceback.

    `what` and `means` may quote names and text from outside: they become one line of characters that can be printed.
    """

    exit_code = 1

    def __init__(self, code: str, what: str, means: str = "", todo: str = "") -> None:
        self.code = code
        told = (
            printable(what)[:_LONGEST],
            printable(means)[:_LONGEST],
            "\n".join(printable(line) for line in todo.split("\n")),
        )
        super().__init__(f"{code}: " + " ".join(part for part in told if part))


class SettingsError(TutelageError):
    """A setting, an option or a recipe that cannot be used."""

    exit_code = 2


class DataError(TutelageError):
    """Pictures or labels that cannot be used."""

    exit_code = 3


class CheckpointError(TutelageError):
    """Weights that are damaged, of another shape, or not there."""

    exit_code = 4


class NumericsError(TutelageError):
    """Numbers that went wrong: a loss that stays non-finite, an export that differs."""

    exit_code = 5


class MachineError(TutelageError):
    """A device, disk or library that is not there or refuses."""

    exit_code = 6


class DistributedError(TutelageError):
    """Processes that do not agree."""

    exit_code = 7


class Stopped(TutelageError):  # noqa: N818 - a state of a run, not a mistake
    """A run was asked to stop, and saved: the same call goes on. Raised by the Python door; the command exits with 75."""

    exit_code = 75


def translated(error: Exception) -> TutelageError:
    """What a library raised, as an error of ours: by its class's name, so that torch need not be imported to know it."""
    what = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0].rstrip(".") + "."
    name = type(error).__name__
    if no_memory(error):
        return MachineError("R-20", what, "The memory is full.", "Use a smaller --micro-batch or --batch-size.")
    if isinstance(error, ImportError):
        return MachineError(
            "R-11", what, "A library is missing or broken.", "Install tutelage again: pip install tutelage."
        )
    if isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE):
        return MachineError("R-23", what, "More files are open than the system allows.", "Allow more: ulimit -n 4096.")
    if name.startswith("Dist") or (isinstance(error, RuntimeError) and "/gloo/" in str(error)):
        return DistributedError(
            "P-05", what, "Another process ended or cannot be reached.", "Look at its output first."
        )
    if isinstance(error, OSError):
        return MachineError(
            "R-22", what, "The system refused; what was saved before is untouched.", "Mend it and run again."
        )
    return TutelageError("U-01", what, "This was not foreseen.", "Run again with --debug to see where.")


def no_memory(error: Exception) -> bool:
    """Whether this is the device's or the machine's memory that is full."""
    full = type(error).__name__ == "OutOfMemoryError" or isinstance(error, MemoryError)
    return full or (isinstance(error, RuntimeError) and "can't allocate memory" in str(error))


_SHOWN = 30


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that offers the nearest known name, or up to 30 of them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name[:100], names, n=1, cutoff=0.5)
    if close:
        return f"Did you mean '{close[0]}'?"
    return f"Known are: {', '.join(names[:_SHOWN])}{', ...' if len(names) > _SHOWN else ''}."


def printable(text: str) -> str:
    """`text` with every character that is not printable (controls, line ends, text direction, half characters) spelt out.

    A name from outside can then neither steer a terminal nor forge a line of a log.
    """
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in text)


def listed(names: Sequence[str]) -> str:
    """The first five names, and dots for the others."""
    return ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
