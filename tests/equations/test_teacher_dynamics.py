"""RC-MAE's analysis: in a linear model in closed form, in a small ViT by what it predicts."""

import math

import numpy as np
import pytest
import torch

from equations.tiny import START, batch, build, gradients, rc_mae
from tutelage.analysis.teacher_dynamics import (
    consistency_gradient,
    consistency_gradient_by_similarity,
    correction,
    gradient_cosine,
)
from tutelage.batch import Batch


def trained(steps: int, *, momentum: float, lr: float, gamma: float) -> tuple[torch.Tensor, ...]:
    """A linear student with both losses, its teacher, and what each step saw: by autograd, not by the formula."""
    torch.manual_seed(3)
    student = torch.randn(5, 7, dtype=torch.float64, requires_grad=True)
    teacher = student.detach().clone()
    errors, features = [], []
    for _ in range(steps):
        x, target = torch.randn(7, dtype=torch.float64), torch.randn(5, dtype=torch.float64)
        y = student @ x
        y.retain_grad()
        loss = (y - target).square().sum() / 2 + gamma * (y - teacher @ x).square().sum() / 2
        (gradient,) = torch.autograd.grad(loss, [student], retain_graph=True)
        (error,) = torch.autograd.grad(loss, [y])
        errors.append(error)
        features.append(x)
        student = (student - lr * gradient).detach().requires_grad_()
        teacher = momentum * teacher + (1 - momentum) * student.detach()
    return student, teacher, torch.stack(errors), torch.stack(features)


@pytest.mark.parametrize("gamma", [0.0, 1.0])
@pytest.mark.parametrize("momentum", [0.0, 0.9, 0.996])
def test_the_consistency_gradient_is_earlier_updates_by_similarity(gamma: float, momentum: float) -> None:
    """Proposition 4.1, against autograd, in float64 to 1e-10."""
    student, teacher, errors, features = trained(25, momentum=momentum, lr=0.05, gamma=gamma)
    x = torch.randn(7, dtype=torch.float64)
    loss = (student @ x - teacher @ x).square().sum() / 2
    (expected,) = torch.autograd.grad(loss, [student])
    direct = consistency_gradient(student.detach(), teacher, x)
    by_similarity = consistency_gradient_by_similarity(errors, features, x, momentum=momentum, lr=0.05)
    np.testing.assert_allclose(direct, expected, rtol=0, atol=1e-10)
    np.testing.assert_allclose(by_similarity, expected, rtol=0, atol=1e-10)
    assert momentum == 0 or expected.abs().max() > 1e-3


def test_a_picture_unlike_all_earlier_ones_gets_no_correction() -> None:
    _, _, errors, features = trained(4, momentum=0.9, lr=0.05, gamma=1.0)
    x = torch.linalg.svd(features, full_matrices=True).Vh[-1]  # at right angles to the four
    gradient = consistency_gradient_by_similarity(errors, features, x, momentum=0.9, lr=0.05)
    assert gradient.abs().max() < 1e-12


def test_the_same_picture_again_has_its_update_taken_back() -> None:
    """One step, the same input: the descent direction is against the update, by m |x|^2 of it."""
    student, teacher, _, features = trained(1, momentum=0.9, lr=0.05, gamma=0.0)
    x = features[0]
    update = (student.detach() - teacher) / 0.9  # T = m S_0 + (1 - m) S_1, so S_1 - T = m (S_1 - S_0)
    back = -consistency_gradient(student.detach(), teacher, x)
    expected = -0.9 * float(x @ x) * update
    np.testing.assert_allclose(back, expected, atol=1e-12)


def test_the_cosine_of_gradients_is_that_of_autograd() -> None:
    method = build(rc_mae())
    data = batch(method)
    parts = method(data, START).parts
    a, b = (gradients(method, parts[name]) for name in ("reconstruction", "consistency"))
    one, other = (torch.cat([g[name].flatten() for name in a]) for g in (a, b))
    expected = torch.cosine_similarity(one, other, dim=0)
    assert gradient_cosine(method, data, START) == pytest.approx(float(expected), abs=1e-12)
    fresh = build(rc_mae(), trained=False)
    assert math.isnan(gradient_cosine(fresh, batch(fresh), START))


def single(method: torch.nn.Module, seed: int) -> dict[str, Batch]:
    return batch(method, b=1, seed=seed)


def test_a_vit_takes_back_most_of_an_update_for_the_picture_that_made_it() -> None:
    """What the linear model says holds in direction: every correction is against the update, its own picture's more so."""
    method = build(rc_mae())
    first = single(method, 1)
    found = correction(method, first, [first, *(single(method, seed) for seed in range(2, 8))], START, lr=1e-3)
    assert found.similarity[0].item() == pytest.approx(1.0)
    assert (found.along < 0).all()
    assert found.along[0] < found.along[1:].mean()


def test_asking_for_the_correction_changes_no_weight() -> None:
    method = build(rc_mae())
    before = {name: value.clone() for name, value in method.state_dict().items()}
    correction(method, single(method, 1), [single(method, 2)], START, lr=1e-2)
    for name, value in method.state_dict().items():
        assert torch.equal(value, before[name]), name
