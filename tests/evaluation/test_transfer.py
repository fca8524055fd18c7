import argparse
import json
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from tests.evaluation.small import COLOUR, GREY, NAME, official_mae, same, settings, small_vit, write_run
from timm.layers import resample_abs_pos_embed
from timm.models._manipulate import adapt_input_conv
from timm.models.vision_transformer import VisionTransformer

from small_runs import HEAD, TINY
from tutelage.api import pretrain
from tutelage.encoder import build_vit
from tutelage.errors import CheckpointError
from tutelage.export import init_from, load_encoder, write_timm
from tutelage.transfer import adapt_channels


def test_an_unfinished_run_gives_its_newest_whole_checkpoint(tmp_path):
    student, teacher = small_vit(seed=1), small_vit(seed=2)
    write_run(tmp_path / "run", small_vit(seed=3), teacher, step=900)
    newest = write_run(tmp_path / "run", student, teacher, step=1200)
    unfinished = tmp_path / "run" / "checkpoints" / "step-00001300"
    unfinished.mkdir()
    (unfinished / "model.safetensors").write_bytes(b"half")
    read = load_encoder(str(tmp_path / "run"))
    assert same(read.vit, student)
    assert read.origin == str(newest.resolve())
    assert (read.size, read.channels, read.statistics) == ((32, 32), 1, GREY)
    assert same(load_encoder(str(newest)).vit, student)


def test_a_finished_run_gives_its_exported_encoder(tmp_path):
    write_run(tmp_path, small_vit(seed=1), small_vit(seed=2))
    write_timm(small_vit(seed=4), tmp_path / "encoder", GREY, architecture=NAME)
    assert same(load_encoder(str(tmp_path)).vit, small_vit(seed=4))


def test_a_teacher_is_read_by_its_name(tmp_path):
    write_run(tmp_path, small_vit(seed=1), small_vit(seed=2))
    assert same(load_encoder(str(tmp_path), teacher="reconstruction_teacher").vit, small_vit(seed=2))
    with pytest.raises(CheckpointError, match=r"K-04.*Did you mean 'reconstruction_teacher'"):
        load_encoder(str(tmp_path), teacher="reconstruction")


def test_the_teachers_of_a_branch_are_read_by_their_names(tmp_path):
    method = {"branch": {"decoder": {"width": 16, "depth": 1, "heads": 2}, "head": HEAD}}
    settings = TINY | {"labels": "100", "method": method}
    run = pretrain("semi-mae-pseudomae-quickstart", settings.pop("data"), tmp_path, steps=2, **settings)
    (checkpoint,) = (run / "checkpoints").glob("step-*2")
    tensors = load_file(checkpoint / "model.safetensors")
    for teacher in ("labelling_teacher", "reconstruction_teacher"):
        prefix = f"branch.{teacher}.nets.encoder."
        own = {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}
        found = load_encoder(str(checkpoint), teacher=teacher).vit.state_dict()
        assert own and all(torch.equal(found[name], tensor) for name, tensor in own.items())
    with pytest.raises(CheckpointError, match=r"K-04.*Did you mean 'labelling_teacher'"):
        load_encoder(str(checkpoint), teacher="labeling_teacher")


def test_a_run_that_hands_on_its_teacher_gives_it_unless_the_student_is_asked_for(tmp_path):
    hands = {"hands_on": "reconstruction_teacher"}
    checkpoint = write_run(tmp_path, small_vit(seed=1), small_vit(seed=2), **hands)
    for place in (tmp_path, checkpoint):
        assert same(load_encoder(str(place)).vit, small_vit(seed=2))
        assert same(load_encoder(str(place), teacher="student").vit, small_vit(seed=1))
        found = init_from(small_vit(seed=7), str(place))
        assert found.line().startswith(f"the reconstruction teacher of {checkpoint.resolve()}: ")
    write_timm(small_vit(seed=4), tmp_path / "encoder", GREY, architecture=NAME)
    assert same(load_encoder(str(tmp_path)).vit, small_vit(seed=4))
    assert same(load_encoder(str(tmp_path), teacher="reconstruction_teacher").vit, small_vit(seed=4))
    assert same(load_encoder(str(tmp_path), teacher="student").vit, small_vit(seed=1))


