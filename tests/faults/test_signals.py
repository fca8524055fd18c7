"""A run that is asked to stop, however and whenever, saves, exits with 75 and goes on with the same bits (A8 to A13)."""

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from worlds import STEPS, begin, ended, fingerprint, last_step, lines, losses, rendezvous, wait_for

SIGNALS = ("SIGTERM", "SIGINT", "SIGUSR1", "SIGUSR2")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ended(begin(out)) == [0]
    return out


def test_asked_at_a_random_moment_it_saves_exits_with_75_and_goes_on_equal(whole, tmp_path, amount, figure) -> None:
    rng, stopped_while_training = random.Random(1), 0
    trials = amount(2, 8, 100)
    for trial in range(trials):
        out, wish = tmp_path / f"run-{trial}", SIGNALS[trial % 4]
        process = begin(out)
        if trial % 5 == 4:  # at any time, before the first step too
            time.sleep(rng.uniform(0, 1.5))
        else:
            wait_for(out, rng.randint(1, STEPS - 5), process)
        asked_at = last_step(out)
        os.kill(process.pid, getattr(signal, wish))
        (code,) = ended(process)
        if asked_at:
            assert code == 75, f"{wish} at step {asked_at}"
            assert fingerprint(out, last_step(out)), "saved where it stopped"
            assert last_step(out) <= asked_at + 3
            stopped_while_training += 1
        else:
            # Before it trains it may end as any process does; one that is only being forked ends a Ctrl-C with 1.
            assert code in (75, 0, 1, 130, -getattr(signal, wish)), f"{wish} before the first step"
        assert ended(begin(out)) == [0]
        assert fingerprint(out) == fingerprint(whole), f"{wish} at step {asked_at}"
        assert losses(out) == losses(whole)
    assert stopped_while_training >= trials * 3 // 5
    figure("SIGTERM, SIGINT, SIGUSR1, SIGUSR2 at random moments", f"{trials}: exit 75, equal on resume")


LOOP = """
import sys, time
from pathlib import Path
from tutelage.engine.pulse import Pulse

with Pulse(Path(sys.argv[1]), 0, 1, stuck_minutes=4 / 60).beating() as pulse:
    for step in range(int(sys.argv[2])):
        pulse.enter("data", step)
        print(step, flush=True)
        until = time.process_time() + float(sys.argv[3])  # which stands while the process does
        while time.process_time() < until:
            sum(range(10_000))
"""


def _pulse(folder: Path, steps: int, seconds: float) -> subprocess.Popen[str]:
    words = [sys.executable, "-c", LOOP, str(folder), str(steps), str(seconds)]
    return subprocess.Popen(words, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_process_that_was_suspended_is_not_called_stuck(tmp_path: Path) -> None:
    """Ctrl-Z, and an hour later `fg`."""
    process = _pulse(tmp_path, steps=3, seconds=0.5)
    assert process.stdout
    process.stdout.readline()
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(9)
    os.kill(process.pid, signal.SIGCONT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 0, said


def test_a_process_that_is_too_long_in_one_section_ends_and_says_where(tmp_path: Path) -> None:
    process = _pulse(tmp_path, steps=1, seconds=60)
    _, said = process.communicate(timeout=30)
    assert process.returncode == 7
    assert "P-07: process 0, at step 0, is in data for 0.0666667 minutes." in said
    assert "Thread" in (tmp_path / "pulse" / "stacks-0.txt").read_text()


def test_a_file_called_stop_does_the_same_and_is_taken_away(whole: Path, tmp_path: Path) -> None:
    process = begin(tmp_path / "run", steps=2000)
    wait_for(tmp_path / "run", 5, process)
    (tmp_path / "run" / "STOP").touch()
    assert ended(process) == [75]
    assert not (tmp_path / "run" / "STOP").exists()
    assert 5 <= last_step(tmp_path / "run") < 2000


def test_a_second_ctrl_c_ends_at_once_and_the_last_checkpoint_is_whole(whole: Path, tmp_path: Path) -> None:
    """The first is answered after the step; a step that never ends does not hold the second."""
    out = tmp_path / "run"
    process = begin(out, plant=endless_step_20)
    wait_for(out, 19, process)
    time.sleep(0.3)
    os.kill(process.pid, signal.SIGINT)
    time.sleep(0.3)
    assert process.is_alive(), "the first waits for the step"
    os.kill(process.pid, signal.SIGINT)
    (code,) = ended(process, within=10)
    assert code != 0 and last_step(out) == 19
    assert ended(begin(out)) == [0]
    assert fingerprint(out) == fingerprint(whole)


def endless_step_20() -> None:
    from tutelage.engine import train

    ours = train.step

    def step(module, optimizer, micro_batches, clock, *rest):
        while clock.step == 19:
            time.sleep(0.01)
        return ours(module, optimizer, micro_batches, clock, *rest)

    train.step = step


LAUNCHER = """
import subprocess, sys, time
subprocess.Popen([sys.executable, "-m", "tutelage", "pretrain", "mae-quickstart", *sys.argv[1:]])
time.sleep(600)
"""


@pytest.mark.long
@pytest.mark.skipif(sys.platform != "linux", reason="asks Linux for a signal when the parent dies")
def test_a_run_whose_launcher_was_killed_saves_and_leaves(tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = ["--data=digits", "--steps=100000", "--batch-size=32", "--log-steps=1", "--monitors=0", f"--out={out}"]
    launcher = subprocess.Popen(
        [sys.executable, "-c", LAUNCHER, *words, "--backbone.width=16", "--backbone.depth=2", "--backbone.heads=2"],
        env={**os.environ, **rendezvous(1), "RANK": "0", "LOCAL_RANK": "0", "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wait_for(out, 3, _Alive(launcher))
    launcher.kill()
    launcher.wait()
    limit = time.monotonic() + 30
    while not any(event["event"] == "stopped" for event in lines(out / "events.jsonl")):
        assert time.monotonic() < limit, "it trains on as an orphan"
        time.sleep(0.05)
    assert fingerprint(out, last_step(out))


class _Alive:
    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process

    def is_alive(self) -> bool:
        return self.process.poll() is None
