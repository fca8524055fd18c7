"""Every published downstream recipe, built at full size without memory, beside the numbers of the papers and of published code.

The table is written from those, not from the recipes. Each command in a recipe's docstring is a row of it, read as the
command line reads it.
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
from tutelage.clock import Clock, total_steps
from tutelage.data.index import MAX_HELD_OUT
from tutelage.data.named import NAMES
from tutelage.data.strong import StrongView
from tutelage.encoder import build_vit
from tutelage.engine.optim import build_optimizer, set_lr
from tutelage.engine.train import learning_rate
from tutelage.method import Method
from tutelage.options import parse

SIZES = {"B": (12, 768), "L": (24, 1024), "S": (12, 384)}
TRAINING = {  # pictures that are trained on, and classes, as their authors publish them
    "IMAGENET": (1_281_167, 1000),
    "flowers102": (2_040, 102),  # training and validation part
    "pets": (3_680, 37),
    "cars": (8_144, 196),
    "cifar10": (50_000, 10),
    "cifar100": (50_000, 100),
    "ADEChallengeData2016": (20_210, 150),
    "1%": (12_811, 1000),  # SimCLR's lists
    "10%": (128_116, 1000),
    "COCO": (117_266, 80),  # pictures of train2017 with objects
}
RAND = {"operations": 2, "magnitude": 9.0, "magnitude_std": 0.5}  # rand-m9-mstd0.5-inc1


@dataclass(frozen=True)
class Row:
    """A line of a paper's table: learning rates are absolute."""

    size: str
    epochs: float
    batch: int
    lr: float
    min_lr: float
    warmup: float
    steps: int
    layer_decay: float = 1.0
    decay: float = 0.05
    drop_path: float = 0.1
    mixup: float = 0.8
    cutmix: float = 1.0
    smoothing: float = 0.1
    pool: str = "avg"
    view: str = "strong"
    crop: float = 0.08
    erase: float = 0.25
    labels: str | None = None
    image: int = 224
    holdout: float = 0.0
    drops: tuple[int, ...] = ()
    stages: int = 1


