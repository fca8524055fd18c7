"""Several processes: they agree before they begin, and when one is lost the others say which (A10, I1, I2, I4, I6, I7, I12)."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from test_kills import slow_disk
from worlds import STEPS, begin, begin_world, digest, ended, events, fingerprint, last_step, losses, said, wait_for

from data.pictures_on_disk import fill
from small_runs import FLAGS, HEAD_FLAGS


def another_seed(here: Path) -> None:
    import worlds

    ours = worlds.settings
    worlds.settings = lambda **changes: ours(**changes, seed=1)


def another_code(here: Path) -> None:
    from tutelage.engine import agreement

    agreement._code = lambda: "another"


def another_torch(here: Path) -> None:
    torch.__version__ = "2.6.0"


def another_picture(here: Path) -> None:
    Image.new("RGB", (9, 9), "red").save(here / "set" / "003.png")


def on_another_machine(change: Callable[[Path], None], place: Path) -> None:
    """Plant: each process finds its own files where the run's settings say `set`, and with process 1 something is changed."""
    os.chdir(place / os.environ["RANK"])
    if os.environ["RANK"] == "1":
        change(Path.cwd())


@pytest.fixture
def machines(tmp_path: Path) -> Path:
    """A place with the same 40 pictures for process 0 and process 1."""
    for rank in ("0", "1"):
        (tmp_path / rank).mkdir()
        fill(tmp_path / rank / "set", 40)
    return tmp_path


@pytest.mark.parametrize(
    ("change", "column"),
    [
        (another_seed, "the settings"),
        (another_code, "the code of tutelage"),
        (another_torch, "torch"),
        (another_picture, "the pictures"),
    ],
)
def test_processes_that_differ_are_refused_before_the_first_step(change: Any, column: str, machines: Path) -> None:
    out = machines / "run"
    processes = begin_world(out, 2, plant=partial(on_another_machine, change, machines), data="set")
    assert ended(*processes) == [7, 7]
    for rank in (0, 1):
        told = f"P-04: the processes do not agree: {column} on 1 differ from those on process 0."
        assert said(out, rank).startswith(told), said(out, rank)
    assert not out.exists()


def without_pictures(here: Path) -> None:
    shutil.rmtree(here / "set")


def test_one_that_cannot_begin_says_why_and_the_other_does_not_wait_for_it(machines: Path) -> None:
    out = machines / "run"
    processes = begin_world(out, 2, plant=partial(on_another_machine, without_pictures, machines), data="set")
    assert ended(processes[1]) == [3] and ended(processes[0], within=10) == [7]
    assert said(out).startswith("P-04: another process of this run could not begin.")
    assert said(out, 1).startswith("D-01: there is no file or folder set.")
    assert not out.exists()


def test_a_signal_to_one_of_two_stops_both_at_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = begin_world(out, 2, steps=5000)
    wait_for(out, 5, *processes)
    os.kill(processes[1].pid, signal.SIGUSR1)
    assert ended(*processes) == [75, 75]
    assert len(events(out, "stopped")) == 1
    last = last_step(out)
    assert fingerprint(out, last)
    assert [path.name for path in (out / "checkpoints").glob(f"*{last:08d}*")] == [f"step-{last:08d}"]
    assert [event["step"] for event in events(out, "checkpoint")].count(last) == 1


