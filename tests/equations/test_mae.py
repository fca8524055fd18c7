"""MAE's loss and its pixel targets: oracles 12 to 15."""

import numpy as np
import pytest
import torch

from equations import formulas
from equations.tiny import DEPTH, HEADS, HIDDEN, PATCH, PATCHES, START, VISIBLE, batch, build, keys, mae, pictures
from tutelage.losses import masked_mse
from tutelage.masking import random_mask
from tutelage.targets import patchify, standardise, unpatchify


@pytest.mark.parametrize("norm_pix", [True, False])
def test_mae_loss_equals_the_papers_formula_on_shared_weights(norm_pix: bool) -> None:
    """Oracle 12."""
    method = build(mae(norm_pix=norm_pix))
    data = batch(method)
    (x,), (k,) = data["train"].views, data["train"].keys
    encoder, decoder = formulas.weights_of(method.student), formulas.weights_of(method.decoder)
    errors = []
    for picture, key in zip(x.numpy(), k.numpy(), strict=True):
        order = np.argsort(key)
        keep, hide = order[:VISIBLE], order[VISIBLE:]
        z = formulas.encode(picture, keep, encoder, patch=PATCH, depth=DEPTH, heads=HEADS)
        y = formulas.decode(z, keep, decoder, num_patches=PATCHES, depth=2, heads=4)[1:]
        t = formulas.patches(picture, PATCH)
        if norm_pix:
            t = formulas.standardise(t)
        errors += [((y[i] - t[i]) ** 2).mean() for i in hide]
    assert len(errors) == 2 * HIDDEN
    out = method(data, START)
    assert out.loss.item() == pytest.approx(np.mean(errors), abs=1e-10)
    assert out.parts["reconstruction"].item() == out.loss.item()


def test_a_perfect_prediction_costs_nothing() -> None:
    """Oracle 13."""
    t = standardise(patchify(pictures(), (PATCH, PATCH)))
    assert masked_mse(t, t).item() == 0
    assert masked_mse(t + 1, t).item() == pytest.approx(1)


def test_a_standardised_patch_has_mean_0_and_variance_1() -> None:
    """Oracle 13."""
    t = standardise(patchify(3 + 5 * pictures(), (PATCH, PATCH))).numpy()
    np.testing.assert_allclose(t.mean(-1), 0, atol=1e-10)
    np.testing.assert_allclose(t.var(-1, ddof=1), 1, atol=1e-4)


def test_a_constant_patch_has_a_finite_target() -> None:
    """Oracle 13."""
    assert (standardise(torch.full((2, 4, 192), 7.0, dtype=torch.float64)) == 0).all()


def test_visible_patches_get_no_gradient() -> None:
    """Oracle 14."""
    mask, t = random_mask(keys(), 0.75), patchify(pictures(), (PATCH, PATCH))
    y = torch.randn_like(t, requires_grad=True)
    masked_mse(mask.hidden(y), mask.hidden(t)).backward()
    assert (mask.visible(y.grad) == 0).all()
    expected = 2 * (y - t) / (2 * HIDDEN * t.shape[-1])
    torch.testing.assert_close(mask.hidden(y.grad), mask.hidden(expected).detach())


def test_methods_loss_ignores_its_prediction_of_visible_patches() -> None:
    """Oracle 14: through the whole method, by the gradient of what it predicted."""
    method = build(mae())
    data, predictions = batch(method), []

    def keep(module: torch.nn.Module, inputs: tuple[torch.Tensor], y: torch.Tensor) -> None:
        y.retain_grad()
        predictions.append(y)

    method.decoder.predict.register_forward_hook(keep)
    method(data, START).loss.backward()
    mask = random_mask(data["train"].keys[0], 0.75)
    grad = predictions[0].grad[:, 1:]
    assert (mask.visible(grad) == 0).all()
    assert (mask.hidden(grad) != 0).any(-1).all()


@pytest.mark.parametrize("patch", [(8, 8), (4, 16), (16, 2)])
def test_unpatchify_is_the_inverse_of_patchify(patch: tuple[int, int]) -> None:
    """Oracle 15."""
    x = torch.randn(2, 3, 32, 64)
    rows = patchify(x, patch)
    assert rows.shape == (2, (32 // patch[0]) * (64 // patch[1]), patch[0] * patch[1] * 3)
    assert torch.equal(unpatchify(rows, patch, (32 // patch[0], 64 // patch[1])), x)


def test_a_patch_is_laid_out_row_column_channel() -> None:
    """Oracle 15."""
    x = pictures()
    for row in range(2):
        assert np.array_equal(patchify(x, (PATCH, PATCH))[row].numpy(), formulas.patches(x[row].numpy(), PATCH))


def test_half_precision_targets_are_computed_in_float32() -> None:
    x = (5 + torch.randn(1, 4, 192)).bfloat16()
    assert standardise(x).dtype == torch.float32
    np.testing.assert_allclose(standardise(x)[0], formulas.standardise(x[0].double().numpy()), atol=1e-5)
