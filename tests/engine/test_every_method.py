"""What holds for every method: it goes on from a checkpoint to the same bits, its run can be judged, and black is a colour."""

import json
import math
import shutil
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from shapes import write_objects, write_shapes
from small_runs import SHRUNK, TINY
from tutelage.api import settings_for
from tutelage.config import merged
from tutelage.data.wordnet import open_wordnet
from tutelage.engine.pretrain import pretrain
from tutelage.engine.settings import RunSettings, read_settings
from tutelage.export import load_encoder
from wordnets import write_wordnet

STEPS = 12
BY_TEACHER = {
    "teacher": {"every": "step", "momentum": {"start": 0.5, "end": 0.99}},
    "guesses_by": "teacher",
    "hands_on": "teacher",
}
MORE: dict[str, dict[str, Any]] = {
    "fixmatch, by its teacher": {"method": BY_TEACHER},
    "finetune, averaged": {"method": {"ema": 0.9, "hands_on": "teacher"}},
}
"""Quick-starts with what they are changed by, beside each method's own."""


@pytest.fixture(scope="module")
def masked(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


def settings(name: str, masked: Path) -> RunSettings[Any]:
    changes: dict[str, Any] = {"steps": STEPS, "save_steps": 4, "monitors": 2, "backbone": {"drop_path": 0.1}}
    if name == "pseudomae":
        changes["method"] = {"assignment": "centring"}  # with Sinkhorn it is test_resume.py's
    if name == "segment":
        changes["data"] = str(masked)
    recipe, small = name.partition(",")[0], {key: value for key, value in TINY.items() if key != "method"}
    own = (SHRUNK.get(recipe, {}), MORE.get(name, {}))
    return settings_for(f"{recipe}-quickstart", **merged(small, *own, changes))


@pytest.mark.parametrize("name", [*SHRUNK, *MORE])
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


@pytest.fixture(scope="module")
def black(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Black pictures: in two classes and with tags, with masks, and with objects."""
    folder = tmp_path_factory.mktemp("black")
    write_shapes(folder / "masks")
    write_objects(folder / "objects")
    for path in folder.rglob("images/**/*.png"):
        Image.new("RGB", Image.open(path).size).save(path)
    for label in ("boot", "sneaker"):
        (folder / "classes" / label).mkdir(parents=True)
        for i in range(160):
            Image.new("L", (8, 8)).save(folder / "classes" / label / f"{i}.png")
    write_wordnet(folder / "cache" / "wordnet")
    rows = [f"{label}/{i}.png,{label}" for label in ("boot", "sneaker") for i in range(160)]
    (folder / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    return folder


@pytest.mark.parametrize("name", [*SHRUNK, "detect", "weakly-supervised"])
def test_black_pictures_give_finite_losses_and_gradients(name, black, tmp_path, monkeypatch, request) -> None:
    """G6: no patch of them has any variance."""
    kinds = {"channels": 16, "hidden": 32, "proposals": 30, "samples": 16, "anchor_samples": 32}
    own: dict[str, dict[str, Any]] = {
        "segment": {"data": str(black / "masks")},
        "detect": {"data": str(black / "objects"), "batch_size": 8, "backbone": {"patch_size": 4}, "method": kinds},
        "weakly-supervised": {"tags": str(black / "tags.csv")},
    }
    small = {key: value for key, value in TINY.items() if key != "method"}
    small |= {"steps": 3, "data": str(black / "classes")}
    monkeypatch.setenv("TUTELAGE_CACHE", str(black / "cache"))
    open_wordnet.cache_clear()
    request.addfinalizer(open_wordnet.cache_clear)
    changes = merged(small, SHRUNK.get(name, {}), own.get(name, {}))
    pretrain(settings_for(f"{name}-quickstart", **changes), tmp_path / "run", quiet=True)
    steps = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["skipped"] for line in steps] == [0, 0, 0]
    assert all(math.isfinite(line["loss"]) and math.isfinite(line["grad_norm"]) for line in steps)
    assert json.loads((tmp_path / "run" / "data.json").read_text())["mean"][0] == 0
