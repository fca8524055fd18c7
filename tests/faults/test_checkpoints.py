"""Checkpoints that are damaged, mixed, not finite, of another version or run (B7, C1 to C4, C11, C13 to C16, G9, I9)."""

import errno
import json
import os
import platform
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save
from states import assert_equal, forged, rewritten, saved, short_run, snapshot
from torch import Tensor
from worlds import events, lines

from data.pictures_on_disk import fill
from small_runs import tiny
from tutelage.engine.chain import Links
from tutelage.engine.checkpoint import best_checkpoint, checkpoint_folders, load_newest, read_checkpoint
from tutelage.engine.pretrain import pretrain
from tutelage.engine.snapshot import MANIFEST, MODEL, OPTIMIZER, write_snapshot
from tutelage.errors import CheckpointError, NumericsError, SettingsError
from tutelage.foreign import read_regular

FILES = (MODEL, OPTIMIZER, MANIFEST)


# --- damage -----------------------------------------------------------------------------------------------------------


def truncated(path: Path, older: Path, rng: random.Random) -> None:
    file = path / rng.choice(FILES)
    os.truncate(file, rng.randrange(file.stat().st_size))


def flipped(path: Path, older: Path, rng: random.Random) -> None:
    file = path / rng.choice(FILES)
    data = bytearray(file.read_bytes())
    data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    file.write_bytes(data)


def blank(path: Path, older: Path, rng: random.Random) -> None:
    """A stretch that the disk never got."""
    file = path / rng.choice(FILES)
    data = bytearray(file.read_bytes())
    start = rng.randrange(len(data) - 8)
    data[start : start + 64] = bytes(len(data[start : start + 64]))
    file.write_bytes(data)


def missing(path: Path, older: Path, rng: random.Random) -> None:
    (path / rng.choice(FILES)).unlink()


def mixed(path: Path, older: Path, rng: random.Random) -> None:
    """Some files of another step, at least one and not all."""
    for name in rng.sample(FILES, rng.randint(1, 2)):
        shutil.copy(older / name, path / name)


def renamed(path: Path, older: Path, rng: random.Random) -> None:
    """A whole checkpoint under the name of another step."""
    shutil.rmtree(path)
    shutil.copytree(older, path)


def longer(path: Path, older: Path, rng: random.Random) -> None:
    with (path / rng.choice(FILES)).open("ab") as file:
        file.write(rng.randbytes(rng.randint(1, 99)))


def one_more(path: Path, older: Path, rng: random.Random) -> None:
    shutil.copy(path / MODEL, path / "rank1.safetensors")


def a_folder(path: Path, older: Path, rng: random.Random) -> None:
    file = path / rng.choice(FILES)
    file.unlink()
    file.mkdir()


def a_pipe(path: Path, older: Path, rng: random.Random) -> None:
    file = path / rng.choice(FILES)
    file.unlink()
    os.mkfifo(file)


def a_link(path: Path, older: Path, rng: random.Random) -> None:
    """To the very same contents elsewhere."""
    file = path / rng.choice(FILES)
    file.rename(path.parent / f"aside-{file.name}")
    file.symlink_to(path.parent / f"aside-{file.name}")


DAMAGES = [truncated, flipped, blank, missing, mixed, renamed, longer, one_more, a_folder, a_pipe, a_link]


def damaged_for_sure(path: Path, older: Path, rng: random.Random, damage: Callable[..., None]) -> None:
    """Blanks of what was blank change nothing: then again."""
    before = contents(path)
    while contents(path) == before:
        damage(path, older, rng)


def contents(path: Path) -> dict[str, Any]:
    return {f.name: (f.is_symlink(), f.read_bytes() if f.is_file() else None) for f in sorted(path.iterdir())}


