"""Segmentation from a backbone to masks, through the command line in this process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tutelage
from shapes import CLASSES, VALUES, write_shapes
from small_runs import FLAGS
from tutelage.cli import main
from tutelage.errors import TutelageError
from tutelage.segmenter import load_segmenter

SMALL = ["--batch-size=16", "--log-steps=1", "--monitors=2", "--method.channels=8", "--method.auxiliary-channels=8"]
SIZE = ["--backbone.image-size=24", "--backbone.patch-size=4"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_shapes(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def pretrained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "mae"
    words = ["pretrain", "mae-quickstart", "--data=digits", f"--out={out}", "--steps=2", *FLAGS]
    assert main(words) == 0
    return out


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From scratch, and long enough to learn where something is."""
    out = tmp_path_factory.mktemp("runs") / "segment"
    size = [*SIZE, "--backbone.width=32", "--backbone.depth=2", "--backbone.heads=2"]
    words = [
        "pretrain",
        "segment-quickstart",
        f"--data={shapes}",
        f"--out={out}",
        "--steps=80",
        "--optim.base-lr=0.05",
        *SMALL,
        *size,
    ]
    assert main(words) == 0
    return out


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_where_something_is_and_says_how_well(run: Path, shapes: Path, capsys) -> None:
    asked = lines(run / "monitors.jsonl")
    assert asked[-1]["miou"] > max(0.45, asked[0]["miou"] + 0.15) and asked[-1]["pixel_accuracy"] > 0.8
    assert "knn_accuracy" not in asked[-1], "there is no class of a picture"
    best = json.loads(next(run.glob("checkpoints/*/BEST")).read_text())
    assert best["knn_accuracy"] == max(line["miou"] for line in asked[1:])
    assert (run / "pictures/masks.png").is_file()

    assert main(["evaluate", "segmentation", str(run), f"--data={shapes}", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["accuracy"] == found["rows"][0]["scores"]["mIoU"]["test"] > 0.4
    assert list(found["rows"][0]["scores"]["mIoU"]["details"]["iou"]) == list(CLASSES)
    assert "    disc" in said.err and "mIoU" in said.err
    assert lines(run / "evaluations.jsonl")[-1]["protocol"] == "segmentation/1"


def test_the_segmenter_that_is_loaded_says_what_the_run_said(run: Path, shapes: Path) -> None:
    segmenter = load_segmenter(str(run))
    assert segmenter.classes == CLASSES and segmenter.values == VALUES and segmenter.size == (24, 24)
    picture = torch.from_numpy(np.asarray(Image.open(shapes / "images/test/000.png")).copy()).permute(2, 0, 1) / 255
    mean, std = (torch.tensor(v)[:, None, None] for v in segmenter.statistics)
    assert segmenter.logits((picture - mean) / std).shape == (3, 20, 24)
    exported = [line for line in lines(run / "events.jsonl") if line.get("folder") == "segmenter"]
    assert exported[-1]["largest_difference"] < 1e-4


def test_it_begins_from_an_encoder_at_a_size_of_its_own(pretrained: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    words = ["segment", str(pretrained), f"--data={shapes}", f"--out={tmp_path / 'run'}", "--steps=2", *SMALL]
    assert main([*words, "--backbone.image-size=24"]) == 0
    said = capsys.readouterr().err
    assert "encoder tensors loaded" in said and "positions 4x4 -> 6x6" in said
    assert "tutelage evaluate segmentation" in said
    settings = json.loads((tmp_path / "run/settings.json").read_text())
    assert settings["backbone"]["width"] == 16 and settings["backbone"]["positions"] == "learned"
    again = tutelage.segment(
        pretrained,
        shapes,
        tmp_path / "b",
        steps=1,
        batch_size=16,
        backbone={"image_size": 24},
        method={"head": "linear"},
    )
    assert load_segmenter(str(again)).method.settings.head == "linear"


def test_pictures_without_a_mask_are_neither_trained_on_nor_asked_about(tmp_path: Path, capsys) -> None:
    shapes = write_shapes(tmp_path / "shapes")
    for file in sorted((shapes / "masks/train").iterdir())[::2]:
        file.unlink()
    words = ["pretrain", "segment-quickstart", f"--data={shapes}", f"--out={tmp_path / 'run'}", "--steps=2", *SMALL]
    assert main([*words, *SIZE, "--backbone.width=16", "--backbone.depth=2", "--backbone.heads=2"]) == 0
    assert "30 pictures have no mask" in capsys.readouterr().err
    assert "miou" in lines(tmp_path / "run/monitors.jsonl")[-1]


def test_predictions_are_masks_with_the_values_that_were_learned_from(
    run: Path, shapes: Path, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "out"
    assert main(["predict", str(run), f"--data={shapes / 'images'}", f"--out={out}"]) == 0
    said = capsys.readouterr().err
    assert "68 pictures, of their pixels: ground " in said and f"{out}/masks, predictions.png" in said
    files = sorted((out / "masks").rglob("*.png"))
    assert [str(f.relative_to(out / "masks")) for f in files] == sorted(
        str(f.relative_to(shapes / "images")) for f in (shapes / "images").rglob("*.png")
    )
    right = total = 0
    for file in files:
        found = np.asarray(Image.open(file))
        truth = np.asarray(Image.open(shapes / "masks" / file.relative_to(out / "masks")))
        assert found.shape == (20, 24) and set(np.unique(found)) <= set(VALUES)
        right, total = right + (found == truth)[truth < 9].sum(), total + (truth < 9).sum()
    assert right / total > 0.8
    assert main(["predict", str(run / "segmenter"), f"--data={shapes}", f"--out={tmp_path / 'whole'}"]) == 0
    assert len(list((tmp_path / "whole/masks").rglob("*.png"))) == 68, "the pictures, not their masks"


def test_masks_stay_in_their_folder_whatever_pictures_are_called(run: Path, shapes: Path, tmp_path: Path) -> None:
    (tmp_path / "list").mkdir()
    listed = tmp_path / "list" / "pictures.txt"
    (tmp_path / "list" / "a").mkdir()
    for i, folder in enumerate(("a", ".")):
        Image.open(shapes / "images/test/000.png").save(tmp_path / "list" / folder / "x.png")
        Image.open(shapes / "images/test/000.png").save(tmp_path / f"{i}.png")
    listed.write_text("a/x.png\nx.png\n../0.png\n../1.png\n")
    assert main(["predict", str(run), f"--data={listed}", f"--out={tmp_path / 'deep' / 'out'}"]) == 0
    written = sorted(str(f.relative_to(tmp_path / "deep")) for f in (tmp_path / "deep").rglob("*.png"))
    assert written == [f"out/masks/{name}.png" for name in ("0", "1", "a/x", "x")] + ["out/predictions.png"]


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (
            {"backbone": {"width": 1024, "depth": 64, "heads": 16, "image_size": 4096, "patch_size": 4}},
            "K-30: the tensors of",
        ),
        ({"classes": ["a"] * 250, "values": list(range(250))}, "K-30: the tensors of"),
        ({"backbone": {"name": "hf-hub:someone/something"}}, "C-1"),
        ({"mean": "all"}, "K-03: .* cannot be read"),
    ],
)
def test_a_segmenter_that_claims_what_it_is_not_is_refused(run: Path, tmp_path: Path, harm: dict, told: str) -> None:
    folder = tmp_path / "segmenter"
    shutil.copytree(run / "segmenter", folder)
    values = json.loads((folder / "segmenter.json").read_text())
    for name, value in harm.items():
        values[name] = {**values[name], **value} if isinstance(value, dict) else value
    (folder / "segmenter.json").write_text(json.dumps(values))
    with pytest.raises(TutelageError, match=told):
        load_segmenter(str(folder))


def test_the_size_is_the_recipes_made_a_multiple_of_the_patch(pretrained: Path) -> None:
    from tutelage.api import downstream_settings

    assert downstream_settings("segment", str(pretrained), "segment-quickstart").backbone.image_size == (128, 128)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (["segment", "RUN", "--data=digits"], 3, "D-34: digits has no pictures with masks"),
        (["segment", "RUN", "--data=SHAPES", "--recipe=finetune-quickstart"], 2, "is no recipe of segmentation"),
        (["evaluate", "segmentation", "RUN", "--data=SHAPES"], 4, "K-07: RUN has no segmenter"),
        (
            ["evaluate", "segmentation", "SEG", "--data=SHAPES", "--epochs=3"],
            2,
            "C-40: epochs belongs to other protocols",
        ),
        (
            ["evaluate", "segmentation", "SEG", "--data=OTHER"],
            3,
            "D-36: SEG names other classes of pixels than those of",
        ),
        (["evaluate", "classifier", "SEG", "--data=digits"], 4, "K-07"),
    ],
)
def test_what_does_not_fit_is_refused(
    words: list[str], code: int, told: str, pretrained: Path, run: Path, shapes: Path, tmp_path: Path, capsys
) -> None:
    other = write_shapes(tmp_path / "other", {"train": 10, "test": 4})
    (other / "classes.csv").unlink()
    places = {"RUN": pretrained, "SEG": run, "SHAPES": shapes, "OTHER": other}
    for name, place in places.items():
        words = [word.replace(name, str(place)) for word in words]
        told = told.replace(name, str(place))
    assert main([*words, *([f"--out={tmp_path / 'out'}"] if words[0] == "segment" else [])]) == code
    assert told in capsys.readouterr().err
    assert not (tmp_path / "out" / "checkpoints").exists()
