"""Bad input gets its error and its exit code, before any work is done and without a traceback."""

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from PIL import Image

from small_runs import FLAGS, tiny
from tutelage.cli import main
from tutelage.clock import Clock
from tutelage.encoder import build_vit
from tutelage.engine.announce import standing_still


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for i in range(40):
        Image.effect_noise((24, 20), 10 + i).convert("RGB").save(folder / f"{i:02}.jpg")
    return folder


def refuse(capsys: pytest.CaptureFixture[str], code: int, *words: str) -> str:
    """Run a command that must be refused with `code`, and return what it said on standard error."""
    assert main(words) == code
    error = capsys.readouterr().err
    assert "Traceback" not in error
    return error


def pretrain(data: Path | str, out: Path, *more: str) -> list[str]:
    return ["pretrain", "mae-quickstart", f"--data={data}", f"--out={out}", "--steps=2", *FLAGS, *more]


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--method.mask-ratio=1.5"], "less than 1"),
        (["--epochs=-1"], "greater than 0"),
        (["--epochs=abc"], "abc"),
        (["--batch-sise=8"], "--batch-size"),
        (["--method.mask-ration=0.5"], "--method.mask-ratio"),
        (["--backbone.image-size=30"], "C-20"),
        (["--backbone.name=vit_tinny"], "C-10"),
        (["--backbone.name=resnet18"], "C-11"),
        (["--method.mask-ratio=0.99"], "N-05"),
        (["--method.decoder.width=18"], "C-22"),
        (["--micro-batch=7"], "C-25"),
        (["--backbone.heads=3"], "C-22"),
    ],
)
def test_settings_are_refused_with_exit_code_2_before_a_folder_is_made(
    words: list[str], told: str, photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "run"
    line = refuse(capsys, 2, *pretrain("no such data: it must not be read", out, *words))
    assert told in line
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["evaluate", "knnn", "x", "--data=y"], "C-02: Invalid choice 'knnn' for argument 'protocol'."),
        (["evaluate", "knn", "x"], "C-02: --data is missing."),
        (
            ["evaluate", "knn", "x", "--data=y", "--low-shot.draws=3"],
            "C-40: shots, draws and C belong to 'low-shot', not to knn.",
        ),
        (
            ["evaluate", "classifier", "x", "--data=y", "--epochs=3", "--teacher=student"],
            "C-40: epochs, teacher belong to protocols on frozen features, not to classifier.",
        ),
        (
            ["evaluate", "low-shot", "x", "--data=y", "--low-shot.draws=1"],
            "draws is 1: it should be greater than or equal",
        ),
        (
            ["evaluate", "knn", "x", "--data=y", "--baseline=z"],
            "C-40: baseline belongs to robustness or classifier, not to knn.",
        ),
        (
            ["evaluate", "robustness", "x", "--data=y", "--robustness.kinds=snwo"],
            "C-02: Invalid choice 'snwo' for argument '--robustness.kinds'.",
        ),
        (
            ["evaluate", "robustness", "x", "--data=y", "--robustness.severities=6"],
            "C-02: robustness.severities.0 is 6: it should be less than or equal to 5.",
        ),
        (["evaluate"], "C-02: Not enough arguments."),
        (["export", "x"], "C-02: --out is missing."),
        (
            ["pretrain", "mae-quickstart", "--method.mask-ratio=1.5"],
            "method.mask_ratio is 1.5: it should be less than 1.",
        ),
        (["pretrain", "mae-quickstart", "--epochs=-1"], "C-02: epochs is -1.0: it should be greater than 0."),
        (["pretrain", "mae-quickstart", "--datta=x"], "C-01: unknown option '--datta'. Did you mean '--data'?"),
        (
            ["pretrain", "fixmatch-quickstart", "--data=digits", "--method.teacher.every=step"],
            "C-01: there is no method.teacher here that --method.teacher.every could change. The recipe leaves it out.",
        ),
        (
            ["pretrain", "fixmatch-quickstart", "--data=digits", "--method.branch.mask-ratio=0.5"],
            "C-01: there is no method.branch here that --method.branch.mask-ratio could change.",
        ),
        (["pretrain", "mae-quickstart"], "C-07: no --data given."),
        (["pretrain"], "C-06: pretrain needs a recipe, before its options."),
        (["pretrain", "--settings=nowhere.json"], "C-05: nowhere.json cannot be read as settings"),
        (["evaluate", "knn", "x", "--data=y", "--jsn"], "C-01: unknown option '--jsn'. Did you mean '--json'?"),
        (["recipes", "nothing"], "C-03: there is no recipe 'nothing'."),
    ],
)
def test_what_is_wrong_is_said_in_a_sentence(words: list[str], told: str, capsys) -> None:
    assert told in refuse(capsys, 2, *words)


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        ([], 3, "D-25: every training picture of digits has a label."),
        (
            ["--labels=40", "--batch-size=60", "--method.unlabelled-ratio=7"],
            2,
            "C-25: batch_size 60 is no multiple of 8 = 7 unlabelled + 1 labelled.",
        ),
        (
            ["--labels=40", "--method.branch.mask-ratio=2"],
            2,
            "method.branch.mask_ratio is 2.0: it should be less than 1.",
        ),
        (["--labels=forty"], 2, "C-14: labels is 'forty'."),
        (["--labels=5"], 3, "D-23: labels 5 leaves"),
        (["--labels=40", "--method.guesses-by=teacher"], 2, "C-24: method.guesses_by is 'teacher'"),
    ],
)
def test_few_labels_that_cannot_work_are_refused(
    words: list[str], code: int, told: str, tmp_path: Path, capsys
) -> None:
    out = tmp_path / "run"
    command = ["pretrain", "semi-mae-quickstart", "--data=digits", f"--out={out}", "--steps=2", *words]
    assert told in refuse(capsys, code, *command)
    assert not out.exists()


