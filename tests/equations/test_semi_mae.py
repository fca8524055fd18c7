"""FixMatch's and Semi-MAE's losses, and what ties them to supervised training and to MAE: oracles 53 to 58."""

import copy
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from equations import formulas
from equations.tiny import (
    DEPTH,
    GRID,
    HEADS,
    PATCH,
    PATCHES,
    START,
    batch_of,
    build,
    gradients,
    lomar,
    mae,
    pictures,
    pseudomae,
    rc_mae,
    sdae,
    semi_mae,
    shake,
)
from tutelage.api import settings_for
from tutelage.batch import Batch, shared_out
from tutelage.clock import Clock, CosineMomentum
from tutelage.engine.settings import RunSettings
from tutelage.errors import DataError, SettingsError
from tutelage.method import Method
from tutelage.methods.supervised import SupervisedSettings
from tutelage.teacher import TeacherSettings

CLASSES = 4
TEACHER = TeacherSettings(every="step", momentum=CosineMomentum(start=0.5, end=1.0))


def built(**changes: Any) -> Method:
    return build(semi_mae(**changes), num_classes=CLASSES)


def streams(method: Method, b: int = 3) -> dict[str, Batch]:
    """b labelled pictures and twice as many unlabelled ones."""
    asked = method.settings.streams
    labelled = replace(batch_of(asked["labelled"], b, 7), labels=torch.arange(b) % CLASSES)
    return {"unlabelled": batch_of(asked["unlabelled"], 2 * b, 3), "labelled": labelled}


def logits_of(method: Method, x: Tensor) -> np.ndarray:
    return logits_by(method.student, method.head, x)


def logits_by(encoder: nn.Module, classifier: nn.Module, x: Tensor) -> np.ndarray:
    """A classifier by the formulas, a picture at a time."""
    w, head = formulas.weights_of(encoder), formulas.weights_of(classifier)
    size = {"patch": PATCH, "depth": DEPTH, "heads": HEADS}
    tokens = [formulas.encode(picture, np.arange(PATCHES), w, **size) for picture in x.numpy()]
    return np.stack([z[0] @ head["weight"].T + head["bias"] for z in tokens])


def log_softmax(logits: np.ndarray) -> np.ndarray:
    return np.log(np.stack([formulas.softmax(row) for row in logits]))


def test_fixmatch_loss_equals_the_papers_formula_on_shared_weights() -> None:
    """Equations 1 and 2; the divisor is all unlabelled pictures (oracle 54)."""
    method = built(branch=None, unlabelled_weight=3.0)
    with torch.no_grad():
        method.head.weight.mul_(20)  # guesses of different sureness
    data = streams(method)
    known = log_softmax(logits_of(method, data["labelled"].views[0]))
    supervised = -np.mean([row[label] for row, label in zip(known, data["labelled"].labels.tolist(), strict=True)])
    weak, strong = (log_softmax(logits_of(method, view)) for view in data["unlabelled"].views)
    threshold = float(np.median(np.exp(weak).max(1)))  # half of them count
    losses = [-s[w.argmax()] if np.exp(w).max() > threshold else 0.0 for w, s in zip(weak, strong, strict=True)]
    assert 0 < sum(loss > 0 for loss in losses) < len(losses)
    method.settings = method.settings.model_copy(update={"threshold": threshold})
    out = method(data, START)
    assert out.parts["cross_entropy"].item() == pytest.approx(supervised, abs=1e-10)
    assert out.parts["unlabelled"].item() == pytest.approx(sum(losses) / 6, abs=1e-10)
    assert out.loss.item() == pytest.approx(supervised + 3 * sum(losses) / 6, abs=1e-10)


def test_a_threshold_of_1_uses_no_guess_and_one_of_0_all() -> None:
    """Oracle 53."""
    none, every = built(branch=None, threshold=1.0), built(branch=None, threshold=0.0)
    assert none(streams(none), START).parts["unlabelled"].item() == 0
    assert every(streams(every), START).seen["sure"].all()


@pytest.mark.parametrize("mixing", ["none", "probabilistic"])
def test_guesses_take_no_gradient(mixing: str) -> None:
    """Oracle 55: the gradient is that of fixed pictures against fixed labels, where confidences weigh pairs of them too."""
    method = built(branch=None, threshold=0.0, mixing=mixing)
    data = streams(method)
    found = gradients(method, method(data, START).parts["unlabelled"])
    asked = method.ask(data["unlabelled"], method.guess(data["unlabelled"].views[0]))
    logits = method.classify(asked.pictures.detach())
    fixed = torch.nn.functional.cross_entropy(logits, asked.targets.detach())
    for name, gradient in gradients(method, fixed).items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


