"""Checkpoints on the disk: which there are, which stay, and how one is read and put back.

What is in one, and how it is written, is in `tutelage.engine.snapshot`. Nothing is made of a file before its size, its
header and its hash were found right; nothing that a checkpoint names is opened but its own two files.
"""

import json
import platform
import re
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError
from torch import Tensor, nn

from tutelage.clock import Clock, moves
from tutelage.config import parse_json
from tutelage.durable import PASSING, WAITS, patiently, remove_folder
from tutelage.engine.chain import Links
from tutelage.engine.snapshot import (
    BEST,
    FORMAT,
    MANIFEST,
    MODEL,
    OPTIMIZER,
    Best,
    FileEntry,
    Manifest,
    is_finite,
    seal,
)
from tutelage.errors import CheckpointError
from tutelage.foreign import read_hashed, read_regular
from tutelage.method import Method
from tutelage.version import __version__

NEWEST = 2
"""How many of the newest checkpoints there are: the second is there in case the first is damaged."""
KEPT = "KEPT"
"""A checkpoint that holds a file of this name is never removed."""
_NAME = re.compile(r"step-\d{8,16}")
_MOST_MANIFEST = 1_000_000
"""Bytes of the largest manifest that is read; they have some thousands."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes were found right, in memory."""

    path: Path
    step: int
    updates: int
    fingerprint: str
    links: Links | None
    """The data chain; None in checkpoints of format 1."""
    guard: dict[str, Any]
    """What the judgement of losses looks back on."""
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


# --- which there are, and which stay ----------------------------------------------------------------------------------


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first by their step, never by their time."""
    names = [path for path in folder.glob("step-*") if _NAME.fullmatch(path.name) and path.is_dir()]
    return sorted(names, key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def prune_checkpoints(folder: Path, keep_steps: int | None = None) -> None:
    """Remove all but the newest two, the best, and those kept for good: at multiples of `keep_steps`, or marked so before.

    Marks last: a run that goes on with another `keep_steps`, or without, keeps what it kept. Of two marked as the best
    the worse loses its mark.
    """
    best = best_checkpoint(folder)
    for place, path in enumerate(checkpoint_folders(folder)):
        if keep_steps and step_of(path) % keep_steps == 0:
            (path / KEPT).touch()
        if best and path != best[0]:
            (path / BEST).unlink(missing_ok=True)
        if place >= NEWEST and not (path / KEPT).exists() and not (path / BEST).exists():
            remove_folder(path)


def best_checkpoint(folder: Path) -> tuple[Path, Best] | None:
    """The checkpoint that is marked as the best, and by what."""
    marked = []
    for path in checkpoint_folders(folder):
        try:
            marked.append((path, Best.model_validate(parse_json(read_regular(path / BEST, 1_000)))))
        except (OSError, ValueError):  # not marked, or no longer readable
            continue
    return max(marked, key=lambda item: item[1].score, default=None)


# --- reading ----------------------------------------------------------------------------------------------------------


def load_newest(folder: Path, before: int | None = None) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes are right (of a step below `before`), and what is wrong with newer ones.

    Raises:
        CheckpointError: K-11, there are checkpoints but none is whole: a run never starts again at step 0 by itself;
            K-12, the newest is of a later version; K-21, the disk fails: a checkpoint behind it is not damaged.

    """
    wrong: list[str] = []
    for path in checkpoint_folders(folder):
        if before is not None and step_of(path) >= before:
            continue
        try:
            return patiently(partial(read_checkpoint, path)), wrong
        except (OSError, ValueError) as error:
            if isinstance(error, OSError) and error.errno in PASSING:
                raise _disk_failed(path, error) from error
            wrong.append(f"{path.name}: {reason_of(error)}")
    if wrong:
        raise CheckpointError(
            "K-11",
            f"no checkpoint in {folder} is whole: {'; '.join(wrong)}.",
            "The run cannot go on, and it does not start again at step 0 by itself.",
            "Restore a checkpoint, or begin a new run with another --out.",
        )
    return None, wrong