def test_five_folds_are_refused_naming_folds_and_mask_ratios_that_do(tmp_path: Path, capsys) -> None:
    words = ["pretrain", "sdae-quickstart", "--data=x", f"--out={tmp_path / 'run'}", "--method.folds=5"]
    line = refuse(capsys, 2, *words)
    assert "C-21" in line and "48 of 64" in line and "1, 2, 3, 4, 6" in line and "mask_ratio of" in line


def test_an_unknown_recipe_is_refused_with_the_nearest(capsys) -> None:
    assert "Did you mean 'mae-quickstart'?" in refuse(capsys, 2, "pretrain", "mae-quikstart", "--data=x")


def test_an_unknown_command_is_refused_with_the_nearest(capsys) -> None:
    assert "Did you mean 'pretrain'?" in refuse(capsys, 2, "pretrian")


def test_no_such_folder_an_empty_one_and_one_of_text_files(tmp_path: Path, capsys) -> None:
    empty, texts = tmp_path / "empty", tmp_path / "texts"
    empty.mkdir()
    texts.mkdir()
    for i in range(3):
        (texts / f"{i}.txt").write_text("no picture")
    assert "D-01" in refuse(capsys, 3, *pretrain(tmp_path / "nowhere", tmp_path / "run"))
    assert "0 pictures" in refuse(capsys, 3, *pretrain(empty, tmp_path / "run"))
    assert ".txt 3" in refuse(capsys, 3, *pretrain(texts, tmp_path / "run"))
    assert not (tmp_path / "run").exists()


def test_fewer_pictures_than_the_batch_names_the_largest_batch_that_works(photos: Path, tmp_path: Path, capsys) -> None:
    line = refuse(capsys, 3, *pretrain(photos, tmp_path / "run", "--batch-size=64"))
    assert "D-03" in line and "--batch-size 36" in line
    assert main(pretrain(photos, tmp_path / "run", "--batch-size=36")) == 0


def test_a_patch_that_is_a_single_number_is_refused(tmp_path: Path, capsys) -> None:
    words = ["--backbone.image-size=4", "--backbone.patch-size=1"]
    assert "C-20: a patch of 1x1 px" in refuse(capsys, 2, *pretrain("digits", tmp_path / "run", *words))
    assert not (tmp_path / "run").exists()


def test_one_picture_is_fewer_than_the_batch(photos: Path, tmp_path: Path, capsys) -> None:
    for path in sorted(photos.iterdir())[1:]:
        path.unlink()
    line = refuse(capsys, 3, *pretrain(photos, tmp_path / "run", "--batch-size=32"))
    assert "D-03: photos has 1 training picture" in line
    assert "fewer than the batch_size of 32" in line and "--batch-size 1 or less" in line
    assert not (tmp_path / "run").exists()


def test_a_misspelt_set_is_refused_with_the_nearest(tmp_path: Path, monkeypatch, capsys) -> None:
    monkeypatch.chdir(tmp_path)
    line = refuse(capsys, 3, *pretrain("fashion-mnits", tmp_path / "run"))
    assert "D-01: there is no file or folder fashion-mnits." in line and "Did you mean 'fashion-mnist'?" in line
    assert not (tmp_path / "run").exists()


