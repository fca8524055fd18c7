"""The errors a user can meet. Each says what happened, what it means and what to do, and carries its exit code."""

import difflib
from collections.abc import Iterable


class TutelageError(Exception):
    """Printed as "CODE: what happened. What it means. What to do.", without a traceback."""

    exit_code = 1

    def __init__(self, code: str, what: str, means: str = "", todo: str = "") -> None:
        self.code = code
        super().__init__(f"{code}: " + " ".join(part for part in (what, means, todo) if part))


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


def translated(error: Exception) -> TutelageError:
    """What a library raised, as an error of ours: by its class's name, so that torch need not be imported to know it."""
    what = f"{type(error).__name__}: {str(error).strip() or 'no message'}".splitlines()[0].rstrip(".") + "."
    name = type(error).__name__
    if name == "OutOfMemoryError":
        return MachineError("R-20", what, "The device's memory is full.", "Use a smaller --micro-batch.")
    if name.startswith("Dist"):
        return DistributedError(
            "P-05", what, "Another process ended or cannot be reached.", "Look at its output first."
        )
    if isinstance(error, OSError):
        return MachineError(
            "R-22", what, "The system refused; what was saved before is untouched.", "Mend it and run again."
        )
    return TutelageError("U-01", what, "This was not foreseen.", "Run again with --debug to see where.")


def nearest(name: str, known: Iterable[str]) -> str:
    """The sentence that offers the nearest known name, or all of them when none is near."""
    names = sorted(known)
    close = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
    return f"Did you mean '{close[0]}'?" if close else f"Known are: {', '.join(names)}."