def test_without_weights_it_is_supervised_training() -> None:
    """Oracle 56: mu = lambda = 0."""
    method = built(unlabelled_weight=0.0, branch_weight=0.0)
    control = build(SupervisedSettings(), num_classes=CLASSES)
    control.student.load_state_dict(method.student.state_dict())
    control.head.load_state_dict(method.head.state_dict())
    data = streams(method)
    ours, theirs = method(data, START), control({"train": data["labelled"]}, START)
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), abs=1e-12)
    found, expected = gradients(method, ours.loss), gradients(control, theirs.loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)
    assert all((found[name] == 0).all() for name in found.keys() - expected.keys())


def test_without_the_branchs_weight_it_is_fixmatch() -> None:
    """Oracle 56: mu = 0."""
    semi, fixmatch = built(branch_weight=0.0), built(branch=None)
    for name in ("student", "head"):
        getattr(fixmatch, name).load_state_dict(getattr(semi, name).state_dict())
    data = streams(semi)
    ours, theirs = semi(data, START), fixmatch(data, START)
    assert ours.loss.item() == pytest.approx(theirs.loss.item(), abs=1e-12)
    found, expected = gradients(semi, ours.loss), gradients(fixmatch, theirs.loss)
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=1e-12)


@pytest.mark.parametrize("branch", [mae(), lomar(), sdae(), rc_mae(), pseudomae()], ids=lambda s: s.name)
def test_the_branch_is_its_method_on_the_weak_view(branch: Any) -> None:
    """Equation 3, with every masked method in MAE's place; oracle 56 where lambda = 0."""
    method = built(branch=branch, unlabelled_weight=0.0, branch_weight=2.0)
    alone = build(branch)
    alone.load_state_dict(
        {**method.branch.state_dict(), **{f"student.{n}": v for n, v in method.student.state_dict().items()}}
    )
    data = streams(method)
    unlabelled = data["unlabelled"]
    views = (unlabelled.views[0], *unlabelled.views[2:])
    expected = alone({"train": replace(unlabelled, views=views)}, START)
    out = method(data, START)
    assert out.loss.item() == pytest.approx(out.parts["cross_entropy"].item() + 2 * expected.loss.item(), abs=1e-10)
    for name, part in expected.parts.items():
        assert out.parts[name].item() == pytest.approx(part.item(), abs=1e-12)


def test_the_branch_works_on_the_same_encoder_which_is_saved_once() -> None:
    """Oracle 58."""
    method = built(branch=pseudomae())
    assert method.branch.student is method.student
    assert not any(name.startswith("branch.student") for name in method.state_dict())
    names = [name for name, _ in method.named_parameters()]
    assert len(names) == len(set(names)) and not any(name.startswith("branch.student") for name in names)
    assert set(method.teachers) == {"labelling_teacher", "reconstruction_teacher"}
    moved = next(method.teachers["labelling_teacher"].parameters()).clone()
    method.after_step(START.tick())
    assert not torch.equal(moved, next(method.teachers["labelling_teacher"].parameters()))


