"""The bytes of a picture's file: of regular files only, and with patience for a disk that does not answer at once."""

import errno
import hashlib
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple, TypeVar

from tutelage.durable import PASSING, WAITS, patiently
from tutelage.errors import DataError, translated

T = TypeVar("T")

MAX_BYTES = 2**29
"""Larger files are refused unread."""
ENDS = 65_536
"""Bytes that are read at the beginning and at the end of a file to judge it by."""


class Unreadable(Exception):  # noqa: N818 - a state of a file, which the index counts and lists
    """A file that gives no picture, with the reason in a few words."""

    def __init__(self, reason: str) -> None:
        self.reason = reason
        super().__init__(reason)


class Identity(NamedTuple):
    """By what a file is known again."""

    length: int
    """In bytes."""
    modified: int
    """In nanoseconds, as the file system says."""


class Contents(NamedTuple):
    """A whole file."""

    data: bytes
    identity: Identity

    @property
    def ends(self) -> "Ends":
        """Its beginning and its end."""
        return Ends(self.data[:ENDS], self.data[-ENDS:], self.identity)


class Ends(NamedTuple):
    """The first and the last bytes of a file, up to `ENDS` of each."""

    head: bytes
    tail: bytes
    identity: Identity

    @property
    def mark(self) -> int:
        """64 bits that are the same for equal files, and very rarely for others: a hash of length, head and tail."""
        digest = hashlib.blake2b(self.head, digest_size=8, salt=self.identity.length.to_bytes(8, "little"))
        digest.update(self.tail)
        return int.from_bytes(digest.digest(), "little")


def read(path: Path) -> Contents:
    """All of a file. Raises `Unreadable`, and DataError D-08 where the disk fails four times in a row."""
    return _patiently(path, _all)


def read_ends(path: Path) -> Ends:
    """Beginning and end of a file. Raises as `read` does."""
    return _patiently(path, _ends)


def sha256(path: Path) -> str | None:
    """The SHA-256 of a file's bytes, or None where they cannot be read. Raises DataError D-08."""
    try:
        return hashlib.sha256(read(path).data).hexdigest()
    except Unreadable:
        return None


def _patiently(path: Path, ask: Callable[[int, Identity], T]) -> T:
    try:
        return patiently(lambda: _once(path, ask))
    except OSError as error:
        raise DataError(
            "D-08",
            f"{path} could not be read in {len(WAITS) + 1} tries: {(error.strerror or str(error)).lower()}.",
            "The disk or the network fails, which says nothing about the picture: no other takes its place.",
            "Mend it, or remove the file, and run the same command again.",
        ) from error


def _once(path: Path, ask: Callable[[int, Identity], T]) -> T:
    """One try. Raises `Unreadable`, or OSError for what may pass."""
    try:
        # A named pipe would keep a plain open waiting for ever.
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            status = os.fstat(fd)
            _check(status)
            return ask(fd, Identity(status.st_size, status.st_mtime_ns))
        finally:
            os.close(fd)
    except OSError as error:
        if error.errno in PASSING:
            raise
        if error.errno in (errno.EMFILE, errno.ENFILE, errno.ENOMEM):  # the machine's fault, not the file's
            raise translated(error) from error
        raise Unreadable((error.strerror or "cannot be read").lower()) from None
    except ValueError:  # a name with a zero byte, from a list
        raise Unreadable("no file can have this name") from None


def _check(status: os.stat_result) -> None:
    if stat.S_ISDIR(status.st_mode):
        raise Unreadable("is a directory")
    if not stat.S_ISREG(status.st_mode):
        raise Unreadable("not a regular file")
    if status.st_size > MAX_BYTES:
        raise Unreadable(f"more than {MAX_BYTES:,} bytes")


def _all(fd: int, identity: Identity) -> Contents:
    with open(fd, "rb", buffering=0, closefd=False) as file:
        data = file.readall()
    return Contents(_not_empty(data), identity)


def _ends(fd: int, identity: Identity) -> Ends:
    head = _not_empty(os.pread(fd, ENDS, 0))
    return Ends(head, os.pread(fd, ENDS, max(0, identity.length - ENDS)), identity)


def _not_empty(data: bytes) -> bytes:
    if not data:
        raise Unreadable("empty file")
    return data
