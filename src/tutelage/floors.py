"""The oldest versions that are safe to use: asked of what is installed, without importing it."""

import re
import sys
from importlib.metadata import PackageNotFoundError, version

from tutelage.errors import MachineError

PYTHON = (3, 10)
FLOORS = {
    "torch": ((2, 6), "Older ones can run code from a file of weights although told not to (CVE-2025-32434)."),
    "pillow": ((12, 3), "A crafted picture can write past the memory of older ones."),
}
"""The first safe version of what reads files from outside, and what is wrong with those before."""


def check_floors() -> None:
    """Refuse a Python, torch or Pillow below its floor. Raises MachineError R-01; what is not installed is passed over."""
    if sys.version_info < PYTHON:
        raise _too_old(
            "Python", f"{sys.version_info[0]}.{sys.version_info[1]}", PYTHON, "The code needs what it brought."
        )
    for name, (floor, reason) in FLOORS.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            continue
        numbers = re.match(r"(\d+)\.(\d+)", found)
        if numbers and (int(numbers[1]), int(numbers[2])) < floor:
            raise _too_old(name, found, floor, reason)


def _too_old(name: str, found: str, floor: tuple[int, int], reason: str) -> MachineError:
    needed = f"{floor[0]}.{floor[1]}"
    return MachineError("R-01", f"{name} {found} is older than {needed}.", reason, f"Install {name} {needed} or newer.")
