"""Monitors against formulas written independently, in NumPy and float64, and at their limits."""

import math

import numpy as np
import pytest
import torch
from torch import nn

from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.heads import HeadSettings
from tutelage.method import Method, Output
from tutelage.methods.mae import MAESettings
from tutelage.methods.pseudomae import PseudoMAESettings
from tutelage.methods.sdae import SdAESettings
from tutelage.monitors import (
    distinct_matches,
    feature_std,
    knn_accuracy,
    monitor,
    position_constant_loss,
    position_constant_mse,
    prototype_usage,
    rank_me,
    teacher_distance,
)

DECODER = DecoderSettings(width=16, depth=1, heads=2)
CLOCK = Clock(batch_size=6, num_pictures=12, total_steps=10)


def small_vit() -> nn.Module:
    torch.manual_seed(0)
    settings = BackboneSettings(name="vit_tiny_patch16_224", image_size=16, patch_size=4, width=16, depth=1, heads=2)
    return build_vit(settings, 1)


def step_of(method: Method, b: int = 6) -> Output:
    torch.manual_seed(1)
    views = len(method.settings.streams["train"].views)
    batch = Batch(
        tuple(torch.randn(b, 1, 16, 16) for _ in range(views)),
        tuple(torch.rand(b, 16) for _ in range(views)),
        torch.zeros(b, dtype=torch.long),
        torch.arange(b),
    )
    return method({"train": batch}, CLOCK)


def small_pseudomae() -> Method:
    head = HeadSettings(prototypes=8, hidden=16, bottleneck=8)
    return PseudoMAESettings(decoder=DECODER, head=head).build(small_vit())


# --- features ---------------------------------------------------------------------------------------------------------


def test_rank_me_is_the_exponential_of_the_entropy_of_the_singular_values() -> None:
    x = torch.randn(40, 7, generator=torch.Generator().manual_seed(0))
    s = np.sqrt(np.linalg.eigvalsh(x.double().numpy().T @ x.double().numpy()))
    p = s / s.sum()
    assert rank_me(x) == pytest.approx(math.exp(-(p * np.log(p)).sum()), rel=1e-5)


def test_rank_me_counts_orthogonal_directions() -> None:
    assert rank_me(torch.eye(5)) == pytest.approx(5)
    assert rank_me(torch.ones(9, 4)) == pytest.approx(1, abs=1e-4)
    assert rank_me(torch.zeros(9, 4)) == 0


def test_feature_std_is_one_for_evenly_spread_features_and_zero_for_equal_ones() -> None:
    x = torch.randn(20_000, 16, generator=torch.Generator().manual_seed(0))
    assert feature_std(x) == pytest.approx(1, abs=0.01)
    assert feature_std(x[:1].expand(50, -1)) == pytest.approx(0, abs=1e-6)


def test_feature_std_does_not_depend_on_the_length_of_features() -> None:
    x = torch.randn(30, 5, generator=torch.Generator().manual_seed(0)) + 1
    assert feature_std(x * torch.rand(30, 1)) == pytest.approx(feature_std(x), rel=1e-5)


def test_knn_votes_with_the_exponential_of_the_cosine() -> None:
    generator = np.random.default_rng(0)
    train, queries = generator.normal(size=(50, 6)), generator.normal(size=(30, 6))
    y, truth = generator.integers(0, 3, 50), generator.integers(0, 3, 30)
    right = 0
    for q, label in zip(queries, truth, strict=True):
        cosines = train @ q / np.linalg.norm(train, axis=1) / np.linalg.norm(q)
        votes = np.zeros(3)
        for i in np.argsort(-cosines)[:7]:
            votes[y[i]] += math.exp(cosines[i] / 0.07)
        right += int(votes.argmax() == label)
    found = knn_accuracy(*(torch.from_numpy(a) for a in (train, y, queries, truth)), k=7)
    assert 0 < right < 30
    assert found == pytest.approx(right / 30)


def test_knn_on_the_training_pictures_themselves_is_perfect() -> None:
    x, y = torch.randn(40, 8), torch.arange(40) % 4
    assert knn_accuracy(x, y, x, y, k=1) == 1


