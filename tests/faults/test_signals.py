"""A run that is asked to stop, however and whenever, saves, exits with 75 and goes on with the same bits (A8 to A13, A15)."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
from worlds import STEPS, begin, ended, fingerprint, last_step, lines, losses, rendezvous, said, wait_for

from data.pictures_on_disk import fill
from small_runs import FLAGS

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


PROGRAM = """
import sys
import test_signals
from tutelage.cli import main

getattr(test_signals, sys.argv[1])()
sys.exit(main(sys.argv[2:]))
"""


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., "subprocess.Popen[str]"]]:
    """`tutelage pretrain` of STEPS steps, perhaps with a fault, as a shell starts it that leaves Ctrl-C to its programs."""
    started = []
    words = ["pretrain", "mae-quickstart", "--data=digits", f"--steps={STEPS}", f"--out={tmp_path / 'run'}", *FLAGS]

    def start(plant: str = "") -> "subprocess.Popen[str]":
        process = subprocess.Popen(
            [sys.executable, *(["-c", PROGRAM, plant] if plant else ["-m", "tutelage"]), *words, "--monitors=0"],
            env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)},
            stderr=subprocess.PIPE,
            text=True,
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
        )
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.wait()


@pytest.mark.long
def test_ctrl_c_of_the_command_saves_and_exits_with_75_and_the_same_command_goes_on(command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = command("slow_steps")
    wait_for(out, 5, _Alive(process))
    process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=60)
    assert process.returncode == 75, told
    assert f"saved   step {last_step(out)} of {STEPS}; run the same command to go on" in told
    assert "Traceback" not in told and fingerprint(out, last_step(out))
    process = command()
    _, told = process.communicate(timeout=120)
    assert process.returncode == 0 and "resume  at step " in told, told
    assert len(losses(out)) == STEPS and (out / "report.html").exists()


@pytest.mark.long
def test_a_second_ctrl_c_of_the_command_exits_with_130(command, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = command("endless_step_20")
    wait_for(out, 19, _Alive(process))
    for _ in range(2):
        time.sleep(0.3)
        assert process.poll() is None, "the first waits for the step"
        process.send_signal(signal.SIGINT)
    _, told = process.communicate(timeout=30)
    assert process.returncode == 130 and "Traceback" not in told, told
    assert last_step(out) == 19


def slow_steps() -> None:
    from tutelage.engine import train

    ours = train.step

    def step(*arguments):
        time.sleep(0.05)
        return ours(*arguments)

    train.step = step


def opening_for_ever(told: Path) -> None:
    from tutelage.engine import pretrain

    def open_data(*arguments, **options):
        told.touch()
        time.sleep(600)

    pretrain.open_data = open_data


def test_asked_while_the_set_is_being_opened_it_ends_at_once_and_leaves_no_folder(tmp_path: Path) -> None:
    """A12."""
    told = tmp_path / "told"
    process = begin(tmp_path / "run", partial(opening_for_ever, told))
    while not told.exists():
        assert process.is_alive()
        time.sleep(0.01)
    process.terminate()
    assert ended(process, within=2) == [75]
    assert not (tmp_path / "run").exists() and said(tmp_path / "run") == ""


def hanging_disk(told: Path) -> None:
    """Plant: the first picture that is read in training is never there."""
    from tutelage.data import reading
    from tutelage.engine import keeper, pulse

    pulse.BEAT, ours, began = 0.2, reading._once, []
    keeper.Keeper.begin = lambda self, clock: began.append(clock)

    def once(path: Path, ask):
        if began:
            told.write_text(str(path))
            time.sleep(600)
        return ours(path, ask)

    reading._once = once


@pytest.mark.long
def test_a_picture_whose_reading_hangs_is_named(tmp_path: Path) -> None:
    """A15."""
    fill(tmp_path / "set", 40)
    changes = {"data": str(tmp_path / "set"), "stuck_minutes": 6 / 60, "workers": 0}
    process = begin(tmp_path / "run", partial(hanging_disk, tmp_path / "told"), method="mae", **changes)
    assert ended(process) == [7]
    picture, told = (tmp_path / "told").read_text(), said(tmp_path / "run")
    assert Path(picture).parent == tmp_path / "set"
    assert f"P-07: process 0, at step 0, is in data for 0.1 minutes. It was reading {picture}. " in told


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
