"""Fine-tuning from any encoder, through the command line in this process."""

import csv
import io
import json
import re
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file

import tutelage
from small_runs import FLAGS
from tutelage.cli import main
from tutelage.data.index import open_data
from tutelage.data.streams import eval_batches
from tutelage.errors import SettingsError
from tutelage.evaluation.features import normalised
from tutelage.evaluation.predict import Prediction, table
from tutelage.transfer import load_classifier

SMALL = ["--data=digits", "--batch-size=32", "--log-steps=1", "--monitors=1", "--device=cpu"]


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mae"
    assert main(["pretrain", "mae-quickstart", "--data=digits", f"--out={out}", *FLAGS, "--steps=8"]) == 0
    return out


@pytest.fixture(scope="module")
def tuned(pretrained: Path) -> Path:
    out = pretrained.parent / "tuned"
    assert main(["finetune", str(pretrained), *SMALL, f"--out={out}", "--steps=12", "--save-steps=4"]) == 0
    return out


def test_it_begins_from_the_encoder_at_its_size(pretrained: Path, tuned: Path) -> None:
    settings = json.loads((tuned / "settings.json").read_text())
    assert settings["backbone"]["image_size"] == [16, 16] and settings["backbone"]["width"] == 16
    assert settings["init"] == str(pretrained) and settings["backbone"]["drop_path"] == 0.1
    before = load_file(pretrained / "encoder/model.safetensors")
    after = load_file(tuned / "encoder/model.safetensors")
    assert {"fc_norm.weight", "fc_norm.bias"} <= after.keys() and "norm.weight" not in after
    moved = {name: float((after[name] - before[name]).abs().max()) for name in before.keys() & after.keys()}
    assert 0 < moved["patch_embed.proj.weight"] < moved["blocks.1.attn.qkv.weight"]
    asked = [json.loads(line) for line in (tuned / "monitors.jsonl").read_text().splitlines()]
    assert {"classifier_accuracy", "cross_entropy"} <= asked[-1].keys()


def test_its_classifier_is_judged_and_timm_loads_it(tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "classifier", str(tuned), "--data=digits", "--json"]) == 0
    accuracy = json.loads(capsys.readouterr().out)["accuracy"]
    vit = timm.create_model(f"local-dir:{tuned}/classifier", pretrained=True).eval()
    encoder, test = load_classifier(str(tuned)), open_data("digits").test
    (batch,) = eval_batches(test, (16, 16), 1000)
    with torch.no_grad():
        guessed = vit(normalised(batch.views[0], encoder.statistics, 1)).argmax(1)
    assert accuracy == pytest.approx(float((guessed == batch.labels).double().mean()))
    assert vit.pretrained_cfg["label_names"] == [str(digit) for digit in range(10)]


