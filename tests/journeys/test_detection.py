"""Detection from a backbone to boxes and outlines, through the command line in this process."""

import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import tutelage
from shapes import write_objects
from small_runs import FLAGS
from tutelage.cli import main
from tutelage.data.outlines import coco_masks, pycocotools
from tutelage.detector import load_detector
from tutelage.errors import TutelageError
from tutelage.pictures import colour

SMALL = [
    "--batch-size=8", "--log-steps=1", "--monitors=2", "--method.channels=16", "--method.hidden=32", "--method.proposals=30",
    "--method.samples=16", "--method.anchor-samples=32",
]  # fmt: skip
SIZE = ["--backbone.image-size=24", "--backbone.patch-size=4"]
TINY = [*SIZE, "--backbone.width=32", "--backbone.depth=2", "--backbone.heads=2"]


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_objects(tmp_path_factory.mktemp("shapes"))


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """From scratch, and long enough to learn where something is."""
    out = tmp_path_factory.mktemp("runs") / "detect"
    words = ["pretrain", "detect-quickstart", f"--data={shapes}", f"--out={out}", "--steps=120", "--optim.base-lr=0.1"]
    assert main([*words, *SMALL, *TINY]) == 0
    return out


def lines(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_it_learns_what_lies_where_and_says_how_well(run: Path, shapes: Path, capsys) -> None:
    asked = lines(run / "monitors.jsonl")
    assert asked[-1]["box_ap"] > 0.2 + asked[0]["box_ap"] and asked[-1]["mask_ap"] > 0.2 + asked[0]["mask_ap"]
    assert "knn_accuracy" not in asked[-1], "there is no class of a picture"
    assert (run / "pictures/objects.png").is_file()

    assert main(["evaluate", "detection", str(run), f"--data={shapes}", "--json"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert [row["name"] for row in found["rows"]] == ["boxes", "masks"]
    boxes, masks = (row["scores"]["AP"] for row in found["rows"])
    assert found["accuracy"] == masks["test"] > 0.2 and boxes["test"] > 0.2
    assert list(masks["details"]["ap"]) == ["disc", "square"] and masks["details"]["ap50"] > masks["test"]
    assert found["pictures"]["test"] == 12, "a picture without objects is asked about too"
    assert "    disc" in said.err and "AP " in said.err
    assert lines(run / "evaluations.jsonl")[-1]["protocol"] == "detection/1"


def test_what_it_says_is_coco_json_of_the_pictures(run: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    pictures = shutil.copytree(shapes / "images/test", tmp_path / "new")
    big = Image.open(pictures / "000.png").resize((240, 200), Image.Resampling.NEAREST)
    big.save(pictures / "000.png")
    (pictures / "broken.png").write_bytes(b"no picture")
    assert main(["predict", str(run), f"--data={pictures}", f"--out={tmp_path / 'out'}"]) == 0
    assert "12 pictures, found with a score of 50% or more: " in capsys.readouterr().err
    told = json.loads((tmp_path / "out/predictions.json").read_text())
    assert told["categories"] == [{"id": 5, "name": "disc"}, {"id": 10, "name": "square"}]
    assert [image["file_name"] for image in told["images"]] == [f"{i:03d}.png" for i in range(12)]
    assert (told["images"][0]["width"], told["images"][0]["height"]) == (240, 200)
    best = max((a for a in told["annotations"] if a["image_id"] == 0), key=lambda a: a["score"])
    truth = json.loads((shapes / "test.json").read_text())["annotations"][0]
    (x, y, w, h), (x1, y1, w1, h1) = best["bbox"], (10 * v for v in truth["bbox"])
    assert max(abs(x - x1), abs(y - y1), abs(w - w1), abs(h - h1)) < 60, "in the pixels of the picture"
    mask = coco_masks().decode(best["segmentation"])
    ys, xs = np.nonzero(mask)
    assert (
        mask.shape == (200, 240) and x - 1 <= xs.min() and xs.max() <= x + w and y - 1 <= ys.min() and ys.max() <= y + h
    )
    assert (tmp_path / "out/predictions.png").is_file()


def told_by_coco(truth: Path, rows: list[dict[str, object]], of: str) -> list[float]:
    """AP, AP50, AP75 and those of three sizes, by pycocotools on the set's own file; -1 where there is no such object."""
    coco = pycocotools("coco").COCO(str(truth))
    kept = [{name: value for name, value in row.items() if (of, name) != ("segm", "bbox")} for row in rows]
    done = pycocotools("cocoeval").COCOeval(coco, coco.loadRes(kept), of)
    done.evaluate(), done.accumulate(), done.summarize()
    return [float(value) for value in done.stats[:6]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_evaluate_is_pycocotools_on_the_file_of_the_set_and_on_the_written_predictions(
    run: Path, shapes: Path, tmp_path: Path
) -> None:
    """Oracle 66 through `evaluate` and `predict`. Of three pictures the objects are there and not in the file: what is found on
    them is wrong, so they must count; and categories must be those of the file, 5 and 10."""
    data = Path(shutil.copytree(shapes, tmp_path / "data"))
    told = json.loads((data / "test.json").read_text())
    told["annotations"] = [each for each in told["annotations"] if each["image_id"] not in (0, 3, 4)]
    (data / "test.json").write_text(json.dumps(told))
    assert main(["predict", str(run), f"--data={data / 'images/test'}", f"--out={tmp_path / 'out'}"]) == 0
    predictions = json.loads((tmp_path / "out/predictions.json").read_text())
    names = {image["id"]: f"test/{image['file_name']}" for image in predictions["images"]}
    ids = {image["file_name"]: image["id"] for image in told["images"]}
    rows = [{**row, "image_id": ids[names[row["image_id"]]]} for row in predictions["annotations"]]
    assert sum(row["image_id"] in (0, 3, 4) for row in rows) > 2

    result = tutelage.evaluate("detection", run, data)
    for row, of in zip(result.rows, ("bbox", "segm"), strict=True):
        ap, *others = told_by_coco(data / "test.json", rows, of)
        score = row.scores["AP"]
        assert score.test == pytest.approx(ap, abs=1e-6) and 0.01 < ap < 0.95
        found = [score.details[name] for name in ("ap50", "ap75", "small", "medium", "large")]
        assert [-1 if value is None else value for value in found] == pytest.approx(others, abs=1e-6)


def test_a_lower_score_draws_and_counts_more(run: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    counts, sheets = [], []
    for score in ("0.1", "0.9999"):
        out = tmp_path / score
        words = ["predict", str(run), f"--data={shapes / 'images/test'}", f"--out={out}", f"--score={score}"]
        assert main(words) == 0
        said = capsys.readouterr().err
        assert f"found with a score of {float(score):.0%} or more" in said
        counts.append(sum(int(n) for n in re.findall(r"(?:disc|square) (\d+)", said)))
        sheets.append(np.asarray(Image.open(out / "predictions.png")))
        found = json.loads((out / "predictions.json").read_text())["annotations"]
        assert min(row["score"] for row in found) < 0.5, "the table has all"
    assert counts[0] > counts[1] == 0
    coloured = [int((sheet == colour(0)).all(-1).sum()) for sheet in sheets]
    assert coloured[0] > coloured[1] == 0
    assert sheets[0].shape[1] > 4 * 300, "large enough to read"


def test_a_score_without_a_detector_and_one_out_of_its_range_are_refused(
    run: Path, shapes: Path, tmp_path: Path, capsys
) -> None:
    out = f"--out={tmp_path / 'out'}"
    assert main(["predict", str(tmp_path), f"--data={shapes}", out, "--score=0.5"]) == 2
    assert "C-40: score belongs to detectors" in capsys.readouterr().err
    assert main(["predict", str(run), f"--data={shapes}", out, "--score=1.5"]) == 2


def test_an_export_of_a_detector_says_that_it_is_the_encoder(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(run), f"--out={tmp_path / 't'}"]) == 0
    said = capsys.readouterr().err
    assert "t: an encoder; " in said
    assert f"note: The encoder alone: {run} also has heads that find objects, for which there is no export" in said


def test_the_detector_that_is_loaded_computes_what_the_run_computed(run: Path) -> None:
    detector = load_detector(str(run))
    assert detector.classes == ("disc", "square") and detector.ids == (5, 10) and detector.architecture == "mask-rcnn"
    exported = [line for line in lines(run / "events.jsonl") if line.get("folder") == "detector"]
    assert exported[-1]["largest_difference"] < 1e-4


def test_it_begins_from_an_encoder_at_a_size_of_its_own(shapes: Path, tmp_path: Path, capsys) -> None:
    encoder = tmp_path / "mae"
    assert main(["pretrain", "mae-quickstart", "--data=digits", f"--out={encoder}", "--steps=2", *FLAGS]) == 0
    words = ["detect", str(encoder), f"--data={shapes}", f"--out={tmp_path / 'run'}", "--steps=2", *SMALL]
    assert main([*words, "--backbone.image-size=24"]) == 0
    said = capsys.readouterr().err
    assert "encoder tensors loaded" in said and "positions 4x4 -> 6x6" in said
    assert "tutelage evaluate detection" in said
    kinds = {"channels": 16, "hidden": 32, "proposals": 30, "samples": 16, "anchor_samples": 32}
    again = tutelage.detect(
        encoder, shapes, tmp_path / "c", steps=1, batch_size=8, backbone={"image_size": 24},
        method={**kinds, "stages": 3, "masks": False, "pyramid": "simple", "norm": "layer"},
    )  # fmt: skip
    cascade = load_detector(str(again))
    assert cascade.architecture == "cascade-mask-rcnn" and not cascade.method.settings.masks
    assert main(["evaluate", "detection", str(again), f"--data={shapes}"]) == 0


def test_without_pycocotools_detection_names_the_extra_before_a_folder_is_made(
    run: Path, shapes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "pycocotools", None)
    assert main(["detect", str(run), f"--data={shapes}", f"--out={tmp_path / 'run'}", "--steps=2", *SMALL]) == 6
    said = capsys.readouterr().err
    assert "R-12: pycocotools is not installed." in said and "pip install 'tutelage[detection]'" in said
    assert not (tmp_path / "run").exists()


def test_nothing_is_called_held_out_where_nothing_is(shapes: Path, tmp_path: Path, capsys) -> None:
    words = [
        "pretrain",
        "detect-quickstart",
        f"--data={shapes}",
        f"--out={tmp_path / 'run'}",
        "--steps=4",
        "--holdout=0",
    ]
    assert main([*words, *SMALL, *TINY]) == 0
    assert "box_ap" not in lines(tmp_path / "run/monitors.jsonl")[-1]
    assert "AP of boxes" not in capsys.readouterr().err
    assert not list((tmp_path / "run").glob("checkpoints/*/BEST"))


@pytest.mark.parametrize(("mode", "channels"), [("L", 1), ("I;16", 1), ("RGBA", 3)])
def test_pictures_of_any_kind_are_learned_from_and_asked_about(
    shapes: Path, tmp_path: Path, mode: str, channels: int
) -> None:
    data, out = shutil.copytree(shapes, tmp_path / "data"), tmp_path / "run"
    for file in (data / "images").rglob("*.png"):
        grey = Image.open(file).convert("L")
        deep = Image.fromarray(np.asarray(grey).astype(np.uint16) * 257)
        (deep if mode == "I;16" else grey if mode == "L" else Image.open(file).convert("RGBA")).save(file)
    words = ["pretrain", "detect-quickstart", f"--data={data}", f"--out={out}", "--steps=4"]
    assert main([*words, *SMALL, *TINY]) == 0
    assert load_detector(str(out)).channels == channels
    assert main(["evaluate", "detection", str(out), f"--data={data}"]) == 0
    assert main(["predict", str(out), f"--data={shapes / 'images/test'}", f"--out={tmp_path / 'said'}"]) == 0


def test_test_pictures_without_objects_and_damaged_ones_are_told_of(run: Path, shapes: Path, tmp_path: Path) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    told = json.loads((data / "test.json").read_text())
    (data / "test.json").write_text(json.dumps({**told, "annotations": []}))
    with pytest.raises(TutelageError, match="D-10: data has no objects to test on"):
        tutelage.evaluate("detection", run, data)


def test_a_stopped_run_goes_on_bit_by_bit(shapes: Path, tmp_path: Path) -> None:
    def words(out: Path) -> list[str]:
        return ["pretrain", "detect-quickstart", f"--data={shapes}", f"--out={out}", "--steps=6", *SMALL, *TINY]

    whole, cut = tmp_path / "whole", tmp_path / "cut"
    assert main(words(whole)) == 0
    assert main([*words(cut), "--save-steps=3"]) == 0
    for name in ("encoder", "detector"):
        shutil.rmtree(cut / name)
    for folder in sorted((cut / "checkpoints").glob("step-*")):
        if folder.name != "step-00000003":
            shutil.rmtree(folder)
    assert main(words(cut)) == 0
    a, b = ((out / "detector/model.safetensors").read_bytes() for out in (whole, cut))
    assert a == b
    assert [line["loss"] for line in lines(whole / "metrics.jsonl")] == [
        line["loss"] for line in {line["step"]: line for line in lines(cut / "metrics.jsonl")}.values()
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda told: told.update(annotations=[]), "D-45: the training pictures of"),
        (lambda told: told["images"].append({"id": 99, "file_name": "gone.png", "height": 2, "width": 2}), "D-42"),
        (lambda told: told["annotations"][0].update(category_id=77), "D-41"),
    ],
)
def test_sets_that_cannot_be_learned_from_are_refused(shapes: Path, tmp_path: Path, capsys, change, said: str) -> None:
    data = shutil.copytree(shapes, tmp_path / "data")
    told = json.loads((data / "train.json").read_text())
    change(told)
    (data / "train.json").write_text(json.dumps(told))
    words = ["pretrain", "detect-quickstart", f"--data={data}", f"--out={tmp_path / 'run'}", "--steps=2", *SMALL, *TINY]
    assert main(words) == 3
    assert said in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_other_classes_and_runs_without_a_detector_are_refused(run: Path, shapes: Path, tmp_path: Path) -> None:
    other = shutil.copytree(shapes, tmp_path / "other")
    for part in ("train", "test"):
        file = other / f"{part}.json"
        file.write_text(file.read_text().replace('"disc"', '"ring"'))
    with pytest.raises(TutelageError, match="D-36"):
        tutelage.evaluate("detection", run, other)
    with pytest.raises(TutelageError, match="K-07"):
        tutelage.evaluate("detection", tmp_path, shapes)
    shutil.copytree(run / "detector", tmp_path / "wrong")
    told = json.loads((tmp_path / "wrong/detector.json").read_text())
    told["method"]["hidden"] = 64
    (tmp_path / "wrong/detector.json").write_text(json.dumps(told))
    with pytest.raises(TutelageError, match="K-30"):
        load_detector(str(tmp_path / "wrong"))
    assert torch.is_tensor(load_detector(str(run / "detector")).method.stages[0].box_predictor.cls_score.weight)
