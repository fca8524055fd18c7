"""One writer for a run folder, on one machine or on many that share a disk, without locks of the file system.

A lease is a file `.lease-N` with who holds it; the one of the largest N counts. It is made with its contents by one `link`,
which only one process can do for one N, and its holder touches it every ten seconds. Who finds it given back (empty), its
process gone, or untouched for two minutes takes N + 1: of many who try, one. N is a token that fences: a holder looks
before each commit whether its lease still is the last, so that one that was frozen and replaced writes nothing more.
Ages are differences of two times that the folder's own file system gave, so clocks of machines are not compared.
"""

import json
import os
import platform
import re
import threading
import time
import uuid
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.config import parse_json
from tutelage.errors import MachineError, SettingsError, TutelageError

BEAT, STALE = 10.0, 120.0
"""Seconds between two heartbeats, and after which one that does not come any more leaves the folder free."""
_NAME = re.compile(r"\.lease-(\d{1,18})")


class Lease:
    """Held from `take` to `free`."""

    def __init__(self, folder: Path, number: int, nonce: str) -> None:
        self.folder, self.number, self.nonce = folder, number, nonce
        self._lost: TutelageError | None = None
        self._looked = time.monotonic()
        self._over = threading.Event()
        threading.Thread(target=self._beat, name="lease", daemon=True).start()

    @classmethod
    def take(cls, folder: Path) -> "Lease":
        """The lease of a folder that is there.

        Raises:
            SettingsError: K-01, another run holds it.
            OSError: the folder cannot be written.

        """
        number, nonce = _last(folder), uuid.uuid4().hex
        own = folder / f".taking-{nonce}"
        try:
            own.write_text(json.dumps(_identity() | {"nonce": nonce}), encoding="utf-8")
            if number and (holder := _holder(_file(folder, number), now=own.stat().st_mtime)):
                raise _in_use(folder, holder)
            _link(own, _file(folder, number + 1))
            if _last(folder) > number + 1:  # others came and went meanwhile
                _file(folder, number + 1).unlink(missing_ok=True)
                raise FileExistsError
        except FileExistsError:
            raise _in_use(folder, _holder(_file(folder, _last(folder)), now=own.stat().st_mtime)) from None
        finally:
            now = own.stat().st_mtime if own.exists() else 0.0
            own.unlink(missing_ok=True)
        _clear(folder, number, now - STALE)
        return cls(folder, number + 1, nonce)

    @property
    def lost(self) -> TutelageError | None:
        """Why this process must not write any more, if so; looked up where the heartbeat did not do so of late."""
        if self._lost is None and time.monotonic() - self._looked > 2 * BEAT:
            self._look()
        return self._lost

    def check(self) -> None:
        """Look now. Raises MachineError K-22: the folder is gone, or another run has taken it."""
        self._look()
        if self._lost is not None:
            raise self._lost

    def free(self) -> None:
        """Give the folder back."""
        self._over.set()
        with suppress(OSError):
            if self._nonce_on_disk() == self.nonce:
                os.truncate(_file(self.folder, self.number), 0)

    def _beat(self) -> None:
        while not self._over.wait(BEAT) and self._lost is None:
            with suppress(OSError):  # a disk that refuses is the saving's to report
                self._look()
                if self._lost is None:
                    os.utime(_file(self.folder, self.number))

    def _look(self) -> None:
        try:
            last = _last(self.folder)
        except (FileNotFoundError, NotADirectoryError):
            last = 0
        self._looked = time.monotonic()
        if last == self.number and self._nonce_on_disk() == self.nonce:
            return
        if not last:
            what = f"the run folder {self.folder} is gone while the run goes on."
            todo = "Put it back where it was and run the same command, or begin anew."
        else:
            what = f"{self.folder} was taken by another run, as this one gave no sign of life for {STALE:.0f} seconds."
            todo = "Let the other one go on."
        self._lost = MachineError("K-22", what, "It stops here, and writes nothing more.", todo)

    def _nonce_on_disk(self) -> Any:
        try:
            return _read(_file(self.folder, self.number)).get("nonce")
        except FileNotFoundError:
            return None


@dataclass(frozen=True)
class _Holder:
    """Who holds a lease, and the seconds since its heartbeat."""

    told: dict[str, Any]
    age: float


def _holder(file: Path, now: float) -> _Holder | None:
    """Who holds the folder by this lease; None where it is free."""
    try:
        age = now - file.stat().st_mtime
        if file.stat().st_size == 0 or age > STALE:
            return None
        told = _read(file)
    except FileNotFoundError:
        return None
    here = told.get("place") == _place()
    return None if here and not _lives(told.get("pid"), told.get("born")) else _Holder(told, max(0.0, age))


def _in_use(folder: Path, holder: _Holder | None) -> SettingsError:
    who = "another process"
    if holder:
        told = holder.told
        who = (
            f"pid {told.get('pid')} on host {told.get('host')} since {told.get('since')} "
            f"(heartbeat {max(0.0, holder.age):.0f} s ago)"
        )
    return SettingsError(
        "K-01",
        f"{folder} is in use by {who}.",
        "Two runs cannot share a folder.",
        f"Wait for it, or use another --out; {STALE:.0f} seconds after its last heartbeat the folder is free.",
    )


def _link(own: Path, target: Path) -> None:
    """Give the file its name, as the only one who can. Raises FileExistsError."""
    try:
        os.link(own, target)
    except FileExistsError:
        if own.stat().st_nlink != 2:  # over a network it may have been done and the answer lost
            raise
    except OSError:  # a file system without links
        with target.open("x", encoding="utf-8") as file:
            file.write(own.read_text(encoding="utf-8"))


def _clear(folder: Path, number: int, before: float) -> None:
    """Remove the leases up to `number`, and what a process left that was killed while it tried, before the time `before`."""
    for older in _numbers(folder):
        if older <= number:
            _file(folder, older).unlink(missing_ok=True)
    for left_behind in folder.glob(".taking-*"):
        with suppress(FileNotFoundError):
            if left_behind.stat().st_mtime < before:
                left_behind.unlink()


def _file(folder: Path, number: int) -> Path:
    return folder / f".lease-{number}"


def _numbers(folder: Path) -> list[int]:
    return [int(found[1]) for found in (_NAME.fullmatch(path.name) for path in folder.iterdir()) if found]


def _last(folder: Path) -> int:
    return max(_numbers(folder), default=0)


def _read(file: Path) -> dict[str, Any]:
    try:
        return parse_json(file.read_bytes()[:10_000])
    except ValueError:
        return {}


def _identity() -> dict[str, Any]:
    pid = os.getpid()
    return {
        "pid": pid,
        "host": platform.node(),
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "place": _place(),
        "born": _born(pid),
    }


def _place() -> str:
    """Where a process number means the same process: this boot of this machine, and this container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{platform.node()} {boot} {Path('/proc/self/ns/pid').stat().st_ino}"
    except OSError:
        return f"{platform.node()} {platform.system()}"


def _born(pid: int) -> str:
    """When a process began, by its kernel, for its number may be another's later; empty where it ended or is not told."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        return "" if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return ""


def _lives(pid: Any, born: Any) -> bool:
    if type(pid) is not int or pid <= 0:
        return True
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return not born or _born(pid) == born