MAE = Row("B", 100, 1024, 2e-3, 1e-6, 5, 125_114, layer_decay=0.65)  # MAE, SdAE and PseudoMAE 4.1
MAE_L = Row("L", 50, 1024, 4e-3, 1e-6, 5, 62_557, layer_decay=0.75, drop_path=0.2)
# PseudoMAE's appendix and DeiT's code, MoCo v3's code, iBOT's code, Semi-ViT's code
APPENDIX = Row("B", 100, 512, 5e-4, 1e-5, 5, 0, pool="token", view="complex", erase=0)
MOCO = Row("B", 100, 1024, 6e-4, 1e-5, 3, 0, decay=0.1, pool="token", view="weak", crop=0.05, erase=0)
IBOT = Row("B", 1000, 768, 1.125e-5, 1e-5, 5, 0, pool="token")
SEMI = Row("B", 100, 512, 1e-4, 1e-6, 5, 0, layer_decay=0.65)
# CAE's code; PseudoMAE's text and iBOT's code differ from it in length, and in batch, rate and stages
COCO = Row("B", 12, 32, 3e-4, 0.0, 500 * 32 / 117_266, 0, layer_decay=0.75, drop_path=0.2, image=1344, drops=(9, 11))
TABLE = {
    ("finetune-vitb16", "IMAGENET"): MAE,
    ("finetune-vitb16-appendix", "IMAGENET"): replace(MAE, batch=2048, lr=4e-3, warmup=10, steps=62_557),
    ("finetune-vitl16", "IMAGENET"): MAE_L,
    ("finetune-vitl16-appendix", "IMAGENET"): replace(MAE_L, batch=2048, lr=8e-3, steps=31_279),
    ("finetune-vits16", "IMAGENET"): Row("S", 50, 1024, 2e-3, 1e-6, 5, 62_557, layer_decay=0.75),
    ("finetune-vitl16-rc-mae", "IMAGENET"): Row(
        "L", 100, 1024, 2e-3, 1e-6, 5, 125_114, layer_decay=0.65, drop_path=0.2
    ),  # RC-MAE's code: blr 5e-4
    ("finetune-vits16-rc-mae", "IMAGENET"): Row("S", 300, 1024, 2e-3, 1e-6, 5, 375_342, layer_decay=0.75),
    ("finetune-vitb16-transfer", "flowers102"): replace(APPENDIX, steps=399),
    ("finetune-vitb16-transfer", "pets"): replace(APPENDIX, steps=719),
    ("finetune-vitb16-transfer", "cars"): replace(APPENDIX, steps=1_591),
    ("finetune-vitb16-transfer", "cifar10"): replace(APPENDIX, steps=9_766),
    ("finetune-vitb16-transfer", "cifar100"): replace(APPENDIX, steps=9_766),
    ("finetune-vitb16-transfer-mocov3", "cifar10"): replace(MOCO, steps=4_883),
    ("finetune-vitb16-transfer-mocov3", "cifar100"): replace(MOCO, steps=4_883, mixup=0.5),
    ("finetune-vitb16-transfer-mocov3", "flowers102"): replace(MOCO, steps=200, mixup=0, cutmix=0, decay=0.3),
    ("finetune-vitb16-transfer-mocov3", "pets"): replace(MOCO, steps=360, cutmix=0, drop_path=0),
    ("finetune-vitb16-transfer-ibot", "cifar10"): replace(IBOT, steps=65_105),
    ("finetune-vitb16-transfer-ibot", "cifar100"): replace(IBOT, steps=65_105),
    ("finetune-vitb16-transfer-ibot", "flowers102"): replace(IBOT, steps=2_657),
    ("finetune-vitb16-transfer-ibot", "cars"): replace(IBOT, steps=10_605, lr=1.125e-4),
    ("finetune-vitb16-1percent", "IMAGENET"): replace(
        SEMI, steps=2_503, labels="1%", drop_path=0, mixup=0, cutmix=0, erase=0
    ),
    ("finetune-vitb16-10percent", "IMAGENET"): replace(SEMI, steps=25_023, labels="10%", lr=5e-4),
    ("segment-vitb16-ade20k", "ADEChallengeData2016"): Row(
        "B", 160_000 * 16 / 20_210, 16, 4e-4, 0.0, 1_500 * 16 / 20_210, 160_000, layer_decay=0.65, image=512
    ),  # SdAE: 160,000 steps of 16 pictures with 1,500 of warm-up, straight to 0
    ("detect-vitb16-coco", "COCO"): replace(COCO, steps=43_975),
    ("detect-vitb16-coco-25", "COCO"): replace(COCO, epochs=25, steps=91_615),
    ("detect-vitb16-coco-cascade", "COCO"): replace(
        COCO, batch=16, lr=1e-4, warmup=500 * 16 / 117_266, drops=(8, 11), stages=3, steps=87_950
    ),
}  # fmt: skip
FINETUNE = {key: row for key, row in TABLE.items() if key[0].startswith("finetune")}


@cache
def commands(name: str) -> dict[str, list[str]]:
    """The words after the encoder of each command in a recipe's docstring, by what it names as data; without --recipe NAME."""
    text = recipes.docstring(name).replace("\\\n", " ")
    found = {}
    for line in re.findall(
        r"^ {4}torchrun .* tutelage (?:finetune ENCODER|segment RUN|detect RUN) (.*)$", text, re.MULTILINE
    ):
        words = shlex.split(line)
        at = words.index("--recipe")
        assert words[at + 1] == name
        del words[at : at + 2]
        found[words[words.index("--data") + 1]] = words
    return found


def settings_of(key: tuple[str, str]) -> Any:
    default = recipes.load(key[0])
    return parse(type(default), commands(key[0])[key[1]], default=default)


@cache
def built(key: tuple[str, str]) -> Method:
    """At full size, without memory, with positions that learn, as an encoder's do."""
    settings, (_, classes) = settings_of(key), TRAINING[key[1]]
    settings.check()
    with torch.device("meta"):
        return settings.method.build(build_vit(settings.backbone, 3), classes)  # type: ignore[no-any-return]


