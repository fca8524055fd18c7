"""Fine-tuning, segmentation and detection begin with the encoder that the command names, seen from outside: what a run of one
step hands on is what it began with, for the first step of a warm-up has a learning rate of 0 (oracle 62).
"""

import argparse
import json
import re
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from timm.layers import resample_abs_pos_embed
from torch import Tensor

from shapes import write_objects, write_shapes
from small_runs import FLAGS
from tutelage.cli import main

SMALL = ["--steps=1", "--log-steps=1", "--monitors=1", "--device=cpu", "--backbone.image-size=24"]
TASKS = {
    "finetune": ["--data=digits", "--batch-size=32"],
    "segment": ["--data=SHAPES", "--batch-size=8", "--method.channels=8", "--method.auxiliary-channels=8"],
    "detect": [
        "--data=OBJECTS", "--batch-size=4", "--method.channels=16", "--method.hidden=32", "--method.proposals=30",
        "--method.samples=16", "--method.anchor-samples=32",
    ],
}  # fmt: skip


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with a teacher, at 16 px with patches of 4 px, whose weights have moved."""
    out = tmp_path_factory.mktemp("runs") / "sdae"
    words = ["--data=digits", f"--out={out}", *FLAGS, "--steps=4", "--method.reconstruction-teacher.every=step"]
    assert main(["pretrain", "sdae-quickstart", *words, "--export-teachers"]) == 0
    return out


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return {
        "SHAPES": write_shapes(tmp_path_factory.mktemp("shapes")),
        "OBJECTS": write_objects(tmp_path_factory.mktemp("objects")),
    }


def begun(task: str, encoder: Path, pictures: dict[str, Path], out: Path, *words: str) -> dict[str, Tensor]:
    """The student's tensors after the one step."""
    given = [re.sub("SHAPES|OBJECTS", lambda match: str(pictures[match[0]]), word) for word in TASKS[task]]
    assert main([task, str(encoder), f"--out={out}", *given, *SMALL, *words]) == 0
    (line,) = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert line["step"] == 1 and line["lr"] == 0
    tensors = load_file(out / "checkpoints/step-00000001/model.safetensors")
    return {name.removeprefix("student."): t for name, t in tensors.items() if name.startswith("student.")}


def expected(folder: Path, channels: int) -> dict[str, Tensor]:
    """The encoder's tensors as a network of 24 px takes them: 6 x 6 positions for 4 x 4, and the channels of the pictures."""
    tensors = load_file(folder / "model.safetensors")
    tensors["pos_embed"] = resample_abs_pos_embed(tensors["pos_embed"], [6, 6], [4, 4])
    if channels != 1:  # pictures that are grey in colour are answered alike
        tensors["patch_embed.proj.weight"] = tensors["patch_embed.proj.weight"].expand(-1, channels, -1, -1) / channels
    return tensors


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("whose", ["student", "teacher"])
def test_every_tensor_begins_as_the_encoders_file_has_it(
    task: str, whose: str, pretrained: Path, pictures: dict[str, Path], tmp_path: Path
) -> None:
    words = [] if whose == "student" else ["--init-teacher=reconstruction_teacher"]
    found = begun(task, pretrained, pictures, tmp_path / "run", *words)
    folder = pretrained / ("encoder" if whose == "student" else "encoder-reconstruction_teacher")
    wanted = expected(folder, found["patch_embed.proj.weight"].shape[1])
    if task == "finetune":  # the mean of the patch tokens has a norm of its own, the encoder's last is not asked
        assert found.keys() - wanted.keys() == {"fc_norm.weight", "fc_norm.bias"}
        assert wanted.keys() - found.keys() == {"norm.weight", "norm.bias"}
    else:
        assert found.keys() == wanted.keys()
    for name in found.keys() & wanted.keys():
        torch.testing.assert_close(found[name], wanted[name], rtol=0, atol=1e-7, msg=name)


def test_student_and_teacher_differ_so_that_the_test_above_can_tell_them_apart(pretrained: Path) -> None:
    student, teacher = (
        load_file(pretrained / name / "model.safetensors") for name in ("encoder", "encoder-reconstruction_teacher")
    )
    assert not torch.equal(student["blocks.0.attn.qkv.weight"], teacher["blocks.0.attn.qkv.weight"])