def test_when_one_is_killed_the_others_leave_and_name_it(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = begin_world(out, 2, steps=5000)
    wait_for(out, 5, *processes)
    time.sleep(2.5)  # a beat
    processes[1].kill()
    killed_at = time.monotonic()
    assert ended(*processes, within=60) == [7, -signal.SIGKILL]
    assert time.monotonic() - killed_at < 15
    assert f"P-05: process 1 (host {os.uname().nodename}, pid {processes[1].pid})" in said(out)


@pytest.mark.long
def test_when_one_is_frozen_the_others_name_it_and_leave(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = begin_world(out, 2, steps=50_000)
    wait_for(out, 5, *processes)
    time.sleep(2.5)
    os.kill(processes[1].pid, signal.SIGSTOP)
    frozen_at = time.monotonic()
    processes[0].join(70)
    assert processes[0].exitcode == 7 and time.monotonic() - frozen_at < 60
    assert f"P-06: process 1 (host {os.uname().nodename}, pid {processes[1].pid}), at step" in said(out)
    assert "Thread" in (out / "pulse" / "stacks-0.txt").read_text()
    processes[1].kill()
    processes[1].join()


@pytest.mark.long
def test_under_torchrun_a_killed_process_is_started_again_and_the_run_ends_equal(tmp_path, amount, figure) -> None:
    rng, trials = random.Random(0), amount(0, 2, 20)
    whole = {}
    for trial in range(trials):
        world = 4 if trial % 4 == 3 else 2
        if world not in whole:
            whole[world] = tmp_path / f"whole-{world}"
            assert torchrun(whole[world], world).wait() == 0
        out = tmp_path / f"run-{trial}"
        launched = torchrun(out, world)
        wait_for(out, rng.randint(6, STEPS - 20), _Alive(launched))
        time.sleep(rng.uniform(0, 0.05))
        victim = rng.choice(children(launched.pid))
        os.kill(victim, signal.SIGKILL)
        assert launched.wait(timeout=600) == 0
        assert len(events(out, "started")) + len(events(out, "resumed")) == 2, "it was started again"
        assert fingerprint(out) == fingerprint(whole[world])
        assert losses(out) == losses(whole[world])
    figure("a rank killed under torchrun, 2 and 4 gloo processes", f"{trials} kills, equal after restart")


@pytest.mark.long
@pytest.mark.parametrize(("precision", "at_first", "at_last"), [("float64", 1e-10, 1e-10), ("float32", 1e-6, 1e-4)])
def test_a_run_may_go_on_with_another_number_of_processes(
    precision: str, at_first: float, at_last: float, tmp_path: Path, figure
) -> None:
    """I4, without drop path, whose numbers are each process's own: losses differ by these shares."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    changes = {"precision": precision, "backbone": {"drop_path": 0.0}}
    assert ended(begin(whole, **changes)) == [0]
    for world, until in ((2, 15), (1, 30), (4, 45), (2, STEPS)):
        codes = ended(*begin_world(out, world, partial(stops_after, until), **changes))
        assert codes == [75 if until < STEPS else 0] * world, said(out)
    shares = [abs(a / b - 1) for a, b in zip(losses(out), losses(whole), strict=True)]
    assert len(shares) == STEPS and max(shares) < at_last
    assert max(shares[15], shares[30], shares[45]) < at_first, "the first step after each change"
    assert digest(out) == digest(whole)
    reached = f"data chain equal; losses of {STEPS} steps within {max(shares):.0e} of their value"
    figure(f"elastic 2 -> 1 -> 4 -> 2, {precision}", reached)


def stops_after(step: int) -> None:
    from tutelage.engine import keeper

    ours = keeper.Keeper.after

    def after(self, clock, *rest):
        if clock.step == step:
            (self.run.path / "STOP").touch()
            self.stop._next_look = 0.0
        return ours(self, clock, *rest)

    keeper.Keeper.after = after


@pytest.mark.long
def test_two_processes_that_save_each_step_to_a_slow_disk_end_with_the_same_bits(tmp_path: Path) -> None:
    """What they tell each other in training and in saving is not mixed up."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert ended(*begin_world(whole, 2, steps=12)) == [0, 0]
    assert ended(*begin_world(out, 2, partial(slow_disk, tmp_path / "told"), steps=12, save_steps=1)) == [0, 0]
    assert (tmp_path / "told").exists()
    assert [event["step"] for event in events(out, "checkpoint")] == list(range(1, 13))
    assert fingerprint(out, 12) == fingerprint(whole, 12) and digest(out, 12) == digest(whole, 12)
    assert losses(out) == losses(whole)


def torchrun(out: Path, world: int) -> "subprocess.Popen[bytes]":
    words = ["pretrain", "pseudomae-quickstart", "--data=digits", f"--steps={STEPS}", "--save-steps=4", f"--out={out}"]
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={world}"]
    return subprocess.Popen(
        [*command, "--max-restarts=3", "-m", "tutelage", *words, *FLAGS, *HEAD_FLAGS, "--monitors=0", "--device=cpu"],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )


def children(pid: int) -> list[int]:
    """The processes that this one started, by the kernel's list."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class _Alive:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def is_alive(self) -> bool:
        return self.process.poll() is None
