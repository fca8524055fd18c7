"""Several processes: they agree before they begin, and when one is lost the others say which (A10, I1, I2, I6)."""

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from worlds import STEPS, begin, begin_world, digest, ended, events, fingerprint, last_step, losses, said, wait_for

from small_runs import FLAGS, HEAD_FLAGS


def test_processes_with_other_settings_are_refused_before_the_first_step(tmp_path: Path) -> None:
    processes = begin_world(tmp_path / "run", 2, plant=another_seed_on_process_1)
    assert ended(*processes) == [7, 7]
    assert "P-04: the processes do not agree: the settings on 1 differ" in said(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def another_seed_on_process_1() -> None:
    import worlds

    ours = worlds.settings
    if os.environ["RANK"] == "1":
        worlds.settings = lambda **changes: ours(**changes, seed=1)


def test_a_signal_to_one_of_two_stops_both_at_the_same_step(tmp_path: Path) -> None:
    out = tmp_path / "run"
    processes = begin_world(out, 2, steps=5000)
    wait_for(out, 5, *processes)
    os.kill(processes[1].pid, signal.SIGUSR1)
    assert ended(*processes) == [75, 75]
    assert len(events(out, "stopped")) == 1
    assert fingerprint(out, last_step(out))


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
    rng, trials = random.Random(0), amount(0, 4, 20)
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
        assert launched.wait(timeout=180) == 0
        assert len(events(out, "started")) + len(events(out, "resumed")) == 2, "it was started again"
        assert fingerprint(out) == fingerprint(whole[world])
        assert losses(out) == losses(whole[world])
    figure("a rank killed under torchrun, 2 and 4 gloo processes", f"{trials} kills, equal after restart")


@pytest.mark.long
def test_a_run_may_go_on_with_another_number_of_processes(tmp_path: Path, figure) -> None:
    """I4, in float64 and without drop path, whose numbers are each process's own."""
    whole, out = tmp_path / "whole", tmp_path / "run"
    changes = {"precision": "float64", "backbone": {"drop_path": 0.0}}
    assert ended(begin(whole, **changes)) == [0]
    for world, until in ((2, 15), (1, 30), (4, 45), (2, STEPS)):
        codes = ended(*begin_world(out, world, partial(stops_after, until), **changes))
        assert codes == [75 if until < STEPS else 0] * world, said(out)
    difference = max(abs(a - b) for a, b in zip(losses(out), losses(whole), strict=True))
    assert len(losses(out)) == STEPS and difference < 1e-10
    assert digest(out) == digest(whole)
    figure("elastic 2 -> 1 -> 4 -> 2, float64", f"data chain equal; losses of {STEPS} steps within {difference:.0e}")


def stops_after(step: int) -> None:
    from tutelage.engine import keeper

    ours = keeper.Keeper.after

    def after(self, clock, *rest):
        if clock.step == step:
            (self.run.path / "STOP").touch()
            self.stop._next_look = 0.0
        return ours(self, clock, *rest)

    keeper.Keeper.after = after


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
