"""Killed with SIGKILL at random steps, a run goes on and ends with the bits of one that was not (A1, A11, K4)."""

import functools
import os
import random
import shutil
import signal
import time
from pathlib import Path

import pytest
from worlds import STEPS, begin, begin_world, digest, ended, events, fingerprint, last_step, losses, said, wait_for

from tutelage.engine.checkpoint import checkpoint_folders, load_newest, step_of
from tutelage.errors import CheckpointError
from tutelage.transfer import load_encoder


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ended(begin(out)) == [0]
    return out


def test_kill_9_at_random_steps_changes_no_bit(whole: Path, tmp_path: Path, amount, figure) -> None:
    """Weights, both teachers, optimizer, data chain and the losses of all steps; without and with two workers."""
    trials, resumed = amount(2, 40, 200), 0
    for trial in range(trials):
        rng, out, workers = random.Random(trial), tmp_path / "run", trial % 2 * 2
        process = begin(out, workers=workers)
        wait_for(out, rng.randint(1, STEPS - 5), process)
        time.sleep(rng.random() * 0.02)
        process.kill()
        assert ended(process) == [-signal.SIGKILL]
        assert last_step(out) < STEPS
        assert ended(begin(out, workers=workers)) == [0]
        resumed += bool(events(out, "resumed"))
        assert fingerprint(out) == fingerprint(whole)
        assert digest(out) == digest(whole)
        assert losses(out) == losses(whole)
        shutil.rmtree(out)
    assert resumed > trials // 2, "most began again at a checkpoint, not at step 0"
    figure(
        "kill -9 at random steps, PseudoMAE with both teachers, 0 and 2 workers",
        f"{trials} kills, 0 differing bits in weights, both teachers, optimizer, data chain",
    )


def slow_disk(told: Path) -> None:
    """Plant: every fsync of a checkpoint takes a while."""
    import threading

    real = os.fsync

    def fsync(descriptor: int) -> None:
        if threading.current_thread().name == "writer":
            told.touch()
            time.sleep(0.15)
        real(descriptor)

    os.fsync = fsync


@pytest.mark.long
def test_a_slow_disk_does_not_hold_up_training_and_changes_no_bit(whole: Path, tmp_path: Path) -> None:
    """The steps of a save's interval pass while it is being written; what is written is of its step."""
    out = tmp_path / "run"
    assert ended(begin(out, functools.partial(slow_disk, tmp_path / "told"), save_steps=30)) == [0]
    assert (tmp_path / "told").exists()
    saves = events(out, "checkpoint")
    assert [event["step"] for event in saves] == [30, 60]
    assert all(event["seconds"] > 0.6 > event["snapshot_seconds"] for event in saves)
    assert fingerprint(out) == fingerprint(whole) and digest(out) == digest(whole)
    found, _ = load_newest(out / "checkpoints", before=31)
    assert found is not None and found.step == 30


@pytest.mark.parametrize("end", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.long)])
def test_ended_during_a_save(whole: Path, tmp_path: Path, end: signal.Signals) -> None:
    """A11: by SIGTERM that save is completed, and one of the last step follows; by SIGKILL nothing of it is seen."""
    out = tmp_path / "run"
    process = begin(out, functools.partial(slow_disk, tmp_path / "told"), save_steps=20)
    while not list((out / "checkpoints").glob(".step-*-new")):
        assert process.is_alive()
        time.sleep(0.001)
    os.kill(process.pid, end)
    assert ended(process) == [75 if end == signal.SIGTERM else -signal.SIGKILL]
    there = [step_of(path) for path in checkpoint_folders(out / "checkpoints")]
    if end == signal.SIGTERM:
        assert there == [last_step(out), 20] or there == [20] == [last_step(out)]
        assert not list((out / "checkpoints").glob(".step-*"))
    else:
        assert there == []
        assert len(list((out / "checkpoints").glob(".step-*"))) == 1
    assert ended(begin(out)) == [0]
    assert not list((out / "checkpoints").glob(".step-*"))
    assert fingerprint(out) == fingerprint(whole) and digest(out) == digest(whole)


