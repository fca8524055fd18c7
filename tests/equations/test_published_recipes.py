"""The family's published recipes, built at full size without memory, beside the numbers of the papers.

The table is written from methods.md 2.1, 2.3, 2.4, 2.6, 2.7 and 2.9, not from the recipes. Each recipe is read as its
docstring's command reads it.
"""

import math
import re
import shlex
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch

from tutelage import recipes
from tutelage.api import first_stage
from tutelage.clock import Clock, total_steps
from tutelage.encoder import build_vit
from tutelage.engine.optim import build_optimizer, set_lr
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import learning_rate
from tutelage.method import Method
from tutelage.methods.lomar import LoMaRSettings
from tutelage.methods.mae import MAE, MAESettings
from tutelage.methods.pseudomae import PseudoMAE, PseudoMAESettings
from tutelage.methods.rc_mae import RCMAESettings
from tutelage.methods.semi_mae import SemiMAE
from tutelage.methods.semiformer import Semiformer
from tutelage.methods.weakly_supervised import WeaklySupervised
from tutelage.options import parse

SIZES = {"S": (12, 384, 6, 16), "B": (12, 768, 12, 16), "L": (24, 1024, 16, 16), "H": (32, 1280, 16, 14)}
"""Blocks, width, heads and patch."""
DECODER = {"width": 512, "depth": 8, "heads": 16}
"""MAE's."""
SMALL_DECODER = {"width": 256, "depth": 4, "heads": 8}
"""RC-MAE's at ViT-S."""


@dataclass(frozen=True)
class Row:
    """A line of a paper's table: learning rates are absolute, warm-ups in epochs or as a share of the run."""

    size: str
    epochs: float
    batch: int
    lr: float
    decay: float
    warmup: float = math.inf
    warmup_share: float = 1.0
    min_lr: float = 0.0
    betas: tuple[float, float] = (0.9, 0.95)
    drop_path: float = 0.0
    labels: str | None = None
    pixels_standardised: bool | None = None
    """Of the masked method, or the branch; None where there is none."""


# methods.md 2.9: MAE on 3 billion pictures in one epoch (its 40 of warm-up are cut), then SWAG's settings
MASKED = Row("B", 1, 4096, 2.4e-3, 0.05, warmup=40, warmup_share=0.2, pixels_standardised=True)
TAGS = Row("B", 1, 8192, 4e-4, 0.1, warmup_share=0.05)
# methods.md 2.3 and 2.4
RC_MAE = Row("B", 800, 4096, 2.4e-3, 0.05, warmup=40, pixels_standardised=True)
LOMAR = Row("B", 400, 4096, 2.4e-3, 0.05, warmup=20, pixels_standardised=True)
# methods.md 2.6: 100 + 600 epochs; S7, S8
SEMI_MAE = Row(
    "S", 700, 1024, 1e-3, 0.05, warmup=5, min_lr=1e-5, betas=(0.9, 0.999), drop_path=0.1, labels="10%",
    pixels_standardised=False,
)  # fmt: skip
# methods.md 2.7, Semiformer's code, and Semi-MAE's branch (2.6, S7)
SEMIFORMER = Row(
    "S", 600, 1024, 1e-3, 0.05, warmup=5, min_lr=1e-5, betas=(0.9, 0.999), drop_path=0.1, labels="10%"
)  # fmt: skip
TABLE = {
    "pre-pretraining-vitb16": TAGS,
    "pre-pretraining-vitl16": replace(TAGS, size="L"),
    "pre-pretraining-vith14": replace(TAGS, size="H"),
    "weakly-supervised-vitb16": TAGS,
    "semiformer-vits16": SEMIFORMER,
    "semiformer-mae-vits16": replace(SEMIFORMER, pixels_standardised=False),
    "rc-mae-vits16": replace(RC_MAE, size="S", epochs=1600),
    "rc-mae-vitb16": RC_MAE,
    "rc-mae-vitb16-code": RC_MAE,
    "rc-mae-vitl16": replace(RC_MAE, size="L", epochs=1600),
    "lomar-vitb16": LOMAR,
    "semi-mae-vits16": SEMI_MAE,
    "semi-mae-lomar-vits16": replace(SEMI_MAE, pixels_standardised=True),
    "semi-mae-pseudomae-vits16": replace(SEMI_MAE, pixels_standardised=None),
}
FIRST = {f"first of {name}": replace(MASKED, size=row.size) for name, row in TABLE.items() if name[:4] == "pre-"}
ROWS = TABLE | FIRST


@cache
def settings_of(name: str) -> RunSettings[Any]:
    recipe = name.removeprefix("first of ")
    (command,) = re.findall(
        rf"^ {{4}}torchrun .* tutelage pretrain {recipe} (.*)$", recipes.docstring(recipe), re.MULTILINE
    )
    default = recipes.load(recipe)
    settings = parse(type(default), shlex.split(command), default=default)
    return first_stage(settings) if name != recipe else settings


@cache
def built(name: str) -> Method:
    """At full size, without memory."""
    settings = settings_of(name)
    settings.check()
    with torch.device("meta"):
        return settings.method.build(build_vit(settings.backbone, 3), 1000)  # type: ignore[no-any-return]


def test_every_published_recipe_of_these_kinds_is_in_the_table() -> None:
    kinds = ("pre-pretraining", "weakly-supervised", "semiformer", "semi-mae", "rc-mae", "lomar")
    assert set(TABLE) == {n for n in recipes.names() if n.startswith(kinds) and not n.endswith("quickstart")}
    assert settings_of("weakly-supervised-vitb16").first is None
    for size in ("vitb16", "vitl16", "vith14"):
        assert settings_of(f"pre-pretraining-{size}").first == f"mae-{size}"