@pytest.mark.parametrize("damage", ["truncated", "flipped", "no weights", "bad manifest", "no settings"])
def test_a_damaged_checkpoint_is_refused(tmp_path, damage):
    checkpoint = write_run(tmp_path, small_vit(), small_vit())
    file = checkpoint / "model.safetensors"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    {
        "truncated": lambda: file.write_bytes(data[:-10]),
        "flipped": lambda: file.write_bytes(data),
        "no weights": file.unlink,
        "bad manifest": lambda: (checkpoint / "MANIFEST.json").write_text("[]"),
        "no settings": (tmp_path / "settings.json").unlink,
    }[damage]()
    with pytest.raises(CheckpointError, match="K-10") as refused:
        load_encoder(str(checkpoint))
    assert refused.value.exit_code == 4


def test_places_without_an_encoder_are_refused_by_name(tmp_path):
    with pytest.raises(CheckpointError, match="K-02"):
        load_encoder(str(tmp_path / "nowhere"))
    with pytest.raises(CheckpointError, match=r"K-02.*timm:vit_base_patch16_224\.mae"):
        load_encoder("vit_base_patch16_224.mae")
    with pytest.raises(CheckpointError, match="K-03"):
        load_encoder(str(tmp_path))
    write_run(tmp_path / "run", small_vit(), small_vit())
    shutil.rmtree(tmp_path / "run" / "checkpoints")
    with pytest.raises(CheckpointError, match="K-03.*no checkpoint yet"):
        load_encoder(str(tmp_path / "run"))
    with pytest.raises(CheckpointError, match="K-03.*--init"):
        load_encoder(str(official_mae(tmp_path / "mae.pth", small_vit())))


def test_a_timm_folder_that_says_another_shape_is_refused_with_a_table(tmp_path):
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME)
    config = json.loads((tmp_path / "encoder" / "config.json").read_text())
    config["model_args"]["embed_dim"] = 96
    (tmp_path / "encoder" / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=r"K-30[\s\S]*cls_token +1x1x48 +1x1x96"):
        load_encoder(str(tmp_path / "encoder"))


def test_a_timm_folder_with_missing_tensors_is_refused(tmp_path):
    write_timm(small_vit(), tmp_path / "encoder", GREY, architecture=NAME)
    tensors = {name: tensor for name, tensor in small_vit().state_dict().items() if name != "norm.weight"}
    save_file(tensors, tmp_path / "encoder" / "model.safetensors")
    with pytest.raises(CheckpointError, match=r"K-32.*norm\.weight"):
        load_encoder(str(tmp_path / "encoder"))


def test_numbers_that_are_not_finite_are_refused(tmp_path):
    vit = small_vit()
    with torch.no_grad():
        vit.norm.bias[0] = float("inf")
    with pytest.raises(CheckpointError, match=r"K-17.*norm\.bias"):
        load_encoder(str(write_run(tmp_path, vit, vit)))


