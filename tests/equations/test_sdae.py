"""SdAE's loss, its target and its switches: oracles 17 to 21."""

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from equations import formulas
from equations.tiny import (
    DEPTH,
    GRID,
    HEADS,
    HIDDEN,
    PATCH,
    PATCHES,
    START,
    VISIBLE,
    WIDTH,
    batch,
    build,
    disturbed,
    sdae,
)
from tutelage.errors import SettingsError
from tutelage.losses import cosine_loss, cosine_similarity
from tutelage.masking import random_mask
from tutelage.targets import standardise, token_target


def tokens(b: int = 2) -> Tensor:
    return 2 + 3 * torch.randn(b, HIDDEN, WIDTH, dtype=torch.float64)


def reference(method: torch.nn.Module, x: np.ndarray, key: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Prediction and raw teacher tokens of the hidden patches of one picture."""
    order = np.argsort(key)
    keep, hide = order[:VISIBLE], order[VISIBLE:]
    size = {"patch": PATCH, "depth": DEPTH, "heads": HEADS}
    student = formulas.weights_of(method.student)
    teacher = formulas.weights_of(method.reconstruction_teacher.encoder)
    z = formulas.encode(x, keep, student, **size)
    y = formulas.decode(z, keep, formulas.weights_of(method.decoder), num_patches=PATCHES, depth=2, heads=4)
    t = [formulas.encode(x, hide[16 * k : 16 * k + 16], teacher, **size)[1:] for k in range(3)]
    return y[1:][hide], np.concatenate(t)


@pytest.mark.parametrize("axis", ["feature", "token"])
def test_sdae_loss_equals_the_formula_on_shared_weights(axis: str) -> None:
    """Equation 1 as methods 1.2 reads it, and SdAE's code (A1)."""
    method = build(sdae(cos_axis=axis))
    data = batch(method)
    cosines = []
    for x, key in zip(data["train"].views[0].numpy(), data["train"].keys[0].numpy(), strict=True):
        y, t = reference(method, x, key)
        t = formulas.standardise(t)
        if axis == "feature":
            cosines += [formulas.cosine(y[i], t[i]) for i in range(HIDDEN)]
        else:
            folds = [slice(16 * k, 16 * k + 16) for k in range(3)]
            cosines += [formulas.cosine(y[fold, c], t[fold, c]) for fold in folds for c in range(WIDTH)]
    assert method(data, START).loss.item() == pytest.approx(1 - np.mean(cosines), abs=1e-10)


@pytest.mark.parametrize("norm", ["token", "picture", "batch", "none"])
def test_targets_are_standardised_over_what_the_setting_says(norm: str) -> None:
    """A3: each value against a loop over the axis."""
    method = build(sdae(target_norm=norm))
    data = batch(method)
    raw = np.stack(
        [
            reference(method, x, k)[1]
            for x, k in zip(data["train"].views[0].numpy(), data["train"].keys[0].numpy(), strict=True)
        ]
    )
    expected = {
        "token": lambda: formulas.standardise(raw),
        "picture": lambda: np.stack([formulas.standardise(one.T).T for one in raw]),
        "batch": lambda: formulas.standardise(raw.reshape(-1, WIDTH).T).T.reshape(raw.shape),
        "none": lambda: raw,
    }[norm]()
    np.testing.assert_allclose(method(data, START).seen["target"], expected, atol=1e-9)


def test_a_prediction_along_the_target_costs_0_and_against_it_2() -> None:
    """Oracle 17."""
    t = token_target(tokens(), "token")
    assert cosine_loss(3.7 * t, t).item() == pytest.approx(0, abs=1e-12)
    assert cosine_loss(-t, t).item() == pytest.approx(2, abs=1e-12)
    assert cosine_loss(tokens(), t).item() == pytest.approx(1, abs=0.1)


def test_over_features_the_length_of_a_token_does_not_matter() -> None:
    """Oracle 18."""
    y, t = tokens().requires_grad_(), token_target(tokens(), "token")
    scale = 0.1 + torch.rand(2, HIDDEN, 1, dtype=torch.float64)
    loss = cosine_loss(y, t)
    torch.testing.assert_close(cosine_loss(scale * y, t), loss, rtol=0, atol=1e-12)
    assert cosine_loss(y * torch.rand(WIDTH, dtype=torch.float64), t).sub(loss).abs() > 1e-4
    (grad,) = torch.autograd.grad(loss, y)
    assert grad.abs().max() > 0
    assert (grad * y).sum(-1).abs().max() < 1e-12


def test_over_tokens_the_scale_of_a_channel_does_not_matter() -> None:
    """Oracle 18."""
    y, t = tokens(), token_target(tokens(), "token")
    scale = 0.1 + torch.rand(2, 1, WIDTH, dtype=torch.float64)
    options = {"axis": "token", "folds": 3}
    torch.testing.assert_close(cosine_loss(scale * y, t, **options), cosine_loss(y, t, **options), rtol=0, atol=1e-12)
    uneven = torch.rand(2, HIDDEN, 1, dtype=torch.float64)
    assert cosine_loss(uneven * y, t, **options).sub(cosine_loss(y, t, **options)).abs() > 1e-5


def test_cosines_are_one_per_token_or_one_per_channel_of_a_fold() -> None:
    """Oracles 18 and 19."""
    y, t = tokens(), tokens()
    fold_y, fold_t = y.reshape(6, 16, WIDTH), t.reshape(6, 16, WIDTH)
    pairs = list(zip(fold_y.numpy(), fold_t.numpy(), strict=True))
    feature, token = (cosine_similarity(y, t, axis=axis, folds=3) for axis in ("feature", "token"))
    assert (feature.shape, token.shape) == ((6, 16), (6, WIDTH))
    torch.testing.assert_close(feature, F.cosine_similarity(fold_y, fold_t, dim=-1))
    torch.testing.assert_close(token, F.cosine_similarity(fold_y, fold_t, dim=1))
    expected = [[formulas.cosine(a[:, c], b[:, c]) for c in range(WIDTH)] for a, b in pairs]
    np.testing.assert_allclose(token, np.array(expected), atol=1e-12)


def test_only_over_tokens_the_loss_depends_on_the_number_of_folds() -> None:
    """Oracle 20."""
    t = token_target(tokens(), "token")
    y = t + tokens()
    feature, token = (
        [cosine_loss(y, t, axis=axis, folds=k).item() for k in (1, 3, 6)] for axis in ("feature", "token")
    )
    assert np.ptp(feature) < 1e-12
    assert min(np.diff(sorted(token))) > 1e-4


def test_a_standardised_token_has_mean_0_and_unbiased_variance_1() -> None:
    """Oracle 21."""
    x = tokens()
    out = token_target(x, "token").numpy()
    np.testing.assert_allclose(out.mean(-1), 0, atol=1e-10)
    np.testing.assert_allclose(out.var(-1, ddof=1), 1, atol=1e-4)
    biased = F.layer_norm(x, (WIDTH,), eps=0).numpy()
    np.testing.assert_allclose(out, biased * np.sqrt((WIDTH - 1) / WIDTH), atol=1e-5)
    np.testing.assert_allclose(standardise(x)[1, 7], formulas.standardise(x[1, 7].numpy()), atol=1e-12)


def test_targets_of_half_precision_tokens_are_float32() -> None:
    assert token_target(tokens().bfloat16(), "token").dtype == torch.float32


def test_the_teacher_sees_hidden_patches_or_the_whole_picture() -> None:
    visible_matters = {}
    for view in ("hidden", "all"):
        method = build(sdae(teacher_view=view))
        data = batch(method)
        one = data["train"]
        mask = random_mask(one.keys[0], 0.75)
        other = {"train": type(one)((disturbed(one.views[0], mask.ids_keep),), one.keys, one.labels, one.indices)}
        before, after = (method(d, START).seen["target"] for d in (data, other))
        visible_matters[view] = not torch.equal(before, after)
    assert visible_matters == {"hidden": False, "all": True}


def test_a_teacher_of_the_whole_picture_gives_the_tokens_of_the_hidden_patches() -> None:
    method = build(sdae(teacher_view="all", target_norm="none"))
    data = batch(method)
    teacher = formulas.weights_of(method.reconstruction_teacher.encoder)
    x, key = data["train"].views[0][0].numpy(), data["train"].keys[0][0].numpy()
    whole = formulas.encode(x, np.arange(PATCHES), teacher, patch=PATCH, depth=DEPTH, heads=HEADS)[1:]
    np.testing.assert_allclose(method(data, START).seen["target"][0], whole[np.argsort(key)[VISIBLE:]], atol=1e-10)


def test_the_target_takes_no_gradient() -> None:
    method = build(sdae())
    out = method(batch(method), START)
    out.loss.backward()
    assert not out.seen["target"].requires_grad
    assert all(p.grad is None for p in method.reconstruction_teacher.parameters())
    assert all(p.grad is not None for p in method.student.parameters() if p.requires_grad)


def test_folds_that_do_not_divide_are_refused_by_the_method() -> None:
    with pytest.raises(SettingsError, match="C-21: method.folds is 5"):
        sdae(folds=5).check(GRID, 2)
