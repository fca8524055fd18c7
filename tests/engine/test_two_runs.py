"""Masked pretraining, then weak supervision, by one command: it goes on in either run to the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from small_runs import FORKSERVER, PLAIN_FLAGS, TINY
from tutelage.api import first_stage, run, settings_for
from tutelage.cli import main
from tutelage.data.wordnet import open_wordnet
from tutelage.engine import pretrain as pretraining
from tutelage.engine.settings import RunSettings, read_settings
from tutelage.errors import CheckpointError, SettingsError
from wordnets import write_wordnet

STEPS = 12
WORDS = ["boot", "sneaker", "mice", "head", "brownbear", "box", "café", "tshirt"]


@pytest.fixture(scope="module")
def tags(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tags of the digits, which tell more or less the class, and the WordNet they need."""
    folder = tmp_path_factory.mktemp("tags")
    write_wordnet(folder / "cache" / "wordnet")
    from sklearn.datasets import load_digits

    labels, rng = load_digits().target, np.random.default_rng(0)
    rows = [
        f"digits/{k:05d},{WORDS[c % 8] if rng.random() < 0.8 else ''} {rng.choice(WORDS)}" for k, c in enumerate(labels)
    ]
    (folder / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    return folder / "tags.csv"


@pytest.fixture(autouse=True)
def nouns(tags: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tags.parent / "cache"))
    open_wordnet.cache_clear()
    yield
    open_wordnet.cache_clear()


def settings(tags: Path, recipe: str = "pre-pretraining-quickstart", **changes: Any) -> RunSettings[Any]:
    """12 steps of tags, after 0.3 epochs of MAE: some 6 steps of 64 pictures."""
    small = {name: value for name, value in TINY.items() if name not in ("method", "epochs")}
    if recipe == "pre-pretraining-quickstart":
        changes = {"first_epochs": 0.3, **changes}
    return settings_for(recipe, **small, tags=str(tags), steps=STEPS, save_steps=2, workers=0, **changes)


def weights(out: Path) -> dict[str, bytes]:
    last = max((out / "checkpoints").glob("step-*"))
    return {file.name: file.read_bytes() for file in last.glob("*.safetensors")} | {"step": last.name.encode()}


