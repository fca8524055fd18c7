"""Disks that are full, refuse, or are read-only, by real means (B1 to B6, J10)."""

import errno
import functools
import os
import re
import resource
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from states import snapshot
from worlds import STEPS, begin, ended, events, fingerprint, last_step, lines, losses, said, wait_for

from tutelage.engine.checkpoint import checkpoint_folders, load_newest, step_of
from tutelage.engine.run import RunFolder
from tutelage.engine.snapshot import write_snapshot


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    assert ended(begin(out)) == [0]
    return out


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Any]:
    """`disk(options)`: a tmpfs of these mount options; skipped where this user may not mount."""
    mounted = []

    def mount(options: str) -> Path:
        place = tmp_path / f"disk-{len(mounted)}"
        place.mkdir()
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", options, "tmpfs", place], capture_output=True, text=True, check=False
        )
        if done.returncode:
            pytest.skip(f"a tmpfs cannot be mounted here: {done.stderr.strip()}")
        mounted.append(place)
        return place

    yield mount
    for place in mounted:
        subprocess.run(["umount", "-l", place], check=False)


def size_of(out: Path) -> int:
    """Bytes of a checkpoint."""
    return sum(file.stat().st_size for file in checkpoint_folders(out / "checkpoints")[0].iterdir())


def steps(out: Path) -> list[int]:
    return [step_of(path) for path in checkpoint_folders(out / "checkpoints")]


K20 = r"K-20: the checkpoint at step \d+ was not written: {} \(needs [\d.]+ MB, [\d.,]+ MB free\)\. {}; last good: {}\."


def test_a_full_disk_is_told_training_goes_on_and_the_next_save_succeeds(whole: Path, tmp_path, disk) -> None:
    """B1: the first save finds no room; then there is some."""
    room = size_of(whole)
    place = disk(f"size={8 * room}")
    (place / "ballast").write_bytes(bytes(int(7.2 * room)))
    process = begin(place / "run", functools.partial(unburdened, place / "ballast"), save_steps=10)
    assert ended(process) == [0]
    (refused,) = events(place / "run", "not_saved")
    assert refused["step"] == 10
    assert re.match(K20.format("disk full", "Training goes on", "none yet"), refused["reason"]), refused
    assert [event["step"] for event in events(place / "run", "checkpoint")] == [20, 30, 40, 50, 60]
    assert fingerprint(place / "run") == fingerprint(whole)
    assert not list((place / "run/checkpoints").glob(".step-*"))


def unburdened(ballast: Path) -> None:
    """Plant: room is made before the second save."""
    from tutelage.engine.saver import Saver

    save = Saver.save

    def then(self: Saver, clock: Any, *more: Any) -> None:
        if clock.step == 20:
            self.writer.wait()
            ballast.unlink()
        save(self, clock, *more)

    Saver.save = then


@pytest.mark.long
def test_a_disk_that_stays_full_stops_the_run_after_three_saves_with_the_last_good_there(whole, disk) -> None:
    room = size_of(whole)
    place = disk(f"size={int(2.6 * room)}")
    assert ended(begin(place / "run")) == [6]
    told = said(place / "run")
    assert re.search(K20.format("disk full", "The run stops", r"step 8"), told), told
    assert [event["step"] for event in events(place / "run", "not_saved")] in ([12, 16, 20], [])  # logs may be full too
    assert steps(place / "run") == [8, 4]
    found, wrong = load_newest(place / "run/checkpoints")
    assert found is not None and found.step == 8 and not wrong
    assert not list((place / "run/checkpoints").glob(".step-*"))

    shutil.copytree(place / "run", place.parent / "moved", ignore=shutil.ignore_patterns("pulse"))
    assert ended(begin(place.parent / "moved")) == [0]
    assert fingerprint(place.parent / "moved") == fingerprint(whole)
    assert losses(place.parent / "moved") == losses(whole)


@pytest.mark.long
def test_no_names_left_on_the_disk_are_told_as_such(disk) -> None:
    """B4: inodes."""
    place = disk("size=64m,nr_inodes=22")
    assert ended(begin(place / "run")) == [6]
    reason, good = r"the disk has room for no more names \(inodes\)", r"(step \d+|none yet)"
    assert re.search(K20.format(reason, "The run stops", good), said(place / "run")), said(place / "run")


def limited(size: int) -> None:
    """Plant: no file may be longer."""
    signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


@pytest.mark.long
def test_a_limit_on_the_size_of_files_is_told_by_its_name(whole: Path, tmp_path: Path) -> None:
    """B4: EFBIG after a short write."""
    model = (checkpoint_folders(whole / "checkpoints")[0] / "model.safetensors").stat().st_size
    process = begin(tmp_path / "run", functools.partial(limited, model - 1000))
    assert ended(process) == [6]
    reason = "a file may not be so large"
    refused = events(tmp_path / "run", "not_saved")
    assert [event["step"] for event in refused] == [4, 8, 12]
    assert all(reason in event["reason"] for event in refused)
    assert re.search(K20.format(reason, "The run stops", "none yet"), said(tmp_path / "run"))
    assert not list((tmp_path / "run/checkpoints").iterdir())


def failing(name: str, number: int, calls: range, told: Path) -> None:
    """Plant: these calls of a function of `os` fail, in the thread that writes checkpoints."""
    import threading

    real, count = getattr(os, name), 0

    def call(*arguments: Any, **options: Any) -> Any:
        nonlocal count
        if threading.current_thread().name == "writer":
            count += 1
            if count in calls:
                told.write_text(str(count))
                raise OSError(number, os.strerror(number))
        return real(*arguments, **options)

    setattr(os, name, call)


