"""Fine-tuning against MAE's recipe: layer-wise learning rates, smoothed and mixed targets, what is loaded and what is fresh."""

from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from equations import formulas
from equations.tiny import DEPTH, HEADS, PATCH, PATCHES, START, batch_of, build, gradients
from tutelage.batch import Batch
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.engine.optim import build_optimizer, parameter_groups, set_lr
from tutelage.engine.settings import OptimSettings
from tutelage.errors import DataError, SettingsError
from tutelage.heads import classify
from tutelage.method import Method
from tutelage.methods.finetune import FinetuneSettings

CLASSES = 4
PLAIN: dict[str, Any] = {"mixup": 0.0, "cutmix": 0.0}


def finetune(**changes: Any) -> Method:
    return build(FinetuneSettings(**changes), num_classes=CLASSES)


def data(method: Method, b: int = 4) -> dict[str, Batch]:
    from dataclasses import replace

    return {"train": replace(batch_of(method.settings.streams["train"], b), labels=torch.arange(b) % CLASSES)}


def logits_of(method: Method, x: torch.Tensor) -> np.ndarray:
    """MAE's classifier a picture at a time: blocks, mean of the patch tokens, a norm, a layer; or the normed class token."""
    w, head = formulas.weights_of(method.student), formulas.weights_of(method.head)
    pooled = method.settings.pool == "avg"
    if pooled:
        rows = []
        for picture in x.numpy():
            kernel = w["patch_embed.proj.weight"].transpose(0, 2, 3, 1).reshape(w["fc_norm.weight"].shape[0], -1)
            z = formulas.patches(picture, PATCH) @ kernel.T + w["patch_embed.proj.bias"] + w["pos_embed"][0, 1:]
            z = np.concatenate([w["cls_token"][0] + w["pos_embed"][0, :1], z])
            for i in range(DEPTH):
                z = formulas.block(z, w, f"blocks.{i}", HEADS)
            rows.append(formulas.layer_norm(z[1:].mean(0, keepdims=True), w, "fc_norm")[0])
    else:
        size = {"patch": PATCH, "depth": DEPTH, "heads": HEADS}
        rows = [formulas.encode(picture, np.arange(PATCHES), w, **size)[0] for picture in x.numpy()]
    return np.stack(rows) @ head["weight"].T + head["bias"]


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_the_loss_is_the_smoothed_cross_entropy_of_maes_classifier(pool: str) -> None:
    """Oracle 64: on 1 - s + s / C, off s / C."""
    method = finetune(pool=pool, label_smoothing=0.1, **PLAIN)
    batch = data(method)
    logits = logits_of(method, batch["train"].views[0])
    targets = np.full((4, CLASSES), 0.1 / CLASSES) + 0.9 * np.eye(CLASSES)
    expected = np.mean([formulas.cross_entropy(row, target, 1.0) for row, target in zip(logits, targets, strict=True)])
    out = method(batch, START)
    assert out.loss.item() == out.parts["cross_entropy"].item() == pytest.approx(expected, abs=1e-10)
    np.testing.assert_allclose(method.logits(batch["train"].views[0]).detach().numpy(), logits, atol=1e-10)
    np.testing.assert_allclose(method.classifier()(batch["train"].views[0]).numpy(), logits, atol=1e-10)


