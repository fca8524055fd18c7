import json

import pytest
import timm
import torch
from tests.evaluation.small import COLOUR, GREY, NAME, small_vit
from torch import nn

from tutelage.cli import main
from tutelage.encoder import mean_pooled, with_head
from tutelage.errors import NumericsError
from tutelage.export import export, to_onnx, write_onnx, write_timm

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")
CLASSES = ("a cat", "größe")


def run(folder, pictures):
    session = onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, map(torch.from_numpy, session.run(None, {"pictures": pictures.numpy()})), strict=True))


@pytest.mark.parametrize("positions", ["sincos", "relative"])
def test_onnxruntime_computes_the_same_for_any_batch(tmp_path, positions):
    vit = small_vit((16, 24), 4, channels=1, positions=positions)
    assert write_onnx(vit, tmp_path / "e", GREY) <= 1e-5
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"model.onnx", "config.json"}
    for count in (1, 5):
        pictures = torch.randn(count, 1, 16, 24)
        found = run(tmp_path / "e", pictures)
        with torch.no_grad():
            tokens = vit.forward_features(pictures)
        assert list(found) == ["class_token", "patch_tokens"]
        torch.testing.assert_close(found["class_token"], tokens[:, 0], rtol=0, atol=1e-5)
        torch.testing.assert_close(found["patch_tokens"], tokens[:, 1:], rtol=0, atol=1e-5)
    config = json.loads((tmp_path / "e/config.json").read_text())
    assert (config["mean"], config["std"], config["size"], config["classes"]) == ([0.3], [0.35], [1, 16, 24], [])
    assert b"site-packages" not in (tmp_path / "e/model.onnx").read_bytes(), "torch notes where each node was computed"


def test_a_classifier_of_a_run_comes_out_whole_or_by_option_without_its_head(tmp_path, capsys):
    """A folder as a run leaves it, with the mean of the tokens normed after it."""
    classifier = with_head(mean_pooled(small_vit(16, 4, channels=3)), nn.Linear(48, 2), "avg")
    write_timm(classifier, tmp_path / "run/classifier", COLOUR, architecture=NAME, classes=CLASSES)
    assert main(["export", str(tmp_path / "run"), f"--out={tmp_path / 'c'}", "--to=onnx"]) == 0
    assert "a classifier of 2 classes" in capsys.readouterr().err
    pictures = torch.randn(3, 3, 16, 16)
    with torch.no_grad():
        torch.testing.assert_close(run(tmp_path / "c", pictures)["logits"], classifier(pictures), rtol=0, atol=1e-5)
    assert json.loads((tmp_path / "c/config.json").read_text())["classes"] == list(CLASSES)
    export(str(tmp_path / "run/classifier"), tmp_path / "t")
    whole = timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).eval()
    with torch.no_grad():
        torch.testing.assert_close(whole(pictures), classifier(pictures), rtol=0, atol=1e-5)
    assert tuple(whole.pretrained_cfg["label_names"]) == CLASSES
    assert export(str(tmp_path / "run/classifier"), tmp_path / "t", encoder_only=True).what == "an encoder"
    assert timm.create_model(f"local-dir:{tmp_path / 't'}", pretrained=True).num_classes == 0


def test_weights_that_one_file_cannot_hold_lie_beside_it_and_registers_are_no_patches(tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "LARGEST_FILE", 1000)
    vit = timm.create_model(NAME, img_size=16, patch_size=8, num_classes=0, depth=1, reg_tokens=3).eval()
    write_onnx(vit, tmp_path / "e", COLOUR)
    assert {path.name for path in (tmp_path / "e").iterdir()} == {"model.onnx", "model.onnx.data", "config.json"}
    pictures = torch.randn(2, 3, 16, 16)
    with torch.no_grad():
        expected = vit.forward_features(pictures)[:, 4:]
    torch.testing.assert_close(run(tmp_path / "e", pictures)["patch_tokens"], expected, rtol=0, atol=1e-5)


def test_not_a_number_in_the_weights_is_not_exported(tmp_path):
    vit = small_vit(16, 4, channels=1)
    with torch.no_grad():
        vit.norm.bias[0] = float("nan")
    with pytest.raises(NumericsError, match="X-01: what onnxruntime computes"):
        write_onnx(vit, tmp_path / "e", GREY)
    assert list(tmp_path.iterdir()) == []