def dies_after_step_12() -> None:
    from tutelage.engine import keeper

    ours = keeper.Keeper.after

    def after(self, clock, *rest):
        stop = ours(self, clock, *rest)
        if clock.step == 12:
            os.kill(os.getpid(), signal.SIGKILL)
        return stop

    keeper.Keeper.after = after


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.long)])
def test_a_run_that_dies_after_the_same_step_again_and_again_is_not_begun_by_itself(tmp_path: Path, world: int) -> None:
    """A16: a scheduler that starts it whenever it died would do so for ever."""
    out, killed = tmp_path / "run", [-signal.SIGKILL]
    for _ in range(3):
        process, *others = begin_world(out, world, dies_after_step_12, save_steps=100)
        assert ended(process) == killed
        ended(*others)
    assert ended(*begin_world(out, world)) == [5] * world
    assert "N-09" in said(out) and "ended 3 times after step 12" in said(out)
    assert ended(*begin_world(out, world)) == [0] * world, "the cause is removed, and the same command goes on"
    assert len(losses(out)) == STEPS


@pytest.mark.long
def test_a_run_that_was_stopped_as_asked_each_time_is_begun_as_often_as_one_likes(tmp_path: Path) -> None:
    """Its last line of metrics is of step 1 each time."""
    out = tmp_path / "run"
    for _ in range(4):
        assert ended(begin(out, stops_at_once, log_steps=10)) == [75]
    assert ended(begin(out, log_steps=10)) == [0]


def stops_at_once() -> None:
    from tutelage.engine import keeper

    ours = keeper.Keeper.after

    def after(self, clock, *rest):
        (self.run.path / "STOP").touch()
        time.sleep(1.1)  # it is looked for once a second
        return ours(self, clock, *rest)

    keeper.Keeper.after = after


def seeing(late: int | None) -> None:
    """Plant: process 1 sees no checkpoint when it looks, `late` times or always."""
    from tutelage.engine import resume

    resume.LATE, real, looks = 3.0, resume.load_newest, []

    def load(folder: Path) -> object:
        looks.append(folder)
        return (None, []) if late is None or len(looks) <= late else real(folder)

    if os.environ["RANK"] == "1":
        resume.load_newest = load


@pytest.mark.long
def test_a_checkpoint_that_another_machine_sees_late_is_waited_for_and_then_named(tmp_path: Path) -> None:
    """B7: never do some processes begin at a checkpoint and others at step 0."""
    out = tmp_path / "run"
    assert ended(*begin_world(out, 2, steps=8)) == [0, 0]
    assert ended(*begin_world(out, 2, functools.partial(seeing, 2), steps=8)) == [0, 0]
    codes = ended(*begin_world(out, 2, functools.partial(seeing, None), steps=8))
    assert codes[1] == 4 and codes[0] != 0
    assert "K-21: process 1 does not see the checkpoint of step 8" in said(out, 1)


def test_what_a_reader_gets_while_checkpoints_come_and_go_is_whole_or_a_clear_error(tmp_path: Path) -> None:
    """K4, C18: an encoder read from a run that saves and prunes after every step."""
    out = tmp_path / "run"
    process = begin(out, steps=100_000, save_steps=1)
    wait_for(out, 3, process)
    read, refused = set(), []
    limit = time.monotonic() + 4
    while time.monotonic() < limit or len(read) < 5:
        try:
            read.add(load_encoder(str(out)).origin)
        except CheckpointError as error:
            refused.append(str(error))
        assert process.is_alive()
        assert time.monotonic() < limit + 60
    process.kill()
    assert ended(process) == [-signal.SIGKILL]
    assert len(read) >= 5
    assert all("step-" in origin for origin in read)
    assert not refused, refused[:3]
