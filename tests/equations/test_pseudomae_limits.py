"""PseudoMAE at its limits, and what its gradients reach: oracles 40, 41 and 43 to 45, A11."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from equations.tiny import (
    START,
    batch,
    build,
    gradients,
    pseudomae,
    sdae,
)
from tutelage.clock import CosineMomentum
from tutelage.losses import soft_cross_entropy
from tutelage.method import Method
from tutelage.teacher import TeacherSettings


def train(method: Method, steps: int) -> list[Tensor]:
    """The losses of some steps of AdamW; the teachers move as they should. Three steps are an epoch."""
    optimizer = torch.optim.AdamW([p for p in method.parameters() if p.requires_grad], lr=1e-3, weight_decay=0.05)
    clock, losses = START, []
    method.train()
    torch.manual_seed(7)
    for step in range(steps):
        optimizer.zero_grad()
        loss = method(batch(method, seed=1 + step), clock).loss
        loss.backward()
        optimizer.step()
        clock = clock.tick()
        method.after_step(clock)
        losses.append(loss.detach())
    return losses


def begun(settings: Any, **backbone: Any) -> Method:
    """A fresh method, initialised from the same seed."""
    torch.manual_seed(3)
    return build(settings, trained=False, **backbone)


def test_without_label_losses_pseudomae_is_sdae_bit_for_bit() -> None:
    """Oracle 40: losses, then weights and teacher after an epoch and two steps, with drop path on."""
    ours = begun(pseudomae(class_weight=0, patch_weight=0), drop_path=0.3)
    theirs = begun(sdae(), drop_path=0.3)
    start = {name: p.clone() for name, p in ours.state_dict().items()}
    first = [gradients(m.eval(), m(batch(m), START).loss) for m in (ours, theirs)]
    assert first[0].keys() == first[1].keys()
    assert all(torch.equal(first[0][name], first[1][name]) for name in first[0])
    losses = [train(method, 5) for method in (ours, theirs)]
    assert torch.equal(torch.stack(losses[0]), torch.stack(losses[1]))
    end, other = ours.state_dict(), theirs.state_dict()
    assert end.keys() == other.keys()
    assert all(torch.equal(end[name], other[name]) for name in end)
    assert int(end["reconstruction_teacher.num_moves"]) == 1
    moved = [name for name in end if not torch.equal(end[name], start[name])]
    assert any(name.startswith("student.") for name in moved)
    assert any(name.startswith("reconstruction_teacher.nets") for name in moved)


def test_labels_consume_none_of_the_students_random_numbers() -> None:
    """Oracle 40: with drop path on, the student's prediction is the same with and without labels."""
    seen, states = [], []
    for weight in (0.0, 1.0):
        method = begun(pseudomae(class_weight=weight, patch_weight=weight), drop_path=0.5).train()
        torch.manual_seed(11)
        seen.append(method(batch(method), START).seen["prediction"])
        states.append(torch.get_rng_state())
    assert torch.equal(*seen)
    assert torch.equal(*states)


