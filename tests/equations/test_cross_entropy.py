"""The label losses and the projection head: oracles 30 to 34, A9, A12 and A28."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from equations import formulas
from equations.tiny import HEAD, PROTOTYPES, WIDTH, shake
from tutelage.errors import SettingsError
from tutelage.heads import HeadSettings, ProjectionHead, check_rows
from tutelage.losses import entropy, soft_cross_entropy
from tutelage.targets import standardise_channels


def tokens(b: int = 2, n: int = 5) -> Tensor:
    return torch.randn(b, n, WIDTH, dtype=torch.float64)


def labels(*shape: int) -> Tensor:
    return torch.randn(*shape, PROTOTYPES, dtype=torch.float64).softmax(-1)


def tiny_head(**changes: object) -> ProjectionHead:
    head = ProjectionHead(HeadSettings(**{**HEAD.model_dump(), **changes}), WIDTH).double()
    shake(head)
    return head


def test_cross_entropy_equals_the_formula() -> None:
    x, t = torch.randn(2, 5, PROTOTYPES, dtype=torch.float64), labels(2, 5)
    rows = [formulas.cross_entropy(x[b, i].numpy(), t[b, i].numpy(), 0.1) for b in range(2) for i in range(5)]
    assert soft_cross_entropy(x, t, 0.1).item() == pytest.approx(np.mean(rows), abs=1e-10)


def test_cross_entropy_is_at_least_the_labels_entropy() -> None:
    """Oracle 30."""
    x, t = torch.randn(7, PROTOTYPES, dtype=torch.float64), labels(7)
    floor = -np.mean([(row * np.log(row)).sum() for row in t.numpy()])
    assert entropy(t).mean().item() == pytest.approx(floor, abs=1e-12)
    assert soft_cross_entropy(x, t, 0.1).item() > floor + 1e-3
    assert soft_cross_entropy(0.1 * t.log() + 5, t, 0.1).item() == pytest.approx(floor, abs=1e-10)


def test_a_certain_label_has_no_entropy() -> None:
    assert entropy(torch.eye(4, dtype=torch.float64)).tolist() == [0, 0, 0, 0]


def test_the_mean_label_of_the_folds_costs_the_mean_of_their_costs() -> None:
    """Oracle 31: the mean of the labels of all folds; their sum would cost K times as much."""
    x, t = torch.randn(4, 1, PROTOTYPES, dtype=torch.float64), labels(4, 3)
    together = soft_cross_entropy(x, t.mean(1, keepdim=True), 0.1).item()
    each = [soft_cross_entropy(x, t[:, k : k + 1], 0.1).item() for k in range(3)]
    assert together == pytest.approx(np.mean(each), abs=1e-10)
    assert np.ptp(each) > 1e-3
    assert soft_cross_entropy(x, t.sum(1, keepdim=True), 0.1).item() == pytest.approx(3 * together, abs=1e-9)


def test_uniform_labels_cost_a_little_more_than_ln_of_the_prototypes() -> None:
    """Oracle 32: the gap is about 1 / (2 bottleneck temperature^2)."""
    m, width = 1024, 256
    z, p = (torch.nn.functional.normalize(torch.randn(n, width, dtype=torch.float64), dim=-1) for n in (64, m))
    loss = soft_cross_entropy(z @ p.T, torch.full((64, m), 1 / m, dtype=torch.float64), 0.1).item()
    assert math.log(m) < loss < math.log(m) + 0.3
    assert loss - math.log(m) == pytest.approx(1 / (2 * width * 0.01), abs=0.03)


def test_gradient_of_cross_entropy_is_softmax_minus_label() -> None:
    """Oracle 33."""
    x, t = torch.randn(1, PROTOTYPES, dtype=torch.float64).requires_grad_(), labels(1)
    (grad,) = torch.autograd.grad(soft_cross_entropy(x, t, 0.1), x)
    expected = (formulas.softmax(x.detach().numpy() / 0.1) - t.numpy()) / 0.1
    np.testing.assert_allclose(grad, expected, atol=1e-10)
    assert abs(grad.sum().item()) < 1e-10


def test_half_precision_logits_are_judged_in_float32() -> None:
    x, t = torch.randn(3, PROTOTYPES).bfloat16(), labels(3).float()
    loss = soft_cross_entropy(x, t, 0.1)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(soft_cross_entropy(x.double(), t.double(), 0.1).item(), abs=1e-4)


# --- the head ---------------------------------------------------------------------------------------------------------


def test_head_equals_the_formula() -> None:
    head, x = tiny_head(), tokens()
    expected = formulas.head(x.numpy(), formulas.weights_of(head))
    np.testing.assert_allclose(head(x, "patch").detach(), expected, atol=1e-10)


def test_logits_are_cosines_whatever_the_prototypes_length() -> None:
    """Oracle 34."""
    head, x = tiny_head(), 100 * tokens()
    logits = head(x, "class")
    assert logits.abs().max() <= 1 + 1e-12
    np.testing.assert_allclose(head.project(x, "class").norm(dim=-1).detach(), 1, atol=1e-12)
    with torch.no_grad():
        head.prototypes[0].weight.mul_(torch.rand(PROTOTYPES, 1) + 0.5)
    torch.testing.assert_close(head(x, "class"), logits, rtol=0, atol=1e-12)


def test_the_gain_of_the_prototypes_is_no_parameter() -> None:
    """Oracle 34: the gradient leaves each prototype's length alone."""
    head = tiny_head()
    soft_cross_entropy(head(tokens(), "patch"), labels(2, 5), 0.1).backward()
    prototypes = head.prototypes[0].weight
    assert prototypes.grad.abs().max() > 0
    assert (prototypes.grad * prototypes).sum(-1).abs().max() < 1e-12
    assert sorted(head.state_dict()) == sorted(
        [f"trunks.0.{i}.{kind}" for i in (0, 2, 4) for kind in ("weight", "bias")] + ["prototypes.0.weight"]
    )


