import json
import shutil
import sys

import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import load_file
from tests.evaluation.small import COLOUR, GREY, NAME, small_vit
from timm.layers import LayerScale
from torch import nn

from small_runs import tiny
from tutelage import api
from tutelage.batch import normalise
from tutelage.cli import main
from tutelage.data.crops import eval_view
from tutelage.encoder import mean_pooled, with_head
from tutelage.errors import CheckpointError, NumericsError
from tutelage.export import export, load_encoder, write_timm, write_transformers, write_vit_mae
from tutelage.export.sources import load_mae
from tutelage.masking import random_mask

transformers = pytest.importorskip("transformers")
CLASSES = ("a cat", "=1+1", "größe")


@pytest.fixture(autouse=True)
def one_seed():
    torch.manual_seed(0)


def head(width=48) -> nn.Linear:
    return nn.Linear(width, len(CLASSES))


@pytest.fixture(scope="module")
def mae_run(tmp_path_factory):
    out = tmp_path_factory.mktemp("mae") / "run"
    api.run(tiny("mae", steps=2, method={"norm_pix": True}), out, quiet=True)
    return out


@pytest.mark.parametrize(("size", "patch", "channels"), [(32, 4, 3), ((16, 48), 4, 1), (96, 16, 3)])
def test_transformers_computes_the_same_from_an_encoder(tmp_path, size, patch, channels):
    vit = small_vit(size, patch, channels)
    name, difference = write_transformers(vit, tmp_path / "e", COLOUR if channels == 3 else GREY)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "e", add_pooling_layer=False).eval()
    pictures = torch.randn(2, channels, *vit.patch_embed.img_size)
    with torch.no_grad():
        differ = (theirs(pictures).last_hidden_state - vit.forward_features(pictures)).abs().max()
    assert type(theirs).__name__ == name == "ViTModel" and theirs.pooler is None
    assert differ <= 1e-5 and difference <= 1e-5
    assert theirs.config.layer_norm_eps == 1e-6 and theirs.config.attention_probs_dropout_prob == 0


@pytest.mark.parametrize(
    ("pool", "kind"), [("token", "ViTForImageClassification"), ("avg", "BeitForImageClassification")]
)
def test_a_classifier_says_the_same_by_the_same_names(tmp_path, pool, kind):
    vit = small_vit(channels=3)
    classifier = with_head(mean_pooled(vit) if pool == "avg" else vit, head(), pool)
    name, _ = write_transformers(classifier, tmp_path / "c", COLOUR, classes=CLASSES)
    theirs = transformers.AutoModelForImageClassification.from_pretrained(tmp_path / "c").eval()
    pictures = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(theirs(pictures).logits, classifier(pictures), rtol=0, atol=1e-5)
    assert type(theirs).__name__ == name == kind
    assert theirs.config.id2label == dict(enumerate(CLASSES)) and theirs.config.label2id["größe"] == 2


