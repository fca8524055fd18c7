"""Looks at the files of a large set, kept from one start to the next: only files that changed are opened again.

Nothing but time depends on it: a cache that is not there, damaged or of another version is not used, and one that
cannot be written is not kept.
"""

import hashlib
import os
import time
import zipfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from tutelage.data.looking import Look
from tutelage.data.reading import Identity
from tutelage.durable import beside

_VERSION = 2
_SETTLED = 2_000_000_000
"""Nanoseconds since its last change after which a file can be told from a later one by its time."""


def recall(cache: Path, root: Path, names: Sequence[str]) -> dict[str, Look]:
    """The remembered looks at those of the files that have the length and the time of change that they had then."""
    try:
        with np.load(_file(cache, root), allow_pickle=False) as kept:
            if kept["version"] != _VERSION:
                return {}
            words, numbers, marks = _words(kept["words"]), kept["numbers"], kept["marks"]
            rows = {name: row for row, name in enumerate(_words(kept["names"]))}
            return _still_true(root, names, rows, words, numbers, marks)
    except (OSError, ValueError, KeyError, IndexError, EOFError, zipfile.BadZipFile):
        return {}


def remember(cache: Path, root: Path, looks: Mapping[str, Look]) -> None:
    """Keep the looks at files below `root`, whole or not at all, in the place of those kept before."""
    latest = time.time_ns() - _SETTLED
    kept = {name: look for name, look in looks.items() if look.identity.modified < latest}
    if not kept:
        return
    words = sorted({word for look in kept.values() for word in (look.format, look.mode)})
    number = {word: k for k, word in enumerate(words)}
    numbers = [
        (*look.identity, *look.size, look.channels, look.deep, look.several, number[look.format], number[look.mode])
        for look in kept.values()
    ]
    file = _file(cache, root)
    temporary = beside(file)
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("wb") as opened:
            np.savez(
                opened,
                version=np.int64(_VERSION),
                names=_text(list(kept)),
                words=_text(words),
                numbers=np.array(numbers, dtype=np.int64).reshape(-1, 9),
                marks=np.array([look.mark for look in kept.values()], dtype=np.uint64),
            )
        temporary.replace(file)
    except OSError:  # a full or read-only disk costs time at the next start, and nothing else
        with suppress(OSError):
            temporary.unlink()


def _still_true(
    root: Path,
    names: Sequence[str],
    rows: Mapping[str, int],
    words: Sequence[str],
    numbers: NDArray[np.int64],
    marks: NDArray[np.uint64],
) -> dict[str, Look]:
    looks = {}
    for name in names:
        row = rows.get(name)
        if row is None:
            continue
        length, modified, height, width, channels, deep, several, kind, mode = numbers[row].tolist()
        try:
            status = os.stat(f"{root}/{name}")  # noqa: PTH116 - a Path for each of millions takes minutes
        except (OSError, ValueError):
            continue
        if (status.st_size, status.st_mtime_ns) == (length, modified):
            identity, mark = Identity(length, modified), int(marks[row])
            size = height, width
            looks[name] = Look(words[kind], words[mode], size, channels, bool(deep), identity, mark, bool(several))
    return looks


def _file(cache: Path, root: Path) -> Path:
    key = hashlib.sha256(os.fsencode(root.resolve())).hexdigest()[:24]
    return cache / "looks" / f"{key}.npz"


def _text(names: Sequence[str]) -> NDArray[np.uint8]:
    return np.frombuffer("\0".join(names).encode("utf-8", "surrogateescape"), dtype=np.uint8)


def _words(text: NDArray[np.uint8]) -> list[str]:
    return text.tobytes().decode("utf-8", "surrogateescape").split("\0")