def test_a_damaged_checkpoint_is_found_before_it_is_used_and_the_older_one_taken(tmp_path, amount, figure) -> None:
    trials = amount(110, 220, 1000)
    for trial in range(trials):
        rng, folder = random.Random(trial), tmp_path / str(trial)
        older, newest = saved(folder, 7, 8)
        damaged_for_sure(newest, older, rng, DAMAGES[trial % len(DAMAGES)])
        found, wrong = load_newest(folder)
        assert found is not None and found.path == older, DAMAGES[trial % len(DAMAGES)].__name__
        assert len(wrong) == 1 and wrong[0].startswith("step-00000008: ") and len(wrong[0]) < 300, wrong
        assert {float(x) for t in (*found.model.values(), *found.optimizer.values()) for x in t.flatten()} == {7.0}
        damaged_for_sure(older, newest, rng, rng.choice([truncated, flipped, missing]))
        with pytest.raises(CheckpointError, match="K-11.*step-00000008: .*; step-00000007: ") as refused:
            load_newest(folder)
        assert refused.value.exit_code == 4
        shutil.rmtree(folder)
    figure("corrupted checkpoints", f"{trials} of {trials} detected before use, 0 silent restarts")


def test_every_single_bit_of_a_manifest_and_a_header_counts(tmp_path: Path, amount) -> None:
    """C2, all bits of the manifest and of both headers but every n-th; what a flip leaves is the same, or damaged."""
    (path,) = saved(tmp_path, 3)
    every = amount(61, 13, 1)
    for name, last in ((MANIFEST, None), (MODEL, 500), (OPTIMIZER, 500)):
        whole = (path / name).read_bytes()
        for bit in range(0, len(whole[:last]) * 8, every):
            data = bytearray(whole)
            data[bit // 8] ^= 1 << bit % 8
            (path / name).write_bytes(data)
            with pytest.raises((ValueError, OSError)):
                read_checkpoint(path)
        (path / name).write_bytes(whole)
    read_checkpoint(path)


def test_names_that_are_not_quite_checkpoints_are_left_alone(tmp_path: Path) -> None:
    saved(tmp_path, 3)
    for name in ("step-00000009x", "step-1e9", "step-00000007 copy", "step-", "step-00000099.tmp"):
        (tmp_path / name).mkdir()
    (tmp_path / "step-00000050").touch()
    assert [path.name for path in checkpoint_folders(tmp_path)] == ["step-00000003"]
    assert load_newest(tmp_path)[0].step == 3


def test_the_newest_is_the_one_of_the_last_step_whatever_its_time(tmp_path: Path) -> None:
    """I9: a copy, a clock set back, and a step with one digit more."""
    older, newest = saved(tmp_path, 99_999_999, 100_000_000)
    for seconds, path in ((2e9, older), (1e9, newest)):
        for item in (*path.iterdir(), path):
            os.utime(item, (seconds, seconds))
    assert load_newest(tmp_path)[0].path == newest
    shutil.rmtree(newest)
    assert load_newest(tmp_path)[0].path == older


def failing_reads(monkeypatch: pytest.MonkeyPatch, of: Path, times: float, number: int = errno.ESTALE) -> None:
    """The disk or the network fails so many times over one checkpoint, without the waits between."""
    real, calls = read_regular, []

    def read(path: Path, most: int) -> bytes:
        if path.parent == of and len(calls) < times:
            calls.append(path)
            raise OSError(number, os.strerror(number), str(path))
        return real(path, most)

    for module in ("foreign", "engine.checkpoint"):
        monkeypatch.setattr(f"tutelage.{module}.read_regular", read)
    monkeypatch.setattr("tutelage.durable.WAITS", (0.001,) * 3)


@pytest.mark.parametrize("number", [errno.ESTALE, errno.EIO])
def test_a_disk_that_fails_for_a_moment_is_asked_again_and_the_newest_taken(tmp_path, monkeypatch, number) -> None:
    """B7."""
    _, newest = saved(tmp_path, 7, 8)
    failing_reads(monkeypatch, newest, 2, number)
    found, wrong = load_newest(tmp_path)
    assert found is not None and found.path == newest and wrong == []


def test_the_mark_of_the_best_may_be_damaged_without_harm(tmp_path: Path) -> None:
    values = (b"", b', "value": []', b', "value": NaN')
    for text in (b"", b"{", b"[1]", *(b'{"by": "miou"%b}' % value for value in values), b"\xff" * 5000):
        (path,) = saved(tmp_path, 3)
        (path / "BEST").write_bytes(text)
        assert best_checkpoint(tmp_path) is None
        shutil.rmtree(path)


# --- of another version, with numbers that are not finite ------------------------------------------------------------------


def test_a_later_format_is_refused_by_name_and_not_passed_over(tmp_path: Path) -> None:
    older, newest = saved(tmp_path, 7, 8)
    rewritten(newest, lambda v: v.update(format=3, written_by="9.9", unknown={}))
    with pytest.raises(
        CheckpointError, match=r"K-12: .*step-00000008 was written by tutelage 9.9 in format 3; this is .*Upgrade"
    ) as error:
        load_newest(tmp_path)
    assert error.value.exit_code == 4
    rewritten(newest, lambda v: v.update(format=4), honest=False)
    assert load_newest(tmp_path)[0].path == older, "damage is not a later version"


def to_format_1(path: Path) -> None:
    """As the first version wrote it."""
    values = json.loads((path / MANIFEST).read_text())
    kept = {name: values[name] for name in ("step", "updates", "fingerprint", "files")}
    (path / MANIFEST).write_text(json.dumps({"format": 1, **kept}, indent=1))


def test_a_checkpoint_of_format_1_is_read_and_gone_on_from(tmp_path: Path) -> None:
    short_run(tmp_path / "whole")
    short_run(tmp_path / "old")
    for path in checkpoint_folders(tmp_path / "old/checkpoints"):
        shutil.rmtree(path) if path.name.endswith("12") else to_format_1(path)
    short_run(tmp_path / "old")
    assert_equal(tmp_path / "old", tmp_path / "whole")


@pytest.mark.parametrize("number", [1, 2])
def test_a_checkpoint_of_every_released_format_is_read_for_ever(number: int) -> None:
    """C11. golden/README.md says how they were made; what is there is never made again."""
    found, wrong = load_newest(Path(__file__).parent / "golden" / f"format-{number}")
    assert found is not None and not wrong
    assert (found.step, found.updates, found.fingerprint) == (8, 8, "these")
    tensors = {f"{net}.{i}": torch.full((5, i + 1), 8.0) for net in ("student", "teacher") for i in (0, 1)}
    moments = {f"student.0/{key}": torch.full((5, 1), 8.0) for key in ("step", "exp_avg", "exp_avg_sq")}
    for read, expected in ((found.model, tensors | {"num_moves": torch.tensor(8)}), (found.optimizer, moments)):
        assert read.keys() == expected.keys()
        for name, tensor in expected.items():
            assert read[name].dtype == tensor.dtype and torch.equal(read[name], tensor), name
    links = Links(digest="0000000000000008", before_step=0, before="0" * 16)
    guard = {"rollbacks": 1, "losses": [0.5, 0.25], "doubts": [7], "parts": ["loss"]}
    assert (found.links, found.guard) == ((None, {}) if number == 1 else (links, guard))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_numbers_that_are_not_finite_are_never_written_as_good(tmp_path: Path, value: float) -> None:
    saved(tmp_path, 7)
    for part in ("model", "optimizer"):
        bad = snapshot(8)
        getattr(bad, part)[next(iter(getattr(bad, part)))][2, 0] = value
        with pytest.raises(
            NumericsError, match="K-17: the checkpoint at step 8 was not written: student.0.* not finite"
        ):
            write_snapshot(tmp_path, bad)
    assert [path.name for path in tmp_path.iterdir()] == ["step-00000007"]


def test_numbers_that_are_not_finite_are_never_loaded(tmp_path: Path, monkeypatch) -> None:
    older, _ = saved(tmp_path, 7, 8)
    monkeypatch.setattr("tutelage.engine.snapshot._refuse_non_finite", lambda snapshot: None)
    bad = snapshot(8)
    bad.model["student.1"][0, 0] = float("nan")
    write_snapshot(tmp_path, bad)
    found, wrong = load_newest(tmp_path)
    assert found is not None and found.path == older and "K-17, student.1" in wrong[0]


def test_a_run_whose_weights_go_wrong_stops_with_its_last_good_checkpoint(tmp_path: Path, monkeypatch) -> None:
    from tutelage.methods.mae import MAE

    def poison(self, clock) -> None:
        if clock.step == 8:
            with torch.no_grad():
                self.student.norm.weight[0] = float("nan")

    monkeypatch.setattr(MAE, "after_step", poison)
    with pytest.raises(
        NumericsError, match=r"K-17: the checkpoint at step 8 was not written: student.norm.weight"
    ) as error:
        short_run(tmp_path / "run")
    assert error.value.exit_code == 5
    found, wrong = load_newest(tmp_path / "run/checkpoints")
    assert found is not None and found.step == 4 and not wrong


# --- what a run makes of them ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("finished") / "run"
    short_run(out)
    return out


def test_a_run_tells_of_a_damaged_checkpoint_with_its_sizes_and_the_steps_that_are_redone(
    finished, tmp_path, capfd
) -> None:
    """C1: K-10, printed and in the events; the run ends with the same bits."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    model = out / "checkpoints/step-00000012" / MODEL
    size = model.stat().st_size
    os.truncate(model, 4096)
    pretrain(tiny("mae", steps=12, save_steps=4, monitors=0), out)
    told = (
        f"K-10: step 12 is damaged: model.safetensors has 4,096 of {size:,} bytes. Using step 8 (4 steps are redone)."
    )
    assert told in capfd.readouterr().err
    (event,) = events(out, "damaged_checkpoint")
    assert event["used"] == 8 and event["redone"] == 4 and "4,096" in event["reason"]
    assert_equal(out, finished)
    assert not list((out / "checkpoints").glob(".step-*"))


def everything(out: Path) -> dict[str, bytes]:
    """The files of a run but those that tell that it is in use."""
    return {
        str(path.relative_to(out)): path.read_bytes()
        for path in out.rglob("*")
        if path.is_file() and not path.name.startswith(".lease") and path.parent.name != "pulse"
    }


def test_a_run_whose_disk_fails_takes_no_older_checkpoint_and_keeps_the_newest(finished, tmp_path, monkeypatch) -> None:
    """B7: that a file cannot be read says nothing about it."""
    out = tmp_path / "run"
    shutil.copytree(finished, out)
    before, newest = everything(out), out / "checkpoints/step-00000012"
    failing_reads(monkeypatch, newest, float("inf"))
    with pytest.raises(CheckpointError) as error:
        short_run(out)
    reason = os.strerror(errno.ESTALE).lower()
    assert f"K-21: {newest} could not be read on {platform.node()} in 4 tries: {reason}." in str(error.value)
    assert error.value.exit_code == 4
    assert everything(out) == before


@pytest.mark.parametrize(("change", "now"), [("added", 41), ("removed", 39)])
def test_a_run_does_not_go_on_with_other_pictures(tmp_path: Path, change: str, now: int) -> None:
    """C13: K-14, and nothing of the run is touched."""
    pictures, out = tmp_path / "pictures", tmp_path / "run"
    fill(pictures, 40)
    settings = tiny("mae", data=str(pictures), batch_size=16, steps=4, save_steps=2, monitors=0, holdout=0.0)
    pretrain(settings, out, quiet=True)
    before = everything(out)
    fill(pictures, 1, start=40) if change == "added" else (pictures / "017.png").unlink()
    with pytest.raises(CheckpointError, match=rf"^K-14: .*\(40 train then, {now} now; 0 held out then") as error:
        pretrain(settings, out, quiet=True)
    assert error.value.exit_code == 4
    assert everything(out) == before


def with_other_tensors(path: Path, change: Callable[[dict[str, Tensor]], Any]) -> None:
    tensors = load_file(path / MODEL)
    change(tensors)
    forged(path, save(tensors))


TAUGHT = tiny("pseudomae", steps=4, save_steps=4, monitors=0)
"""Both teachers move at every step."""


@pytest.fixture(scope="module")
def taught(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("taught") / "run"
    pretrain(TAUGHT, out, quiet=True)
    return out


@pytest.mark.parametrize("moved", [0, 3, 5])
@pytest.mark.parametrize("teacher", ["reconstruction_teacher", "labelling_teacher"])
def test_a_teacher_that_moved_more_or_less_often_than_its_clock_says_is_refused(taught, tmp_path, teacher, moved):
    """C14."""
    out = tmp_path / "run"
    shutil.copytree(taught, out)
    newest = out / "checkpoints/step-00000004"
    with_other_tensors(newest, lambda tensors: tensors[f"{teacher}.num_moves"].fill_(moved))
    with pytest.raises(
        CheckpointError, match=rf"^K-16: the {teacher} of .* has moved {moved} times, .* 4 times"
    ) as error:
        pretrain(TAUGHT, out, quiet=True)
    assert error.value.exit_code == 4


def test_weights_of_another_precision_are_refused_and_named(finished: Path, tmp_path: Path) -> None:
    """C16."""
    out, name = tmp_path / "run", "student.norm.weight"
    shutil.copytree(finished, out)
    newest = out / "checkpoints/step-00000012"
    with_other_tensors(newest, lambda tensors: tensors.update({name: tensors[name].bfloat16()}))
    with pytest.raises(CheckpointError) as error:
        short_run(out)
    assert f"1 tensors differ ({name} (16,) bfloat16, expected (16,) float32)" in str(error.value)
    assert (error.value.code, error.value.exit_code) == ("K-30", 4)


def test_a_run_is_not_begun_among_the_files_of_an_exported_model(finished: Path, tmp_path: Path) -> None:
    """C16."""
    shutil.copytree(finished / "encoder", tmp_path / "encoder")
    before = contents(tmp_path / "encoder")
    assert {"config.json", "model.safetensors"} <= before.keys()
    with pytest.raises(
        SettingsError, match=r"^C-12: .* is an exported model, .* --init .*encoder and another"
    ) as error:
        short_run(tmp_path / "encoder")
    assert error.value.exit_code == 2
    assert contents(tmp_path / "encoder") == before


def test_the_best_by_held_out_knn_is_kept_beside_the_newest_two_and_told_of(tmp_path: Path) -> None:
    out = tmp_path / "run"
    short_run(out, steps=40, save_steps=5, monitors=10)
    told = {line["step"]: line["knn_accuracy"] for line in lines(out / "monitors.jsonl") if line["step"]}
    assert len(told) == 10
    best = max(told, key=lambda step: (told[step], -step))
    path, found = best_checkpoint(out / "checkpoints")
    assert int(path.name[5:]) == best and (found.by, found.value) == ("knn_accuracy", told[best])
    assert [p for p in checkpoint_folders(out / "checkpoints") if (p / "BEST").exists()] == [path]
    assert {int(p.name[5:]) for p in checkpoint_folders(out / "checkpoints")} == {
        best,
        35 if best == 40 else 39,
        40,
    } - {39} | {int(p.name[5:]) for p in checkpoint_folders(out / "checkpoints")[:2]}
    climbing = [step for step in told if told[step] > max([0.0, *(told[s] for s in told if s < step)])]
    assert [event["step"] for event in events(out, "best")] == climbing

    short_run(tmp_path / "without", steps=40, save_steps=5, monitors=10, keep_best=False)
    assert best_checkpoint(tmp_path / "without/checkpoints") is None
    assert not events(tmp_path / "without", "best")
