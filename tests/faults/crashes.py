"""Processes that die at a chosen file operation, and disks that forget at a power cut what was not synced."""

import contextlib
import os
import random
import shutil
import signal
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
AUDITED = {"os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link", "os.truncate"}


def in_a_child(work: Callable[[], Any], limit: int = 120) -> int:
    """The exit code of `work` in a forked process: 0, 1 where it raised, or minus the signal that killed it."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            signal.alarm(limit)
            work()
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


class Operations:
    """Counts what a process does to files from now on: opened for writing, written, synced, renamed, removed, made.

    At the operation numbered `kill_at` (from 1) the process kills itself, before it is done; of a write half is done.
    Only for processes that end afterwards: an audit hook stays.
    """

    def __init__(self, kill_at: int | None = None, told: Path | None = None) -> None:
        self.count, self.kill_at, self.told = 0, kill_at, told
        self.kinds: list[str] = []
        self._write, self._fsync = os.write, os.fsync
        sys.addaudithook(self._hear)
        os.write, os.fsync = self._on_write, self._on_fsync

    def end(self) -> None:
        """Tell the kinds of the operations, one a line."""
        os.write, os.fsync = self._write, self._fsync
        if self.told:
            self.told.write_text("\n".join(self.kinds))

    def _hear(self, event: str, arguments: tuple[Any, ...]) -> None:
        if event == "open":
            path, _, flags = arguments
            if isinstance(path, str) and isinstance(flags, int) and flags & WRITING and not path.startswith("/dev"):
                self._happen("open")
        elif event in AUDITED:
            self._happen(event)

    def _on_write(self, descriptor: int, data: Any) -> int:
        if self._happen("write", spare=True):
            self._write(descriptor, data[: len(data) // 2])
            os.kill(os.getpid(), signal.SIGKILL)
        return self._write(descriptor, data)

    def _on_fsync(self, descriptor: Any) -> None:
        self._happen("fsync")
        self._fsync(descriptor)

    def _happen(self, kind: str, *, spare: bool = False) -> bool:
        self.count += 1
        self.kinds.append(kind)
        if self.count == self.kill_at and not spare:
            os.kill(os.getpid(), signal.SIGKILL)
        return self.count == self.kill_at


# --- power cuts -------------------------------------------------------------------------------------------------------


@dataclass
class File:
    data: bytes = b""
    synced: bytes = b""


@dataclass
class Folder:
    names: dict[str, Any] = field(default_factory=dict)
    synced: dict[str, Any] = field(default_factory=dict)


class Disk:
    """Files and folders as they are, and as a power cut would leave them: replays what `recorded` noted."""

    def __init__(self, root: Path) -> None:
        self.at = root
        self.root = self._read(root)

    def _read(self, path: Path) -> Any:
        if path.is_file():
            data = path.read_bytes()
            return File(data, data)
        names = {item.name: self._read(item) for item in path.iterdir()}
        return Folder(names, dict(names))

    def _find(self, path: str | Path) -> Any:
        node = self.root
        for name in Path(path).relative_to(self.at).parts:
            node = node.names[name]
        return node

    def do(self, kind: str, path: str, more: Any = None) -> None:
        """One operation that was noted."""
        parent, name = self._find(Path(path).parent) if path != str(self.at) else None, Path(path).name
        if kind == "create":
            parent.names.setdefault(name, File())
        elif kind == "write":
            parent.names[name].data += more
        elif kind == "sync":
            node = self._find(path)
            if isinstance(node, File):
                node.synced = node.data
            else:
                node.synced = dict(node.names)
        elif kind == "mkdir":
            parent.names[name] = Folder()
        elif kind == "rename":
            self._find(Path(more).parent).names[Path(more).name] = parent.names.pop(name)
        else:
            del parent.names[name]

    def cut(self, into: Path, keeps: Callable[[], bool]) -> None:
        """Write what a power cut leaves: of each file and folder `keeps` says whether what was not synced is kept."""

        def write(node: Any, path: Path) -> None:
            if isinstance(node, File):
                path.write_bytes(node.data if keeps() else node.synced)
                return
            path.mkdir()
            for name, inner in (node.names if keeps() else node.synced).items():
                write(inner, path / name)

        shutil.rmtree(into, ignore_errors=True)
        write(self.root, into)


def keeping(mode: str) -> Callable[[], bool]:
    """`all`, `none`, or a number that seeds a coin."""
    if mode in ("all", "none"):
        return lambda: mode == "all"
    coin = random.Random(mode)
    return lambda: coin.random() < 0.5


def names_only() -> Callable[[Any], bool]:
    return lambda node: isinstance(node, Folder)


@contextlib.contextmanager
def recorded(root: Path) -> Iterator[list[tuple[Any, ...]]]:
    """Note what is done below `root` through `os`, by all threads of this process."""
    noted: list[tuple[Any, ...]] = []
    paths: dict[int, str] = {}
    real = {
        name: getattr(os, name)
        for name in ("open", "write", "fsync", "close", "mkdir", "rename", "replace", "unlink", "rmdir")
    }

    def place(path: Any, dir_fd: int | None = None) -> str:
        return str(path if dir_fd is None else Path(f"/proc/self/fd/{dir_fd}").readlink() / path)

    def note(kind: str, path: str, *more: Any) -> None:
        if Path(path).is_relative_to(root):
            noted.append((kind, path, *more))

    def open_(path: Any, flags: int, mode: int = 0o777, *, dir_fd: int | None = None) -> int:
        descriptor = real["open"](path, flags, mode, dir_fd=dir_fd)
        paths[descriptor] = place(path, dir_fd)
        if flags & os.O_CREAT:
            note("create", paths[descriptor])
        return descriptor

    def write(descriptor: int, data: Any) -> int:
        done = real["write"](descriptor, data)
        if descriptor in paths:
            note("write", paths[descriptor], bytes(data[:done]))
        return done

    def fsync(descriptor: int) -> None:
        real["fsync"](descriptor)
        note("sync", paths[descriptor])

    def close(descriptor: int) -> None:
        paths.pop(descriptor, None)
        real["close"](descriptor)

    def one(kind: str) -> Callable[..., None]:
        def call(path: Any, *arguments: Any, dir_fd: int | None = None) -> None:
            where = place(path, dir_fd)
            real[kind](path, *arguments, dir_fd=dir_fd)
            note(kind, where)

        return call

    def rename(source: Any, target: Any) -> None:
        real["rename"](source, target)
        note("rename", place(source), place(target))

    shims = {"open": open_, "write": write, "fsync": fsync, "close": close, "rename": rename, "replace": rename}
    shims |= {kind: one(kind) for kind in ("mkdir", "unlink", "rmdir")}
    try:
        for name, shim in shims.items():
            setattr(os, name, shim)
        yield noted
    finally:
        for name, function in real.items():
            setattr(os, name, function)