def test_pictures_without_a_label_neither_vote_nor_ask() -> None:
    x = torch.eye(4)
    assert knn_accuracy(x, torch.tensor([0, 1, -1, -1]), x, torch.tensor([0, 1, -1, 5])) == pytest.approx(2 / 3)
    assert math.isnan(knn_accuracy(x, torch.full((4,), -1), x, torch.zeros(4, dtype=torch.long)))


# --- the constant per position ----------------------------------------------------------------------------------------


def by_hand(target: np.ndarray, ids: np.ndarray, unit: bool) -> np.ndarray:
    """The mean of the other pictures' (unit-length) targets at the same position, by three loops."""
    t = target / np.linalg.norm(target, axis=-1, keepdims=True) if unit else target
    answer = np.zeros_like(t)
    for b in range(len(t)):
        for i in range(t.shape[1]):
            others = [t[c, j] for c in range(len(t)) for j in range(t.shape[1]) if c != b and ids[c, j] == ids[b, i]]
            if others:
                answer[b, i] = np.mean(others, axis=0)
    return answer


def random_targets(b: int = 5, h: int = 6, n: int = 9, d: int = 4) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(3)
    ids = torch.rand(b, n, generator=generator).argsort(1)[:, :h]
    return torch.randn(b, h, d, generator=generator, dtype=torch.float64), ids


def test_the_constant_loss_is_the_cosine_with_the_mean_of_the_other_pictures() -> None:
    target, ids = random_targets()
    answer, t = by_hand(target.numpy(), ids.numpy(), unit=True), target.numpy()
    norms = np.linalg.norm(answer, axis=-1) * np.linalg.norm(t, axis=-1)
    cosines = (answer * t).sum(-1) / np.where(norms == 0, 1, norms)
    assert position_constant_loss(target, ids, 9) == pytest.approx(1 - cosines.mean(), abs=1e-10)


def test_the_constant_mse_is_that_of_the_mean_of_the_other_pictures() -> None:
    target, ids = random_targets()
    answer = by_hand(target.numpy(), ids.numpy(), unit=False)
    assert position_constant_mse(target, ids, 9) == pytest.approx(((answer - target.numpy()) ** 2).mean(), abs=1e-10)


def test_a_target_that_depends_on_the_position_alone_is_fully_explained() -> None:
    _, ids = random_targets(b=8)
    table = torch.randn(9, 4)
    lengths = torch.rand(8, 6, 1) + 0.5
    assert position_constant_loss(table[ids] * lengths, ids, 9) == pytest.approx(0, abs=1e-6)


def test_a_target_that_depends_on_the_picture_alone_is_not_explained() -> None:
    generator = torch.Generator().manual_seed(0)
    target = torch.randn(64, 1, 32, generator=generator).expand(64, 6, 32)
    ids = torch.stack([torch.randperm(9, generator=generator)[:6] for _ in range(64)])
    assert position_constant_loss(target, ids, 9) == pytest.approx(1, abs=0.05)


def test_a_picture_does_not_explain_itself() -> None:
    target, ids = random_targets(b=1)
    assert position_constant_loss(target, ids, 9) == 1


# --- labels -----------------------------------------------------------------------------------------------------------


def test_prototype_usage_is_one_when_even_and_zero_when_one_takes_all() -> None:
    assert prototype_usage(torch.eye(8)) == (pytest.approx(1), 8)
    one = torch.zeros(20, 8)
    one[:, 3] = 1
    assert prototype_usage(one) == (pytest.approx(0, abs=1e-6), 1)


def test_prototype_usage_is_the_entropy_of_the_mean_assignment() -> None:
    labels = torch.tensor([[0.6, 0.3, 0.1], [0.2, 0.1, 0.7]], dtype=torch.float64)
    mean = [0.4, 0.2, 0.4]
    assert prototype_usage(labels).entropy == pytest.approx(-sum(p * math.log(p) for p in mean) / math.log(3))
    assert prototype_usage(labels).num_used == 2


def test_distinct_matches_are_counted_within_a_picture() -> None:
    nearest = torch.tensor([[[0], [0], [1], [0]], [[3], [2], [1], [0]]])
    assert distinct_matches(nearest, 4) == pytest.approx((2 / 4 + 4 / 4) / 2)


