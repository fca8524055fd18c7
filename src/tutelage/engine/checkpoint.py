"""Checkpoints: safetensors and JSON, hashed, and there whole or not at all.

A checkpoint is the folder `step-00001200` with the method's weights (student, decoder, heads, teachers and how often they
moved), the optimizer's moments, and a manifest with the clock and the hash of every file. It is written beside its place,
synced, and renamed; what a kill leaves behind never looks like a checkpoint.
"""

import hashlib
import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn

from tutelage.clock import Clock, moves
from tutelage.errors import CheckpointError
from tutelage.method import Method

FORMAT = 1
NEWEST = 2
"""How many of the newest checkpoints there are: the second is there in case the first is damaged."""
KEPT = "KEPT"
"""A checkpoint that holds a file of this name is never removed."""


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint whose hashes were found right, in memory."""

    path: Path
    step: int
    updates: int
    fingerprint: str
    model: dict[str, Tensor]
    optimizer: dict[str, Tensor]


def save_checkpoint(
    folder: Path, method: Method, optimizer: torch.optim.Optimizer, clock: Clock, fingerprint: str
) -> Path:
    """Write the checkpoint of this step."""
    target = folder / f"step-{clock.step:08d}"
    for left_behind in folder.glob(
        ".step-*"
    ):  # by a save that was killed: the run's lock is held, nobody writes them now
        shutil.rmtree(left_behind, ignore_errors=True)
    temporary = folder / f".{target.name}"
    temporary.mkdir(parents=True)
    contents = {
        "model.safetensors": save(_plain(method.state_dict())),
        "optimizer.safetensors": save(_plain(optimizer_tensors(method, optimizer))),
    }
    files = {name: {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()} for name, data in contents.items()}
    manifest = {
        "format": FORMAT,
        "step": clock.step,
        "updates": clock.updates,
        "fingerprint": fingerprint,
        "files": files,
    }
    for name, data in [*contents.items(), ("MANIFEST.json", json.dumps(manifest, indent=1).encode())]:
        _write_synced(temporary / name, data)
    _sync_folder(temporary)
    shutil.rmtree(
        target, ignore_errors=True
    )  # only a damaged one can be there: a whole one would have been gone on from
    temporary.rename(target)
    _sync_folder(folder)
    return target


def prune_checkpoints(folder: Path, keep_steps: int | None = None) -> None:
    """Remove all but the newest two and those that are kept for good: at multiples of `keep_steps`, or marked so before.

    The mark lasts: a run that goes on with another `keep_steps`, or without, keeps what it kept.
    """
    for place, path in enumerate(checkpoint_folders(folder)):
        if keep_steps and step_of(path) % keep_steps == 0:
            (path / KEPT).touch()
        elif place >= NEWEST and not (path / KEPT).exists():
            shutil.rmtree(path, ignore_errors=True)


def checkpoint_folders(folder: Path) -> list[Path]:
    """The checkpoints of a run, newest first by their step, never by their time."""
    return sorted(folder.glob("step-[0-9]*"), key=step_of, reverse=True)


def step_of(path: Path) -> int:
    """The step in the name of a checkpoint."""
    return int(path.name.removeprefix("step-"))


def load_newest(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint whose hashes are right, and what is wrong with newer ones.

    Raises:
        CheckpointError: there are checkpoints, but none is whole. A run never starts again at step 0 by itself.

    """
    wrong: list[str] = []
    for path in checkpoint_folders(folder):
        try:
            return read_checkpoint(path), wrong
        except (OSError, ValueError, KeyError, SafetensorError) as error:
            wrong.append(f"{path.name}: {error}")
    if wrong:
        raise CheckpointError(
            "K-11",
            f"no checkpoint in {folder} is whole: {'; '.join(wrong)}.",
            "The run cannot go on, and it does not start again at step 0 by itself.",
            "Restore a checkpoint, or begin a new run with another --out.",
        )
    return None, wrong


def read_checkpoint(path: Path) -> Checkpoint:
    """A checkpoint, every file checked against its size and hash before a tensor is made of it."""
    manifest = json.loads((path / "MANIFEST.json").read_text(encoding="utf-8"))
    if manifest["format"] > FORMAT:
        raise ValueError(f"it is of format {manifest['format']}, this version reads up to {FORMAT}")
    contents: dict[str, dict[str, Tensor]] = {}
    for name in ("model.safetensors", "optimizer.safetensors"):
        data, expected = (path / name).read_bytes(), manifest["files"][name]
        if len(data) != expected["size"]:
            raise ValueError(f"{name} has {len(data):,} of {expected['size']:,} bytes")
        if hashlib.sha256(data).hexdigest() != expected["sha256"]:
            raise ValueError(f"{name} does not have the hash it was written with")
        contents[name] = load(data)
    return Checkpoint(
        path,
        int(manifest["step"]),
        int(manifest["updates"]),
        str(manifest["fingerprint"]),
        contents["model.safetensors"],
        contents["optimizer.safetensors"],
    )


def restore(checkpoint: Checkpoint, method: Method, optimizer: torch.optim.Optimizer, clock: Clock) -> Clock:
    """Put weights, teachers and optimizer back, and return the clock of the checkpoint."""
    refuse_other_shapes(checkpoint.model, method)
    method.load_state_dict(checkpoint.model)
    names = {name for name, parameter in method.named_parameters() if parameter.requires_grad}
    if checkpoint.updates and {key.rpartition("/")[0] for key in checkpoint.optimizer} != names:
        raise CheckpointError("K-30", f"{checkpoint.path} holds the optimizer of another model.")
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
    """Refuse weights of another size, naming the first tensors that differ."""
    expected = {name: tuple(tensor.shape) for name, tensor in module.state_dict().items()}
    shapes = {name: tuple(tensor.shape) for name, tensor in found.items()}
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


def optimizer_tensors(module: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """AdamW's state by parameter name."""
    return {
        f"{name}/{key}": value
        for name, parameter in module.named_parameters()
        if parameter in optimizer.state
        for key, value in optimizer.state[parameter].items()
    }


def _placed(value: Tensor, parameter: nn.Parameter, key: str) -> Tensor:
    # The fused AdamW keeps its step count beside its parameter, in float32 whatever the parameter's precision.
    return value.to(device=parameter.device, dtype=torch.float32 if key == "step" else parameter.dtype)


def _plain(tensors: dict[str, Any]) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