def test_the_mean_of_the_tokens_is_what_a_mean_pooled_encoder_pools(tmp_path):
    vit = mean_pooled(small_vit(channels=3))
    with torch.no_grad():
        vit.fc_norm.weight.normal_()
    write_transformers(vit, tmp_path / "e", COLOUR)
    theirs = transformers.AutoModel.from_pretrained(tmp_path / "e").eval()
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        found, mean = theirs(pictures), vit.forward_features(pictures)[:, 1:].mean(1)
        expected = (mean - mean.mean(-1, keepdim=True)) / (mean.var(-1, correction=0, keepdim=True) + 1e-6).sqrt()
        expected = expected * vit.fc_norm.weight + vit.fc_norm.bias
    torch.testing.assert_close(found.pooler_output, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(("size", "shape"), [(32, (50, 40)), (96, (120, 200)), ((16, 48), (32, 96))])
@pytest.mark.parametrize("channels", [1, 3])
def test_its_image_processor_makes_the_view_that_we_evaluate(tmp_path, size, shape, channels):
    statistics = COLOUR if channels == 3 else GREY
    vit = small_vit(size, 16 if size == 96 else 4, channels)
    write_transformers(vit, tmp_path / "e", statistics)
    processor = transformers.AutoImageProcessor.from_pretrained(tmp_path / "e")
    picture = Image.effect_noise(shape[::-1], 60).convert("RGB" if channels == 3 else "L")
    pixels = (
        torch.frombuffer(bytearray(picture.tobytes()), dtype=torch.uint8).reshape(*shape, channels).permute(2, 0, 1)
    )
    ours = eval_view(pixels, vit.patch_embed.img_size)
    expected = normalise(ours[None], torch.tensor(statistics.mean), torch.tensor(statistics.std))
    torch.testing.assert_close(processor(picture, return_tensors="pt").pixel_values, expected, rtol=0, atol=1e-4)
    assert type(processor).__name__.startswith("ViTImageProcessor")  # in transformers 5.0 ...Fast


# --- masked autoencoders ----------------------------------------------------------------------------------------------


def test_a_run_of_mae_is_a_whole_masked_autoencoder(mae_run, tmp_path):
    done = export(str(mae_run), tmp_path / "m", "transformers")
    theirs = transformers.AutoModelForPreTraining.from_pretrained(tmp_path / "m").eval()
    mae = load_mae(str(mae_run)).mae
    pictures, keys = torch.randn(3, 1, 16, 16), torch.rand(3, 16)
    with torch.no_grad():
        found = theirs(pictures, noise=keys)
        mask = random_mask(keys, 0.75)
        patches = pictures.unfold(2, 4, 4).unfold(3, 4, 4).reshape(3, 16, 16)
        target = (patches - patches.mean(-1, keepdim=True)) / (patches.var(-1, keepdim=True) + 1e-6).sqrt()
        loss = ((found.logits - target) ** 2).mean(-1)[mask.hidden_map].mean()
        tokens = theirs.vit.embeddings.patch_embeddings(pictures)
    assert "ViTMAEForPreTraining" in done.load and done.difference <= 1e-5 and not done.note
    assert torch.equal(found.mask.bool(), mask.hidden_map)
    torch.testing.assert_close(found.loss, loss)
    torch.testing.assert_close(tokens, mae.student.patch_embed(pictures), rtol=0, atol=1e-5)
    saved = load_file(next(mae_run.glob("checkpoints/*/model.safetensors")))
    assert torch.equal(theirs.decoder.decoder_pred.weight, saved["decoder.predict.weight"])
    assert (theirs.config.norm_pix_loss, theirs.config.mask_ratio) == (True, 0.75)


def test_the_encoder_in_it_is_the_one_that_the_run_hands_on(mae_run, tmp_path):
    export(str(mae_run), tmp_path / "m", "transformers")
    export(str(mae_run), tmp_path / "e", "transformers", encoder_only=True)
    encoder, pictures = load_encoder(str(mae_run)).vit, torch.randn(2, 1, 16, 16)
    whole = transformers.AutoModel.from_pretrained(tmp_path / "m", mask_ratio=0.0).eval()
    alone = transformers.AutoModel.from_pretrained(tmp_path / "e", add_pooling_layer=False).eval()
    in_order = torch.arange(16.0).expand(2, 16)
    with torch.no_grad():
        expected = encoder.forward_features(pictures)
        torch.testing.assert_close(whole(pictures, noise=in_order).last_hidden_state, expected, rtol=0, atol=1e-5)
        torch.testing.assert_close(alone(pictures).last_hidden_state, expected, rtol=0, atol=1e-5)


def test_a_decoder_that_vitmae_cannot_be_or_that_is_gone_is_left_out_and_said(tmp_path):
    flat = {"backbone": {"image_size": [16, 32], "width": 16, "depth": 1, "heads": 2}}
    api.run(tiny("mae", steps=1, **flat), tmp_path / "run", quiet=True)
    done = export(str(tmp_path / "run"), tmp_path / "e", "transformers")
    assert done.what == "an encoder" and "pictures that are not square" in done.note
    assert json.loads((tmp_path / "e/config.json").read_text())["architectures"] == ["ViTModel"]
    mae, statistics, _ = load_mae(str(tmp_path / "run"))
    shutil.rmtree(tmp_path / "run/checkpoints")
    assert "no checkpoint any more" in export(str(tmp_path / "run"), tmp_path / "e", "transformers").note
    with pytest.raises(CheckpointError, match=r"X-04.*not square.*--encoder-only"):
        write_vit_mae(mae, tmp_path / "m", statistics)


# --- refusals ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        ({"init_values": 1e-5}, "layer scale"),
        ({"qk_norm": True}, "normed queries and keys"),
        ({"no_embed_class": True}, "a class token without a position"),
        ({"reg_tokens": 4}, "tokens beside the class token"),
        ({"pre_norm": True}, "a norm before its blocks"),
        ({"act_layer": nn.ReLU}, "another activation than GELU"),
    ],
)
def test_what_no_vit_of_theirs_computes_is_refused_with_the_reason(tmp_path, arguments, reason):
    vit = timm.create_model(NAME, img_size=32, patch_size=8, num_classes=0, depth=1, **arguments)
    with pytest.raises(CheckpointError, match=f"X-04: transformers has no ViT with {reason}.*--to onnx") as refused:
        write_transformers(vit, tmp_path / "e", COLOUR)
    assert refused.value.exit_code == 4 and list(tmp_path.iterdir()) == []


def test_relative_positions_and_means_of_normed_tokens_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="X-04.*relative positions"):
        write_transformers(small_vit(positions="relative"), tmp_path / "e", GREY)
    with pytest.raises(CheckpointError, match="X-04.*mean of normed patch tokens.*--encoder-only"):
        write_transformers(with_head(small_vit(), head(), "avg"), tmp_path / "e", GREY, classes=CLASSES)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("wrong", ["a difference that no name tells", "not a number in the head"])
def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(tmp_path, wrong):
    vit, linear = small_vit(channels=3), head()
    with torch.no_grad():
        if wrong == "not a number in the head":
            linear.bias[0] = float("nan")
        else:
            vit.blocks[1].ls1 = LayerScale(48, init_values=0.5)
    classifier = with_head(vit, linear, "token")
    with pytest.raises(NumericsError, match="X-01: what transformers computes"):
        write_transformers(classifier, tmp_path / "c", COLOUR, classes=CLASSES)
    if wrong == "not a number in the head":
        with pytest.raises(NumericsError, match="X-01: what timm computes"):
            write_timm(classifier, tmp_path / "c", COLOUR, architecture=NAME, classes=CLASSES)
    assert list(tmp_path.iterdir()) == []


def test_a_missing_library_is_told_with_its_extra_before_anything_is_written(tmp_path, monkeypatch, capsys):
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME)
    monkeypatch.setitem(sys.modules, "transformers", None)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    for to in ("transformers", "onnx"):
        assert main(["export", str(tmp_path / "encoder"), f"--out={tmp_path / 'out'}", f"--to={to}"]) == 6
        said = capsys.readouterr().err
        assert said.startswith("R-12: ") and f"pip install 'tutelage[{to}]'" in said
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