def new_clock(key: tuple[str, str], settings: Any) -> Clock:
    """Of the published pictures less those that the recipe holds out: a tenth, and at most 10,000, by default."""
    published, _ = TRAINING[settings.labels or key[1]]
    pictures = published - round(min(settings.holdout * published, MAX_HELD_OUT))
    steps = settings.steps or total_steps(pictures, settings.batch_size, settings.epochs)
    return Clock(settings.batch_size, pictures, steps)


def test_every_published_recipe_and_every_command_is_in_the_table() -> None:
    published = [
        n for n in recipes.names() if n.startswith(("finetune", "segment", "detect")) and not n.endswith("quickstart")
    ]
    assert {(name, data) for name in published for data in commands(name)} == TABLE.keys()
    assert {name for name, _ in TABLE} == set(published)
    for _, data in TABLE:
        assert data in NAMES or data in ("IMAGENET", "ADEChallengeData2016", "COCO")


@pytest.mark.parametrize("key", TABLE, ids=" ".join)
def test_it_is_the_network_and_the_batch_of_the_table(key: tuple[str, str]) -> None:
    row, settings, method = TABLE[key], settings_of(key), built(key)
    vit = method.student
    assert (len(vit.blocks), vit.embed_dim) == SIZES[row.size]
    assert vit.patch_embed.img_size == (row.image, row.image) and vit.patch_embed.patch_size == (16, 16)
    rates = [getattr(block.drop_path1, "drop_prob", 0.0) for block in vit.blocks]
    assert rates == pytest.approx([row.drop_path * i / (len(rates) - 1) for i in range(len(rates))])
    assert (settings.batch_size, settings.labels, settings.normalisation) == (row.batch, row.labels, "imagenet")
    assert (settings.epochs, settings.holdout) == (row.epochs, row.holdout)
    assert new_clock(key, settings).total_steps == row.steps


@pytest.mark.parametrize("key", TABLE, ids=" ".join)
def test_every_weight_learns_as_fast_and_decays_as_the_table_says(key: tuple[str, str]) -> None:
    row, settings, method = TABLE[key], settings_of(key), built(key)
    optimizer = build_optimizer(method, settings.optim)
    assert optimizer.defaults["betas"] == (0.9, 0.999) and settings.optim.clip is None
    set_lr(optimizer, settings.lr)
    of = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    depth = SIZES[row.size][0]
    learning = {name: p for name, p in method.named_parameters() if p.requires_grad}
    assert len(of) == len(learning) and "student.pos_embed" in learning
    for name, p in learning.items():
        block = re.match(r"student\.blocks\.(\d+)\.", name)
        tokens = name in ("student.cls_token", "student.pos_embed")
        layer = int(block[1]) + 1 if block else 0 if tokens or "patch_embed" in name else depth + 1
        expected = row.lr * row.layer_decay ** (depth + 1 - layer), 0.0 if p.ndim == 1 or tokens else row.decay
        assert of[id(p)] == pytest.approx(expected), name
    scales = sorted({lr / row.lr for lr, _ in of.values()})
    first = {
        (0.65, 12): 0.003697,
        (0.65, 24): 2.10297e-5,
        (0.75, 12): 0.023757,
        (0.75, 24): 0.00075254,
        (1.0, 12): 1.0,
    }  # 0.65^13, ...
    assert (scales[0], scales[-1]) == pytest.approx((first[row.layer_decay, depth], 1.0), rel=1e-3)