def test_timm_weights_that_cannot_be_had_are_refused_without_the_network(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", "/nowhere")
    with pytest.raises(CheckpointError, match="K-05") as refused:
        load_encoder("timm:vit_tiny_patch16_224.no_such_tag")
    assert "local" in str(refused.value) or "folder" in str(refused.value)
    with pytest.raises(CheckpointError, match=r"K-02.*Did you mean 'vit_base_patch16_224'"):
        load_encoder("timm:vit_base_patch16_2244")


# --- as a start -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["", "module."])
def test_an_official_mae_checkpoint_is_a_start(tmp_path, prefix):
    source, vit = small_vit(channels=3, seed=1), small_vit(channels=3, seed=2)
    coverage = init_from(vit, str(official_mae(tmp_path / "mae.pth", source, prefix)))
    assert same(source, vit)
    n = len(vit.state_dict())
    assert coverage.line() == f"{coverage.origin}: {n} of {n} encoder tensors loaded, 5 ignored (decoder)"
    assert coverage.missing == ()
    assert coverage.statistics is not None
    assert coverage.statistics.mean == (0.485, 0.456, 0.406)


DECODER = {"mask_token": torch.ones(1, 1, 8), "decoder_pred.weight": torch.ones(48, 8)}
REST = {"optimizer": {"state": {}, "param_groups": []}, "epoch": 3, "args": argparse.Namespace(blr=1.5e-4)}


def official_sdae(path: Path, student: VisionTransformer, teacher: VisionTransformer) -> Path:
    """As SdAE's training script saves it: an MAE, and beside it the ViT that is its teacher."""
    torch.save({"model": student.state_dict() | DECODER, "model_teacher": teacher.state_dict(), **REST}, path)
    return path


def official_rc_mae(path: Path, student: VisionTransformer, teacher: VisionTransformer) -> Path:
    """As RC-MAE's training script saves it: two MAEs, each twice, the student once inside DDP."""
    one, other = student.state_dict() | DECODER, teacher.state_dict() | DECODER
    nets = {"student": {f"module.{name}": tensor for name, tensor in one.items()}, "teacher": other}
    torch.save({**nets, "student_without_ddp": one, "teacher_without_ddp": other, **REST}, path)
    return path


@pytest.mark.parametrize(
    ("write", "asked", "given"),
    [
        (official_sdae, None, "student"),
        (official_sdae, "teacher", "teacher"),
        (official_rc_mae, None, "teacher"),
        (official_rc_mae, "student", "student"),
        (official_rc_mae, "teacher", "teacher"),
    ],
)
def test_an_official_file_with_a_teacher_gives_what_its_method_hands_on_unless_asked_for_the_other(
    tmp_path, write, asked, given
):
    nets = {"student": small_vit(channels=3, seed=1), "teacher": small_vit(channels=3, seed=2)}
    vit = small_vit(channels=3, seed=3)
    coverage = init_from(vit, str(write(tmp_path / "official.pth", **nets)), teacher=asked)
    assert same(vit, nets[given])
    assert coverage.missing == () and coverage.notes == ()


def test_a_start_from_another_grid_and_other_channels_is_fitted_and_says_so(tmp_path):
    source, vit = small_vit(size=(16, 48), channels=3, seed=1), small_vit(size=32, channels=1, seed=2)
    write_timm(source, tmp_path / "encoder", COLOUR, architecture=NAME)
    coverage = init_from(vit, str(tmp_path / "encoder"))
    expected = resample_abs_pos_embed(source.pos_embed, [8, 8], [4, 12])
    assert torch.equal(vit.pos_embed, expected)
    assert torch.allclose(vit.patch_embed.proj.weight, source.patch_embed.proj.weight.sum(dim=1, keepdim=True))
    assert torch.equal(vit.blocks[1].mlp.fc2.weight, source.blocks[1].mlp.fc2.weight)
    assert coverage.line().endswith("tensors loaded, positions 4x12 -> 8x8, patch embedding 3 -> 1 channels")
    assert coverage.statistics is None


def test_grids_with_as_many_patches_are_not_taken_for_the_same(tmp_path):
    source, vit = small_vit(size=(16, 64), seed=1), small_vit(size=32, seed=2)
    write_timm(source, tmp_path / "encoder", GREY, architecture=NAME)
    assert "positions 4x16 -> 8x8" in init_from(vit, str(tmp_path / "encoder")).line()
    assert not torch.equal(vit.pos_embed, source.pos_embed)


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 7])
def test_channels_are_adapted_as_timm_does(channels):
    weight = torch.randn(6, 3, 4, 4)
    assert torch.allclose(adapt_channels(weight, channels), adapt_input_conv(channels, weight))