def test_head_begins_as_dinos() -> None:
    head = ProjectionHead(HeadSettings(prototypes=512, hidden=512, bottleneck=256), 256)
    for i in (0, 2, 4):
        assert abs(head.trunks[0][i].weight.std().item() / 0.02 - 1) < 0.03
        assert (head.trunks[0][i].bias == 0).all()


@pytest.mark.parametrize(
    ("share", "trunks", "prototypes"), [("shared", 0, 0), ("shared_trunk", 0, 1), ("separate", 1, 1)]
)
def test_class_and_patch_tokens_share_what_the_setting_says(share: str, trunks: int, prototypes: int) -> None:
    """A9."""
    head, x = tiny_head(share=share), tokens()
    w = formulas.weights_of(head)
    np.testing.assert_allclose(head(x, "class").detach(), formulas.head(x.numpy(), w), atol=1e-10)
    np.testing.assert_allclose(head(x, "patch").detach(), formulas.head(x.numpy(), w, trunks, prototypes), atol=1e-10)
    assert torch.equal(head(x, "class"), head(x, "patch")) == (share == "shared")
    assert torch.equal(head.project(x, "class"), head.project(x, "patch")) == (share != "separate")


def test_a_normalised_input_makes_the_head_blind_to_scale() -> None:
    """A12."""
    x = tokens()
    plain, norm = tiny_head(), tiny_head(in_norm="token")
    torch.testing.assert_close(norm(7 * x + 3, "patch"), norm(x, "patch"), rtol=0, atol=1e-5)
    assert (plain(7 * x + 3, "patch") - plain(x, "patch")).abs().max() > 1e-2
    normed = (x.numpy() - x.numpy().mean(-1, keepdims=True)) / np.sqrt(x.numpy().var(-1, keepdims=True) + 1e-6)
    np.testing.assert_allclose(norm(x, "patch").detach(), formulas.head(normed, formulas.weights_of(norm)), atol=1e-10)
    assert len(list(norm.parameters())) == len(list(plain.parameters()))


def test_a_batch_normalised_input_makes_the_head_blind_to_what_all_tokens_share() -> None:
    """A12."""
    x = tokens()
    norm, scale, shift = tiny_head(in_norm="batch"), torch.rand(x.shape[-1]) + 0.5, torch.randn(x.shape[-1])
    torch.testing.assert_close(norm(x * scale + shift, "patch"), norm(x, "patch"), rtol=0, atol=1e-4)
    rows = x.numpy().reshape(-1, x.shape[-1])
    normed = (x.numpy() - rows.mean(0)) / np.sqrt(rows.var(0, ddof=1) + 1e-6)
    np.testing.assert_allclose(norm(x, "patch").detach(), formulas.head(normed, formulas.weights_of(norm)), atol=1e-10)
    assert torch.autograd.gradcheck(standardise_channels, (x.clone().requires_grad_(),))


def test_fewer_rows_than_half_the_prototypes_are_refused_with_a_number_that_does() -> None:
    """A28."""
    check_rows(32, 64, "class")
    with pytest.raises(SettingsError, match="C-23: Sinkhorn balances 31 class tokens") as refusal:
        check_rows(31, 64, "class")
    check_rows(31, int(str(refusal.value).split("Use at most ")[1].split()[0]), "class")
