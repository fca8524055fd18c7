"""Files and folders that are there whole or not at all, also after a kill or a power cut.

What is new is written beside its place under a name that begins with a dot, synced, and renamed; then the folder is
synced. Nothing is written but by `os.write`, so that tests see every call and can end the process at each.
"""

import errno
import hashlib
import os
import re
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple, TypeVar

_CHUNK = 1 << 24
"""Bytes that are hashed and written at a time."""
WAITS = (0.5, 2.0, 8.0)
"""Seconds before the 2nd, 3rd and 4th try where the disk or the network failed."""
PASSING = frozenset(
    getattr(errno, name)
    for name in (
        "EIO",
        "ESTALE",
        "ETIMEDOUT",
        "EAGAIN",
        "EREMOTEIO",
        "EHOSTDOWN",
        "EHOSTUNREACH",
        "ENOTCONN",
        "ENETDOWN",
    )
    if hasattr(errno, name)
)
"""Errors of the disk or the network, which say nothing about the file."""
LEFT_BEHIND = re.compile(r"\..+\.tutelage-\d+(-old)?")
"""What a process that was killed left beside the place where it would have been."""
T = TypeVar("T")


class Written(NamedTuple):
    """What a file holds."""

    size: int
    sha256: str


def patiently(ask: Callable[[], T]) -> T:
    """What `ask` gives, asked again where the disk or the network fails. Raises what `ask` raises at last."""
    for wait in WAITS:
        try:
            return ask()
        except OSError as error:
            if error.errno not in PASSING:
                raise
            time.sleep(wait)
    return ask()


def write_synced(path: Path, parts: Iterable[bytes | memoryview]) -> Written:
    """Write a new file, and wait until the disk has it. Raises FileExistsError, and OSError where it was not written."""
    digest, size = hashlib.sha256(), 0
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)
    try:
        for part in parts:
            for start in range(0, len(part), _CHUNK):
                chunk = part[start : start + _CHUNK]
                digest.update(chunk)
                size += len(chunk)
                _write_all(descriptor, chunk)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    return Written(size, digest.hexdigest())


def beside(path: Path, mark: str = "") -> Path:
    """The hidden name under which this process writes what then takes the place of `path`."""
    return path.with_name(f".{path.name}.tutelage-{os.getpid()}{mark}")


def write_whole(path: Path, data: bytes) -> None:
    """Write a file in place of what was there. Raises OSError, and leaves what was there."""
    temporary = beside(path)
    try:
        with suppress(FileNotFoundError):  # of an earlier process with this number
            temporary.unlink()
        write_synced(temporary, [data])
        temporary.replace(path)
    except OSError:
        with suppress(OSError):
            temporary.unlink()
        raise
    sync_folder(path.parent)


def append_lines(path: Path, lines: Iterable[str]) -> None:
    """Add lines to a file, on a line of their own where a kill cut the last one short. Raises OSError."""
    with path.open("ab+") as file:
        torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"
        file.write(("\n" * bool(torn) + "".join(f"{line}\n" for line in lines)).encode())


def make_folder(path: Path) -> None:
    """Make a folder and those above it, each known to the disk. Raises OSError."""
    if not path.is_dir():
        make_folder(path.parent)
        with suppress(FileExistsError):
            path.mkdir()
        sync_folder(path.parent)


def move(source: Path, target: Path) -> None:
    """Give a folder another name in the same folder, known to the disk. Raises OSError."""
    source.rename(target)
    sync_folder(target.parent)


def remove_folder(path: Path) -> None:
    """Take a folder's name away first, so that half of it is never seen, then the folder. Raises OSError for the name."""
    hidden = path.with_name(f".{path.name}")
    shutil.rmtree(hidden, ignore_errors=True)
    path.rename(hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def sync_folder(path: Path) -> None:
    """Wait until the disk knows the names in a folder. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _write_all(descriptor: int, chunk: bytes | memoryview) -> None:
    while len(chunk):
        chunk = chunk[os.write(descriptor, chunk) :]
