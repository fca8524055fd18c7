"""Each method of the family survives what PseudoMAE and MAE survive: kills, signals and numbers gone wrong."""

import random
import shutil
import signal
from functools import partial
from pathlib import Path

import pytest
import torch
from test_numbers import poison, tensors
from worlds import STEPS, begin, begin_world, digest, ended, events, fingerprint, last_step, losses, said, wait_for

OTHERS = [
    "semi-mae",  # two streams and a branch: the one that `make test` tries
    *(
        pytest.param(name, marks=pytest.mark.long)
        for name in ("sdae", "rc-mae", "lomar", "fixmatch", "semi-mae-pseudomae", "semiformer", "supervised")
    ),
]


@pytest.mark.parametrize("method", OTHERS)
def test_kills_and_signals_change_no_bit(method: str, tmp_path: Path, amount, figure) -> None:
    whole, out, trials = tmp_path / "whole", tmp_path / "run", amount(2, 2, 20)
    assert ended(begin(whole, method=method)) == [0]
    for trial in range(trials):
        rng, number = random.Random(f"{method} {trial}"), (signal.SIGKILL, signal.SIGTERM)[trial % 2]
        process = begin(out, method=method)
        wait_for(out, rng.randint(5, STEPS - 10), process)
        (process.kill if number == signal.SIGKILL else process.terminate)()
        assert ended(process) == [-number if number == signal.SIGKILL else 75]
        assert last_step(out) < STEPS
        assert ended(begin(out, method=method)) == [0]
        assert fingerprint(out) == fingerprint(whole) and digest(out) == digest(whole)
        assert losses(out) == losses(whole)
        shutil.rmtree(out)
    figure(f"kill -9 and SIGTERM at random steps, {method}", f"{trials}, 0 differing bits")


@pytest.mark.long
@pytest.mark.parametrize("place", ["gradient", "pictures"])
@pytest.mark.parametrize("method", ["rc-mae", "lomar", "supervised", "fixmatch", "semi-mae", "semiformer"])
def test_a_number_that_is_not_finite_is_left_out(method: str, place: str, tmp_path: Path) -> None:
    """By both of two processes, though one alone met it."""
    out, step = tmp_path / "run", 17
    processes = begin_world(out, 2, plant=partial(poison, (step,), 1, place), method=method)
    assert ended(*processes) == [0, 0], said(out)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(out).values() if tensor.is_floating_point())
    (event,) = events(out, "skipped")
    assert event["step"] == step + 1


@pytest.mark.long
@pytest.mark.parametrize("method", ["rc-mae", "lomar", "semi-mae"])
def test_killed_among_two_processes_it_ends_with_the_same_bits(method: str, tmp_path: Path) -> None:
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert ended(*begin_world(whole, 2, method=method)) == [0, 0]
    processes = begin_world(out, 2, method=method)
    wait_for(out, 20, *processes)
    for process in processes:
        process.kill()
    assert ended(*processes) == [-signal.SIGKILL] * 2
    assert ended(*begin_world(out, 2, method=method)) == [0, 0]
    assert fingerprint(out) == fingerprint(whole) and digest(out) == digest(whole)
