"""Runs that hold no picture out, as published fine-tuning: what they print, their report, and how they are judged."""

import json
from pathlib import Path

import pytest

from shapes import write_objects, write_shapes
from tutelage.cli import main

SMALL = ["--steps=4", "--log-steps=1", "--monitors=1", "--device=cpu"]
SIZE = [
    "--backbone.image-size=24",
    "--backbone.patch-size=4",
    "--backbone.width=16",
    "--backbone.depth=2",
    "--backbone.heads=2",
]
TASKS = {
    "finetune": (["--batch-size=32"], "classifier", (1438, 359)),
    "segment": (["--batch-size=8", "--method.channels=8", "--method.auxiliary-channels=8"], "segmentation", (60, 8)),
    "detect": (
        [
            "--batch-size=4",
            "--method.channels=16",
            "--method.hidden=32",
            "--method.proposals=30",
            "--method.samples=16",
        ],
        "detection",
        (60, 12),
    ),
}


@pytest.fixture(scope="module", params=TASKS)
def runs(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str, Path, Path]:
    """A task, its data, and two runs of it: one that holds nothing out and one that does."""
    root, task = tmp_path_factory.mktemp(request.param), request.param
    makes = {"segment": write_shapes, "detect": write_objects}
    data = str(makes[task](root / "data")) if task in makes else "digits"
    for share in ("0", "0.1"):
        words = [f"--data={data}", f"--holdout={share}", f"--out={root / share}", *SMALL, *SIZE, *TASKS[task][0]]
        assert main(["pretrain", f"{task}-quickstart", *words]) == 0
    return task, data, root / "0", root / "0.1"


def test_every_training_picture_is_trained_on_and_the_run_says_so(runs: tuple[str, str, Path, Path]) -> None:
    task, _, all_of_it, part = runs
    told, other = (json.loads((run / "data.json").read_text()) for run in (all_of_it, part))
    train, test = TASKS[task][2]
    assert (told["train"], told["held_out"], told["test"]) == (train, 0, test)
    assert other["held_out"] > 0 and other["train"] + other["held_out"] == train and other["test"] == test
    assert f"all {train:,} training pictures are trained on: none is held out to watch by" in told["notes"]


def test_what_is_asked_of_training_pictures_is_not_called_held_out(runs: tuple[str, str, Path, Path], capsys) -> None:
    _, _, all_of_it, part = runs
    of_unseen = {"classifier_accuracy", "cross_entropy", "knn_accuracy", "miou", "pixel_accuracy", "box_ap", "mask_ap"}
    asked, other = (
        [json.loads(line) for line in (run / "monitors.jsonl").read_text().splitlines()] for run in (all_of_it, part)
    )
    assert asked and not of_unseen & set().union(*asked) and of_unseen & set().union(*other)
    assert not list(all_of_it.glob("checkpoints/*/BEST"))
    pages = [(run / "report.html").read_text() for run in (all_of_it, part)]
    assert ["No picture was held out (--holdout 0)" in page for page in pages] == [True, False]


def test_it_is_judged_by_the_test_part_alone(runs: tuple[str, str, Path, Path], capsys) -> None:
    """What was trained on would look held out to an evaluation that divides the pictures by itself."""
    task, data, all_of_it, part = runs
    _, protocol, (_, test) = TASKS[task]
    handed_on = {"finetune": "classifier", "segment": "segmenter", "detect": "detector"}[task]
    for run, known in ((all_of_it, False), (all_of_it / handed_on, False), (part, True)):
        assert main(["evaluate", protocol, str(run), f"--data={data}", "--json"]) == 0
        found = json.loads(capsys.readouterr().out)
        assert found["pictures"]["test"] == test and (found["pictures"]["held_out"] > 0) == known
        for row in found["rows"]:
            (score,) = row["scores"].values()
            assert (score["held_out"] is not None) == known


def test_the_lines_of_a_run_name_whose_pictures_it_was_asked_about(tmp_path: Path, capsys) -> None:
    for share, told in (("0", "trained on"), ("0.1", "held out")):
        words = ["--data=digits", f"--holdout={share}", f"--out={tmp_path / share}", "--batch-size=32", *SMALL, *SIZE]
        assert main(["pretrain", "finetune-quickstart", *words]) == 0
        said = capsys.readouterr().err
        lines = [line for line in said.splitlines() if line.startswith("watch ")]
        assert lines and all(f" · {told}: " in line for line in lines)