@pytest.mark.parametrize("with_branch", [True, False])
def test_in_the_warm_up_only_labels_are_learned_from(with_branch: bool) -> None:
    """Oracle 57; every parameter has a gradient all the same, as processes and optimizer need."""
    method = built(warmup_epochs=100, max_warmup_share=0.5, warmup_branch=with_branch)
    data = streams(method)
    out = method(data, START)
    labelled = out.parts["cross_entropy"].item()
    assert "unlabelled" not in out.parts and ("reconstruction" in out.parts) == with_branch
    branch = 5 * out.parts["reconstruction"].item() if with_branch else 0
    assert out.loss.item() == pytest.approx(labelled + branch, abs=1e-10)
    assert gradients(method, out.loss).keys() == {n for n, p in method.named_parameters() if p.requires_grad}
    later = replace(START, step=START.total_steps // 2)
    assert "unlabelled" in method(data, later).parts


def test_the_warm_up_is_a_share_of_a_short_run() -> None:
    clock = Clock(batch_size=10, num_pictures=100, total_steps=70)  # 7 epochs
    assert built(warmup_epochs=100).warming(replace(clock, step=9))
    assert not built(warmup_epochs=100).warming(replace(clock, step=10))
    assert not built(warmup_epochs=0.5).warming(replace(clock, step=5))


# --- the teacher by option ---------------------------------------------------------------------------------------------


def networks(method: Method) -> dict[str, tuple[nn.Module, nn.Module]]:
    """Encoder and head of the student, and of its teacher."""
    return {"student": (method.student, method.head), "teacher": (method.teacher.encoder, method.teacher["head"])}


def test_the_teachers_encoder_and_head_follow_the_students_step_by_step() -> None:
    """theta <- m theta + (1 - m) theta_s after each of 12 steps, with m from a half to 1 along a cosine; beside a branch's."""
    method, clock = built(branch=pseudomae(), teacher=TEACHER), START
    for momentum in (0.5, 1 - (1 + math.cos(math.pi / 12)) / 4):
        shake(method.student)
        shake(method.head)
        before = copy.deepcopy(networks(method)["teacher"])
        clock = clock.tick()
        method.after_step(clock)
        for student, teacher, past in zip(*networks(method).values(), before, strict=True):
            ours, then = formulas.weights_of(teacher), formulas.weights_of(past)
            for name, theirs in formulas.weights_of(student).items():
                np.testing.assert_allclose(ours[name], momentum * then[name] + (1 - momentum) * theirs, atol=1e-12)
    assert int(method.teachers["labelling_teacher"].num_moves) == 2


@pytest.mark.parametrize("guesses_by", ["student", "teacher"])
def test_guesses_are_of_the_network_that_is_asked(guesses_by: str) -> None:
    """Semi-ViT (methods S6): which of the two learns, judges and is handed on is another matter."""
    method = built(branch=None, teacher=TEACHER, guesses_by=guesses_by, threshold=0.0)
    data = streams(method)
    guessed = {name: logits_by(*nets, data["unlabelled"].views[0]).argmax(1) for name, nets in networks(method).items()}
    assert (guessed["student"] != guessed["teacher"]).any()
    assert method(data, START).seen["guesses"].tolist() == guessed[guesses_by].tolist()


@pytest.mark.parametrize("hands_on", ["student", "teacher"])
def test_what_is_handed_on_is_one_networks_encoder_with_its_own_head(hands_on: str) -> None:
    """Judged and exported is the same."""
    method, x = built(branch=None, teacher=TEACHER, hands_on=hands_on), pictures(3)
    encoder, head = networks(method)[hands_on]
    expected = logits_by(encoder, head, x)
    assert method.encoder is encoder
    np.testing.assert_allclose(method.classifier()(x), expected, atol=1e-10)
    np.testing.assert_allclose(method.logits(x).detach(), expected, atol=1e-10)


# --- streams and refusals ----------------------------------------------------------------------------------------------


def test_streams_are_shared_out_and_ask_for_what_the_branch_needs() -> None:
    """Oracle 57: 1 to 7."""
    settings = semi_mae(branch=pseudomae(), unlabelled_ratio=7)
    asked = settings.streams
    assert shared_out(64, asked) == {"unlabelled": 56, "labelled": 8}
    assert asked["unlabelled"].views == ("weak", "strong", "complex") and asked["unlabelled"].num_keys == 2
    assert (asked["unlabelled"].labels, asked["labelled"].labels) == ("unknown", "known")
    with pytest.raises(SettingsError, match="C-25: batch_size 60 is no multiple of 8 = 7 unlabelled"):
        shared_out(60, asked)


def seven_to_one(**changes: int) -> RunSettings[Any]:
    return settings_for("semi-mae-quickstart", method={"unlabelled_ratio": 7}, **changes)


def test_the_batch_that_is_offered_to_three_processes_is_one_that_they_can_share() -> None:
    for batch_size in (32, 30, 25):
        with pytest.raises(SettingsError, match=r"C-25: .*Use a batch_size of 24\.$"):
            seven_to_one(batch_size=batch_size).check(3)
    seven_to_one(batch_size=24).check(3)


@pytest.mark.parametrize(
    ("world", "changes", "told", "better"),
    [
        (2, {"micro_batch": 4}, "by 2 processes with 8 micro-batches each.* multiple of 8", {"micro_batch": 8}),
        (3, {"batch_size": 24}, "", {}),
        (4, {"batch_size": 40}, "by 4 processes.* batch_size that is a multiple of 32", {"batch_size": 64}),
    ],
)
def test_parts_of_a_batch_that_processes_cannot_share_are_refused_with_what_would_do(
    world: int, changes: dict[str, int], told: str, better: dict[str, int]
) -> None:
    settings = seven_to_one(**changes)
    if not better:  # one labelled picture each
        settings.check(world)
        return
    with pytest.raises(SettingsError, match=f"C-25: the .* pictures of a batch cannot be shared {told}"):
        settings.check(world)
    seven_to_one(**changes | better).check(world)


def test_what_cannot_work_is_refused() -> None:
    with pytest.raises(SettingsError, match=r"method\.guesses_by is 'teacher', but there is no method\.teacher"):
        semi_mae(guesses_by="teacher").check(GRID, 8)
    with pytest.raises(SettingsError, match="branch 'supervised' is no masked method"):
        semi_mae(branch=SupervisedSettings()).check(GRID, 8)
    with pytest.raises(DataError, match="D-17: the training pictures of x have no labels"):
        semi_mae().check_classes("x", 0)
    with pytest.raises(DataError, match="all of one class"):
        semi_mae().check_classes("x", 1)