def test_an_average_is_asked_for_by_a_number_and_judged_and_handed_on(
    pretrained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out, words = tmp_path / "run", ["--method.ema=0.8", "--method.hands-on=teacher", "--steps=8", "--export-teachers"]
    assert main(["finetune", str(pretrained), *SMALL, f"--out={out}", *words]) == 0
    assert "the average is kept beside" not in capsys.readouterr().err
    tensors = load_file(out / "checkpoints/step-00000008/model.safetensors")
    own = {name.removeprefix("student."): tensor for name, tensor in tensors.items() if name.startswith("student.")}
    average = {n.removeprefix("teacher.nets.encoder."): t for n, t in tensors.items() if ".nets.encoder." in n}
    assert own.keys() == average.keys() and not torch.equal(own["cls_token"], average["cls_token"])
    for place, wanted in (("encoder", average), ("encoder-student", own), ("classifier", average)):
        exported = load_file(out / place / "model.safetensors")
        assert all(torch.equal(exported[name], tensor) for name, tensor in wanted.items()), place
    assert torch.equal(exported["head.weight"], tensors["teacher.nets.head.weight"])
    assert not torch.equal(exported["head.weight"], tensors["head.weight"])

    assert main(["evaluate", "classifier", str(out), "--data=digits", "--json"]) == 0
    held_out = json.loads(capsys.readouterr().out)["rows"][0]["scores"]["head"]["held_out"]
    asked = [json.loads(line) for line in (out / "monitors.jsonl").read_text().splitlines()]
    assert asked[-1]["step"] == 8 and asked[-1]["classifier_accuracy"] == pytest.approx(held_out)

    beside = [*SMALL, f"--out={tmp_path / 'beside'}", "--method.ema=0.8", "--steps=1"]
    assert main(["finetune", str(pretrained), *beside]) == 0
    assert "note    the average is kept beside; --method.hands-on teacher" in capsys.readouterr().err


def test_what_was_fine_tuned_can_be_evaluated_exported_and_begun_from(tuned: Path, tmp_path: Path, capsys) -> None:
    last = tuned / "checkpoints/step-00000012"
    for place in (tuned, last):
        assert main(["evaluate", "knn", str(place), "--data=digits", "--no-baselines", "--json"]) == 0
    a, b = (json.loads(line)["accuracy"] for line in capsys.readouterr().out.splitlines())
    assert a == b
    assert main(["export", str(tuned), f"--out={tmp_path / 'backbone'}"]) == 0
    again = ["finetune", str(tmp_path / "backbone"), *SMALL, f"--out={tmp_path / 'again'}", "--steps=1"]
    assert main(again) == 0


@pytest.mark.parametrize("what", ["classifier", "checkpoints/step-00000012"])
def test_it_goes_on_from_a_classifier_of_other_classes_without_its_head(
    what: str, tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """K5."""
    for label in ("dark", "light", "loud"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            Image.effect_noise((16, 16), 10 + i).save(tmp_path / "set" / label / f"{i:02}.png")
    out, words = tmp_path / "run", ["--batch-size=32", "--log-steps=1", "--monitors=1", "--device=cpu", "--steps=2"]
    assert main(["finetune", str(tuned / what), f"--data={tmp_path / 'set'}", f"--out={out}", *words]) == 0
    said = capsys.readouterr().err
    assert re.search(r"^init    .* encoder tensors loaded, .* ignored \(head\b.*\)$", said, re.MULTILINE), said
    before, after = (load_file(run / "classifier/model.safetensors")["head.weight"] for run in (tuned, out))
    assert len(before) == 10 and len(after) == 3 and load_classifier(str(out)).classes == ("dark", "light", "loud")


def test_it_names_the_classes_of_a_set(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(tuned), "--data=digits", f"--out={out}"]) == 0
    rows = list(csv.DictReader((out / "predictions.csv").open()))
    assert len(rows) == 1797 and rows[0].keys() == {
        "path",
        "label",
        "score",
        "label_2",
        "score_2",
        "label_3",
        "score_3",
    }
    whole = open_data("digits", holdout=0.0)
    truth = {whole.test.name(i): str(label) for i, label in enumerate(whole.test.labels)}
    right = np.mean([truth[row["path"]] == row["label"] for row in rows if row["path"] in truth])
    assert right == pytest.approx(tutelage.evaluate("classifier", tuned, "digits").accuracy)
    assert all(float(row["score"]) >= float(row["score_2"]) >= float(row["score_3"]) > 0 for row in rows)
    assert Image.open(out / "predictions.png").width > 640
    said = capsys.readouterr().err
    assert "1,797 pictures: " in said and "of 1,797 with a known class" in said


def test_it_names_pictures_of_a_folder_and_leaves_out_what_it_cannot_read(tuned: Path, tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for name in ("=1+1.png", "b,c.png", "ä.png"):
        Image.effect_noise((20, 30), 40).convert("RGB").save(photos / name)
    (photos / "broken.png").write_bytes(b"no picture")
    assert main(["predict", str(tuned), f"--data={photos}", f"--out={out}"]) == 0
    rows = {row["path"]: row for row in csv.DictReader((out / "predictions.csv").open(encoding="utf-8"))}
    assert rows.keys() == {"./=1+1.png", "b,c.png", "ä.png", "broken.png"}
    assert rows["broken.png"]["label"] == "" and rows["b,c.png"]["label"] in map(str, range(10))


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", "+1", "-1", "@x", "\t=1", "\r=1"])
def test_no_cell_of_the_table_is_a_formula(name: str) -> None:
    rows = list(csv.reader(io.StringIO(table([Prediction(name, (name, "a"), (0.9, 0.1))]), newline="")))
    assert all(cell[:1] not in ("=", "+", "-", "@", "\t", "\r") for row in rows for cell in row)


def test_a_run_without_a_classifier_predicts_nothing(pretrained: Path, tmp_path: Path, capsys) -> None:
    assert main(["predict", str(pretrained), "--data=digits", f"--out={tmp_path / 'out'}"]) == 4
    assert "K-07: " in capsys.readouterr().err and not (tmp_path / "out").exists()


def test_from_python_and_from_scratch(pretrained: Path, tmp_path: Path) -> None:
    run = tutelage.finetune(pretrained, "digits", tmp_path / "a", steps=1, batch_size=32, method={"pool": "token"})
    assert (run / "classifier/config.json").is_file()
    with pytest.raises(SettingsError, match=r"C-02: .*pool"):
        tutelage.finetune(pretrained, "digits", tmp_path / "c", method={"pool": "tokens"})
    scratch = ["pretrain", "finetune-quickstart", *SMALL, f"--out={tmp_path / 'b'}", "--steps=1", "--backbone.width=16"]
    assert main([*scratch, "--backbone.heads=2", "--backbone.image-size=16", "--backbone.depth=1"]) == 0


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["--data=digits"], 2, "C-06: finetune needs an encoder, before its options."),
        (["ENCODER", "--data=digits", "--recipe=mae-quickstart"], 2, "'mae-quickstart' is no recipe of fine-tuning."),
        (["ENCODER", "--data=digits", "--recipe=finetune-quickstat"], 2, "Did you mean 'finetune-quickstart'?"),
        (["nothing-there", "--data=digits"], 4, "K-0"),
        (["ENCODER"], 2, "C-07: no --data given."),
        (["ENCODER", "--data=digits", "--method.mixup=-1"], 2, "method.mixup"),
        (["ENCODER", "--data=digits", "--method.ema=1"], 2, "method.ema"),
        (["ENCODER", "--data=digits", "--method.hands-on=teacher"], 2, "C-24: method.hands_on is 'teacher'"),
    ],
)
def test_what_cannot_work_is_refused(pretrained: Path, tmp_path: Path, capsys, words, code: int, told: str) -> None:
    words = [str(pretrained) if word == "ENCODER" else word for word in words]
    assert main(["finetune", *words, f"--out={tmp_path / 'run'}"]) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_it_explains_itself(pretrained: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["finetune"]) == 0 and "usage: tutelage finetune ENCODER" in capsys.readouterr().out
    assert main(["finetune", str(pretrained), "--help"]) == 0
    assert f"usage: tutelage finetune {pretrained} --data DATA" in capsys.readouterr().out