@pytest.mark.parametrize("name", ROWS)
def test_it_is_the_network_and_the_batch_of_the_table(name: str) -> None:
    row, settings, method = ROWS[name], settings_of(name), built(name)
    vit = method.student
    depth, width, heads, patch = SIZES[row.size]
    assert (len(vit.blocks), vit.embed_dim, vit.blocks[0].attn.num_heads) == (depth, width, heads)
    assert (vit.patch_embed.img_size, vit.patch_embed.patch_size) == ((224, 224), (patch, patch))
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([row.drop_path * i / (depth - 1) for i in range(depth)])
    assert (settings.epochs, settings.steps, settings.batch_size) == (row.epochs, None, row.batch)
    assert (settings.labels, settings.normalisation) == (row.labels, "imagenet")
    simple = settings.views.simple
    assert (simple.scale, simple.flip) == ((0.2, 1.0), 0.5)


@pytest.mark.parametrize("name", ROWS)
def test_every_weight_learns_as_fast_and_decays_as_the_table_says(name: str) -> None:
    row, settings, method = ROWS[name], settings_of(name), built(name)
    optimizer = build_optimizer(method, settings.optim)
    assert optimizer.defaults["betas"] == row.betas and settings.optim.clip is None
    set_lr(optimizer, settings.lr)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    learning = {n: p for n, p in method.named_parameters() if p.requires_grad}
    assert len(of) == len(learning) and "student.cls_token" in learning
    for n, p in learning.items():
        assert of[id(p)] == pytest.approx((row.lr, 0.0 if p.ndim == 1 else row.decay)), n


@pytest.mark.parametrize("epochs", [None, 1.0, 100.0], ids=["as published", "one epoch", "a hundred"])
@pytest.mark.parametrize("name", ROWS)
def test_the_learning_rate_rises_and_falls_as_the_table_says(name: str, epochs: float | None) -> None:
    """Of fewer pictures one takes more epochs: a warm-up that is a share of the run stays that share."""
    row, settings = ROWS[name], settings_of(name)
    pictures, batch = (1_153_051, 896) if row.labels else (1_281_167, row.batch)  # Semiformer's are the unlabelled ones
    steps = total_steps(pictures, batch, epochs or row.epochs)
    share = min(row.warmup * pictures / batch / steps, row.warmup_share if row.warmup_share < 1 else 0.2)
    for step in range(0, steps + 1, max(1, steps // 200)):
        done = step / steps
        if done < share:
            expected = row.lr * done / share
        else:
            falling = 0.5 * (1 + math.cos(math.pi * (done - share) / (1 - share)))
            expected = row.min_lr + (row.lr - row.min_lr) * falling
        lr = learning_rate(Clock(batch, pictures, steps, step=step), settings)
        assert lr == pytest.approx(expected, rel=1e-9, abs=1e-15), step


@pytest.mark.parametrize("name", ROWS)
def test_it_learns_from_what_the_table_says(name: str) -> None:
    row, method = ROWS[name], built(name)
    settings = method.settings
    if isinstance(method, SemiMAE):
        mixed = (settings.threshold, settings.unlabelled_weight, settings.unlabelled_ratio, settings.label_smoothing)
        assert mixed == (0.7, 10.0, 7, 0.0) and (settings.warmup_epochs, settings.max_warmup_share) == (100, 100 / 700)
        assert settings.branch_weight == 5.0 and not settings.warmup_branch and settings.mixing == "none"
        settings = settings.branch
    if isinstance(method, Semiformer):
        mixed = (settings.threshold, settings.unlabelled_weight, settings.unlabelled_ratio, settings.label_smoothing)
        assert mixed == (0.7, 4.0, 7, 0.1) and (settings.warmup_epochs, settings.max_warmup_share) == (30, 30 / 600)
        assert (settings.conv, settings.guesses_by, settings.answer) == ("resnet50", "conv", "both")
        assert len(method.conv.meetings) == 11 and method.conv.width == 2048
        settings = settings.branch
        assert method.settings.branch_weight == 5.0
    positions = "relative" if isinstance(settings, LoMaRSettings) else "sincos"
    assert settings_of(name).backbone.positions == positions
    if isinstance(settings, LoMaRSettings):
        assert (settings.num_windows, settings.window, int(49 * settings.mask_ratio)) == (4, 7, 39)
        assert (settings.mask_ratio, settings.norm_pix, settings.layout) == (0.8, row.pixels_standardised, "correct")
    elif isinstance(settings, RCMAESettings):
        assert (settings.mask_ratio, settings.norm_pix, settings.consistency_weight) == (0.75, True, 1.0)
        assert (settings.teacher_mask, settings.hands_on) == ("same", "consistency_teacher")
        decoder = SMALL_DECODER if row.size == "S" else DECODER
        assert {n: getattr(settings.decoder, n) for n in decoder} == decoder
        teacher, code = settings.consistency_teacher, name.endswith("-code")
        assert (teacher.every, teacher.schedule) == ("step", "epoch" if code else "run")
        assert (teacher.momentum.start, teacher.momentum.end) == (0.996**2 if code else 0.996, 1.0)
    elif isinstance(settings, PseudoMAESettings):
        assert settings == PseudoMAESettings() and isinstance(method.masked, PseudoMAE)
    elif row.pixels_standardised is None:
        assert settings is None or isinstance(method, WeaklySupervised)
    else:
        assert isinstance(settings, MAESettings) and isinstance(method.masked, MAE)
        assert (settings.mask_ratio, settings.norm_pix) == (0.75, row.pixels_standardised)
        assert {n: getattr(settings.decoder, n) for n in DECODER} == DECODER
    if isinstance(method, WeaklySupervised):
        assert (settings.pool, settings.oversample) == ("token", 1e-4)
        assert list(settings.streams["train"].views) == ["simple"]
