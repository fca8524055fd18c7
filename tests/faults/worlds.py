"""Runs in processes of their own, one or several together, that can be killed, stopped and frozen."""

import hashlib
import json
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from small_runs import FORKSERVER, tiny
from tutelage.engine.checkpoint import checkpoint_folders
from tutelage.engine.pretrain import pretrain
from tutelage.errors import TutelageError

STEPS = 60

Plant = Callable[[], None]
"""Called in each process before its run: plants a fault there."""


def settings(method: str = "pseudomae", **changes: Any) -> Any:
    """A run of a second: 60 steps, a checkpoint every 4, with drop path so that more than data order is random."""
    shared = {"steps": STEPS, "save_steps": 4, "monitors": 0, "backbone": {"drop_path": 0.1}}
    return tiny(method, **{**shared, **changes})


def begin(out: Path, plant: Plant | None = None, **changes: Any) -> Any:
    """A run by one process, which exits as the command would."""
    process = FORKSERVER.Process(target=_run, args=(out, {}, plant, changes))
    process.start()
    return process


def rendezvous(world: int) -> dict[str, str]:
    """Where so many processes meet, as torchrun would tell them, at a free port."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(world)}


def begin_world(out: Path, world: int, plant: Plant | None = None, **changes: Any) -> list[Any]:
    """A run by several processes, as torchrun would start them."""
    shared, processes = rendezvous(world), []
    for rank in range(world):
        environment = shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)}
        processes.append(FORKSERVER.Process(target=_run, args=(out, environment, plant, changes)))
        processes[-1].start()
    return processes


def ended(*processes: Any, within: float = 120.0) -> list[int]:
    """The exit codes, once all have ended; what has not by then is killed, and fails the test."""
    limit = time.monotonic() + within
    for process in processes:
        process.join(max(0.0, limit - time.monotonic()))
    late = [process for process in processes if process.is_alive()]
    for process in late:
        process.kill()
        process.join()
    assert not late, f"{len(late)} of {len(processes)} processes had not ended after {within} s"
    return [process.exitcode for process in processes]


def last_step(out: Path) -> int:
    """The last step that the run has told of."""
    steps = [line["step"] for line in lines(out / "metrics.jsonl")]
    return steps[-1] if steps else 0


def wait_for(out: Path, step: int, *processes: Any) -> None:
    """Until the run has told of the step; fails if it ends before."""
    while last_step(out) < step:
        time.sleep(0.001)
        assert any(process.is_alive() for process in processes), f"the run ended before step {step}"


def lines(file: Path) -> list[dict[str, Any]]:
    """The whole lines of a JSONL file."""
    text = file.read_text() if file.exists() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


def events(out: Path, name: str) -> list[dict[str, Any]]:
    """The events of this name."""
    return [event for event in lines(out / "events.jsonl") if event["event"] == name]


def fingerprint(out: Path, step: int = STEPS) -> dict[str, str]:
    """Hash of every tensor of a checkpoint: weights, teachers, optimizer."""
    folder = out / "checkpoints" / f"step-{step:08d}"
    assert folder in checkpoint_folders(out / "checkpoints"), f"{folder} is not there"
    tensors = load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


def digest(out: Path, step: int = STEPS) -> str:
    """The data chain of a checkpoint."""
    return json.loads((out / f"checkpoints/step-{step:08d}/MANIFEST.json").read_text())["links"]["digest"]


def said(out: Path, rank: int = 0) -> str:
    """What the process has written on standard error."""
    return _said(out, rank).read_text()


def losses(out: Path) -> list[float]:
    """The loss of every step."""
    told = lines(out / "metrics.jsonl")
    assert [line["step"] for line in told] == list(range(1, len(told) + 1))
    return [line["loss"] for line in told]


def _said(out: Path, rank: int) -> Path:
    return out.parent / f"{out.name}-{rank}.err"


def _run(out: Path, environment: dict[str, str], plant: Plant | None, changes: dict[str, Any]) -> None:
    os.environ |= {"OMP_NUM_THREADS": "1", **environment}
    os.dup2(os.open(_said(out, int(environment.get("RANK", 0))), os.O_CREAT | os.O_WRONLY | os.O_APPEND), 2)
    if plant:
        plant()
    try:
        finished = pretrain(settings(**changes), out, quiet=True)
    except TutelageError as error:
        print(error, file=sys.stderr)
        raise SystemExit(error.exit_code) from None
    raise SystemExit(75 if finished.stopped else 0)
