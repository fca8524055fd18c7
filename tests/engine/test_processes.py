"""Two processes under torchrun do what one does (oracle 28 in the whole, and the issue's figures)."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from small_runs import FLAGS, HEAD_FLAGS
from tutelage.cli import main
from tutelage.engine.checkpoint import checkpoint_folders


def launch(folder: Path, steps: int, precision: str) -> None:
    """The same run on one process, in this one, and on two under torchrun."""
    words = ["pretrain", "pseudomae-quickstart", "--data=digits", f"--steps={steps}", *FLAGS, *HEAD_FLAGS]
    words += [f"--precision={precision}", "--monitors=1", "--device=cpu"]
    assert main([*words, f"--out={folder / '1'}"]) == 0
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "-m", "tutelage"]
    done = subprocess.run(
        [*torchrun, *words, f"--out={folder / '2'}"],
        capture_output=True,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]


def losses(out: Path) -> np.ndarray:
    return np.array([json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()])


@pytest.mark.slow
def test_in_float64_two_processes_agree_with_one_over_60_steps(tmp_path: Path) -> None:
    launch(tmp_path, 60, "float64")
    one, two = (losses(tmp_path / name) for name in ("1", "2"))
    assert len(one) == 60
    assert np.abs(one - two).max() < 1e-10
    weights = [
        load_file(checkpoint_folders(tmp_path / name / "checkpoints")[0] / "model.safetensors") for name in ("1", "2")
    ]
    assert weights[0].keys() == weights[1].keys()
    assert max(float((weights[0][key] - weights[1][key]).abs().max()) for key in weights[0]) < 1e-8


@pytest.mark.slow
def test_in_float32_two_processes_stay_near_one(tmp_path: Path) -> None:
    launch(tmp_path, 20, "float32")
    one, two = (losses(tmp_path / name) for name in ("1", "2"))
    assert abs(one[0] - two[0]) < 1e-6
    assert abs(one[-1] - two[-1]) < 1e-4 * abs(one[-1])
