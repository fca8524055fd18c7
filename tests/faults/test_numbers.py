"""Numbers that go wrong in a run: left out on all processes alike, gone back from, named (G1 to G4, G9)."""

import json
import os
import random
import re
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from worlds import STEPS, begin, begin_world, ended, events, fingerprint, losses, said

from tutelage.engine.checkpoint import checkpoint_folders

PLACES = ("value", "loss", "gradient", "pictures")
"""A loss that is not finite while its gradient is, which no other process would see in the gradients that all share; ..."""


def poison(steps: tuple[int, ...], rank: int, place: str, value: float = float("nan")) -> None:
    """From now on, this process's numbers go wrong in these steps (counted from 0)."""
    if int(os.environ.get("RANK", 0)) != rank:
        return
    from tutelage.engine import train

    ours = train.step

    def step(module, optimizer, micro_batches, clock, settings, numerics, *rest):
        if clock.step not in steps:
            return ours(module, optimizer, micro_batches, clock, settings, numerics, *rest)
        method = getattr(module, "module", module)
        if place == "pictures":
            from dataclasses import replace

            bad = replace(numerics, mean=numerics.mean * value)
            return ours(module, optimizer, micro_batches, clock, settings, bad, *rest)
        if place == "value":
            handle = method.register_forward_hook(lambda _, __, out: out._replace(loss=out.loss + abs(value)))
        elif place == "loss":
            handle = method.decoder.register_forward_hook(lambda _, __, out: out._replace(patches=out.patches * value))
        else:
            handle = method.student.norm.weight.register_hook(lambda gradient: gradient * value)
        try:
            return ours(module, optimizer, micro_batches, clock, settings, numerics, *rest)
        finally:
            handle.remove()

    train.step = step


def aloud(plant: Callable[[], None]) -> None:
    """Plant: the run says on standard error what a user sees."""
    import worlds

    real = worlds.pretrain
    worlds.pretrain = lambda settings, out, **_: real(settings, out)
    plant()


def tensors(out: Path) -> dict[str, torch.Tensor]:
    """Of the newest checkpoint."""
    folder = checkpoint_folders(out / "checkpoints")[0]
    return load_file(folder / "model.safetensors") | load_file(folder / "optimizer.safetensors")


def test_a_number_that_is_not_finite_is_left_out_by_all_and_named(tmp_path, amount, figure) -> None:
    rng, trials = random.Random(2), amount(1, 5, 50)
    for trial in range(trials):
        out, place, method = tmp_path / f"run-{trial}", PLACES[trial % 4], ("mae", "pseudomae")[trial // 4 % 2]
        step, rank = rng.randrange(STEPS), rng.randrange(2)
        value = rng.choice([float("nan"), float("inf")])
        plant = partial(poison, (step,), rank, place, value)
        processes = begin_world(out, 2, plant=partial(aloud, plant), method=method)
        assert ended(*processes) == [0, 0], said(out)
        assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(out).values() if tensor.is_floating_point())
        (event,) = events(out, "skipped")
        assert event["step"] == step + 1
        if place != "gradient" and method == "mae":
            assert event["processes"] == [rank], "PseudoMAE's labels and heads carry them to all"
        what = "the gradient was" if place == "gradient" else r"loss\b.* (was|were)"
        where = "" if place == "gradient" else r" \(process [01, ]+\)"
        line = rf"^N-01    step {step + 1}: {what} not finite{where}; its update is left out, its pictures are in {out}/repro$"
        assert len(re.findall(line, said(out), re.MULTILINE)) == said(out).count("N-01") == 1, said(out)
        assert "N-01" not in said(out, 1), "one of them speaks"
        for number in (0, 1):
            bundle = json.loads((out / "repro" / f"step-{step + 1:08d}-{number}.json").read_text())
            assert len(bundle["pictures"]) == 16 and all(name.startswith("digits/") for name in bundle["pictures"])
        manifest = json.loads((checkpoint_folders(out / "checkpoints")[0] / "MANIFEST.json").read_text())
        assert (manifest["step"], manifest["updates"]) == (STEPS, STEPS - 1)
        if method == "pseudomae":
            assert int(tensors(out)["labelling_teacher.num_moves"]) == STEPS - 1, "the teacher did not follow it"
    figure("NaN injections (step, rank, place)", f"{trials}: 0 non-finite parameters or teachers, all ranks agree")


