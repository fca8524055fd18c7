"""The supervised control, from labelled pictures to an encoder, through the command line in this process."""

import json
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image
from safetensors.torch import load_file

from small_runs import PLAIN_FLAGS
from tutelage.cli import main


def pretrain(data: str | Path, out: Path, *more: str) -> list[str]:
    return ["pretrain", "supervised-quickstart", f"--data={data}", f"--out={out}", *PLAIN_FLAGS, *more]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "supervised"
    assert main(pretrain("digits", out, "--steps=12", "--save-steps=6", "--device=cpu")) == 0
    return out


def tensors(out: Path, step: int) -> dict[str, bytes]:
    folder = out / "checkpoints" / f"step-{step:08d}"
    found = load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")
    return {name: tensor.numpy().tobytes() for name, tensor in found.items()}


def test_it_runs_end_to_end_and_says_how_well_it_classifies(run: Path) -> None:
    metrics = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in metrics] == list(range(1, 13))
    assert all(line["cross_entropy"] == line["loss"] > 0 for line in metrics)
    asked = [json.loads(line) for line in (run / "monitors.jsonl").read_text().splitlines()]
    assert {"classifier_accuracy", "cross_entropy", "knn_accuracy", "rank_me"} <= asked[0].keys()
    page = (run / "report.html").read_text()
    assert "Too short to tell" in page and "<h3>Cross-entropy</h3>" in page
    assert {path.name for path in (run / "pictures").iterdir()} == {"neighbours.png"}


def test_a_run_that_goes_on_ends_with_the_same_bits(run: Path, tmp_path: Path) -> None:
    """Drop path is on in the recipe. What a kill after step 6 would have left."""
    assert json.loads((run / "settings.json").read_text())["backbone"]["drop_path"] == 0.1
    out = tmp_path / "run"
    shutil.copytree(run, out)
    shutil.rmtree(out / "checkpoints/step-00000012")
    assert main(pretrain("digits", out, "--steps=12", "--save-steps=6", "--device=cpu")) == 0
    assert "resumed" in (out / "events.jsonl").read_text()
    assert tensors(out, 12) == tensors(run, 12) != tensors(run, 6)


def test_the_classifier_is_in_the_checkpoint_and_not_in_the_encoder(run: Path) -> None:
    assert {"head.weight", "head.bias", "student.cls_token"} <= tensors(run, 12).keys()
    exported = load_file(run / "encoder/model.safetensors")
    assert "cls_token" in exported and not any("head" in name for name in exported)


def test_its_encoder_can_be_evaluated_and_begun_from(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["evaluate", "knn", str(run), "--data=digits", "--json", "--train-pictures=100"]) == 0
    rows = json.loads(capsys.readouterr().out)["rows"]
    assert [row["name"] for row in rows] == ["raw pixels", "untrained", "encoder"]
    checkpoint = run / "checkpoints/step-00000006"
    assert main(pretrain("digits", tmp_path / "next", "--steps=1", f"--init={checkpoint}")) == 0
    assert "2 ignored (head)" in capsys.readouterr().err


def test_pictures_without_labels_or_of_one_class_are_refused_before_a_folder_is_made(tmp_path: Path, capsys) -> None:
    photos, out = tmp_path / "photos", tmp_path / "run"
    photos.mkdir()
    for i in range(40):
        Image.effect_noise((16, 16), 10 + i).save(photos / f"{i:02}.png")
    one = tmp_path / "one.csv"
    one.write_text("path,label\n" + "".join(f"photos/{i:02}.png,cat\n" for i in range(40)))
    for data, told in ((photos, "the training pictures of photos have no labels"), (one, "all of one class")):
        assert main(pretrain(data, out, "--steps=1", "--batch-size=8")) == 3
        said = capsys.readouterr().err
        assert "D-17: " in said and told in said
        assert not out.exists()


def test_half_of_the_labels_are_enough(tmp_path: Path, capsys) -> None:
    """Only labelled pictures are drawn: 60, less those for testing and held out, are 22."""
    photos, table = tmp_path / "photos", tmp_path / "some.csv"
    photos.mkdir()
    for i in range(60):
        Image.effect_noise((16, 16), 10 + i).save(photos / f"{i:02}.png")
    names = ("cat", "dog", "", "")
    table.write_text("path,label\n" + "".join(f"photos/{i:02}.png,{names[i % 4]}\n" for i in range(60)))
    assert main(pretrain(table, tmp_path / "run", "--steps=2", "--method.pool=avg", "--batch-size=16")) == 0
    losses = [json.loads(line)["loss"] for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 2 and all(0 < loss < 2 for loss in losses)
    told = "27 training pictures have no label and are not used ("
    assert told in capsys.readouterr().err
    (note,) = [note for note in json.loads((tmp_path / "run/data.json").read_text())["notes"] if told in note]
    names = re.findall(r"photos/(\d\d)\.png", note)
    assert len(names) == 5 and all(int(name) % 4 > 1 for name in names) and note.endswith(", ...)")
    assert main(pretrain(table, tmp_path / "other", "--steps=2", "--batch-size=32")) == 3
    assert "has 22 labelled training pictures, fewer than the batch_size of 32" in capsys.readouterr().err