@pytest.fixture(scope="module")
def whole(tags: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TUTELAGE_CACHE", str(tags.parent / "cache"))
        out = tmp_path_factory.mktemp("whole") / "run"
        run(settings(tags), out, quiet=True)
    return out


def test_the_second_run_begins_with_the_encoder_of_the_first(whole: Path, tags: Path, tmp_path: Path) -> None:
    first = read_settings(whole / "first" / "settings.json")
    assert (
        first.recipe == "mae-quickstart" and first.epochs == 0.3 and first.backbone.width == 16 and first.tags is None
    )
    assert read_settings(whole / "settings.json").init is None
    apart = tmp_path / "apart"
    run(settings(tags, "weakly-supervised-quickstart", init=str(whole / "first")), apart, quiet=True)
    assert weights(apart) == weights(whole)
    run(settings(tags, "weakly-supervised-quickstart"), tmp_path / "fresh", quiet=True)
    assert weights(tmp_path / "fresh") != weights(whole)


def test_the_best_checkpoint_is_by_the_cross_entropy_of_tags(tags: Path, tmp_path: Path) -> None:
    """By their accuracy, a word that most pictures have would make the first answer the best."""
    run(settings(tags, "weakly-supervised-quickstart").changed(monitors=3), tmp_path, quiet=True)
    asked = map(json.loads, (tmp_path / "monitors.jsonl").read_text().splitlines())
    answers = [line["cross_entropy"] for line in asked if line["step"]]
    marked = json.loads(next(tmp_path.glob("checkpoints/*/BEST")).read_text())
    assert len(answers) == 3 and marked == {"by": "cross_entropy", "value": min(answers)}


@pytest.mark.parametrize("where", ["in the first", "between", "in the second"])
def test_it_goes_on_to_the_same_bits(where: str, whole: Path, tags: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    if where == "in the second":
        shutil.copytree(whole, out)
        shutil.rmtree(max((out / "checkpoints").glob("step-*")))
        shutil.rmtree(out / "encoder")
    else:
        shutil.copytree(whole / "first", out / "first")
    if where == "in the first":
        shutil.rmtree(max((out / "first" / "checkpoints").glob("step-*")))
        shutil.rmtree(out / "first" / "encoder")
        events = (out / "first" / "events.jsonl").read_text().splitlines()
        (out / "first" / "events.jsonl").write_text("\n".join(e for e in events if '"finished"' not in e) + "\n")
    run(settings(tags), out, quiet=True)
    assert weights(out) == weights(whole) and weights(out / "first") == weights(whole / "first")


def test_a_first_run_that_is_finished_is_not_run_again(whole: Path, tags: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, out := tmp_path / "moved")
    before = times(out / "first")
    run(settings(tags), out, quiet=True)
    assert times(out / "first") == before


def test_the_settings_of_a_run_make_the_same_two_runs_elsewhere(whole: Path, tmp_path: Path) -> None:
    run(read_settings(whole / "settings.json"), tmp_path / "other", quiet=True)
    assert weights(tmp_path / "other") == weights(whole)
    assert weights(tmp_path / "other" / "first") == weights(whole / "first")


def test_init_is_what_the_first_run_begins_with(whole: Path, tags: Path, tmp_path: Path) -> None:
    run(settings(tags, init=str(whole)), tmp_path / "run", quiet=True)
    assert read_settings(tmp_path / "run" / "first" / "settings.json").init == str(whole)
    assert weights(tmp_path / "run" / "first") != weights(whole / "first")


def test_a_first_run_may_learn_from_tags_too(tags: Path, tmp_path: Path) -> None:
    small = {"first": "weakly-supervised-quickstart", "first_epochs": 0.1, "first_batch_size": 16}
    run(settings(tags, "supervised-quickstart", **small), tmp_path / "run", quiet=True)
    first = read_settings(tmp_path / "run" / "first" / "settings.json")
    assert first.tags == str(tags) and first.batch_size == 16


def test_a_file_stop_in_the_folder_of_the_first_run_stops_the_second(whole: Path, tags: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "first", tmp_path / "run" / "first")
    (tmp_path / "run" / "first" / "STOP").touch()
    finished = run(settings(tags), tmp_path / "run", quiet=True)
    assert finished.stopped and finished.out == tmp_path / "run"


def test_a_file_stop_in_the_run_folder_stops_the_first_run(tags: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    out.mkdir()
    (out / "STOP").touch()
    assert run(settings(tags), out, quiet=True).stopped
    assert (
        not (out / "STOP").exists()
        and not (out / "settings.json").exists()
        and (out / "first" / "checkpoints").exists()
    )


def test_asked_to_stop_while_the_first_run_is_written_out_the_second_does_not_begin(
    whole: Path, tags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    """As by a cluster's SIGTERM: what was trained is finished, and the same command goes on with the second run."""
    out, finish = tmp_path / "run", pretraining.finish

    def told(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        finish(*args)

    monkeypatch.setattr(pretraining, "finish", told)
    assert run(settings(tags), out).stopped
    assert "stopped between both runs; run the same command to go on" in capsys.readouterr().err
    assert (out / "first" / "report.html").exists() and not (out / "settings.json").exists()
    monkeypatch.setattr(pretraining, "finish", finish)
    assert not run(settings(tags), out, quiet=True).stopped
    assert weights(out) == weights(whole) and weights(out / "first") == weights(whole / "first")


@pytest.mark.parametrize("change", ["another picture", "another class"])
def test_both_runs_are_of_the_same_pictures_divided_alike(change: str, tags: Path, tmp_path: Path) -> None:
    """Else what the second holds out or is tested on may have been trained on by the first."""
    photos = tmp_path / "photos"
    for k in range(40):
        (photos / f"{k % 4}").mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((8, 8), 4 * k, dtype=np.uint8)).save(photos / f"{k % 4}" / f"{k}.png")
    (photos / "tags.csv").write_text("\n".join(["path,tags", *(f"{k % 4}/{k}.png,{WORDS[k % 4]}" for k in range(40))]))
    small = {"data": str(photos), "tags": str(photos / "tags.csv"), "batch_size": 8, "first_batch_size": 8}
    wanted = settings(tags).model_copy(update=small)
    for _ in range(2):  # of pictures that are the same a second run begins again
        run(wanted, tmp_path / "run", quiet=True)
        for place in ("checkpoints", "encoder", "classifier"):
            shutil.rmtree(tmp_path / "run" / place)
    if change == "another picture":
        Image.fromarray(np.full((8, 8), 255, dtype=np.uint8)).save(photos / "0" / "x.png")
    else:
        for k in (0, 4, 8, 12, 16, 20):
            (photos / "0" / f"{k}.png").rename(photos / "1" / f"{k}.png")
    with pytest.raises(CheckpointError, match="K-14: the pictures of photos are not those that .*first was trained on"):
        run(wanted, tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_killed_in_either_run_it_ends_with_the_same_bits(tags: Path, tmp_path: Path) -> None:
    out, whole = tmp_path / "run", tmp_path / "whole"
    for place in (out / "first", out):
        process = FORKSERVER.Process(target=begin, args=(tags, out))
        process.start()
        wait_for_lines(place / "metrics.jsonl", 3)
        os.kill(process.pid, signal.SIGKILL)
        process.join()
        assert process.exitcode == -signal.SIGKILL, "it was over before the kill came"
        assert not has_finished(place), "the kill came after the last step of the run that was meant"
        assert place == out or not (out / "settings.json").exists(), "the second run had begun"
    assert has_finished(out / "first")
    for place in (out, whole):
        run(settings(tags).model_copy(update=LONG), place, quiet=True)
    assert weights(out) == weights(whole) and weights(out / "first") == weights(whole / "first")


@pytest.mark.slow
def test_two_processes_run_both(tags: Path, tmp_path: Path) -> None:
    out = tmp_path / "run"
    words = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
        "tutelage",
        "pretrain",
    ]
    words += [
        "pre-pretraining-quickstart",
        "--data=digits",
        f"--tags={tags}",
        "--steps=6",
        "--first-epochs=0.3",
        *PLAIN_FLAGS,
    ]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, f"--out={out}"], capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    for place in (out / "first", out):
        assert json.loads((place / "environment.json").read_text())["processes"] == 2
        assert (place / "encoder").is_dir() and (place / "report.html").is_file()


def test_every_word_is_in_a_table_of_the_run_folder(whole: Path) -> None:
    lines = (whole / "tags.csv").read_text().splitlines()
    assert lines[0].startswith('"word","pictures","meanings","classes","told","synsets"')
    assert len(lines) == 1 + len(WORDS)
    assert any(line.startswith('"sneaker",') and '"gym_shoe.n.01|fink.n.01","a canvas shoe"' in line for line in lines)


FEW = (
    "D-03: in the first run, of mae-quickstart: digits has 1294 training pictures, fewer than the first_batch_size of 5000. "
    "A batch would hold the same picture twice. Use --first-batch-size 1294 or less."
)


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (["--first=nothing"], "C-03"),
        (["--first=pre-pretraining-quickstart"], "C-28"),
        (["--tags=nowhere.csv"], "D-13"),
        (["--micro-batch=7"], "C-25"),
        (["--first-batch-size=5000"], FEW),
    ],
)
def test_bad_words_are_refused(words: list[str], code: str, tags: Path, tmp_path: Path, capsys) -> None:
    begin = [
        "pretrain",
        "pre-pretraining-quickstart",
        "--data=digits",
        f"--tags={tags}",
        "--first-epochs=0.1",
        *PLAIN_FLAGS,
    ]
    assert main([*begin, *words, f"--out={tmp_path / 'run'}"]) != 0
    assert code in capsys.readouterr().err
    assert not list(tmp_path.glob("run/**/checkpoints")), "nothing is trained before all that can be known is"


def test_held_out_pictures_without_tags_are_no_reason_to_fail(tmp_path: Path, tags: Path) -> None:
    for part, names in {"train": range(48), "val": range(48, 56), "test": range(56, 60)}.items():
        (tmp_path / "photos" / part).mkdir(parents=True)
        for k in names:
            Image.fromarray(np.full((8, 8), 4 * k, dtype=np.uint8)).save(tmp_path / "photos" / part / f"{k}.png")
    rows = [f"train/{k}.png,{WORDS[k % 4]}" for k in range(48)]
    (tmp_path / "photos.csv").write_text("\n".join(["path,tags", *rows]))
    small = {"data": str(tmp_path / "photos"), "tags": str(tmp_path / "photos.csv"), "steps": 4}
    run(settings(tags, "weakly-supervised-quickstart").model_copy(update=small), tmp_path / "run", quiet=True)
    assert (tmp_path / "run" / "encoder").is_dir()


def test_settings_that_need_the_other_are_refused(tags: Path, tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="C-28"):
        run(settings(tags, "weakly-supervised-quickstart", first_epochs=1.0), tmp_path / "run", quiet=True)
    with pytest.raises(SettingsError, match="C-27"):
        run(settings_for("mae-quickstart", data="digits", tags=str(tags)), tmp_path / "run", quiet=True)
    with pytest.raises(SettingsError, match="C-27: neither of both runs"):
        run(settings(tags, "supervised-quickstart", first="mae-quickstart"), tmp_path / "run", quiet=True)


def test_the_first_run_is_of_the_same_pictures_seed_backbone_and_machine() -> None:
    """Each setting is another than the default: what is not handed on is seen."""
    shared = {
        "data": "photos", "labels": "labels.csv", "share": 0.5, "seed": 7, "holdout": 0.25, "normalisation": "imagenet",
        "init": "timm:vit", "init_teacher": "student", "micro_batch": 16, "device": "cpu", "precision": "float64",
        "workers": 3, "save_steps": 5, "log_steps": 3, "monitors": 4, "stuck_minutes": 9.0,
    }  # fmt: skip
    backbone = {"width": 64, "depth": 3, "heads": 2, "drop_path": 0.3}
    second = settings_for("pre-pretraining-quickstart", **shared, tags="tags.csv", backbone=backbone)
    first = first_stage(second)
    assert {name: getattr(first, name) for name in shared} == shared
    assert first.backbone == second.backbone.model_copy(update={"drop_path": 0.0}), "drop path is its recipe's"
    mae = settings_for("mae-quickstart")
    own = ("recipe", "method", "optim", "views", "epochs", "steps", "batch_size", "tags", "tagging", "first")
    assert {name: getattr(first, name) for name in own} == {name: getattr(mae, name) for name in own}
    tagging = {"min_pictures": 3}
    learns = settings_for(
        "supervised-quickstart", first="weakly-supervised-quickstart", tags="tags.csv", tagging=tagging
    )
    assert first_stage(learns).tags == "tags.csv" and first_stage(learns).tagging.min_pictures == 3


def test_what_the_tags_are_worth_is_told_before_the_first_run(tags: Path, tmp_path: Path, capsys) -> None:
    wanted = settings(tags, first="lomar-quickstart", first_epochs=0.1)
    larger = wanted.backbone.model_copy(update={"image_size": 32})  # lomar-quickstart's windows are of 4 x 4 patches
    run(wanted.model_copy(update={"backbone": larger}), tmp_path / "run")
    said = capsys.readouterr().err.splitlines()
    at = {text: next(k for k, line in enumerate(said) if text in line) for text in TOLD}
    assert list(at) == sorted(at, key=at.__getitem__), at


TOLD = (
    "data  1,797 pictures",
    "a canvas shoe",
    "the positions of lomar-quickstart are relative; both runs have the second's, sincos. --backbone.positions relative",
    "run 1 of 2: lomar-quickstart",
    "recipe  lomar-quickstart",
    "next    the run that begins with it",
    "run 2 of 2: pre-pretraining-quickstart",
    "recipe  pre-pretraining-quickstart",
)
"""In this order."""


def test_the_pages_of_both_runs_name_and_link_each_other(whole: Path) -> None:
    first, second = ((folder / "report.html").read_text() for folder in (whole / "first", whole))
    assert "<title>run/first: " in first
    assert '<a href="../report.html"><bdi>run</bdi></a> began with its encoder' in first
    assert '<a href="first/report.html">the first</a>, of <bdi>mae-quickstart</bdi>' in second
    assert "trained on tags, in nats" in second and "guesses are spread" not in second


def test_a_first_run_killed_before_its_page_was_written_gets_it(whole: Path, tags: Path, tmp_path: Path) -> None:
    shutil.copytree(whole / "first", tmp_path / "run" / "first")
    (tmp_path / "run" / "first" / "report.html").unlink()
    (tmp_path / "run" / "STOP").touch()
    assert run(settings(tags), tmp_path / "run", quiet=True).stopped
    assert (tmp_path / "run" / "first" / "report.html").is_file()


def test_a_first_run_that_was_deleted_is_not_trained_again(whole: Path, tags: Path, tmp_path: Path) -> None:
    shutil.copytree(whole, out := tmp_path / "run")
    shutil.rmtree(out / "first" / "encoder")
    run(settings(tags), out, quiet=True)
    assert (out / "first" / "encoder").is_dir(), "written again from its last checkpoint"
    shutil.rmtree(out / "first")
    with pytest.raises(CheckpointError, match=r"K-03: .*first is gone.* would be trained again"):
        run(settings(tags), out, quiet=True)
    assert not (out / "first").exists()


@pytest.mark.parametrize("what", ["tags", "WordNet", "pictures"])
def test_what_has_changed_is_named(what: str, tags: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for k in range(40):
        Image.fromarray(np.full((8, 8), 4 * k, dtype=np.uint8)).save(photos / f"{k}.png")
    rows = [f"photos/{k}.png,{WORDS[k % 4]}" for k in range(40)]
    table = tmp_path / "tags.csv"
    table.write_text("\n".join(["path,tags", *rows]))
    small = {"data": str(photos), "tags": str(table), "steps": 2, "batch_size": 8}
    wanted = settings(tags, "weakly-supervised-quickstart").model_copy(update=small)
    run(wanted, tmp_path / "run", quiet=True)
    data = json.loads((tmp_path / "run" / "data.json").read_text())
    told = data.pop("hashes")
    assert told.keys() == {"pictures", "tested", "tags", "wordnet"}
    if what == "tags":
        table.write_text("\n".join(["path,tags", *rows[1:], f"photos/0.png,{WORDS[1]}"]))
        expected = r"the tags of photos are not those .*\(SHA-256 [0-9a-f]{12} then, [0-9a-f]{12} now\)"
    elif what == "WordNet":
        other = write_wordnet(tmp_path / "cache" / "wordnet") / "noun.exc"
        other.write_text(other.read_text() + "boxen box\n")
        monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
        open_wordnet.cache_clear()
        expected = rf"the nouns of WordNet are not those .*\(SHA-256 {told['wordnet'][:12]} then"
    else:
        (photos / "39.png").unlink()
        expected = "the pictures of photos are not those"
    with pytest.raises(CheckpointError, match=f"K-14: {expected}.* Restore them"):
        run(wanted, tmp_path / "run", quiet=True)
    (tmp_path / "run" / "data.json").write_text(json.dumps(data))  # of a run that an earlier version began
    with pytest.raises(CheckpointError, match="K-14: the pictures or tags of photos"):
        run(wanted, tmp_path / "run", quiet=True)


LONG = {"first_epochs": 4.0, "steps": 60}
"""Some 80 steps, then 60: too many to be over before a kill comes."""


def begin(tags: Path, out: Path) -> None:
    """In a process of its own."""
    os.environ["TUTELAGE_CACHE"] = str(tags.parent / "cache")
    run(settings(tags).model_copy(update=LONG), out, quiet=True)


def has_finished(out: Path) -> bool:
    return '"finished"' in (out / "events.jsonl").read_text()


def times(folder: Path) -> dict[Path, int]:
    """When each file was written, but for the page, which is written again to name the second run."""
    files = [file for file in folder.rglob("*") if file.is_file() and file.name != "report.html"]
    return {file: file.stat().st_mtime_ns for file in files}


def wait_for_lines(file: Path, count: int) -> None:
    until = time.monotonic() + 120
    while time.monotonic() < until:
        if file.exists() and file.read_text().count("\n") >= count:
            return
        time.sleep(0.01)
    raise TimeoutError(str(file))
