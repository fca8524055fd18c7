"""Killed, or without power, at any file operation of saving, pruning, keeping the best, exporting and reporting (A2 to A7)."""

import functools
import itertools
import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from crashes import Disk, Operations, in_a_child, keeping, recorded
from states import short_run, snapshot
from tests.report.test_page import write_run as write_reported
from timm.models.vision_transformer import VisionTransformer
from torch import Tensor
from worlds import begin, ended, fingerprint, last_step

from small_runs import tiny
from tutelage.data.index import Statistics
from tutelage.engine.checkpoint import (
    KEPT,
    best_checkpoint,
    checkpoint_folders,
    load_newest,
    prune_checkpoints,
    read_checkpoint,
    step_of,
)
from tutelage.engine.run import RunFolder
from tutelage.engine.snapshot import write_snapshot
from tutelage.engine.writer import Writer
from tutelage.evaluation.result import Evaluation, Row, Score, remember
from tutelage.export import write_timm
from tutelage.report import write_report
from tutelage.report.collect import collect
from tutelage.report.page import render
from tutelage.transfer import load_encoder


def vit() -> VisionTransformer:
    torch.manual_seed(0)
    return VisionTransformer(
        img_size=8, patch_size=4, in_chans=1, embed_dim=8, depth=1, num_heads=1, num_classes=0, global_pool="token"
    )


def begun(folder: Path) -> None:
    """Saved at 1 (kept for good), 2 (the best) and 3; as 4 comes, 2 loses its mark and goes."""
    for step, accuracy in ((1, None), (2, 0.5), (3, None)):
        write_snapshot(folder / "checkpoints", snapshot(step, accuracy))
    (folder / "checkpoints/step-00000001" / KEPT).touch()


def go_on(folder: Path, pictures: Tensor, encoder: VisionTransformer) -> None:
    """What the fault happens to: a save with prune and best, and an export over an older one."""
    run = RunFolder(folder)
    writer = Writer(run.checkpoints, None, run.check)
    writer.start(snapshot(4, 0.6))
    writer.wait()
    assert [outcome.error for outcome in writer.outcomes()] == [None]
    run.event("checkpoint", step=4)
    write_timm(
        encoder, folder / "encoder", Statistics((0.5,), (0.5,)), architecture="vit_tiny_patch16_224", pictures=pictures
    )
    run.close()


def check(folder: Path) -> int:
    """Step of the newest checkpoint, which is whole and of one step, as are at least two; the best is there too."""
    newest, _ = load_newest(folder)
    assert newest is not None
    whole = []
    for path in checkpoint_folders(folder):
        found = read_checkpoint(path)
        assert {float(x) for t in (*found.model.values(), *found.optimizer.values()) for x in t.flatten()} == {
            found.step
        }
        assert found.links and int(found.links.digest, 16) == found.step
        whole.append(found.step)
    assert whole[0] == newest.step and len(whole) >= 3 and 1 in whole
    best = best_checkpoint(folder)
    assert best is not None and step_of(best[0]) == (4 if newest.step == 4 else 2)
    return newest.step


@pytest.fixture(scope="module")
def pictures() -> Tensor:
    return torch.zeros(1, 1, 8, 8)


@pytest.fixture(scope="module")
def points(tmp_path_factory: pytest.TempPathFactory, pictures: Tensor) -> list[str]:
    """The kinds of all file operations of `go_on`, in their order."""
    folder = tmp_path_factory.mktemp("points")
    begun(folder)
    encoder = vit()
    write_timm(
        encoder, folder / "encoder", Statistics((0.5,), (0.5,)), architecture="vit_tiny_patch16_224", pictures=pictures
    )

    def work() -> None:
        operations = Operations(told=folder / "told")
        go_on(folder, pictures, encoder)
        operations.end()

    assert in_a_child(work) == 0
    return (folder / "told").read_text().splitlines()