def _disk_failed(path: Path, error: OSError) -> CheckpointError:
    return CheckpointError(
        "K-21",
        f"{path} could not be read on {platform.node()} in {len(WAITS) + 1} tries: {reason_of(error).lower()}.",
        "The disk or the network fails, which says nothing about the checkpoint: no older one takes its place.",
        "Mend it, or remove that checkpoint, and run the same command again.",
    )


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, every file checked against its size and hash before a tensor is made of it.

    Raises:
        ValueError: it is damaged. OSError: it cannot be read. CheckpointError: K-12, it is of a later version.

    """
    manifest = _read_manifest(path)
    if manifest.step != step_of(path):
        raise ValueError(f"it holds step {manifest.step}")
    if set(manifest.files) != {MODEL, OPTIMIZER}:
        raise ValueError(f"its manifest names {', '.join(sorted(manifest.files))}")
    more = {file.name for file in path.glob("*.safetensors")} - set(manifest.files)
    if more:
        raise ValueError(f"{', '.join(sorted(more))} belongs to another")
    model, optimizer = (_read_tensors(path / name, manifest.files[name]) for name in (MODEL, OPTIMIZER))
    return Checkpoint(
        path,
        manifest.step,
        manifest.updates,
        manifest.fingerprint,
        manifest.links,
        manifest.guard,
        model,
        optimizer,
    )


def _read_manifest(path: Path) -> Manifest:
    data = read_regular(path / MANIFEST, _MOST_MANIFEST)
    values = parse_json(data)
    given, number = values.pop("seal", None), values.get("format")
    if number != 1 and given != seal(values):
        raise ValueError(f"{MANIFEST} does not have the hash it was written with")
    if type(number) is int and number > FORMAT:
        raise CheckpointError(
            "K-12",
            f"{path} was written by tutelage {values.get('written_by', 'of a later version')} in format {number}; "
            f"this is {__version__}, which reads up to {FORMAT}.",
            todo="Upgrade tutelage.",
        )
    try:
        return Manifest.model_validate_json(json.dumps(values), strict=True)
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        raise ValueError(f"{MANIFEST}: {'.'.join(map(str, first['loc']))[:80]}: {first['msg']}") from None


def _read_tensors(path: Path, entry: FileEntry) -> dict[str, Tensor]:
    tensors = read_hashed(path, entry.size, entry.sha256)
    for name, tensor in tensors.items():
        if not is_finite(tensor):
            raise ValueError(f"K-17, {name} holds numbers that are not finite")
    return tensors


def reason_of(error: Exception) -> str:
    """What is wrong with a checkpoint, in some words."""
    if isinstance(error, FileNotFoundError):
        return f"{Path(error.filename).name} is missing"
    return error.strerror if isinstance(error, OSError) and error.strerror else str(error)


# --- putting one back -------------------------------------------------------------------------------------------------


def restore(checkpoint: Checkpoint, method: Method, optimizer: torch.optim.Optimizer, clock: Clock) -> Clock:
    """Put weights, teachers and optimizer back, and return the clock of the checkpoint."""
    refuse_other_shapes(checkpoint.model, method)
    method.load_state_dict(checkpoint.model)
    names = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    if checkpoint.updates and {key.rpartition("/")[0] for key in checkpoint.optimizer} != names:
        raise CheckpointError("K-30", f"{checkpoint.path} holds the optimizer of another model.")
    optimizer.state.clear()
    for name, parameter in method.named_parameters():
        if checkpoint.updates and parameter.requires_grad:
            optimizer.state[parameter] = {
                key: _placed(checkpoint.optimizer[f"{name}/{key}"], parameter, key)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    clock = Clock(clock.batch_size, clock.num_pictures, clock.total_steps, checkpoint.step, checkpoint.updates)
    for name, teacher in method.teachers.items():
        due = moves(teacher.settings.every, clock)
        if int(teacher.num_moves) != due:
            raise CheckpointError(
                "K-16",
                f"the {name} of {checkpoint.path} has moved {int(teacher.num_moves)} times, but should have {due} times.",
                "Its clock and its weights disagree.",
                "Use an older checkpoint.",
            )
    return clock


def refuse_other_shapes(found: dict[str, Tensor], module: nn.Module) -> None:
    """Refuse weights of another size or precision, naming the first tensors that differ."""
    expected = {name: _form(tensor) for name, tensor in module.state_dict().items()}
    shapes = {name: _form(tensor) for name, tensor in found.items()}
    if shapes == expected:
        return
    names = [name for name in sorted(expected.keys() | shapes.keys()) if shapes.get(name) != expected.get(name)]
    rows = "; ".join(
        f"{name} {shapes.get(name, 'missing')}, expected {expected.get(name, 'none')}" for name in names[:4]
    )
    raise CheckpointError(
        "K-30",
        f"the checkpoint is of another size: {len(names)} tensors differ ({rows}).",
        "It was written by a run with other settings.",
        "Use the settings of that run, or another --out.",
    )


def _form(tensor: Tensor) -> str:
    """`(64, 32) float32`."""
    return f"{tuple(tensor.shape)} {str(tensor.dtype).removeprefix('torch.')}"


def _placed(value: Tensor, parameter: nn.Parameter, key: str) -> Tensor:
    # The fused AdamW keeps its step count beside its parameter, in float32 whatever the parameter's precision.
    return value.to(device=parameter.device, dtype=torch.float32 if key == "step" else parameter.dtype)
