"""A run that is killed and started again ends with the bits of a run that was not (oracles 49, 50)."""

import hashlib
import json
import os
import random
import shutil
import signal
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from small_runs import FORKSERVER, SHRUNK, tiny
from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.data.index import open_data
from tutelage.engine.checkpoint import checkpoint_folders, load_newest
from tutelage.engine.pretrain import build, pretrain
from tutelage.engine.settings import differences, flatten
from tutelage.errors import CheckpointError, SettingsError

STEPS = 60


def settings(**changes: Any) -> Any:
    return tiny(
        "pseudomae", **{"steps": STEPS, "save_steps": 4, "monitors": 0, "backbone": {"drop_path": 0.1}, **changes}
    )


def run(out: Path, **changes: Any) -> None:
    pretrain(settings(**changes), out, quiet=True)


def run_apart(out: Path, **changes: Any) -> None:
    """A run to its end in a process of its own."""
    process = FORKSERVER.Process(target=run, args=(out,), kwargs=changes)
    process.start()
    process.join()
    assert process.exitcode == 0


def fingerprint(out: Path) -> dict[str, str]:
    """Hash of every tensor of the last checkpoint: weights, both teachers, optimizer."""
    folder = checkpoint_folders(out / "checkpoints")[0]
    assert folder.name == f"step-{STEPS:08d}"
    tensors = load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")
    assert any(name.startswith("reconstruction_teacher.") for name in tensors)
    assert any(name.startswith("labelling_teacher.") for name in tensors)
    assert any(name.endswith("/exp_avg_sq") for name in tensors)
    return {name: hashlib.sha256(tensor.numpy().tobytes()).hexdigest() for name, tensor in tensors.items()}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "run"
    run_apart(out)
    return out


def last_step(out: Path) -> int:
    file = out / "metrics.jsonl"
    whole = file.read_text().rpartition("\n")[0] if file.exists() else ""  # the run may be writing the next line
    return json.loads(whole.rpartition("\n")[2])["step"] if whole else 0


@pytest.mark.parametrize("trial", range(5))
def test_kill_9_at_a_random_step_ends_with_the_same_bits(uninterrupted: Path, tmp_path: Path, trial: int) -> None:
    """Oracle 50, by SIGKILL."""
    rng = random.Random(trial)
    out, kill_at = tmp_path / "run", rng.randint(2, STEPS - 5)
    process = FORKSERVER.Process(target=run, args=(out,))
    process.start()
    while last_step(out) < kill_at:
        time.sleep(0.001)
        assert process.is_alive(), "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert last_step(out) < STEPS

    run_apart(out)
    assert fingerprint(out) == fingerprint(uninterrupted)
    losses = [
        [json.loads(line)["loss"] for line in (o / "metrics.jsonl").read_text().splitlines()]
        for o in (out, uninterrupted)
    ]
    assert losses[0] == losses[1] and len(losses[0]) == STEPS


def run_until_told(out: Path) -> None:
    raise SystemExit(75 if pretrain(settings(), out, quiet=True).stopped else 0)