@pytest.mark.parametrize(("folds", "label_folds"), [(3, 3), (1, 1), (3, 1)])
def test_two_equal_teachers_are_one(folds: int, label_folds: int) -> None:
    """Oracle 43: the same view, beginning, cadence and momentum: disentangled is single."""
    teacher = TeacherSettings(every="step", momentum=CosineMomentum(start=0.9, end=1.0))
    same = {"reconstruction_teacher": teacher, "labelling_teacher": teacher, "folds": folds, "label_folds": label_folds}
    losses, ends = [], []
    for mode in ("dual", "single"):
        method = begun(pseudomae(teacher_mode=mode, **same))
        optimizer = torch.optim.SGD([p for p in method.parameters() if p.requires_grad], lr=0.1)
        clock = START
        for step in range(4):
            one = batch(method, seed=1 + step)["train"]
            twice = replace(one, views=(one.views[0],) * 2)
            loss = method({"train": twice}, clock).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            clock = clock.tick()
            method.after_step(clock)
            losses.append(loss.item())
        ends.append(method)
    np.testing.assert_allclose(losses[:4], losses[4:], rtol=0, atol=1e-12)
    assert len(set(losses)) == 4
    dual = ends[0]
    pairs = zip(
        dual.reconstruction_teacher.encoder.parameters(), dual.labelling_teacher.encoder.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def test_only_the_labelling_teacher_has_a_head() -> None:
    """Oracle 44."""
    method = build(pseudomae())
    assert set(method.reconstruction_teacher.nets) == {"encoder"}
    assert set(method.labelling_teacher.nets) == {"encoder", "head"}
    assert set(build(pseudomae(head_teacher="student")).labelling_teacher.nets) == {"encoder"}
    trainable = {name.split(".")[0] for name, p in method.named_parameters() if p.requires_grad}
    assert trainable == {"student", "decoder", "head"}


def test_the_labelling_teachers_head_follows_the_students() -> None:
    """A11."""
    method = build(pseudomae(labelling_teacher={"every": "step", "momentum": {"start": 0.25, "end": 0.25}}))
    teacher, student = method.labelling_teacher["head"].prototypes[0].weight, method.head.prototypes[0].weight
    expected = 0.25 * teacher.detach() + 0.75 * student.detach()
    method.after_step(START.tick())
    torch.testing.assert_close(teacher.detach(), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("head_teacher", ["ema", "student"])
def test_labels_are_constants_to_the_gradient(head_teacher: str) -> None:
    """Oracle 44, A11: the head learns from the student's side only, even where it also makes the labels."""
    method = build(pseudomae(head_teacher=head_teacher, class_weight=0))
    out = method(batch(method), START)
    seen = out.seen
    labels = torch.stack([seen["patch_labels"][b, seen["nearest"][b, :, 0]] for b in range(2)])
    alone = soft_cross_entropy(method.head(seen["prediction"], "patch"), labels, 0.1)
    weights = list(method.head.parameters())
    found, expected = (torch.autograd.grad(loss, weights, retain_graph=True) for loss in (out.loss, alone))
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)
        assert a.abs().max() > 0


def test_the_loss_is_the_weighted_sum_and_each_weight_scales_its_own_gradient() -> None:
    """Oracle 45."""
    weights = {"reconstruction": 0.7, "class": 0.3, "patch": 1.9}
    method = build(pseudomae(**{f"{name}_weight": weight for name, weight in weights.items()}))
    data = batch(method)
    out = method(data, START)
    value = sum(weights[name] * part.item() for name, part in out.parts.items())
    assert out.loss.item() == pytest.approx(value, abs=1e-12)
    whole = gradients(method, out.loss)
    for dropped in weights:
        changes = {f"{name}_weight": 0.0 if name == dropped else weight for name, weight in weights.items()}
        other = build(pseudomae(**changes))
        other.load_state_dict(method.state_dict(), strict=False)
        less = gradients(other, other(data, START).loss)
        part = gradients(method, out.parts[dropped])
        for name, grad in whole.items():
            removed = weights[dropped] * part.get(name, torch.zeros(()))
            torch.testing.assert_close(less.get(name, torch.zeros_like(grad)), grad - removed, rtol=0, atol=1e-10)


def test_without_reconstruction_the_decoder_learns_from_the_labels() -> None:
    """Oracle 41."""
    method = build(pseudomae(reconstruction_weight=0))
    out = method(batch(method), START)
    assert set(out.parts) == {"class", "patch"}
    found = gradients(method, out.loss)
    reached = {name for name, grad in found.items() if grad.abs().max() > 0}
    assert {name for name, _ in method.named_parameters() if name.startswith("decoder.blocks.0.mlp")} <= reached
    assert any(name.startswith("student.blocks.0") for name in reached)
    assert "reconstruction_teacher" not in method.teachers