@pytest.mark.parametrize(("old", "new"), [(1, 3), (3, 1), (1, 4)])
def test_equal_channels_are_answered_alike_after_adapting(old, new):
    weight, grey = torch.randn(6, old, 4, 4), torch.randn(2, 1, 8, 8)
    before = torch.nn.functional.conv2d(grey.expand(-1, old, -1, -1), weight, stride=4)
    after = torch.nn.functional.conv2d(grey.expand(-1, new, -1, -1), adapt_channels(weight, new), stride=4)
    assert torch.allclose(before, after, atol=1e-5)


def test_a_start_from_a_run_or_its_teacher_names_what_is_ignored(tmp_path):
    write_run(tmp_path, small_vit(seed=1), small_vit(seed=2))
    vit = small_vit(seed=3)
    coverage = init_from(vit, str(tmp_path))
    assert same(vit, small_vit(seed=1))
    assert "ignored (decoder, teachers)" in coverage.line()
    assert coverage.statistics == GREY
    coverage = init_from(vit, str(tmp_path), teacher="reconstruction_teacher")
    assert "ignored (decoder, student, teachers)" in coverage.line()
    assert same(vit, small_vit(seed=2))


def test_tensors_that_the_source_lacks_are_named_and_keep_their_values(tmp_path):
    source, vit = small_vit(seed=1), small_vit(seed=2)
    before = vit.norm.weight.detach().clone()
    tensors = {name: tensor for name, tensor in source.state_dict().items() if not name.startswith("norm.")}
    save_file(tensors, tmp_path / "some.safetensors")
    coverage = init_from(vit, str(tmp_path / "some.safetensors"))
    assert coverage.missing == ("norm.weight", "norm.bias")
    assert "2 missing (norm.weight, norm.bias)" in coverage.line()
    assert torch.equal(vit.norm.weight, before)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"width": 96}, r"cls_token +1x1x96 +1x1x48"),
        ({"patch_size": 8}, r"patch_embed\.proj\.weight +48x1x8x8 +48x1x4x4"),
        ({"depth": 1}, r"has 1 blocks, and the backbone 2\..* --backbone\.depth 1\."),
        ({"depth": 3}, r"has 3 blocks, and the backbone 2\..* --backbone\.depth 3\."),
    ],
)
def test_a_start_of_another_shape_is_refused_and_changes_nothing(tmp_path, changes, told):
    source, vit = build_vit(settings().model_copy(update=changes), channels=1), small_vit(seed=2)
    save_file(source.state_dict(), tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=rf"K-30[\s\S]*{told}") as refused:
        init_from(vit, str(tmp_path / "other.safetensors"))
    assert refused.value.exit_code == 4
    assert same(vit, small_vit(seed=2))


def test_a_start_of_nothing_is_refused_and_changes_nothing(tmp_path):
    vit = small_vit(seed=2)
    save_file({"layer1.conv.weight": torch.ones(3)}, tmp_path / "resnet.safetensors")
    with pytest.raises(CheckpointError, match="K-31"):
        init_from(vit, str(tmp_path / "resnet.safetensors"))
    assert same(vit, small_vit(seed=2))


class _Canary:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_a_file_that_would_run_code_is_refused_without_running_it(tmp_path):
    canary = tmp_path / "canary"
    torch.save({"model": small_vit().state_dict(), "args": _Canary(canary)}, tmp_path / "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps(_Canary(canary), protocol=2))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(CheckpointError, match="K-13|K-10"):
            init_from(small_vit(), str(tmp_path / name))
    assert not canary.exists()
    pickle.loads((tmp_path / "plain.pth").read_bytes())
    assert canary.exists(), "the canary sings when it is run, so the test can fail"


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 cut off", b"\xff" * 8 + b"{}", b"just text, no tensors"])
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_broken_files_of_weights_are_refused(tmp_path, content, suffix):
    (tmp_path / f"broken{suffix}").write_bytes(content)
    with pytest.raises(CheckpointError, match="K-1"):
        init_from(small_vit(), str(tmp_path / f"broken{suffix}"))
