"""What holds for every method: it goes on from a checkpoint to the same bits, and its run can be judged."""

import shutil
from pathlib import Path
from typing import Any

import pytest

from shapes import write_shapes
from small_runs import SHRUNK, tiny
from tutelage.engine.pretrain import pretrain
from tutelage.engine.settings import RunSettings, read_settings
from tutelage.export import load_encoder

STEPS = 12


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def settings(name: str, masked: Path) -> RunSettings[Any]:
    changes: dict[str, Any] = {"steps": STEPS, "save_steps": 4, "monitors": 2, "backbone": {"drop_path": 0.1}}
    if name == "pseudomae":
        changes["method"] = {"assignment": "centring"}  # with Sinkhorn it is test_resume.py's
    if name == "segment":
        changes["data"] = str(masked)
    return tiny(name, **changes)


@pytest.mark.parametrize("name", SHRUNK)
def test_a_method_goes_on_from_a_checkpoint_to_the_same_bits(name: str, masked: Path, tmp_path: Path) -> None:
    whole, again = tmp_path / "whole", tmp_path / "again"
    pretrain(settings(name, masked), whole, quiet=True)
    shutil.copytree(whole, again)
    last = Path("checkpoints", f"step-{STEPS:08d}")
    shutil.rmtree(again / last)
    shutil.rmtree(again / "encoder")
    pretrain(read_settings(again / "settings.json"), again, quiet=True)
    for file in ("model.safetensors", "optimizer.safetensors"):
        assert (again / last / file).read_bytes() == (whole / last / file).read_bytes(), file
    assert (
        (again / "metrics.jsonl").read_text().count("\n") == (whole / "metrics.jsonl").read_text().count("\n") == STEPS
    )
    for place in (again, again / last):
        assert load_encoder(str(place)).vit.embed_dim == 16