@pytest.mark.parametrize("world", [1, pytest.param(2, marks=pytest.mark.long)])
def test_many_such_steps_send_a_run_back_with_half_the_learning_rate(tmp_path: Path, world: int) -> None:
    out, bad = tmp_path / "run", tuple(range(30, 40))
    processes = begin_world(out, world, plant=partial(poison, bad, 0, "loss")) if world > 1 else [
        begin(out, plant=partial(poison, bad, 0, "loss"))
    ]  # fmt: skip
    assert ended(*processes) == [0] * world, said(out)
    (back,) = events(out, "went_back")
    assert (back["step"], back["to"], back["lr_factor"]) == (40, 28, 0.5)
    rates = [json.loads(line)["lr"] for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(rates) == STEPS and rates[40] < 0.6 * rates[39]
    manifest = json.loads((checkpoint_folders(out / "checkpoints")[0] / "MANIFEST.json").read_text())
    assert (manifest["step"], manifest["updates"]) == (STEPS, 28 + 20)
    assert all(bool(torch.isfinite(tensor).all()) for tensor in tensors(out).values() if tensor.is_floating_point())


@pytest.mark.parametrize("kill_after", [34, pytest.param(45, marks=pytest.mark.long)])
def test_a_run_killed_around_its_return_ends_with_the_same_bits(tmp_path: Path, kill_after: int) -> None:
    plant = partial(poison, tuple(range(30, 40)), 0, "loss")
    whole, out = tmp_path / "whole", tmp_path / "run"
    assert ended(begin(whole, plant=plant)) == [0]
    process = begin(out, plant=partial(_and_die, plant, kill_after))
    assert ended(process) == [-9]
    assert ended(begin(out, plant=plant)) == [0]
    assert fingerprint(out) == fingerprint(whole)
    assert len(events(whole, "went_back")) == 1


def _and_die(plant, step: int) -> None:
    from tutelage.engine import keeper

    plant()
    ours = keeper.Keeper.after

    def after(self, clock, *rest):
        stop = ours(self, clock, *rest)
        if clock.step == step:
            os.kill(os.getpid(), 9)
        return stop

    keeper.Keeper.after = after


def test_without_a_checkpoint_from_before_it_gives_up_and_says_which_loss(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert ended(begin(out, plant=partial(poison, tuple(range(STEPS)), 0, "loss"))) == [5]
    assert "N-01: loss, reconstruction" in said(out) and "10 of the last steps" in said(out)


def test_after_three_returns_it_gives_up(tmp_path: Path) -> None:
    out = tmp_path / "run"
    assert ended(begin(out, plant=partial(poison, tuple(range(30, 200)), 0, "loss"), steps=200)) == [5]
    assert [event["lr_factor"] for event in events(out, "went_back")] == [0.5, 0.25, 0.125]
    assert "N-02:" in said(out) and "after 3 returns" in said(out)
    manifest = json.loads((checkpoint_folders(out / "checkpoints")[0] / "MANIFEST.json").read_text())
    assert manifest["updates"] == 28, "what was written is from before the trouble"


@pytest.mark.long
def test_a_learning_rate_a_thousand_times_too_high_for_a_while_is_gone_back_from(tmp_path: Path) -> None:
    """The drill: lr x 1000 for 5 steps. The run ends within a few per cent of one that was left alone."""
    plain, out = tmp_path / "plain", tmp_path / "run"
    drill = {"steps": 300, "save_steps": 10, "optim": {"base_lr": 0.008}}
    assert ended(begin(plain, method="mae", **drill)) == [0]
    assert ended(begin(out, plant=too_fast, method="mae", **drill)) == [0], said(out)
    assert 1 <= len(events(out, "went_back")) <= 3
    assert max(losses(out)[100:130]) > 1.5 * losses(out)[99], "it did diverge"
    ends = [sum(losses(o)[-20:]) / 20 for o in (plain, out)]
    assert ends[1] < 1.1 * ends[0]


def too_fast() -> None:
    from tutelage.engine import train

    ours = train.learning_rate
    train.learning_rate = lambda clock, settings: ours(clock, settings) * (1000 if 100 <= clock.step < 105 else 1)
