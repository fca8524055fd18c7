"""Segmentation from a backbone to masks, through the command line in this process."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F

import tutelage
from shapes import CLASSES, VALUES, write_shapes
from small_runs import FLAGS
from tutelage.cli import main
from tutelage.errors import TutelageError
from tutelage.pictures import colour
from tutelage.segmenter import Segmenter, load_segmenter

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
    assert best == {"by": "miou", "value": max(line["miou"] for line in asked[1:])}
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


def test_predicted_masks_are_seen_in_colour_and_read_as_numbers(run: Path, shapes: Path, tmp_path: Path) -> None:
    """A palette: the numbers are the values of the classes, the colours those of predictions.png."""
    assert main(["predict", str(run), f"--data={shapes / 'images/test'}", f"--out={tmp_path / 'out'}"]) == 0
    for file in (tmp_path / "out/masks").iterdir():
        image = Image.open(file)
        values, seen = np.asarray(image), np.asarray(image.convert("RGB"))
        assert image.mode == "P" and set(np.unique(values)) <= set(VALUES)
        for number, value in enumerate(VALUES):
            assert (seen[values == value] == colour(number)).all()
    assert len({colour(number) for number in range(255)}) == 255 and (0, 0, 0) not in map(colour, range(255))


def test_a_picture_too_thin_for_windows_is_refused_before_any_is_predicted(run: Path, tmp_path: Path, capsys) -> None:
    (tmp_path / "new").mkdir()
    Image.new("RGB", (24, 20)).save(tmp_path / "new/a.png")
    Image.new("RGB", (900, 3)).save(tmp_path / "new/b.png")
    assert main(["predict", str(run), f"--data={tmp_path / 'new'}", f"--out={tmp_path / 'out'}"]) == 3
    assert "D-38: b.png has 900 x 3 pixels" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def windows_by_hand(segmenter: Segmenter, picture: np.ndarray) -> np.ndarray:
    """The class of each pixel: windows of 24 px every 16 px, and one at the end, of a picture with a short side of 24."""
    mean, std = (np.array(values)[:, None, None] for values in segmenter.statistics)
    x = torch.from_numpy((picture.transpose(2, 0, 1) / 255 - mean) / std).float()[None]
    height, width = x.shape[-2:]
    size = tuple(max(24, round(side * 24 / min(height, width))) for side in (height, width))
    x = F.interpolate(x, size=size, mode="bicubic", antialias=True)
    total, count = np.zeros((3, *size)), np.zeros(size)
    for top in sorted({*range(0, size[0] - 24, 16), size[0] - 24}):
        for left in sorted({*range(0, size[1] - 24, 16), size[1] - 24}):
            with torch.no_grad():
                found = segmenter.method.logits(x[..., top : top + 24, left : left + 24])[0]
            total[:, top : top + 24, left : left + 24] += found.numpy()
            count[top : top + 24, left : left + 24] += 1
    logits = torch.from_numpy(total / count)[None]
    return F.interpolate(logits, size=(height, width), mode="bilinear")[0].argmax(0).numpy()


def test_evaluate_counts_the_pixels_of_all_test_pictures_with_masks(run: Path, shapes: Path, tmp_path: Path) -> None:
    """Oracle 66 through `evaluate`: TP / (TP + FP + FN) in NumPy, of pixels pooled over the whole set, wide pictures too."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for folder in ("images", "masks"):
        files = [np.asarray(Image.open(data / folder / f"test/00{i}.png")) for i in (0, 1, 2, 3)]
        Image.fromarray(np.concatenate(files, axis=1)).save(data / folder / "test/002.png")
    (data / "masks/test/003.png").unlink()
    segmenter, pairs = load_segmenter(str(run)), []
    for file in sorted((data / "masks/test").iterdir()):
        values = np.asarray(Image.open(file))
        truth = np.select([values == value for value in VALUES], [0, 1, 2], 255)
        found = windows_by_hand(segmenter, np.asarray(Image.open(data / "images/test" / file.name)))
        pairs.append((truth[truth < 3], found[truth < 3]))
    truth, found = (np.concatenate(part) for part in zip(*pairs, strict=True))
    iou = [((truth == c) & (found == c)).sum() / ((truth == c) | (found == c)).sum() for c in range(3)]

    result = tutelage.evaluate("segmentation", run, data)
    score = result.rows[-1].scores["mIoU"]
    assert result.pictures["test"] == 7
    # A tie of two classes may fall the other way where logits are added in another order.
    assert score.test == pytest.approx(np.mean(iou), abs=2e-3) and result.accuracy == score.test
    assert list(score.details["iou"].values()) == pytest.approx(iou, abs=2e-3)
    assert score.details["pixel_accuracy"] == pytest.approx((truth == found).mean(), abs=2e-3)


def test_without_test_masks_there_is_nothing_to_measure(run: Path, shapes: Path, tmp_path: Path) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for file in sorted((data / "masks/test").iterdir())[1:]:
        file.unlink()
    Image.fromarray(np.full((20, 24), 255, dtype=np.uint8)).save(data / "masks/test/000.png")
    with pytest.raises(TutelageError, match="D-10: data has no masks to test on"):
        tutelage.evaluate("segmentation", run, data)


def test_a_held_out_part_without_masks_has_no_figure(run: Path, tmp_path: Path) -> None:
    data = write_shapes(tmp_path / "data", {"train": 12, "val": 4, "test": 4})
    for file in (data / "masks/val").iterdir():
        file.unlink()
    result = tutelage.evaluate("segmentation", run, data)
    assert result.rows[-1].scores["mIoU"].held_out is None and "nan" not in "\n".join(result.table())


def test_training_masks_of_which_no_pixel_counts_are_refused(shapes: Path, tmp_path: Path, capsys) -> None:
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    for file in (data / "masks/train").iterdir():
        Image.fromarray(np.full((20, 24), 255, dtype=np.uint8)).save(file)
    words = [
        "pretrain",
        "segment-quickstart",
        f"--data={data}",
        f"--out={tmp_path / 'run'}",
        "--steps=2",
        *SMALL,
        *SIZE,
    ]
    assert main(words) == 3
    assert "D-34: the training pictures of data have no masks in which a pixel counts" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_segmenter_is_exported_whole_to_onnx_and_else_its_encoder_with_a_word(
    run: Path, tmp_path: Path, capsys
) -> None:
    onnxruntime = pytest.importorskip("onnxruntime")
    pytest.importorskip("onnxscript")
    assert main(["export", str(run), f"--out={tmp_path / 'o'}", "--to=onnx"]) == 0
    assert "a segmenter of 3 classes, encoder and decoder, of windows of 24 x 24 px" in capsys.readouterr().err
    session = onnxruntime.InferenceSession(str(tmp_path / "o/model.onnx"), providers=["CPUExecutionProvider"])
    x = torch.randn(5, 3, 24, 24)
    with torch.no_grad():
        expected = load_segmenter(str(run)).method.logits(x)
    (found,) = session.run(["logits"], {"pictures": x.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected, rtol=0, atol=1e-4)
    config = json.loads((tmp_path / "o/config.json").read_text())
    assert (config["classes"], config["values"], config["size"]) == (list(CLASSES), list(VALUES), [3, 24, 24])
    assert main(["export", str(run), f"--out={tmp_path / 't'}"]) == 0
    assert f"note: The encoder alone: {run} also has a decoder of masks, which --to onnx" in capsys.readouterr().err
    assert main(["export", str(run), f"--out={tmp_path / 'e'}", "--encoder-only"]) == 0
    assert "note: The encoder alone" not in capsys.readouterr().err


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
