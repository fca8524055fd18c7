"""What a user does, from a folder of pictures to a backbone in timm, through the command line in this process."""

import json
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image

import tutelage
from small_runs import FLAGS, HEAD_FLAGS
from tutelage import recipes
from tutelage.cli import main
from tutelage.encoder import build_vit
from tutelage.errors import Stopped


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two classes of colour pictures in class folders: bright above, and bright below."""
    folder = tmp_path_factory.mktemp("shapes")
    rng = np.random.default_rng(0)
    for k, name in enumerate(("above", "below")):
        (folder / name).mkdir()
        for i in range(60):
            pixels = rng.integers(0, 90, (24, 24, 3))
            pixels[12 * k : 12 * k + 12] += 150
            Image.fromarray(pixels.astype(np.uint8)).save(folder / name / f"{i:02}.png")
    return folder


@pytest.fixture(scope="module")
def run(shapes: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("runs") / "pseudomae"
    words = ["pretrain", "pseudomae-quickstart", f"--data={shapes}", f"--out={out}", "--steps=6", "--export-teachers"]
    assert main([*words, *FLAGS, *HEAD_FLAGS]) == 0
    return out


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_run_leaves_the_folder_of_the_contract(run: Path) -> None:
    metrics = lines(run / "metrics.jsonl")
    assert [line["step"] for line in metrics] == [1, 2, 3, 4, 5, 6]
    named = {
        "step",
        "epoch",
        "loss",
        "reconstruction",
        "class",
        "patch",
        "lr",
        "grad_norm",
        "images_per_second",
        "data_wait",
    }
    assert named <= metrics[0].keys()
    asked = lines(run / "monitors.jsonl")
    assert {"knn_accuracy", "rank_me", "feature_std", "position_constant_loss", "distinct_matches"} <= asked[0].keys()
    assert [line["event"] for line in lines(run / "events.jsonl")][::5][0] == "started"
    for name in ("settings.json", "environment.json", "data.json", "report.html", "encoder/model.safetensors"):
        assert (run / name).stat().st_size > 0
    pictures = {path.name for path in (run / "pictures").iterdir()}
    assert pictures == {"tokens.png", "prototypes.png", "neighbours.png"}
    assert "mean" in json.loads((run / "data.json").read_text())


def test_the_encoder_and_its_teachers_load_in_timm(run: Path) -> None:
    for folder in ("encoder", "encoder-reconstruction_teacher", "encoder-labelling_teacher"):
        vit = timm.create_model(f"local-dir:{run / folder}", pretrained=True)
        assert vit.forward_features(torch.randn(2, 3, 16, 16)).shape == (2, 17, 16)


FEW = ["--low-shot.shots", "1", "5", "--low-shot.draws=2"]


@pytest.mark.parametrize("words", [["knn"], ["linear", "--epochs=5"], ["low-shot", *FEW]], ids=lambda words: words[0])
def test_evaluate_prints_json_on_standard_output_and_the_table_beside(
    run: Path, shapes: Path, words: list[str], capsys
) -> None:
    protocol, *options = words
    assert main(["evaluate", protocol, str(run), f"--data={shapes}", "--json", *options]) == 0
    said = capsys.readouterr()
    result = json.loads(said.out)
    assert [row["name"] for row in result["rows"]] == ["raw pixels", "untrained", "encoder"]
    assert result["rows"][0]["accuracy"] == 1.0  # the classes lie open in the pixels
    assert "raw pixels" in said.err
    assert lines(run / "evaluations.jsonl")[-1]["protocol"] == result["protocol"]


def test_evaluate_all_prints_a_list_and_keeps_each_result_with_the_run(run: Path, shapes: Path, capsys) -> None:
    words = ["evaluate", "all", str(run), f"--data={shapes}", "--json", "--epochs=5", "--workers=1", *FEW]
    assert main(words) == 0
    said = capsys.readouterr()
    protocols = ["knn/1", "linear-cached/1", "low-shot/1"]
    assert [result["protocol"] for result in json.loads(said.out)] == protocols
    assert [line["protocol"] for line in lines(run / "evaluations.jsonl")[-3:]] == protocols
    assert "linear-cached/1 on" in said.err and "k=5 " in said.err
    assert main(["report", str(run)]) == 0
    assert "low-shot/1" in (run / "report.html").read_text()


def test_evaluate_takes_fewer_training_pictures_and_says_so(run: Path, shapes: Path, capsys) -> None:
    words = ["evaluate", "knn", str(run), f"--data={shapes}", "--json", "--train-pictures=40", "--no-baselines"]
    assert main(words) == 0
    result = json.loads(capsys.readouterr().out)
    assert result["pictures"]["train"] == 40 and result["pictures"]["test"] == 24
    assert any(note.startswith("40 training and") for note in result["notes"])


def test_export_and_report(run: Path, tmp_path: Path, capsys) -> None:
    assert main(["export", str(run), f"--out={tmp_path / 'backbone'}"]) == 0
    assert "differ by at most" in capsys.readouterr().err
    config = json.loads((tmp_path / "backbone/config.json").read_text())
    assert config["architecture"] == "vit_tiny_patch16_224"
    (run / "report.html").unlink()
    assert main(["report", str(run)]) == 0
    assert (run / "report.html").exists()
    assert main(["report", str(tmp_path)]) == 2


def test_one_run_begins_another_and_says_which_weights_it_took(run: Path, shapes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    assert (
        main(["pretrain", "mae-quickstart", f"--data={shapes}", f"--out={out}", "--steps=2", f"--init={run}", *FLAGS])
        == 0
    )
    said = capsys.readouterr().err
    assert "encoder tensors loaded" in said
    assert {path.name for path in (out / "pictures").iterdir()} == {"reconstruction.png", "neighbours.png"}


def test_settings_of_a_run_begin_another(run: Path, shapes: Path, tmp_path: Path) -> None:
    out = tmp_path / "again"
    assert main(["pretrain", f"--settings={run / 'settings.json'}", f"--out={out}", f"--data={shapes}"]) == 0
    assert [line["loss"] for line in lines(out / "metrics.jsonl")] == [
        line["loss"] for line in lines(run / "metrics.jsonl")
    ]


def test_the_python_door(shapes: Path, tmp_path: Path) -> None:
    small = {"backbone": {"image_size": 16, "width": 16, "depth": 1, "heads": 2}, "batch_size": 32, "steps": 2}
    decoder = {"decoder": {"width": 16, "depth": 1, "heads": 2}}
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "STOP").touch()
    with pytest.raises(Stopped, match=r"S-75: .* saved at step 1\."):
        tutelage.pretrain("sdae-quickstart", str(shapes), tmp_path / "run", method=decoder, **small)
    out = tutelage.pretrain("sdae-quickstart", str(shapes), tmp_path / "run", method=decoder, **small)
    encoder = tutelage.load_encoder(str(out))
    assert encoder.size == (16, 16) and encoder.channels == 3
    one = tutelage.evaluate("knn", out, shapes, baselines=False)
    assert 0 <= one.accuracy <= 1
    both = tutelage.evaluate_all(("linear", "knn"), out, shapes, baselines=False, epochs=2)
    assert [found.protocol for found in both] == ["linear-cached/1", "knn/1"] and both[1].rows == one.rows


@pytest.mark.parametrize(
    ("size", "patch", "channels"), [((16, 24), (4, 4), 1), ((16, 16), (4, 2), 3), ((12, 20), (4, 4), 5)]
)
def test_pictures_and_patches_need_not_be_square_and_channels_may_be_many(
    size: tuple[int, int], patch: tuple[int, int], channels: int, tmp_path: Path
) -> None:
    rng = np.random.default_rng(1)
    folder = tmp_path / "arrays"
    folder.mkdir()
    for i in range(40):
        np.save(folder / f"{i}.npy", rng.integers(0, 65535, (20, 30, channels), dtype=np.uint16))
    words = ["pretrain", "sdae-quickstart", f"--data={folder}", f"--out={tmp_path / 'run'}", "--steps=2", *FLAGS]
    words += ["--method.folds=1", "--backbone.image-size", *map(str, size), "--backbone.patch-size", *map(str, patch)]
    assert main(words) == 0
    vit = timm.create_model(f"local-dir:{tmp_path / 'run' / 'encoder'}", pretrained=True)
    assert vit.patch_embed.proj.in_channels == channels and vit.patch_embed.img_size == size


@pytest.mark.parametrize("name", recipes.names())
def test_every_recipe_checks_and_builds_without_memory(name: str) -> None:
    settings = recipes.load(name)
    settings.check()
    with torch.device("meta"):
        method = settings.method.build(build_vit(settings.backbone, 3), num_classes=10)
    assert sum(p.numel() for p in method.parameters()) > 0
    text = recipes.docstring(name)
    downstream = settings.method.name in ("finetune", "segmentation", "detection")
    command = f"--recipe {name}" if downstream else f"pretrain {name}"
    assert (
        (command in text or (downstream and name.endswith("-quickstart"))) and "Source:" in text and "Expected:" in text
    )
    assert name.endswith("quickstart") or "Not verified here." in text


def test_recipes_shows_one_whole(capsys) -> None:
    assert main(["recipes", "pseudomae-vitb16"]) == 0
    said = capsys.readouterr().out
    assert '"prototypes": 4096' in said and "84.1 %" in said


@pytest.mark.parametrize("words", [["--help"], ["recipes"]])
def test_help_and_the_list_of_recipes_take_less_than_a_second(words: list[str]) -> None:
    seconds = []
    for _ in range(3):
        started = time.perf_counter()
        subprocess.run([sys.executable, "-m", "tutelage", *words], check=True, capture_output=True)
        seconds.append(time.perf_counter() - started)
    assert min(seconds) < 1


def test_the_first_page_of_help_shows_at_most_a_dozen_flags(capsys) -> None:
    assert main(["pretrain", "mae-quickstart", "--help"]) == 0
    said = capsys.readouterr().out
    assert 5 < sum(line.startswith("  --") for line in said.splitlines()) <= 12
    assert main(["pretrain", "mae-quickstart", "--help-all"]) == 0
    assert "--method.mask-ratio" in capsys.readouterr().out


def test_a_run_ends_with_the_verdict_of_its_report(shapes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = ["pretrain", "mae-quickstart", f"--data={shapes}", f"--out={out}", "--steps=2", *FLAGS]
    assert main(words) == 0
    said = capsys.readouterr().err.splitlines()
    assert [line.split()[0] for line in said[-3:]] == ["done", "verdict", "next"]
    assert said[-2] == "verdict Too short to tell whether it learns."
    assert said[-2].removeprefix("verdict ") in (out / "report.html").read_text()


def test_a_bad_verdict_comes_with_what_to_do(shapes: Path, tmp_path: Path, capsys) -> None:
    out = tmp_path / "run"
    words = ["pretrain", "mae-quickstart", f"--data={shapes}", f"--out={out}", "--steps=2", *FLAGS]
    assert main(words) == 0
    first, last = lines(out / "metrics.jsonl")
    (out / "metrics.jsonl").write_text(json.dumps(first) + "\n" + json.dumps({**last, "loss": None}) + "\n")
    capsys.readouterr()
    assert main(words) == 0  # goes on with a run that is finished: nothing but the end again
    line = next(line for line in capsys.readouterr().err.splitlines() if line.startswith("verdict"))
    assert line.startswith("verdict The numbers went wrong: losses or gradients were not finite. Lower --optim.base-lr")
