"""Files of tensors from elsewhere, read so that they can do no harm.

A safetensors file's header is checked before anything is allocated. A pickled file (.pth, .pt, .bin) is read by a process
of its own, with torch's `weights_only`, the one call of `torch.load` in the project: that process can open no file and no
connection, and its memory, output and time are limited. It is handed the open file, and gives back safetensors.
"""

import argparse
import hashlib
import io
import json
import math
import os
import resource
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from pickle import UnpicklingError  # the exception alone: what torch.load raises for a file that is more than tensors
from typing import IO, Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, load_file
from torch import Tensor

from tutelage.config import MAX_JSON, parse_json
from tutelage.errors import CheckpointError, printable

_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16, "I32": 32,
    "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64,
}  # fmt: skip
_NAMES = {torch.float16: "F16", torch.bfloat16: "BF16", torch.float32: "F32", torch.float64: "F64"}
_MOST_AXES = 16
_SPARE = 1 << 30
"""Bytes of memory beside twice the file's that reading it may take."""
_SLOWEST = 20_000_000
"""Bytes a second that reading takes at least, after a minute."""
_MORE_THAN_TENSORS = 13
"""The exit code of a reader that met a file which would run code."""


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, by name, on the CPU.

    Raises:
        ValueError: the header is no JSON of at most 10 MB, or its tensors do not fill the file side by side, each once.
        OSError: it cannot be read.

    """
    check_header(path)
    return load_file(path)


def read_hashed(path: Path, size: int, sha256: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file of this length and hash, by name, on the CPU.

    Raises:
        ValueError: it is another file, damaged, or larger than memory.
        OSError: it cannot be read.

    """
    if (found := _regular(path).st_size) != size:
        raise ValueError(f"{path.name} has {found:,} of {size:,} bytes")
    check_header(path)
    try:
        data = read_regular(path, size)
        if hashlib.sha256(data).hexdigest() != sha256:
            raise ValueError(f"{path.name} does not have the hash it was written with")
        return load(data)
    except SafetensorError as error:
        raise ValueError(f"{path.name}: {error}") from None
    except MemoryError:
        raise ValueError(f"{path.name} does not fit into memory") from None


def read_regular(path: Path, most: int) -> bytes:
    """At most `most` bytes of a regular file; of no link, pipe or device. Raises ValueError, OSError."""
    _regular(path)
    descriptor = os.open(path, os.O_RDONLY | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0))
    with os.fdopen(descriptor, "rb") as file:
        data = file.read(most + 1)
    if len(data) > most:
        raise ValueError(f"{path.name} has more than {most:,} bytes")
    return data


def _regular(path: Path) -> os.stat_result:
    status = path.lstat()
    if not stat.S_ISREG(status.st_mode):
        raise ValueError(f"{path.name} is no regular file")
    return status


