"""Two streams through the command line: trained, judged, asked; and what cannot be loaded is told."""

import csv
import json
from pathlib import Path

import pytest
import torch

from small_runs import PLAIN_FLAGS
from tutelage.classifiers import load_joint
from tutelage.cli import main
from tutelage.errors import CheckpointError


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("semiformer") / "run"
    words = ["pretrain", "semiformer-quickstart", "--data=digits", "--labels=400", "--steps=160", f"--out={out}"]
    small = [
        "--method.conv=resnet10t",
        "--method.threshold=0.6",
        "--optim.base-lr=0.02",
        "--views.weak.flip=0",
        "--views.strong.flip=0",
    ]
    assert main([*words, *PLAIN_FLAGS, *small]) == 0
    return out


def test_it_learns_and_is_judged_by_both_streams(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "classifier", str(run), "--data=digits", "--json"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert said["rows"][0]["accuracy"] > 0.3, said  # chance is 0.1
    told = [json.loads(line) for line in (run / "monitors.jsonl").read_text().splitlines()][-1]
    assert told["classifier_accuracy"] > 0.3
    assert "sure_share" in told


@pytest.mark.parametrize("baselines", [True, False])
def test_both_streams_are_asked_about_corrupted_pictures(
    baselines: bool, run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["evaluate", "robustness", str(run), "--data=digits", "--classifier", "--json", "--train-pictures=200"]
    assert main([*words, "--epochs=2", *([] if baselines else ["--no-baselines"])]) == 0
    *untrained, asked = json.loads(capsys.readouterr().out)["rows"]
    assert len(untrained) == baselines and asked["name"] == "classifier"
    clean = 1 - asked["scores"]["head"]["details"]["clean_error"]
    assert main(["evaluate", "classifier", str(run), "--data=digits", "--json"]) == 0
    assert clean == pytest.approx(json.loads(capsys.readouterr().out)["rows"][0]["accuracy"])
    assert 0.1 < asked["accuracy"] < clean


def test_what_was_written_answers_as_the_run_did(run: Path) -> None:
    joint = load_joint(str(run))
    assert joint.architecture == "resnet10t and vit_tiny_patch16_224" and len(joint.classes) == 10
    x = torch.randn(2, 1, 16, 16)
    assert torch.equal(joint.vit(x), load_joint(str(run / "joint")).vit(x))
    events = [json.loads(line) for line in (run / "events.jsonl").read_text().splitlines()]
    (exported,) = [event for event in events if event.get("folder") == "joint"]
    assert exported["largest_difference"] < 1e-4


def test_it_names_pictures(run: Path, tmp_path: Path) -> None:
    assert main(["predict", str(run), "--data=digits", f"--out={tmp_path / 'said'}"]) == 0
    rows = list(csv.DictReader((tmp_path / "said" / "predictions.csv").open()))
    assert len(rows) == 1797 and {row["label"] for row in rows} <= {str(k) for k in range(10)}


def test_a_run_of_another_kind_has_none(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="K-07"):
        load_joint(str(tmp_path))


@pytest.mark.parametrize("harm", ["tensors", "settings", "shape", "hub"])
def test_a_damaged_folder_is_refused(harm: str, run: Path, tmp_path: Path) -> None:
    folder = tmp_path / "joint"
    folder.mkdir()
    for file in (run / "joint").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    if harm == "tensors":
        (folder / "model.safetensors").write_bytes(b"no tensors")
    else:
        told = json.loads((folder / "joint.json").read_text())
        name, value = {
            "shape": ("conv", "resnet18"),
            "hub": ("conv", "hf-hub:someone/net"),
            "settings": ("name", "mae"),
        }[harm]
        told["method"][name] = value
        (folder / "joint.json").write_text(json.dumps(told))
    with pytest.raises(CheckpointError, match="K-30" if harm == "shape" else "K-03"):
        load_joint(str(folder))