def test_sigterm_finishes_the_step_saves_and_asks_to_be_run_again(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    process = FORKSERVER.Process(target=run_until_told, args=(out,))
    process.start()
    while last_step(out) < 13:
        time.sleep(0.001)
    process.terminate()
    process.join()
    assert process.exitcode == 75
    stopped_at = last_step(out)
    assert int(checkpoint_folders(out / "checkpoints")[0].name[5:]) == stopped_at < STEPS
    process = FORKSERVER.Process(target=run_until_told, args=(out,))
    process.start()
    process.join()
    assert process.exitcode == 0
    assert fingerprint(out) == fingerprint(uninterrupted)


def test_a_truncated_or_flipped_checkpoint_is_found_and_the_older_one_used(uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted, copy)
    newest, older = checkpoint_folders(copy / "checkpoints")
    data = bytearray((newest / "model.safetensors").read_bytes())
    data[len(data) // 2] ^= 1
    (newest / "model.safetensors").write_bytes(data)
    checkpoint, wrong = load_newest(copy / "checkpoints")
    assert checkpoint is not None and checkpoint.path == older
    assert "hash" in wrong[0]
    (older / "optimizer.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError, match="K-11"):
        load_newest(copy / "checkpoints")


def test_a_damaged_checkpoint_is_replaced_when_its_step_comes_again(uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted, copy)
    newest = checkpoint_folders(copy / "checkpoints")[0]
    (newest / "model.safetensors").write_bytes(b"")
    (copy / "checkpoints" / ".step-00000060").mkdir()  # a save that was killed
    run_apart(copy)
    assert fingerprint(copy) == fingerprint(uninterrupted)
    assert not list((copy / "checkpoints").glob(".step-*"))


@pytest.mark.parametrize("weights", [{"class_weight": 0.0}, {"patch_weight": 0.0}])
@pytest.mark.parametrize("share", ["separate", "shared_trunk"])
def test_every_parameter_of_the_optimizer_learns(weights: dict[str, float], share: str) -> None:
    """Else a checkpoint lacks its state, and DDP waits for its gradient."""
    chosen = tiny("pseudomae", method={"head": {"share": share}, **weights})
    method, *_ = build(chosen, open_data("digits"))
    pictures = torch.randint(0, 255, (8, 1, 16, 16), dtype=torch.uint8)
    keys = torch.rand(8, 16)
    batch = Batch((pictures, pictures), (keys, keys), torch.zeros(8, dtype=torch.long), torch.arange(8))
    clock = Clock(batch_size=8, num_pictures=80, total_steps=10)
    method({"train": batch.normalised(torch.zeros(1), torch.ones(1))}, clock).loss.backward()
    assert [name for name, p in method.named_parameters() if p.requires_grad and p.grad is None] == []


def test_the_same_settings_on_a_finished_run_change_nothing(uninterrupted: Path) -> None:
    before = fingerprint(uninterrupted)
    run(uninterrupted, workers=2)
    assert fingerprint(uninterrupted) == before


def test_other_settings_are_refused_and_named(uninterrupted: Path) -> None:
    with pytest.raises(SettingsError, match=r"C-12.*seed was 0, is 1"):
        run(uninterrupted, seed=1)


def test_another_method_in_the_same_folder_is_refused_and_named(uninterrupted: Path) -> None:
    before = fingerprint(uninterrupted)
    with pytest.raises(SettingsError, match=r"^C-12: .*method\.name was pseudomae, is sdae") as error:
        pretrain(tiny("sdae", steps=STEPS), uninterrupted, quiet=True)
    assert error.value.exit_code == 2
    assert fingerprint(uninterrupted) == before


FREE = {"workers", "save_steps", "keep_steps", "keep_best", "log_steps", "device", "export_teachers", "stuck_minutes"}
"""What may change when a run goes on."""


def another(value: Any) -> Any:
    """Another value than this one, of its own type."""
    if value is None or isinstance(value, str):
        return f"not {value}"
    if isinstance(value, list | tuple):
        return [*value, 1]
    return not value if isinstance(value, bool) else value + 1


def changed(settings: Any, name: str) -> Any:
    """The settings with another value under a dotted name, allowed or not."""
    first, _, rest = name.partition(".")
    value = getattr(settings, first)
    return settings.model_copy(update={first: changed(value, rest) if rest else another(value)})


@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
@pytest.mark.parametrize("method", SHRUNK)
def test_every_setting_but_the_free_ones_makes_another_run(method: str) -> None:
    """C12."""
    ours = tiny(method)
    names = flatten(ours.model_dump(mode="json")).keys()
    assert names > FREE and {"seed", "method.name", "backbone.width", "optim.betas", "guard.window"} <= names
    for name in names:
        assert differences(ours, changed(ours, name)).keys() == {name} - FREE


def test_another_precision_than_the_run_was_begun_in_is_refused(uninterrupted: Path, tmp_path: Path) -> None:
    """C12: what `auto` stands for depends on the device."""
    out = tmp_path / "run"
    shutil.copytree(uninterrupted, out)
    began = json.loads((out / "environment.json").read_text())
    now = began["precision"]
    then = "float32" if now == "bfloat16" else "bfloat16"
    (out / "environment.json").write_text(json.dumps(began | {"precision": then}))
    with pytest.raises(SettingsError, match=rf"^C-12: .* was begun in {then}, and would go on in {now}") as error:
        run(out)
    assert error.value.exit_code == 2
    assert fingerprint(out) == fingerprint(uninterrupted)


def test_worker_threads_do_not_change_a_bit(uninterrupted: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    run_apart(out, workers=3)
    assert fingerprint(out) == fingerprint(uninterrupted)


def test_a_checkpoint_of_another_size_is_refused_with_the_tensors(uninterrupted: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(uninterrupted, copy)
    (copy / "settings.json").unlink()
    with pytest.raises(CheckpointError, match=r"K-30.*expected"):
        run(copy, backbone={"drop_path": 0.1, "width": 32})