def check_header(path: Path) -> None:
    """Refuse, before memory is taken, a safetensors file whose header and data do not agree. Raises ValueError, OSError."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(MAX_JSON, size - 8):
            raise ValueError(f"the header would be {length:,} bytes long in a file of {size:,}")
        header = parse_json(file.read(length))
    header.pop("__metadata__", None)
    end = 0
    for name, (start, stop), taken in sorted(map(_entry, header.items()), key=lambda entry: entry[1]):
        if start != end or stop - start != taken:
            raise ValueError(
                f"tensor '{name}' lies at {start:,} to {stop:,}, where {taken:,} bytes from {end:,} belong"
            )
        end = stop
    if end != size - 8 - length:
        raise ValueError(f"{size - 8 - length:,} bytes of tensors where {end:,} belong")


def _entry(item: tuple[str, Any]) -> tuple[str, tuple[int, int], int]:
    """Name, place and length in bytes of a tensor that a header describes."""
    name, entry = item
    try:
        shape, (start, stop) = entry["shape"], entry["data_offsets"]
        if len(shape) > _MOST_AXES or not all(type(n) is int and 0 <= n < 2**63 for n in (*shape, start, stop)):
            raise TypeError
        return name, (start, stop), math.prod(shape) * _BITS[entry["dtype"]] // 8
    except (TypeError, ValueError, KeyError):
        raise ValueError(f"the header's entry '{name[:80]}' describes no tensor") from None


def read_pickled(path: Path) -> dict[str, Tensor]:
    """The floating-point tensors of a .pth, .pt or .bin file, by name; those of a network one level down as `model.NAME`.

    Raises:
        CheckpointError: K-13, the file is more than tensors and was not run; K-10, it cannot be read within the limits.

    """
    with tempfile.TemporaryDirectory() as folder, path.open("rb") as source:
        target = Path(folder) / "tensors.safetensors"
        with target.open("wb") as file:
            code, said = _read_apart(source, file, folder)
        if code == _MORE_THAN_TENSORS:
            raise CheckpointError(
                "K-13",
                f"{path} is no plain file of tensors, and was not run: {said}.",
                "Such a file can execute code when it is read.",
                "Save its state dict with safetensors, where you trust it.",
            )
        if code:
            raise CheckpointError("K-10", f"{path} is damaged: {said}.", todo="Use another checkpoint or a fresh copy.")
        return read_safetensors(target)


def _read_apart(source: IO[bytes], target: IO[bytes], folder: str) -> tuple[int, str]:
    """Exit code and last words of a process that reads `source` as its input and writes safetensors as its output.

    It starts in `folder`, which nobody else writes to: Python looks for modules where it starts.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    environment = {**kept, "PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    seconds = 60 + os.fstat(source.fileno()).st_size // _SLOWEST
    command = [sys.executable, "-m", "tutelage.foreign", str(seconds)]
    try:
        done = subprocess.run(
            command,
            stdin=source,
            stdout=target,
            stderr=subprocess.PIPE,
            env=environment,
            cwd=folder,
            timeout=2 * seconds,
            check=False,
        )
    except subprocess.TimeoutExpired:
        return 1, f"reading it took more than {2 * seconds} seconds"
    if done.returncode < 0:
        return 1, f"reading it took more than the {seconds} seconds or the memory allowed (signal {-done.returncode})"
    lines = done.stderr.decode("utf-8", "replace").strip().splitlines() or ["no reason given"]
    return done.returncode, printable(lines[-1])[:300].rstrip(".")


# --- the process apart ------------------------------------------------------------------------------------------------


def _main(seconds: int) -> int:
    """Read standard input as a pickled file of tensors and write them to standard output as safetensors."""
    for new in (True, False):  # torch imports what it needs while it reads: files that are opened now or never
        rehearsal = io.BytesIO()
        torch.save({"x": torch.ones(1, dtype=torch.bfloat16)}, rehearsal, _use_new_zipfile_serialization=new)
        _write(_load(rehearsal), io.BytesIO())
    _confine(os.fstat(0).st_size, seconds)
    try:
        _write(_load(sys.stdin.buffer), sys.stdout.buffer)
    except Exception as error:  # a damaged file makes torch raise anything
        sys.stderr.write(f"{next(iter(str(error).strip().splitlines()), '') or type(error).__name__}\n")
        return _MORE_THAN_TENSORS if isinstance(error, UnpicklingError) else 1
    return 0


def _confine(size: int, seconds: int) -> None:
    """Give up, for good, what reading `size` bytes does not take: files, connections, processes, memory and time.

    After this no file descriptor can be opened, so neither a file nor a socket; new programs cannot load their libraries.
    """
    statm = Path("/proc/self/statm")  # its first number: pages of memory that this process has mapped
    memory = int(statm.read_text().split()[0]) * resource.getpagesize() if statm.exists() else 0
    limits = {
        resource.RLIMIT_NOFILE: 3,
        resource.RLIMIT_NPROC: 0,
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: 2 * size + 1_000_000,
        resource.RLIMIT_CPU: seconds + math.ceil(time.process_time()),
    }
    if memory:
        limits[resource.RLIMIT_AS] = memory + 2 * size + _SPARE
    for kind, limit in limits.items():
        hard = resource.getrlimit(kind)[1]
        lower = limit if hard == resource.RLIM_INFINITY else min(limit, hard)
        resource.setrlimit(kind, (lower, lower))


def _load(file: IO[bytes]) -> dict[str, Tensor]:
    """Floating-point tensors by name. Networks lie one level down: {"model": {...}, "optimizer": ..., "args": ...}."""
    file.seek(0)
    with torch.serialization.safe_globals([argparse.Namespace]):
        loaded = torch.load(file, map_location="cpu", weights_only=True)
    if not isinstance(loaded, dict):
        raise ValueError(f"it holds a {type(loaded).__name__}, not tensors by name")
    found: dict[str, Tensor] = {}
    for name, value in loaded.items():
        parts = (
            {f"{name}.{key}": part for key, part in value.items()} if isinstance(value, dict) else {str(name): value}
        )
        found |= {key: part for key, part in parts.items() if isinstance(part, Tensor) and part.dtype in _NAMES}
    return found


def _write(tensors: dict[str, Tensor], file: IO[bytes]) -> None:
    """A safetensors file, tensor by tensor, so that none is in memory twice."""
    header: dict[str, Any] = {}
    end = 0
    for name, tensor in tensors.items():
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _NAMES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    file.write(len(text).to_bytes(8, "little") + text)
    for tensor in tensors.values():
        file.write(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    file.flush()


if __name__ == "__main__":
    sys.exit(_main(int(sys.argv[1])))
