"""Semiformer with a masked branch around its transformer: it learns from both, and goes on to the same bits."""

import json
import shutil
from pathlib import Path
from statistics import mean

import pytest
from safetensors.torch import load_file

from small_runs import SHRUNK, TINY
from tutelage.api import settings_for
from tutelage.config import merged
from tutelage.engine.pretrain import pretrain
from tutelage.engine.settings import read_settings

STEPS = 40


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    small = {name: value for name, value in TINY.items() if name != "method"}
    small |= {"steps": STEPS, "save_steps": 20, "monitors": 0, "workers": 0, "optim": {"base_lr": 0.02}}
    changes = merged(small, SHRUNK["semiformer"], {"method": {"branch": TINY["method"]}})
    out = tmp_path_factory.mktemp("whole") / "run"
    pretrain(settings_for("semiformer-mae-quickstart", **changes), out, quiet=True)
    return out


def test_after_the_warm_up_it_learns_from_hidden_patches_too(whole: Path) -> None:
    lines = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    rebuilt = [line["reconstruction"] for line in lines if "reconstruction" in line]
    assert 0 < len(rebuilt) < STEPS, "in the warm-up only labels are learned from"
    assert mean(rebuilt[-5:]) < mean(rebuilt[:5])
    last = lines[-1]
    parts = last["cross_entropy"] + last["unlabelled"] + last["reconstruction"]
    assert last["loss"] == pytest.approx(parts, rel=1e-5), "in the quick-start all weigh as much"


def test_it_goes_on_to_the_same_bits(whole: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, again := tmp_path / "run")
    last = Path("checkpoints", f"step-{STEPS:08d}")
    for folder in (last, "encoder", "joint"):
        shutil.rmtree(again / folder)
    pretrain(read_settings(again / "settings.json"), again, quiet=True)
    tensors = load_file(whole / last / "model.safetensors")
    assert any(name.startswith("branch.decoder.") for name in tensors)
    assert not any(name.startswith("branch.student.") for name in tensors), "the encoder is saved once"
    for file in (last / "model.safetensors", last / "optimizer.safetensors", Path("encoder", "model.safetensors")):
        assert (again / file).read_bytes() == (whole / file).read_bytes(), file
