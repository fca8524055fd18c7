"""Files from the network, for sets that were named: seconds to connect, whole or not at all, known by their SHA-256."""

import hashlib
import os
import shutil
import subprocess
import tempfile
import threading
import urllib.request
from collections.abc import Iterable
from http.client import HTTPResponse
from pathlib import Path
from typing import TypeAlias
from urllib.response import addinfourl

from tutelage.errors import DataError

CONNECT_SECONDS = 4.0

Answer: TypeAlias = HTTPResponse | addinfourl


class NotOurs(Exception):  # noqa: N818 - a finding about a source, not yet an error: the next source may do
    """A file that is there, but is not the published one."""


def allowed() -> bool:
    """Whether the network may be asked: TUTELAGE_OFFLINE=1 forbids it."""
    return os.environ.get("TUTELAGE_OFFLINE", "") in ("", "0")


def why(error: Exception) -> str:
    """An error in a few words, without the number and the path that Python puts around it."""
    known = isinstance(error, OSError) and error.strerror
    return known.lower() if isinstance(known, str) else str(error)


def none_answered(name: str, tried: Iterable[str]) -> DataError:
    """The error that names every way to get a set, with what came of each."""
    offline = "" if allowed() else " TUTELAGE_OFFLINE is set, so the network was not asked."
    ways = "".join(f"\n  - {way}" for way in tried)
    return DataError("D-20", f"no source of '{name}' answered.{offline}", todo=f"Any one of these is enough:{ways}")


def checked(path: Path, sha256: str) -> Path:
    """The same path. Raises OSError when it cannot be read and NotOurs when it is another file."""
    h = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(1 << 20):
            h.update(block)
    if h.hexdigest() != sha256:
        raise NotOurs("its SHA-256 is not that of the published file")
    return path


def file(url: str, sha256: str, path: Path) -> Path:
    """The file behind `url`, at `path`. Raises OSError or NotOurs, and then leaves nothing there."""
    with tempfile.TemporaryDirectory(dir=_made(path.parent)) as folder:
        part = Path(folder) / path.name
        _fetch(url, part)
        checked(part, sha256)
        part.replace(path)
    return path


def files(url: str, names: Iterable[str], folder: Path) -> Path:
    """The files `names` below `url`, in `folder`, unchecked: their contents are hashed when they are read."""
    with tempfile.TemporaryDirectory(dir=_made(folder)) as temporary:
        parts = [Path(temporary) / name for name in names]
        for part in parts:
            _fetch(url + part.name, part)
        for part in parts:
            part.replace(folder / part.name)
    return folder


def debian_package(package: str, inside: Path, folder: Path) -> Path:
    """The files that a Debian package has in its folder `inside`, in `folder`; nothing is installed. Raises OSError."""
    options = [f"-oAcquire::{scheme}::Timeout={CONNECT_SECONDS:.0f}" for scheme in ("http", "https")]
    with tempfile.TemporaryDirectory(dir=_made(folder)) as temporary:
        _call(["apt-get", "-qq", "-oAcquire::Retries=0", *options, "download", package], temporary)
        deb = next(Path(temporary).glob("*.deb"), None)
        if deb is None:
            raise OSError("apt-get left no package")
        _call(["dpkg", "-x", str(deb), "unpacked"], temporary)
        for path in sorted((Path(temporary) / "unpacked" / inside.relative_to("/")).iterdir()):
            path.replace(folder / path.name)
    return folder


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def _call(command: list[str], folder: str) -> None:
    """Run a program in `folder`. Raises OSError with the last line that it said."""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120, check=False)
    except subprocess.TimeoutExpired:
        raise OSError(f"{command[0]} took more than two minutes") from None
    if done.returncode:
        raise OSError((done.stderr.strip().splitlines() or [f"{command[0]} failed"])[-1])


def _fetch(url: str, path: Path) -> None:
    response = _connect(url)
    with response, path.open("wb") as target:
        shutil.copyfileobj(response, target)


def _connect(url: str) -> Answer:
    """An answer within seconds: in a thread of its own, because looking up a host knows no time limit."""
    answers: list[Answer | OSError] = []

    def ask() -> None:
        try:
            answers.append(urllib.request.urlopen(url, timeout=CONNECT_SECONDS))
        except OSError as error:
            answers.append(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(CONNECT_SECONDS + 1)
    answer = answers[0] if answers else TimeoutError(f"no answer within {CONNECT_SECONDS:.0f} seconds")
    if isinstance(answer, OSError):
        raise answer
    return answer