def test_killed_at_every_file_operation_an_old_or_a_new_checkpoint_is_there(tmp_path, points, pictures, figure) -> None:
    assert {"open", "write", "fsync", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.link"} <= set(points)
    assert len(points) > 40
    encoder, seen = vit(), []
    for number in range(1, len(points) + 1):
        folder = tmp_path / f"at-{number}"
        begun(folder)
        if number % 2:
            write_timm(
                encoder,
                folder / "encoder",
                Statistics((0.5,), (0.5,)),
                architecture="vit_tiny_patch16_224",
                pictures=pictures,
            )

        def work(folder: Path = folder, number: int = number) -> None:
            Operations(kill_at=number)
            go_on(folder, pictures, encoder)

        if in_a_child(work) == 0:  # without an older export there are fewer operations
            assert number % 2 == 0 and number > len(points) - 12
            continue
        seen.append(check(folder / "checkpoints"))
        if (folder / "encoder").exists():
            assert torch.equal(load_encoder(str(folder / "encoder")).vit.norm.weight, encoder.norm.weight)

        go_on(folder, pictures, encoder)
        assert check(folder / "checkpoints") == 4
        assert [step_of(path) for path in checkpoint_folders(folder / "checkpoints")] == [4, 3, 1]
        left = {path.name for path in folder.rglob("*") if path.name.startswith(".")}
        assert {name.partition("-")[0] for name in left} <= {".lease", ".taking"}, left
        assert torch.equal(load_encoder(str(folder / "encoder")).vit.norm.weight, encoder.norm.weight)
    assert {3, 4} == set(seen) and seen == sorted(seen), "old before the rename, new from it on"
    figure(
        "every file operation of save, prune and export as a kill point", f"{len(seen)} points, 0 torn, mixed or lost"
    )


recordable = pytest.mark.skipif(
    sys.version_info < (3, 11), reason="pathlib has its own names for the functions of os before 3.11"
)


def renamed_within_their_folder(noted: list[tuple[Any, ...]]) -> list[str]:
    """B9: what got its name by a rename, which must be from beside it: elsewhere may be another disk."""
    renames = [(Path(source), Path(*target)) for kind, source, *target in noted if kind == "rename"]
    assert all(source.parent == target.parent for source, target in renames), renames
    return [target.name for _, target in renames]


@recordable
def test_whatever_a_run_renames_was_beside_its_place(tmp_path: Path) -> None:
    with recorded(tmp_path) as noted:
        for _ in range(2):  # as new, and in place of what is there
            short_run(tmp_path, steps=2, save_steps=2)
            write_report(tmp_path)
    names = renamed_within_their_folder(noted)
    assert {"settings.json", "metrics.jsonl", "step-00000002", "encoder", "report.html"} <= {*names}


@recordable
def test_after_a_power_cut_at_every_file_operation_an_old_or_a_new_checkpoint_is_there(
    tmp_path, amount, figure
) -> None:
    folder = tmp_path / "run"
    begun(folder)
    before = Disk(folder)
    with recorded(folder) as noted:
        for step, accuracy in ((4, 0.6), (5, None)):
            write_snapshot(folder / "checkpoints", snapshot(step, accuracy))
            prune_checkpoints(folder / "checkpoints")
    assert {"create", "write", "sync", "mkdir", "rename", "unlink", "rmdir"} <= {kind for kind, *_ in noted}
    assert renamed_within_their_folder(noted)
    modes = ["all", "none", *map(str, range(amount(2, 10, 40)))]
    seen = []
    for done in range(len(noted) + 1):
        if done:
            before.do(*noted[done - 1])
        for mode in modes:
            before.cut(tmp_path / "after", keeping(mode))
            newest, _ = load_newest(tmp_path / "after" / "checkpoints")
            assert newest is not None
            assert {float(x) for t in newest.model.values() for x in t.flatten()} == {newest.step}
            seen.append(newest.step)
        assert done < len(noted) or set(seen[-len(modes) :]) == {5}, "what was saved is saved"
    assert set(seen) == {3, 4, 5}
    figure("power cut at every file operation of save and prune", f"{len(seen)} disks, 0 torn, mixed or lost")


def die(method: type, at_epoch: int, *, before: bool) -> None:
    """Plant: the process is killed just before, or just after, the teachers move at the end of an epoch."""
    moved = method.after_step

    def after_step(self, clock) -> None:
        due = clock.epoch == at_epoch and (clock.step - 1) * clock.batch_size // clock.num_pictures < at_epoch
        if due and before:
            os.kill(os.getpid(), signal.SIGKILL)
        moved(self, clock)
        if due:
            os.kill(os.getpid(), signal.SIGKILL)

    method.after_step = after_step


def die_around_the_teachers(at_epoch: int, *, before: bool) -> None:
    from tutelage.methods.pseudomae import PseudoMAE

    with_an_epoch_teacher()
    die(PseudoMAE, at_epoch, before=before)


def with_an_epoch_teacher() -> None:
    """Plant: the rebuilding teacher moves at the end of each epoch, as published."""
    import worlds

    parts = {"reconstruction_teacher": {"every": "epoch"}}
    worlds.settings = lambda **changes: tiny("pseudomae", steps=60, save_steps=1, monitors=0, method=parts)


@pytest.mark.long
def test_killed_between_the_update_and_the_epoch_teacher_it_moves_once(tmp_path: Path) -> None:
    """A6: the last checkpoint is one of the two steps before, so that the teacher's move is done over again, once."""
    assert ended(begin(tmp_path / "whole", with_an_epoch_teacher)) == [0]
    for before in (True, False):
        out = tmp_path / f"before-{before}"
        plant = functools.partial(die_around_the_teachers, 1, before=before)
        assert ended(begin(out, plant)) == [-signal.SIGKILL]
        assert ended(begin(out, with_an_epoch_teacher)) == [0]
        assert fingerprint(out) == fingerprint(tmp_path / "whole")
    moves = load_newest(tmp_path / "whole" / "checkpoints")[0]
    assert moves is not None and int(moves.model["reconstruction_teacher.num_moves"]) >= 1


def test_what_a_killed_process_left_goes_at_the_next_start_even_if_that_saves_nothing(tmp_path: Path) -> None:
    """A4."""
    left = {
        ".classifier.tutelage-1234/config.json",
        ".joint.tutelage-5-old/vit",
        ".report.html.tutelage-77",
        "checkpoints/.step-00000006",
    }
    left |= {f"checkpoints/.step-0000000{step}/model.safetensors" for step in ("2", "4-new")}
    ours = {"checkpoints/step-00000004/MANIFEST.json", "classifier/config.json", "report.html", "notes-12", ".hidden"}
    ours |= {".taking-12", ".a-users-own-2026"}
    for name in left | ours:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def there() -> set[str]:
        return {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}

    RunFolder(tmp_path, writes=False)
    assert there() == left | ours, "that is the first process's to do"
    run = RunFolder(tmp_path)
    run.check()
    assert there() == ours | {".lease-1"}
    assert not list(tmp_path.rglob(".step-*")) and not (tmp_path / ".classifier.tutelage-1234").exists()
    run.close()


def test_killed_at_every_file_operation_a_report_is_the_old_or_the_new_one(tmp_path: Path) -> None:
    """A7."""
    run, seen = write_reported(tmp_path / "run", steps=20), []
    old = write_report(run).read_bytes()
    with (run / "metrics.jsonl").open("a") as file:
        file.write('{"step": 30, "epoch": 0.6, "loss": 0.01}\n')
    new = render(collect(run)).encode()
    for number in itertools.count(1):
        (run / "report.html").write_bytes(old)

        def work(number: int = number) -> None:
            Operations(kill_at=number)
            write_report(run)

        code = in_a_child(work)
        seen.append({old: "old", new: "new"}[(run / "report.html").read_bytes()])
        if code == 0:
            break
        assert code == -signal.SIGKILL
    assert {"old", "new"} == set(seen) and seen == sorted(seen, reverse=True) and len(seen) > 5
    RunFolder(run).close()
    assert not list(run.glob(".report.html*"))


def test_a_result_that_was_cut_short_does_not_swallow_the_next(tmp_path: Path) -> None:
    """A7."""
    results, rows = tmp_path / "evaluations.jsonl", (Row("encoder", {"cls": Score(0.5, 0.625, {})}),)
    linear = Evaluation(
        "linear/1", {}, "student", "runs/a", None, "vit", "digits", "abc", {"train": 9}, 3, rows, notes=(), seconds=0.1
    )
    (tmp_path / "settings.json").write_text("{}")
    results.write_text('{"protocol": "knn/1", "accuracy": 0.5}\n{"protocol": "knn/1", "accu')
    remember(str(tmp_path), [linear])
    first, torn, last = results.read_text().split("\n")[:-1]
    assert (first, torn) == ('{"protocol": "knn/1", "accuracy": 0.5}', '{"protocol": "knn/1", "accu')
    assert json.loads(last)["accuracy"] == 0.625 and results.read_text().endswith("}\n")
    assert [one["protocol"] for one in collect(tmp_path).evaluations] == ["knn/1", "linear/1"]


def test_a_checkpoint_that_is_written_while_training_goes_on_is_of_its_step(tmp_path: Path, monkeypatch) -> None:
    """A3: on a disk so slow that the steps up to the next save pass before the first byte is written."""
    fast, slow, reached = tmp_path / "fast", tmp_path / "slow", []
    short_run(fast, keep_steps=4)
    real, steps = os.open, {f".step-{step:08d}-new": step for step in (4, 8)}

    def open_(path: Any, *rest: Any, **options: Any) -> int:
        file, limit = Path(path), time.monotonic() + 20
        if file.name == "model.safetensors" and file.parent.name in steps:
            while last_step(slow) < steps[file.parent.name] + 3 and time.monotonic() < limit:
                time.sleep(0.001)
            reached.append(last_step(slow))
        return real(path, *rest, **options)

    monkeypatch.setattr(os, "open", open_)
    short_run(slow, keep_steps=4)
    assert len(reached) == 2 and reached[0] >= 7 and reached[1] >= 11
    for step in (4, 8, 12):
        assert fingerprint(slow, step) == fingerprint(fast, step)
    assert fingerprint(fast, 4) != fingerprint(fast, 8)


def test_a_snapshot_shares_no_memory_with_what_trains_on(tmp_path: Path) -> None:
    """A3: what is written is of the step of the snapshot, although training went on meanwhile."""
    from tutelage.engine.snapshot import copied

    net = torch.nn.Linear(3, 3)
    net.more = torch.nn.Linear(3, 3)
    net.more.weight = net.weight
    taken = copied(net.state_dict())
    before = {name: tensor.clone() for name, tensor in taken.items()}
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.add_(1)
    assert all(torch.equal(taken[name], before[name]) for name in before)
    assert all(not torch.equal(taken[name], net.state_dict()[name]) for name in before)
    storages = {t.untyped_storage().data_ptr() for t in (*taken.values(), *net.state_dict().values())}
    assert len(storages) == len(taken) + 3
