import json

import pytest
import timm
import torch
from safetensors.torch import load_file
from tests.evaluation.small import COLOUR, GREY, NAME, same, small_vit

from tutelage.errors import CheckpointError, NumericsError
from tutelage.export import load_encoder, write_timm
from tutelage.weights import check_class_token


@pytest.mark.parametrize(("size", "patch", "channels"), [(32, 4, 1), (32, 4, 3), ((16, 48), 4, 1), (96, 16, 3)])
def test_timm_computes_the_same_from_an_export(tmp_path, size, patch, channels):
    vit = small_vit(size, patch, channels)
    statistics = GREY if channels == 1 else COLOUR
    height, width = vit.patch_embed.img_size
    pictures = torch.randn(2, channels, height, width)
    difference = write_timm(vit, tmp_path / "encoder", statistics, architecture=NAME, pictures=pictures)
    theirs = timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True).eval()
    with torch.no_grad():
        assert (theirs.forward_features(pictures) - vit.forward_features(pictures)).abs().max() <= 1e-6
    assert difference <= 1e-6
    assert theirs.pretrained_cfg["mean"] == pytest.approx(statistics.mean)
    assert tuple(theirs.pretrained_cfg["input_size"]) == (channels, height, width)
    assert theirs.num_classes == 0


def test_an_export_holds_timms_names_only_and_comes_back_whole(tmp_path):
    vit = small_vit(channels=3)
    write_timm(vit, tmp_path / "encoder", COLOUR, architecture=NAME)
    names = set(load_file(tmp_path / "encoder" / "model.safetensors"))
    assert names == set(vit.state_dict())
    assert not any("mask_token" in name or "decoder" in name for name in names)
    back = load_encoder(str(tmp_path / "encoder"))
    assert same(vit, back.vit)
    assert (back.size, back.channels, back.architecture) == ((32, 32), 3, NAME)
    assert back.statistics.std == pytest.approx(COLOUR.std)


def test_an_encoder_in_training_with_drop_path_is_exported_as_it_evaluates(tmp_path):
    vit = timm.create_model(NAME, img_size=32, patch_size=4, num_classes=0, drop_path_rate=0.5).train()
    assert write_timm(vit, tmp_path / "encoder", COLOUR, architecture=NAME) == 0
    assert vit.training


def test_an_export_that_computes_something_else_is_refused_and_leaves_nothing(tmp_path):
    vit = small_vit()
    with pytest.raises(NumericsError, match="X-01") as refused:
        write_timm(vit, tmp_path / "encoder", GREY, architecture="deit3_small_patch16_224")
    assert refused.value.exit_code == 5
    assert list(tmp_path.iterdir()) == []


def test_not_a_number_in_the_weights_is_not_exported(tmp_path):
    vit = small_vit()
    with torch.no_grad():
        vit.norm.bias[0] = float("nan")
    with pytest.raises(NumericsError, match="X-01"):
        write_timm(vit, tmp_path / "encoder", GREY, architecture=NAME)
    assert list(tmp_path.iterdir()) == []


def test_an_earlier_export_is_replaced_and_other_folders_are_kept(tmp_path):
    write_timm(small_vit(seed=1), tmp_path / "encoder", GREY, architecture=NAME)
    write_timm(small_vit(seed=2), tmp_path / "encoder", GREY, architecture=NAME)
    assert same(load_encoder(str(tmp_path / "encoder")).vit, small_vit(seed=2))
    assert [path.name for path in tmp_path.iterdir()] == ["encoder"]
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.txt").write_text("years of work")
    with pytest.raises(CheckpointError, match="X-02"):
        write_timm(small_vit(), tmp_path / "thesis", GREY, architecture=NAME)
    assert (tmp_path / "thesis" / "chapter.txt").read_text() == "years of work"


def test_the_card_reaches_the_readme_and_timms_configuration(tmp_path):
    card = {"license": "cc-by-nc-4.0", "tag": "mae_digits", "epochs": 5}
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME, card=card)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    assert (config["pretrained_cfg"]["license"], config["pretrained_cfg"]["tag"]) == ("cc-by-nc-4.0", "mae_digits")
    readme = (tmp_path / "encoder" / "README.md").read_text()
    assert "license: cc-by-nc-4.0" in readme
    assert "- epochs: 5" in readme


@pytest.mark.parametrize(
    "name", ["deit3_small_patch16_224", "vit_small_patch14_reg4_dinov2", "deit_tiny_distilled_patch16_224"]
)
def test_what_timm_has_beyond_the_plain_vit_is_exported_whole(tmp_path, name):
    torch.manual_seed(0)
    vit = timm.create_model(name, num_classes=0, img_size=112, depth=2)
    with torch.no_grad():
        for parameter in vit.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    assert write_timm(vit, tmp_path / "encoder", COLOUR, architecture=name) <= 1e-6
    assert same(load_encoder(str(tmp_path / "encoder")).vit, vit)


@pytest.mark.parametrize(
    "name", ["resnet18", "beit_base_patch16_224", "vit_base_patch16_siglip_224", "vit_base_mci_224"]
)
def test_models_without_class_token_or_patch_convolution_are_refused_by_name(name):
    size = {} if name == "resnet18" else {"depth": 1}
    with torch.device("meta"):
        model = timm.create_model(name, **size)
    with pytest.raises(CheckpointError, match=f"K-06: '{name}'"):
        check_class_token(model, name)


def test_relative_positions_come_back_whole_but_not_to_timm(tmp_path):
    vit = small_vit(channels=3, positions="relative")
    assert write_timm(vit, tmp_path / "encoder", COLOUR, architecture=NAME) <= 1e-6
    back = load_encoder(str(tmp_path / "encoder"))
    assert same(vit, back.vit)
    assert "tutelage.load_encoder" in (tmp_path / "encoder" / "README.md").read_text()
    with pytest.raises(RuntimeError, match="relative_positions"):
        timm.create_model(f"local-dir:{tmp_path / 'encoder'}", pretrained=True)