def still(method: str, steps: int, **settings: object) -> list[str]:
    """What is said of teachers that such a run, of 100 pictures in batches of 32, never moves."""
    chosen = tiny(method, method=settings)
    built = chosen.method.build(build_vit(chosen.backbone, 1))
    return standing_still(built, Clock(batch_size=32, num_pictures=100, total_steps=steps))


def test_a_teacher_that_an_epoch_moves_is_told_to_stand_still_in_a_run_without_a_whole_one() -> None:
    """Three steps are 96 pictures, four are 128."""
    by_epoch = {"reconstruction_teacher": {"every": "epoch"}}
    for method in ("sdae", "pseudomae"):
        (line,) = still(method, 3, **by_epoch)
        assert line == (
            "note    the reconstruction teacher moves when an epoch ends, and the run has 0.96 epochs: it stays as it begins"
        )
        assert still(method, 4, **by_epoch) == []
    both = {**by_epoch, "labelling_teacher": {"every": "epoch"}}
    first, second = still("pseudomae", 3, **both)
    assert "the reconstruction teacher" in first and "the labelling teacher" in second


@pytest.mark.parametrize("method", ["mae", "sdae", "pseudomae", "rc-mae"])
def test_of_teachers_that_steps_move_nothing_is_told(method: str) -> None:
    assert still(method, 1) == []


def test_a_run_says_that_its_teacher_will_stand_still(photos: Path, tmp_path: Path, capsys) -> None:
    words = ["pretrain", "sdae-quickstart", f"--data={photos}", f"--out={tmp_path / 'run'}", *FLAGS, "--monitors=0"]
    assert main([*words, "--steps=1", "--method.reconstruction-teacher.every=epoch"]) == 0
    assert (
        "note    the reconstruction teacher moves when an epoch ends, and the run has 0.89 epochs"
        in capsys.readouterr().err
    )


def test_a_checkpoint_of_another_size_is_refused(photos: Path, tmp_path: Path, capsys) -> None:
    assert main(pretrain(photos, tmp_path / "run")) == 0
    line = refuse(capsys, 4, *pretrain(photos, tmp_path / "other", f"--init={tmp_path / 'run'}", "--backbone.width=32"))
    assert "K-30" in line
    line = refuse(capsys, 2, *pretrain(photos, tmp_path / "run", "--backbone.width=32"))
    assert "C-12" in line and "backbone.width was 16, is 32" in line


def test_a_place_that_cannot_be_written_is_refused_before_the_data_is_read(tmp_path: Path, capsys) -> None:
    (tmp_path / "file").write_text("")
    assert "R-03" in refuse(capsys, 6, *pretrain("no such data", tmp_path / "file" / "run"))


@pytest.mark.skipif(os.getuid() != 0, reason="only root can become somebody else")
def test_a_read_only_folder_is_refused_for_a_user_who_is_not_root() -> None:
    # Rights along the whole path matter, and pytest keeps its folders to their owner.
    locked = Path(tempfile.mkdtemp())
    locked.chmod(0o555)
    code = (
        "import os\n"
        "from pathlib import Path\n"
        "from tutelage.engine.run import check_writable\n"
        "from tutelage.errors import MachineError\n"
        "os.setuid(65534)\n"
        "try:\n    check_writable(Path('run'))\n"
        "except MachineError as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=locked, capture_output=True, text=True)
    locked.rmdir()
    assert done.stdout.startswith("R-03"), done.stderr


def test_a_second_run_into_a_folder_in_use_is_refused(photos: Path, tmp_path: Path, capsys) -> None:
    run = tmp_path / "run"
    run.mkdir()
    told = {"pid": 4321, "host": "elsewhere", "since": "yesterday", "place": "elsewhere", "nonce": "x"}
    (run / ".lease-1").write_text(json.dumps(told))
    line = refuse(capsys, 2, *pretrain(photos, run))
    assert re.match(r"K-01: .* is in use by pid 4321 on host elsewhere since yesterday \(heartbeat \d+ s ago\)\.", line)
    (run / ".lease-1").unlink()
    assert main(pretrain(photos, run)) == 0


def test_bad_files_among_good_ones_are_skipped_and_listed(photos: Path, tmp_path: Path, capsys) -> None:
    whole = (photos / "00.jpg").read_bytes()
    (photos / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (photos / "zero.png").write_bytes(b"")
    (photos / "text.png").write_text("I am no picture")
    out = tmp_path / "run"
    assert main(pretrain(photos, out)) == 0
    assert "3 unreadable" in capsys.readouterr().err
    events = (out / "events.jsonl").read_text()
    for name in ("truncated.jpg", "zero.png", "text.png"):
        assert name in events and name in (out / "data.json").read_text()
    shutil.rmtree(out)