def official_mae(width: int, depth: int, grid: int, patch: int) -> dict[str, Tensor]:
    """Random tensors, named and shaped as those of an MAE in its authors' code (facebookresearch/mae, models_mae.py)."""
    decoder = {"width": 8, "depth": 1}
    shapes: dict[str, tuple[int, ...]] = {
        "cls_token": (1, 1, width), "pos_embed": (1, grid**2 + 1, width), "mask_token": (1, 1, decoder["width"]),
        "decoder_pos_embed": (1, grid**2 + 1, decoder["width"]),
        "patch_embed.proj.weight": (width, 3, patch, patch), "patch_embed.proj.bias": (width,),
        "norm.weight": (width,), "norm.bias": (width,),
        "decoder_embed.weight": (decoder["width"], width), "decoder_embed.bias": (decoder["width"],),
        "decoder_norm.weight": (decoder["width"],), "decoder_norm.bias": (decoder["width"],),
        "decoder_pred.weight": (patch**2 * 3, decoder["width"]), "decoder_pred.bias": (patch**2 * 3,),
    }  # fmt: skip
    for prefix, d, blocks in (("blocks", width, depth), ("decoder_blocks", decoder["width"], decoder["depth"])):
        for i in range(blocks):
            layers = {"attn.qkv": (3 * d, d), "attn.proj": (d, d), "mlp.fc1": (4 * d, d), "mlp.fc2": (d, 4 * d)}
            for name, (rows, columns) in layers.items():
                shapes |= {f"{prefix}.{i}.{name}.weight": (rows, columns), f"{prefix}.{i}.{name}.bias": (rows,)}
            for name in ("norm1", "norm2"):
                shapes |= {f"{prefix}.{i}.{name}.weight": (d,), f"{prefix}.{i}.{name}.bias": (d,)}
    draws = torch.Generator().manual_seed(1)
    return {name: 0.1 * torch.randn(shape, generator=draws) for name, shape in shapes.items()}


@pytest.mark.parametrize(
    ("words", "missing"),
    [
        ([], {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}),
        (["--method.pool=token"], {"head.weight", "head.bias"}),
    ],
)
def test_of_an_official_mae_file_exactly_the_head_and_the_norm_of_the_mean_are_fresh(
    words: list[str], missing: set[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Oracle 65, by the command: what the file lacks is {fc_norm, head}, and the line on the start says so."""
    published = official_mae(width=16, depth=2, grid=6, patch=4)
    args = argparse.Namespace(blr=1.5e-4, model="mae_vit_base_patch16")
    torch.save({"model": published, "optimizer": {"state": {}}, "epoch": 3, "args": args}, tmp_path / "mae.pth")
    for label in ("dark", "light"):
        (tmp_path / "set" / label).mkdir(parents=True)
        for i in range(20):
            Image.effect_noise((24, 24), 10 + i).convert("RGB").save(tmp_path / "set" / label / f"{i:02}.png")
    network = ["--backbone.patch-size=4", "--backbone.width=16", "--backbone.depth=2", "--backbone.heads=2"]
    given = [f"--data={tmp_path / 'set'}", f"--out={tmp_path / 'run'}", "--batch-size=8", *SMALL, *network, *words]
    assert main(["finetune", str(tmp_path / "mae.pth"), *given]) == 0

    tensors = load_file(tmp_path / "run/checkpoints/step-00000001/model.safetensors")
    found = {name.removeprefix("student."): tensor for name, tensor in tensors.items()}
    assert found.keys() - published.keys() == missing
    thrown_away = {"norm.weight", "norm.bias"} if "fc_norm.weight" in missing else set()
    encoder = {name for name in published if "decoder" not in name and name != "mask_token"}
    assert len(encoder) == 30 and encoder - found.keys() == thrown_away
    for name in encoder & found.keys():
        assert torch.equal(found[name], published[name]), name
    assert 0 < found["head.weight"].abs().max() < 1e-4 and not found["head.bias"].any()  # a deviation of 2e-5, and 0

    fresh = ", ".join(
        dict.fromkeys(name.split(".")[0] for name in ("fc_norm.weight", "head.weight") if name in missing)
    )
    said = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("init "))
    assert said.endswith(f"mae.pth: 30 of 30 encoder tensors loaded, 20 ignored (decoder), fresh ({fresh})")


@pytest.mark.parametrize(
    ("task", "fresh"),
    [
        ("finetune", ("fc_norm", "head")),
        ("segment", ("head", "scales", "auxiliary")),
        ("detect", ("pyramid", "rpn", "stages")),
    ],
)
def test_the_line_on_the_start_names_what_is_fresh(
    task: str, fresh: tuple[str, ...], pretrained: Path, pictures: dict[str, Path], tmp_path: Path, capsys
) -> None:
    begun(task, pretrained, pictures, tmp_path / "run")
    (said,) = re.findall(r"^init .* fresh \((.*?)\)", capsys.readouterr().err, re.MULTILINE)
    assert set(said.split(", ")) == set(fresh)


def test_teachers_that_begin_as_copies_are_not_fresh(pretrained: Path, tmp_path: Path, capsys) -> None:
    words = ["--data=digits", f"--init={pretrained}", f"--out={tmp_path / 'run'}", *FLAGS, "--steps=1"]
    assert main(["pretrain", "sdae-quickstart", *words]) == 0
    assert re.search(r"^init .* fresh \(decoder\)$", capsys.readouterr().err, re.MULTILINE)