def test_random_matches_reach_one_minus_one_over_e() -> None:
    nearest = torch.randint(147, (200, 147, 1), generator=torch.Generator().manual_seed(0))
    assert distinct_matches(nearest, 147) == pytest.approx(1 - 1 / math.e, abs=0.01)


def test_a_fresh_copy_is_at_distance_zero_and_a_moved_one_at_what_it_moved() -> None:
    method = SdAESettings(decoder=DECODER).build(small_vit())
    assert teacher_distance(method) == {"reconstruction_teacher": 0}
    learned = [p for p in method.student.parameters() if p.requires_grad]
    with torch.no_grad():
        for p in learned:
            p.mul_(2)
    assert teacher_distance(method)["reconstruction_teacher"] == pytest.approx(0.5)


def test_sdae_is_asked_for_the_constant_and_its_teacher() -> None:
    method = SdAESettings(decoder=DECODER).build(small_vit())
    output = step_of(method)
    values = monitor(method, output, 16)
    assert set(values) == {
        "reconstruction_loss",
        "position_constant_loss",
        "position_constant_share",
        "reconstruction_teacher_distance",
    }
    assert values["reconstruction_loss"] == pytest.approx(output.loss.item())
    assert values["position_constant_share"] == pytest.approx(1 - values["position_constant_loss"])


def test_mae_with_its_target_is_asked_for_the_constant_in_squared_error() -> None:
    method = MAESettings(decoder=DECODER).build(small_vit())
    output = step_of(method)
    assert "reconstruction_teacher_distance" not in monitor(method, output, 16)
    ids = output.seen["ids_mask"]
    target = torch.randn(16, 16)[ids] + 1e-3 * torch.randn(*ids.shape, 16)
    values = monitor(method, output._replace(seen=output.seen | {"target": target}), 16)
    assert values["position_constant_share"] == pytest.approx(1, abs=0.05)
    assert values["reconstruction_loss"] == pytest.approx(output.loss.item())


def test_pseudomae_loses_exactly_the_entropy_of_its_labels() -> None:
    method = small_pseudomae()
    output = step_of(method)
    values = monitor(method, output, 16)
    classes = output.seen["class_labels"].mean(1).double().numpy()
    patches = output.seen["patch_labels"].double().numpy()
    nearest = output.seen["nearest"].numpy()
    matched = np.stack([patches[b, nearest[b, :, 0]] for b in range(len(patches))])
    for kind, target in (("class", classes), ("patch", matched)):
        entropy = -(target * np.log(np.maximum(target, 1e-300))).sum(-1).mean()
        assert values[f"{kind}_kl"] == pytest.approx(output.parts[kind].item() - entropy, abs=1e-5)
        assert values[f"{kind}_gain"] == pytest.approx(math.log(8) - output.parts[kind].item(), abs=1e-5)
        assert 1 <= values[f"{kind}_prototypes_used"] <= 8
    assert 0 < values["distinct_matches"] <= 1
    assert {"labelling_teacher_distance", "reconstruction_teacher_distance"} <= set(values)
    assert all(math.isfinite(value) for value in values.values())


def test_guesses_are_told_by_how_many_are_sure_and_right_and_how_evenly_they_are_spread() -> None:
    """Four guesses, 3 x class 0 and 1 x class 1, of four classes: entropy (3/4 ln 4/3 + 1/4 ln 4) / ln 4."""
    classes = torch.tensor([0, 0, 0, 1])
    seen = {
        "guesses": classes,
        "sure": torch.tensor([True, True, False, True]),
        "guessed_labels": torch.tensor([0, 1, 0, -1]),
        "logits": torch.zeros(2, 4),
        "labels": torch.tensor([-1, -1]),
    }
    method = MAESettings(decoder=DECODER).build(small_vit())
    found = monitor(method, Output(torch.tensor(0.0), {}, seen), 16)
    assert found["sure_share"] == 0.75 and found["sure_accuracy"] == 0.5
    assert found["guess_entropy"] == pytest.approx((0.75 * math.log(4 / 3) + 0.25 * math.log(4)) / math.log(4))