@pytest.mark.parametrize("key", TABLE, ids=" ".join)
def test_the_learning_rate_rises_and_falls_as_the_table_says(key: tuple[str, str]) -> None:
    row, settings = TABLE[key], settings_of(key)
    clock = new_clock(key, settings)
    pictures, steps = clock.num_pictures, row.steps
    warmup = row.warmup * pictures / row.batch
    for step in range(0, steps + 1, max(1, steps // 400)):
        lr = learning_rate(replace(clock, step=step), settings)
        if row.image == 512:  # poly of power 1, the warm-up beside it
            expected = row.lr * (1 - step / steps) * min(1.0, step / 1_500)
        elif row.drops:
            epochs = step * row.batch / pictures
            expected = row.lr * (0.01 if epochs >= row.drops[1] else 0.1 if epochs >= row.drops[0] else 1.0)
            expected *= min(1.0, step / 500)
        elif step < warmup:
            expected = row.lr * step / warmup
        else:
            share = (step - warmup) / (steps - warmup)
            expected = row.min_lr + (row.lr - row.min_lr) * 0.5 * (1 + math.cos(math.pi * share))
        assert lr == pytest.approx(expected, rel=1e-9, abs=1e-15), step
    assert learning_rate(replace(clock, step=steps), settings) == pytest.approx(
        row.min_lr or row.lr * 0.01 * bool(row.drops)
    )


@pytest.mark.parametrize("key", FINETUNE, ids=" ".join)
def test_pictures_and_labels_are_changed_as_the_table_says(key: tuple[str, str]) -> None:
    row, settings = FINETUNE[key], settings_of(key)
    m = settings.method
    assert (m.mixup, m.cutmix, m.mix_share, m.label_smoothing, m.pool) == (
        row.mixup, row.cutmix, 1.0, row.smoothing, row.pool,
    )  # fmt: skip
    assert (m.ema, m.hands_on) == (None, "student")
    (named,) = m.streams["train"].views
    view = settings.views.by_name[named]
    assert named == row.view and (view.scale, view.ratio, view.flip) == ((row.crop, 1.0), (3 / 4, 4 / 3), 0.5)
    if isinstance(view, StrongView):
        assert {name: getattr(view, name) for name in RAND} == RAND and view.erase == row.erase
    else:
        assert row.erase == 0
    if row.view == "complex":  # timm's jitter of 0.4: all three, always, in any order
        colours = {"jitter": 1, "brightness": 0.4, "contrast": 0.4, "saturation": 0.4, "hue": 0}
        others = {"grey": 0, "blur": (0, 0), "solarise": (0, 0)}
        assert {name: getattr(view, name) for name in colours | others} == colours | others


@pytest.mark.parametrize("key", [key for key in TABLE if key[1] == "COCO"], ids=" ".join)
def test_detection_is_that_of_the_table(key: tuple[str, str]) -> None:
    """Methods 3.7: pyramid, anchors, samples, thresholds and views, as the configurations of CAE and iBOT have them."""
    row, settings, method = TABLE[key], settings_of(key), built(key)
    assert len(method.stages) == row.stages
    assert [stage.proposal_matcher.high_threshold for stage in method.stages] == [0.5, 0.6, 0.7][: row.stages]
    for stage in method.stages:
        assert (stage.fg_bg_sampler.batch_size_per_image, stage.fg_bg_sampler.positive_fraction) == (512, 0.25)
        assert (stage.score_thresh, stage.nms_thresh, stage.detections_per_img) == (0.05, 0.5, 100)
        assert (
            stage.box_predictor.bbox_pred.out_features == 4 * 81 and stage.box_predictor.cls_score.in_features == 1024
        )
        convolutions = [m for m in stage.box_head.modules() if isinstance(m, torch.nn.Conv2d)]
        assert [m.out_channels for m in convolutions] == [256] * 4
        assert stage.box_loss == "giou" and stage.mask_predictor.mask_fcn_logits.out_channels == 81
    assert method.settings.box_weight is None and method.settings.norm == "batch"
    rpn, anchors = method.rpn, method.rpn.anchor_generator
    assert (rpn.fg_bg_sampler.batch_size_per_image, rpn.fg_bg_sampler.positive_fraction, rpn.nms_thresh) == (
        256,
        0.5,
        0.7,
    )
    assert rpn._post_nms_top_n == rpn._pre_nms_top_n == {"training": 2000, "testing": 1000}
    assert (rpn.proposal_matcher.high_threshold, rpn.proposal_matcher.low_threshold) == (0.7, 0.3)
    assert anchors.strides == [4, 8, 16, 32, 64] and anchors.sizes == ((32,), (64,), (128,), (256,), (512,))
    view = settings.views.detect
    assert view.short == (480, 512, 544, 576, 608, 640, 672, 704, 736, 768, 800) and (view.crop, view.flip) == (
        0.5,
        0.5,
    )
    assert view.test_short == 800
