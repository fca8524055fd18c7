"""Checkpoints made by hand, and runs of a moment, for tests that damage them."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from small_runs import tiny
from tutelage.clock import Clock
from tutelage.engine.chain import Links
from tutelage.engine.checkpoint import load_newest
from tutelage.engine.pretrain import pretrain
from tutelage.engine.snapshot import MANIFEST, MODEL, Best, Snapshot, sealed, write_snapshot


def snapshot(step: int, accuracy: float | None = None) -> Snapshot:
    """Every number of it is its step, so that a mixture is seen."""
    tensors = {f"{name}.{i}": torch.full((5, i + 1), float(step)) for name in ("student", "teacher") for i in range(2)}
    return Snapshot(
        clock=Clock(batch_size=1, num_pictures=9, total_steps=9, step=step, updates=step),
        fingerprint="these",
        links=Links(digest=f"{step:016x}", before_step=0, before="0" * 16),
        model=tensors | {"num_moves": torch.tensor(step)},
        optimizer={f"student.0/{key}": torch.full((5, 1), float(step)) for key in ("step", "exp_avg", "exp_avg_sq")},
        best=None if accuracy is None else Best(by="knn_accuracy", value=accuracy),
    )


def saved(folder: Path, *steps: int) -> list[Path]:
    return [write_snapshot(folder, snapshot(step)) for step in steps]


def rewritten(path: Path, change: Callable[[dict[str, Any]], None], *, honest: bool = True) -> None:
    """The manifest changed, by one who knows how it is sealed or by one who does not."""
    values = json.loads((path / MANIFEST).read_text())
    change(values)
    (path / MANIFEST).write_bytes(sealed(values) if honest else json.dumps(values).encode())


def forged(path: Path, data: bytes) -> None:
    """Other weights, or what is none, by one who knows how they are hashed and sealed."""
    (path / MODEL).write_bytes(data)
    entry = {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    rewritten(path, lambda v: v["files"].update({MODEL: entry}))


def short_run(out: Path, **changes: Any) -> None:
    """Twelve steps of MAE, saved every four."""
    pretrain(tiny("mae", **{"steps": 12, "save_steps": 4, "monitors": 0, **changes}), out, quiet=True)


def assert_equal(out: Path, other: Path) -> None:
    ours, theirs = (load_newest(o / "checkpoints")[0] for o in (out, other))
    assert ours is not None and theirs is not None and ours.step == theirs.step == 12
    assert ours.links and theirs.links and ours.links.digest == theirs.links.digest
    for name, value in {**ours.model, **ours.optimizer}.items():
        assert torch.equal(value, {**theirs.model, **theirs.optimizer}[name]), name
