"""The loop: parameter groups, accumulation, steps that are skipped, and that the methods learn at all."""

import json
import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import skimage
import torch
from PIL import Image

from small_runs import tiny
from tutelage.clock import Clock
from tutelage.data.index import open_data
from tutelage.data.streams import PictureStream
from tutelage.engine.optim import build_optimizer, parameter_groups
from tutelage.engine.pretrain import build, pretrain
from tutelage.engine.settings import OptimSettings
from tutelage.engine.train import Numerics, learning_rate, step


def setting(method: str, dtype: torch.dtype = torch.float32, **changes):
    """Everything a step needs: settings, method, optimizer, numerics, stream, clock."""
    settings = tiny(method, **changes)
    data = open_data("digits")
    built, statistics, _ = build(settings, data)
    built.to(dtype)
    mean, std = (torch.tensor(values, dtype=dtype) for values in statistics)
    numerics = Numerics(torch.device("cpu"), dtype, None, mean, std)
    stream = PictureStream(
        data.train, settings.method.streams["train"], settings.views, (16, 16), settings.num_patches, 0
    )
    clock = Clock(batch_size=settings.batch_size, num_pictures=len(data.train), total_steps=80)
    return settings, built, build_optimizer(built, settings.optim), numerics, stream, clock


def test_biases_and_norms_do_not_decay_and_tokens_do_unless_told() -> None:
    """Oracle 63, the decay groups."""
    _, method, *_ = setting("pseudomae")
    names = {id(parameter): name for name, parameter in method.named_parameters()}
    decayed, plain = parameter_groups(method, OptimSettings())
    assert {names[id(p)] for p in plain["params"]} == {
        name for name, p in method.named_parameters() if p.requires_grad and p.ndim == 1
    }
    assert decayed["weight_decay"] == 0.05 and plain["weight_decay"] == 0
    both = {"student.cls_token", "decoder.mask_token"}
    assert both <= {names[id(p)] for p in decayed["params"]}
    decayed, plain = parameter_groups(method, OptimSettings(decay_tokens=False))
    assert both <= {names[id(p)] for p in plain["params"]}
    taken = {names[id(p)] for group in (decayed, plain) for p in group["params"]}
    assert not any(name.split(".")[0].endswith("teacher") for name in taken)
    assert "student.pos_embed" not in taken


def test_the_learning_rate_is_zero_at_first_peaks_after_the_warm_up_and_ends_at_the_floor() -> None:
    """Oracle 62, through the settings: lr = base_lr x batch / 256."""
    settings = tiny("mae", optim={"base_lr": 1e-3, "warmup_epochs": 2, "min_lr": 1e-5})
    clock = Clock(batch_size=32, num_pictures=320, total_steps=200)
    rates = [learning_rate(replace(clock, step=s), settings) for s in range(201)]
    assert rates[0] == 0
    assert rates[20] == pytest.approx(1e-3 * 32 / 256) == max(rates)
    assert rates[200] == pytest.approx(1e-5)
    assert rates[110] == pytest.approx((max(rates) + 1e-5) / 2)  # half-way down the cosine
    short = [learning_rate(replace(clock, step=s, total_steps=10), settings) for s in range(11)]
    assert int(np.argmax(short)) == 2  # a fifth of the run, not two epochs


def test_accumulated_micro_batches_make_the_step_of_one_batch() -> None:
    results = []
    for count in (1, 4):
        settings, method, optimizer, numerics, stream, clock = setting("mae", torch.float64)
        for group in optimizer.param_groups:
            group["lr"] = 1e-3
        parts = np.split(np.arange(32), count)
        results.append(
            (
                step(method, optimizer, [{"train": stream.batch(p)} for p in parts], clock, settings, numerics),
                torch.cat([p.detach().flatten() for p in method.parameters()]),
            )
        )
    (one, weights), (four, weights_4) = results
    assert one.losses["loss"] == pytest.approx(four.losses["loss"], abs=1e-12)
    assert one.grad_norm == pytest.approx(four.grad_norm, abs=1e-10)
    assert (weights - weights_4).abs().max() < 1e-9


@pytest.mark.parametrize("poison", ["loss", "gradient"])
def test_numbers_that_are_not_finite_reach_neither_weights_nor_teachers(poison: str) -> None:
    settings, method, optimizer, numerics, stream, clock = setting("pseudomae")
    if poison == "loss":
        numerics = replace(numerics, mean=numerics.mean * float("nan"))
    else:
        method.student.norm.weight.register_hook(lambda gradient: gradient * float("inf"))
    before = {name: value.clone() for name, value in method.state_dict().items()}
    result = step(method, optimizer, [{"train": stream.batch(np.arange(32))}], clock, settings, numerics)
    method.after_step(clock.tick(applied=result.applied))
    assert not result.applied
    assert all(torch.equal(value, before[name]) for name, value in method.state_dict().items())
    assert not optimizer.state


def crops_of_photographs(folder: Path, count: int) -> None:
    """Pieces of four photographs, grey, 32 pixels wide."""
    photographs = [skimage.data.astronaut(), skimage.data.chelsea(), skimage.data.coffee(), skimage.data.rocket()]
    rng = np.random.default_rng(0)
    for i in range(count):
        photograph = photographs[i % len(photographs)]
        y, x = (int(rng.integers(side - 96)) for side in photograph.shape[:2])
        piece = Image.fromarray(photograph[y : y + 96, x : x + 96]).convert("L")
        piece.resize((32, 32)).save(folder / f"{i:03}.png")


@pytest.mark.slow
def test_200_steps_on_512_pictures_learn(tmp_path: Path) -> None:
    """Oracle 67: losses fall, prototypes stay in use, matches do not collapse onto a hub, features do not collapse."""
    folder, out = tmp_path / "pictures", tmp_path / "run"
    folder.mkdir()
    crops_of_photographs(folder, 512)
    size = {"backbone": {"width": 32, "heads": 4}, "optim": {"base_lr": 4e-3}}
    parts = {"decoder": {"width": 32, "depth": 1, "heads": 4}, "head": {"bottleneck": 32, "hidden": 32}}
    settings = tiny("pseudomae", data=str(folder), steps=200, batch_size=64, monitors=2, method=parts, **size)
    pretrain(settings, out, quiet=True)
    first, *_, last = (json.loads(line) for line in (out / "monitors.jsonl").read_text().splitlines())
    losses = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 200 and all(math.isfinite(line["loss"]) for line in losses)
    assert first["step"] == 0 and last["step"] == 200
    assert last["reconstruction_loss"] < 0.8 * first["reconstruction_loss"]
    assert last["class_kl"] < first["class_kl"] and last["patch_kl"] < first["patch_kl"]
    assert last["class_prototype_entropy"] > 0.5 and last["patch_prototype_entropy"] > 0.5
    assert last["distinct_matches"] > 0.3
    assert last["feature_std"] > 0.1