@pytest.mark.parametrize(
    ("name", "number", "reason"),
    [
        ("fsync", errno.EIO, "input/output error"),
        pytest.param("write", errno.EDQUOT, "the quota is used up", marks=pytest.mark.long),
    ],
)
def test_a_call_that_fails_fails_the_save_and_is_not_tried_again(whole, tmp_path, amount, name, number, reason) -> None:
    """B6: of an fsync that failed nothing is known, so what it was for is thrown away; of every fsync of a save."""
    every = range(1, 8)[:: amount(9, 2, 1)] if name == "fsync" else (40,)
    for call in every:
        out = tmp_path / f"{call}"
        plant = functools.partial(failing, name, number, range(call, call + 1), tmp_path / f"told-{call}")
        assert ended(begin(out, plant)) == [0]
        assert (tmp_path / f"told-{call}").exists(), "it did not fail"
        (refused,) = events(out, "not_saved")
        assert reason in refused["reason"]
        assert refused["step"] not in [event["step"] for event in events(out, "checkpoint")]
        assert fingerprint(out) == fingerprint(whole)


def test_a_save_whose_last_fsync_failed_leaves_no_checkpoint(tmp_path: Path, monkeypatch) -> None:
    write_snapshot(tmp_path, snapshot(1))
    real, calls = os.fsync, []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if (tmp_path / "step-00000002").exists():
            raise OSError(errno.EIO, "Input/output error")
        real(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    with pytest.raises(OSError, match="Input/output error"):
        write_snapshot(tmp_path, snapshot(2))
    assert len(calls) >= 5
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000001"]


def test_a_last_save_that_is_refused_is_no_success(whole: Path, tmp_path: Path) -> None:
    """A run that is stopped says 75 only where it has saved."""
    plant = functools.partial(failing, "write", errno.ENOSPC, range(1, 10**9), tmp_path / "told")
    process = begin(tmp_path / "run", plant, save_steps=1000, steps=100_000)
    wait_for(tmp_path / "run", 5, process)
    process.terminate()
    assert ended(process) == [6]
    assert "K-20" in said(tmp_path / "run")


@pytest.mark.parametrize(
    ("name", "reason"), [("metrics.jsonl", "is a directory"), ("events.jsonl", "no space left on device")]
)
def test_a_log_that_cannot_be_written_is_warned_of_once_and_training_goes_on(tmp_path, name, reason, capfd) -> None:
    """B2, J10: a full device as a log, and what is no file at all."""
    from small_runs import tiny
    from tutelage.engine.pretrain import pretrain

    out = tmp_path / "run"
    out.mkdir()
    (out / name).symlink_to("/dev/full") if name == "events.jsonl" else (out / name).mkdir()
    pretrain(tiny("mae", steps=12, monitors=0), out)
    assert not (out / name).is_file()
    assert capfd.readouterr().err.count(f"warning {name} cannot be written ({reason}); training goes on") == 1
    assert steps(out) == [12] and (out / "encoder/model.safetensors").exists()


def test_a_read_only_disk_is_refused_before_any_picture_is_read(disk, tmp_path: Path) -> None:
    """B3."""
    place = disk("size=8m")
    done = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True, text=True, check=False)
    if done.returncode:
        pytest.skip(f"a tmpfs cannot be remounted read-only here: {done.stderr.strip()}")
    assert ended(begin(tmp_path / "run", functools.partial(elsewhere, place / "run"))) == [6]
    told = said(tmp_path / "run")
    assert "R-03: the run cannot be written to" in told and "is on a read-only disk" in told, told


def elsewhere(out: Path) -> None:
    """Plant: the run is written to another place than its standard error."""
    import worlds

    real = worlds.pretrain
    worlds.pretrain = lambda settings, _, **options: real(settings, out, **options)


@pytest.mark.long
def test_a_disk_that_turns_read_only_in_a_run_stops_it_after_three_saves(whole: Path, disk, tmp_path: Path) -> None:
    place = disk("size=64m")
    process = begin(tmp_path / "run", functools.partial(elsewhere, place / "run"), steps=100_000)
    while last_step(place / "run") < 10:
        assert process.is_alive()
    done = subprocess.run(["mount", "-o", "remount,ro", place], capture_output=True, text=True, check=False)
    if done.returncode:  # files are open for writing at this moment
        done = subprocess.run(["mount", "-o", "remount,ro", "-f", place], capture_output=True, text=True, check=False)
    if done.returncode:
        process.kill()
        pytest.skip(f"a tmpfs in use cannot be remounted read-only here: {done.stderr.strip()}")
    assert ended(process) == [6]
    assert "K-20" in said(tmp_path / "run") and "read-only file system" in said(tmp_path / "run")
    found, wrong = load_newest(place / "run/checkpoints")
    assert found is not None and found.step >= 4 and not wrong


def test_little_room_is_said_before_the_run(whole: Path, disk, tmp_path: Path) -> None:
    """B5."""
    room = size_of(whole)
    place = disk(f"size={int(2.5 * room)}")
    ended(begin(place / "run", steps=2))
    (event,) = events(place / "run", "little_room")
    assert re.match(r"[\d.]+ MB free, and 3 checkpoints of [\d.]+ MB to come: free some", event["reason"])
    assert not events(whole, "little_room")


def test_a_log_line_that_was_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "run")
    run.append("metrics.jsonl", {"step": 1})
    with (run.path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 2, "lo')
    run.append("metrics.jsonl", {"step": 3})
    text = (run.path / "metrics.jsonl").read_text()
    assert text.splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}']
    with (run.path / "metrics.jsonl").open("ab") as file:
        file.write(b'5\n{"no": 1}\n\xff\xfe\n[]\n')
    run.rewind(2)
    assert lines(run.path / "metrics.jsonl") == [{"step": 1}]
    run.close()


assert STEPS == 60
