"""The state of a run at a step, taken out of training, and how it becomes a checkpoint on the disk.

A checkpoint is the folder `step-00001200` with the method's weights (student, decoder, heads, teachers and how often they
moved), the optimizer's moments, and a manifest: clock, data chain, guard, the hash of every file, and over all of this a
hash of its own. It is written beside its place, synced, and renamed; what a kill leaves behind never looks like one.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from pydantic import Field, FiniteFloat
from torch import Tensor, nn

from tutelage.clock import Clock
from tutelage.config import NonNegativeInt, Settings
from tutelage.durable import make_folder, remove_folder, sync_folder, write_synced
from tutelage.engine.chain import Links
from tutelage.errors import NumericsError
from tutelage.method import Method
from tutelage.version import __version__

FORMAT = 2
"""1 had no data chain, no guard, and a manifest without a hash of its own."""
MANIFEST = "MANIFEST.json"
MODEL, OPTIMIZER = "model.safetensors", "optimizer.safetensors"
BEST = "BEST"
"""Holds the answer of the monitors that makes a checkpoint the best, which is never removed."""
_DTYPES = {
    torch.float64: "F64", torch.int64: "I64", torch.float32: "F32", torch.int32: "I32", torch.float16: "F16",
    torch.bfloat16: "BF16", torch.int16: "I16", torch.uint8: "U8", torch.int8: "I8", torch.bool: "BOOL",
}  # fmt: skip


class FileEntry(Settings):
    """A file of a checkpoint."""

    size: NonNegativeInt
    sha256: str


class Manifest(Settings):
    """What a checkpoint says of itself."""

    format: int
    written_by: str = "0.1.0"
    """Version of tutelage."""
    step: NonNegativeInt
    updates: NonNegativeInt
    fingerprint: str
    """Of the pictures."""
    links: Links | None = None
    """The data chain; None in format 1."""
    guard: dict[str, Any] = Field(default_factory=dict)
    """What the judgement of losses looks back on."""
    files: dict[str, FileEntry]


class Best(Settings):
    """What the monitors answered of held-out pictures where no checkpoint before did better."""

    by: str
    """The answer's name."""
    value: FiniteFloat

    @property
    def score(self) -> float:
        """The more the better."""
        return -self.value if self.by == "cross_entropy" else self.value


@dataclass(frozen=True)
class Snapshot:
    """A run's state at a step, in memory that nothing trains on."""

    clock: Clock
    fingerprint: str
    links: Links
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]
    guard: dict[str, Any] = field(default_factory=dict)
    best: Best | None = None
    """Where it is the best so far."""
    seconds: float = 0.0
    """That training stood still for it."""

    @property
    def num_bytes(self) -> int:
        """Of all tensors."""
        return _num_bytes([*self.model.values(), *self.optimizer.values()])


def copied(tensors: dict[str, Tensor], into: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """Copies on the CPU, each in memory of its own; `into` older copies where there are any, which is six times faster."""
    copies: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        older = (into or {}).get(name)
        copy = torch.empty(tensor.shape, dtype=tensor.dtype) if older is None else older
        copies[name] = copy.copy_(tensor.detach())
    return copies


def is_finite(tensor: Tensor) -> bool:
    """Whether no number is infinite or none; by its least and its greatest, 20 times faster than by all."""
    if not tensor.is_floating_point() or not tensor.numel():
        return True
    return all(bool(torch.isfinite(end)) for end in tensor.aminmax())


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name."""
    return {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def expected_bytes(method: Method) -> int:
    """Bytes of a checkpoint: the method, and two moments of what learns."""
    moments = [p for p in method.parameters() if p.requires_grad for _ in range(2)]
    return _num_bytes([*method.state_dict().values(), *moments])


def _num_bytes(tensors: list[Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def write_snapshot(folder: Path, snapshot: Snapshot, fence: Callable[[], None] = lambda: None) -> Path:
    """Write the checkpoint into `folder`, and nothing where that fails. `fence` is asked at first, and before it gets its name.

    Raises:
        NumericsError: K-17, a number is not finite.
        OSError: the disk is full or refuses. What `fence` raises.

    """
    _refuse_non_finite(snapshot)
    target = folder / f"step-{snapshot.clock.step:08d}"
    temporary = folder / f".{target.name}-new"
    fence()
    make_folder(folder)
    for left_behind in folder.glob(".step-*"):  # by a save that was killed: only the holder of the lease writes here
        shutil.rmtree(left_behind, ignore_errors=True)
    try:
        _write_files(temporary, snapshot)
        fence()
        if target.exists():  # only a damaged one can be there: a whole one would have been gone on from
            remove_folder(target)
        temporary.rename(target)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    try:
        sync_folder(folder)
    except OSError:  # it has its name, but perhaps not on the disk: that is no checkpoint
        remove_folder(target)
        raise
    return target


def _write_files(folder: Path, snapshot: Snapshot) -> None:
    folder.mkdir()
    files = {
        name: write_synced(folder / name, _safetensors(tensors))
        for name, tensors in ((MODEL, snapshot.model), (OPTIMIZER, snapshot.optimizer))
    }
    manifest = Manifest(
        format=FORMAT,
        written_by=__version__,
        step=snapshot.clock.step,
        updates=snapshot.clock.updates,
        fingerprint=snapshot.fingerprint,
        links=snapshot.links,
        guard=snapshot.guard,
        files={name: FileEntry(size=size, sha256=digest) for name, (size, digest) in files.items()},
    )
    if snapshot.best is not None:
        write_synced(folder / BEST, [snapshot.best.model_dump_json().encode()])
    write_synced(folder / MANIFEST, [sealed(manifest.model_dump(mode="json"))])
    sync_folder(folder)


def sealed(values: dict[str, Any]) -> bytes:
    """A manifest as it is written, with its own hash."""
    return json.dumps({**values, "seal": seal(values)}, indent=1).encode()


def seal(values: dict[str, Any]) -> str:
    """The hash of a manifest without its seal. Every format has it, and `format`."""
    rest = {name: value for name, value in values.items() if name != "seal"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def _safetensors(tensors: dict[str, Tensor]) -> Iterator[bytes | memoryview]:
    """A safetensors file, piece by piece, without a second copy in memory; the widest types first, so that all are aligned."""
    names = sorted(tensors, key=lambda name: (-tensors[name].element_size(), name))
    header: dict[str, Any] = {}
    end = 0
    for name in names:
        tensor = tensors[name]
        start, end = end, end + tensor.numel() * tensor.element_size()
        header[name] = {"dtype": _DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    yield len(text).to_bytes(8, "little") + text
    for name in names:
        if tensors[name].numel():
            yield tensors[name].reshape(-1).view(torch.uint8).numpy().data


def _refuse_non_finite(snapshot: Snapshot) -> None:
    for name, tensor in (*snapshot.model.items(), *snapshot.optimizer.items()):
        if not is_finite(tensor):
            raise NumericsError(
                "K-17",
                f"the checkpoint at step {snapshot.clock.step} was not written: {name} holds numbers that are not finite.",
                "The checkpoints before it are untouched.",
                "The same command goes on from the last; with a lower --optim.base-lr begin another run.",
            )
