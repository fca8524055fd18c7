"""Probabilistic pseudo mixup against Semi-ViT's formulas, a picture and a pixel at a time: oracle 59."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from equations import formulas
from equations.test_semi_mae import built, log_softmax, logits_of, streams
from equations.tiny import START, pseudomae
from tutelage.mixing import mix_pairs, mixed_targets, neighbours_of, pair_weights

PAIR = neighbours_of(6)


def pictures(b: int = 6, h: int = 8, w: int = 12) -> torch.Tensor:
    return torch.rand(b, 2, h, w, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize(("count", "pairs"), [(6, [1, 0, 3, 2, 5, 4]), (5, [1, 0, 3, 2, 4]), (1, [0]), (0, [])])
def test_pairs_are_neighbours_and_a_last_one_is_its_own(count: int, pairs: list[int]) -> None:
    assert neighbours_of(count).tolist() == pairs


def test_the_surer_of_a_pair_stays_more() -> None:
    """lambda = p / (p + p'); a half where both are as sure."""
    weights = pair_weights(torch.tensor([0.9, 0.3, 0.5, 0.5, 0.7, 0.1], dtype=torch.float64), PAIR)
    expected = torch.tensor([0.75, 0.25, 0.5, 0.5, 0.875, 0.125], dtype=torch.float64)
    torch.testing.assert_close(weights, expected)
    torch.testing.assert_close(weights + weights[PAIR], torch.ones(6, dtype=torch.float64))


def test_blended_pictures_are_the_weighted_sum() -> None:
    x, weights = pictures(), torch.tensor([0.75, 0.25, 0.5, 0.5, 0.9, 0.1], dtype=torch.float64)
    mixed, left = mix_pairs(x, PAIR, weights, torch.full((6, 3), 0.4))
    for i, j in enumerate(PAIR.tolist()):
        torch.testing.assert_close(mixed[i], weights[i] * x[i] + (1 - weights[i]) * x[j])
    assert torch.equal(left, weights)


@pytest.mark.parametrize("centre", [(0.5, 0.5), (0.02, 0.9), (0.99, 0.0)])
def test_a_pasted_rectangle_is_the_pairs_and_the_weight_its_area(centre: tuple[float, float]) -> None:
    """Each pixel is the one or the other picture's; inside a span of sqrt(1 - lambda) of either side it is the pair's."""
    x, weights = pictures(), torch.tensor([0.75, 0.25, 0.5, 0.5, 0.9, 0.1], dtype=torch.float64)
    draws = torch.tensor([[0.5, *centre]] * 6, dtype=torch.float64)
    mixed, left = mix_pairs(x, PAIR, weights, draws)
    for i, j in enumerate(PAIR.tolist()):
        half = np.sqrt(1 - float(weights[i])) / 2
        foreign = 0
        for row in range(8):
            for column in range(12):
                inside = abs(row + 0.5 - 8 * centre[0]) < 8 * half and abs(column + 0.5 - 12 * centre[1]) < 12 * half
                foreign += inside
                assert torch.equal(mixed[i, :, row, column], x[j if inside else i, :, row, column])
        assert left[i].item() == pytest.approx(1 - foreign / 96)


def test_targets_are_mixed_as_the_pictures_and_sum_to_one() -> None:
    classes, weights = torch.tensor([0, 1, 2, 2, 3, 0]), torch.tensor([0.75, 0.25, 0.5, 0.5, 0.9, 0.1])
    targets = mixed_targets(classes, PAIR, weights, 4)
    assert targets[0].tolist() == pytest.approx([0.75, 0.25, 0, 0])
    assert targets[2].tolist() == pytest.approx([0, 0, 1, 0])
    smoothed = mixed_targets(classes, PAIR, weights, 4, smoothing=0.2)
    assert smoothed[0].tolist() == pytest.approx([0.8 * 0.75 + 0.05, 0.8 * 0.25 + 0.05, 0.05, 0.05])
    torch.testing.assert_close(smoothed.sum(1), torch.ones(6))


def test_the_loss_on_mixed_guesses_is_semi_vits() -> None:
    """Guesses of the weak views, lambda from their probabilities, one soft cross-entropy; a pair counts as its surer one."""
    method = built(branch=None, mixing="probabilistic", label_smoothing=0.1)
    with torch.no_grad():
        method.head.weight.mul_(20)
    data = streams(method)
    weak = np.exp(log_softmax(logits_of(method, data["unlabelled"].views[0])))
    confidence, guesses = weak.max(1), weak.argmax(1)
    threshold = float(np.sort(confidence)[-2])  # one picture alone is surer
    method.settings = method.settings.model_copy(update={"threshold": threshold})
    keys = data["unlabelled"].keys[-1]
    mixed, targets = [], []
    for i in range(6):
        j = i ^ 1
        weight = confidence[i] / (confidence[i] + confidence[j])
        x, y = data["unlabelled"].views[1][i], data["unlabelled"].views[1][j]
        one = weight * x + (1 - weight) * y
        if keys[i, 0] >= 0.5:
            half, (h, w) = np.sqrt(1 - weight) / 2, x.shape[1:]
            rows = np.abs(np.arange(h) + 0.5 - h * float(keys[i, 1])) < h * half
            columns = np.abs(np.arange(w) + 0.5 - w * float(keys[i, 2])) < w * half
            inside = torch.from_numpy(np.outer(rows, columns))
            one, weight = torch.where(inside, y, x), 1 - inside.double().mean().item()
        mixed.append(one)
        q = 0.9 * np.eye(4) + 0.025
        targets.append(weight * q[guesses[i]] + (1 - weight) * q[guesses[j]])
    logits = logits_of(method, torch.stack(mixed))
    losses = [formulas.cross_entropy(row, target, 1.0) for row, target in zip(logits, targets, strict=True)]
    counts = [max(confidence[i], confidence[i ^ 1]) > threshold for i in range(6)]
    assert sum(counts) == 2
    expected = sum(loss for loss, count in zip(losses, counts, strict=True) if count) / 6
    assert method(data, START).parts["unlabelled"].item() == pytest.approx(expected, abs=1e-9)


def test_mixing_leaves_the_branch_its_own_keys() -> None:
    """With and without mixing the branch sees the same pictures under the same masks."""
    plain, mixing = built(branch=pseudomae()), built(branch=pseudomae(), mixing="probabilistic")
    mixing.load_state_dict(plain.state_dict())
    assert mixing.settings.streams["unlabelled"].num_keys == 1 + plain.settings.streams["unlabelled"].num_keys
    data = streams(mixing)
    fewer = {**data, "unlabelled": replace(data["unlabelled"], keys=data["unlabelled"].keys[:2])}
    (a, b) = (method(batch, START).parts for method, batch in ((plain, fewer), (mixing, data)))
    for name in ("reconstruction", "class", "patch", "cross_entropy"):
        assert torch.equal(a[name], b[name]), name
    assert not torch.equal(a["unlabelled"], b["unlabelled"])
