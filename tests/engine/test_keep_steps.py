"""Which checkpoints stay: the newest two, and with `keep_steps` its multiples for good."""

import json
import os
import shutil
import signal
import time
from pathlib import Path

import pytest

from small_runs import FORKSERVER, tiny
from tutelage.cli import main
from tutelage.engine.checkpoint import checkpoint_folders, prune_checkpoints, step_of
from tutelage.engine.pretrain import pretrain


def run(out: Path, **changes: object) -> None:
    pretrain(tiny("mae", **{"steps": 12, "monitors": 0, **changes}), out, quiet=True)


def steps(out: Path) -> list[int]:
    return [step_of(path) for path in reversed(checkpoint_folders(out / "checkpoints"))]


@pytest.mark.parametrize(
    ("changes", "left"),
    [
        ({}, [12]),
        ({"save_steps": 2}, [10, 12]),
        ({"save_steps": 5, "keep_steps": 4}, [4, 8, 10, 12]),  # saved at 4 5 8 10 12
        ({"keep_steps": 5}, [5, 10, 12]),
    ],
)
def test_multiples_of_keep_steps_are_saved_and_kept_beside_the_newest_two(
    changes: dict[str, int], left: list[int], tmp_path: Path
) -> None:
    run(tmp_path / "run", **changes)
    assert steps(tmp_path / "run") == left


def test_pruning_spares_the_newest_two_and_what_is_or_was_marked(tmp_path: Path) -> None:
    def there() -> list[int]:
        return [step_of(path) for path in checkpoint_folders(tmp_path)]

    for step in (2, 3, 4, 6, 10, 100_000_000):
        (tmp_path / f"step-{step:08d}").mkdir()
    prune_checkpoints(tmp_path, keep_steps=3)
    assert there() == [100_000_000, 10, 6, 3]
    (tmp_path / "step-100000001").mkdir()
    prune_checkpoints(tmp_path)
    assert there() == [100_000_001, 100_000_000, 6, 3]


@pytest.mark.slow
def test_a_killed_run_keeps_them_and_so_does_the_one_that_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "run"
    killed = {"steps": 40, "save_steps": 3, "keep_steps": 5}
    process = FORKSERVER.Process(target=run, args=(out,), kwargs=killed)
    process.start()
    while not (out / "checkpoints" / "step-00000012").exists():
        time.sleep(0.001)
        assert process.is_alive(), "the run ended before it could be killed"
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    before = steps(out)
    assert {5, 10} <= set(before) and before[-1] < 40

    run(out, **killed)
    assert steps(out) == [5, 10, 15, 20, 25, 30, 35, 39, 40]


@pytest.mark.parametrize("then", [{"keep_steps": 5}, {"save_steps": 2}])
def test_what_was_kept_stays_when_the_run_goes_on_otherwise(then: dict[str, int], tmp_path: Path) -> None:
    """It may change on the way, for no number depends on it."""
    out = tmp_path / "run"
    run(out, keep_steps=3)
    for step in (9, 12):  # as if it had been killed after step 6
        shutil.rmtree(out / f"checkpoints/step-{step:08d}")
    run(out, **then)
    assert steps(out) == [3, 6, 10, 12]


def test_a_kept_checkpoint_can_be_evaluated(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "run"
    run(out, keep_steps=4)
    results = {}
    for step in (4, 12):
        words = ["evaluate", "knn", f"{out}/checkpoints/step-{step:08d}", "--data=digits", "--no-baselines", "--json"]
        assert main([*words, "--train-pictures=200"]) == 0
        results[step] = json.loads(capsys.readouterr().out)
        assert results[step]["origin"].endswith(f"step-{step:08d}")
    assert main(["evaluate", "knn", str(out), "--data=digits", "--no-baselines", "--json", "--train-pictures=200"]) == 0
    whole = json.loads(capsys.readouterr().out)
    assert whole["rows"][0]["scores"] == results[12]["rows"][0]["scores"] != results[4]["rows"][0]["scores"]