@pytest.mark.parametrize("smoothing", [0.0, 0.1, 0.5])
@pytest.mark.parametrize("kind", ["mixup", "cutmix"])
def test_mixed_pictures_have_mixed_and_smoothed_targets(
    kind: str, smoothing: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Oracle 64. What was drawn is read off the pictures that the encoder got: each a picture and its neighbour's."""
    method = finetune(**PLAIN | {kind: 1.0}, label_smoothing=smoothing)
    with torch.no_grad():
        method.head.weight.mul_(20)  # logits that are far from even
    batch = data(method)
    x, got = batch["train"].views[0], list[torch.Tensor]()
    monkeypatch.setattr(
        "tutelage.methods.finetune.classify", lambda vit, head, x, pool: got.append(x) or classify(vit, head, x, pool)
    )
    onehot, shares = np.eye(CLASSES), []
    for seed in range(5):
        torch.manual_seed(seed)
        found = method(batch, START).loss.item()
        mixed, neighbour = got[-1], x.roll(1, 0)
        if kind == "mixup":
            share = ((mixed - neighbour) / (x - neighbour)).median().item()
            torch.testing.assert_close(mixed, share * x + (1 - share) * neighbour, atol=1e-6, rtol=0)
        else:
            own = mixed == x
            assert (own | (mixed == neighbour)).all()
            share = own.double().mean().item()
        shares.append(share)
        logits = logits_of(method, mixed)
        assert np.ptp(logits, axis=1).min() > 1
        rows = []
        for i in range(4):
            q = share * onehot[i] + (1 - share) * onehot[i - 1]  # labels are 0, 1, 2, 3
            q = [(1 - smoothing) * value + smoothing / CLASSES for value in q]
            assert sum(q) == pytest.approx(1)
            rows.append(-sum(t * (z - np.log(np.exp(logits[i]).sum())) for t, z in zip(q, logits[i], strict=True)))
        assert found == pytest.approx(np.mean(rows), abs=1e-5), "torchvision rounds its weights to float32"
    assert max(shares) - min(shares) > 0.2


def test_pictures_are_mixed_in_training_only_and_by_the_seeded_generator() -> None:
    method = finetune()
    batch = data(method)
    losses = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        losses.append(method(batch, START).loss.item())
    assert losses[0] == losses[1] != losses[2]
    method.eval()
    assert method(batch, START).loss.item() == method(batch, START).loss.item()
    never = finetune(mix_share=0.0)
    never.load_state_dict(method.state_dict())
    assert never(batch, START).loss.item() == method(batch, START).loss.item()


def test_layers_learn_the_slower_the_nearer_they_are_to_the_picture() -> None:
    """Oracle 63, ViT-B: 0.65^13 for patches, class token and positions, 0.65^12 for block 0, 0.65 for block 11, 1 after."""
    vit = build_vit(BackboneSettings(name="vit_base_patch16_224", width=48, heads=4), 3)
    method = FinetuneSettings().build(vit, 10)
    groups = parameter_groups(method, OptimSettings(layer_decay=0.65, decay_tokens=False))
    found = {id(p): (group["lr_scale"], group["weight_decay"]) for group in groups for p in group["params"]}
    of = {name: found[id(p)] for name, p in method.named_parameters() if p.requires_grad}
    assert len(of) == len(found)
    for name in ("patch_embed.proj.weight", "patch_embed.proj.bias", "cls_token", "pos_embed"):
        assert of[f"student.{name}"][0] == pytest.approx(0.65**13)
    for j in range(12):
        assert of[f"student.blocks.{j}.attn.qkv.weight"] == (pytest.approx(0.65 ** (12 - j)), 0.05)
        assert of[f"student.blocks.{j}.norm1.weight"] == (pytest.approx(0.65 ** (12 - j)), 0.0)
    for name in ("student.fc_norm.weight", "head.weight", "head.bias"):
        assert of[name][0] == 1
    assert of["head.weight"][1] == 0.05
    assert {name for name, (_, decay) in of.items() if decay == 0} == {
        name for name, p in method.named_parameters()
        if p.requires_grad and (p.ndim == 1 or name.endswith(("cls_token", "pos_embed")))
    }  # fmt: skip

    optimizer = build_optimizer(method, OptimSettings(layer_decay=0.65))
    set_lr(optimizer, 2e-3)
    assert max(group["lr"] for group in optimizer.param_groups) == 2e-3
    assert min(group["lr"] for group in optimizer.param_groups) == pytest.approx(2e-3 * 0.65**13)


def test_without_layer_decay_there_is_one_learning_rate() -> None:
    method = finetune()
    assert {group["lr_scale"] for group in parameter_groups(method, OptimSettings())} == {1.0}


def test_only_the_norm_of_the_mean_and_the_head_are_fresh() -> None:
    """Oracle 65: what MAE's checkpoint lacks is {fc_norm, head}, the head's weights have a deviation of 2e-5."""
    vit = build_vit(BackboneSettings(name="vit_small_patch16_224", depth=2), 3)
    before = {name: value.clone() for name, value in vit.state_dict().items()}
    method = FinetuneSettings().build(vit, 1000)
    own = method.student.state_dict() | {f"head.{name}": value for name, value in method.head.state_dict().items()}
    assert own.keys() - before.keys() == {"fc_norm.weight", "fc_norm.bias", "head.weight", "head.bias"}
    assert before.keys() - own.keys() == {"norm.weight", "norm.bias"}
    assert all(torch.equal(own[name], before[name]) for name in own.keys() & before.keys())
    assert method.head.weight.std().item() == pytest.approx(2e-5, rel=0.02)
    assert not method.head.bias.any()
    token = FinetuneSettings(pool="token").build(
        build_vit(BackboneSettings(name="vit_small_patch16_224", depth=1), 3), 10
    )
    assert isinstance(token.student.norm, nn.LayerNorm) and isinstance(token.student.fc_norm, nn.Identity)


@pytest.mark.parametrize("pool", ["avg", "token"])
def test_every_weight_learns_positions_too(pool: str) -> None:
    method = finetune(pool=pool, **PLAIN)
    found = gradients(method, method(data(method), START).loss)
    assert found.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    assert "student.pos_embed" in found
    assert all((gradient != 0).any() for gradient in found.values())


@pytest.mark.parametrize("ema", [0.3, 0.9999])
def test_the_average_is_m_times_itself_plus_the_rest_of_the_weights(ema: float) -> None:
    """DeiT's EMA, m theta' + (1 - m) theta after each step, of encoder, norm of the mean and head; it begins as a copy."""
    method = build(FinetuneSettings(ema=ema, **PLAIN), trained=False, num_classes=CLASSES)
    own = {name: p for name, p in method.named_parameters() if not name.startswith("teacher.")}
    expected, clock = {name: p.detach().numpy().copy() for name, p in own.items()}, START
    for step in range(3):
        with torch.no_grad():
            for p in own.values():
                p.add_(torch.randn_like(p), alpha=0.1 * (step + 1))
        clock = clock.tick()
        method.after_step(clock)
        for name, p in own.items():
            expected[name] = ema * expected[name] + (1 - ema) * p.detach().numpy()
    names = {"student": "teacher.nets.encoder", "head": "teacher.nets.head"}
    found = dict(method.named_parameters())
    for name, value in expected.items():
        part, _, rest = name.partition(".")
        np.testing.assert_allclose(found[f"{names[part]}.{rest}"].numpy(), value, atol=1e-12, err_msg=name)
    assert found.keys() == own.keys() | {f"{names[n.partition('.')[0]]}.{n.partition('.')[2]}" for n in own}


@pytest.mark.parametrize("hands_on", ["student", "teacher"])
def test_the_average_is_what_is_judged_and_exported_where_it_is_handed_on(hands_on: str) -> None:
    method = finetune(ema=0.9, hands_on=hands_on, **PLAIN)  # both were moved apart
    x = data(method)["train"].views[0]
    of = {"student": (method.student, method.head), "teacher": (method.teacher.encoder, method.teacher["head"])}
    vit, head = of[hands_on]
    pooled = vit.fc_norm(vit.norm(vit.forward_features(x))[:, 1:].mean(1))
    expected = (pooled @ head.weight.T + head.bias).detach()
    torch.testing.assert_close(method.logits(x).detach(), expected)
    torch.testing.assert_close(method.classifier()(x).detach(), expected)
    assert method.encoder is vit
    other = of["teacher" if hands_on == "student" else "student"][0]
    assert not torch.equal(other.blocks[0].attn.qkv.weight, vit.blocks[0].attn.qkv.weight)
    assert len(method.settings.notes(PATCHES, 4)) == (hands_on == "student")


def test_the_loss_teaches_the_network_and_not_its_average() -> None:
    method = finetune(ema=0.9, hands_on="teacher", **PLAIN)
    found = gradients(method, method(data(method), START).loss)
    assert found and not any(name.startswith("teacher.") for name in found)
    plain = finetune(**PLAIN)
    plain.load_state_dict({n: t for n, t in method.state_dict().items() if not n.startswith("teacher.")})
    assert method(data(method), START).loss.item() == plain(data(plain), START).loss.item()


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(
        SettingsError, match=r"C-24: method\.hands_on is 'teacher', but no average is kept.* --method\.ema"
    ):
        FinetuneSettings(hands_on="teacher").check((8, 8), 4)
    with pytest.raises(DataError, match="D-17: the training pictures of x have no labels"):
        FinetuneSettings().check_classes("x", 0)
