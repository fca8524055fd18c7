"""Weak supervision: the loss against the formula and its limits (oracle 60), and the head that reads the pictures."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from equations import formulas
from equations.tiny import DEPTH, HEADS, PATCH, PATCHES, START, gradients, pictures, shake, tiny_vit
from tutelage.batch import Batch
from tutelage.data.streams import _padded
from tutelage.errors import DataError
from tutelage.losses import tag_cross_entropy
from tutelage.method import Method
from tutelage.methods.weakly_supervised import WeaklySupervisedSettings
from tutelage.monitors import tagged

CLASSES = 5


def weakly_supervised(**settings: object) -> Method:
    method = WeaklySupervisedSettings(**settings).build(tiny_vit(), CLASSES).double()
    shake(method)
    return method


def rows(*tags: list[int]) -> torch.Tensor:
    padded = _padded([np.array(numbers, dtype=np.int64) for numbers in tags])
    assert padded is not None
    return padded


def batch(*tags: list[int], seed: int = 1) -> dict[str, Batch]:
    b = len(tags)
    labels = torch.full((b,), -1)
    return {"train": Batch((pictures(b, seed),), (torch.rand(b, PATCHES),), labels, torch.arange(b), tags=rows(*tags))}


def formula(logits: np.ndarray, tags: list[int]) -> float:
    """- sum_c q_c log p_c with q = y / sum(y), y the multi-hot tags."""
    y = np.zeros(CLASSES)
    y[tags] = 1
    q = y / y.sum()
    assert q.sum() == pytest.approx(1)
    return -(q * np.log(formulas.softmax(logits))).sum()


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_loss_is_the_cross_entropy_with_the_uniform_distribution_over_the_tags(pool: str) -> None:
    method, tags = weakly_supervised(pool=pool), [[3], [0, 1, 4], [2, 4]]
    data = batch(*tags)
    encoder, head = formulas.weights_of(method.student), formulas.weights_of(method.head)
    losses = []
    for picture, numbers in zip(data["train"].views[0].numpy(), tags, strict=True):
        z = formulas.encode(picture, np.arange(PATCHES), encoder, patch=PATCH, depth=DEPTH, heads=HEADS)
        pooled = z[0] if pool == "token" else z[1:].mean(0)
        losses.append(formula(head["weight"] @ pooled + head["bias"], numbers))
    out = method(data, START)
    assert out.loss.item() == pytest.approx(np.mean(losses), abs=1e-10)
    assert out.parts == {"cross_entropy": out.loss}


def test_one_tag_is_plain_cross_entropy() -> None:
    logits, labels = torch.randn(6, CLASSES, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 4, 0])
    wanted = F.cross_entropy(logits, labels)
    assert tag_cross_entropy(logits, labels[:, None]).item() == pytest.approx(wanted.item(), abs=1e-12)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_with_k_tags_the_least_loss_is_ln_k(k: int) -> None:
    tags = rows(list(range(k)))
    sure = torch.full((1, CLASSES), -60.0, dtype=torch.float64)
    sure[:, :k] = 0
    assert tag_cross_entropy(sure, tags).item() == pytest.approx(math.log(k), abs=1e-12)
    for seed in range(20):
        logits = 3 * torch.randn(1, CLASSES, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))
        assert tag_cross_entropy(logits, tags).item() >= math.log(k)


def test_gradient_is_the_softmax_minus_the_target() -> None:
    logits = torch.randn(2, CLASSES, dtype=torch.float64, requires_grad=True)
    tag_cross_entropy(logits, rows([1, 3], [2])).backward()
    q = torch.tensor([[0, 0.5, 0, 0.5, 0], [0, 0, 1.0, 0, 0]], dtype=torch.float64)
    assert torch.allclose(logits.grad, (logits.softmax(1) - q).detach() / 2, atol=1e-12)


def test_the_order_of_tags_and_what_fills_a_row_do_not_count() -> None:
    logits = torch.randn(1, CLASSES)
    one, two = torch.tensor([[1, 3]]), torch.tensor([[3, 1, -1, -1]])
    assert tag_cross_entropy(logits, one).item() == pytest.approx(tag_cross_entropy(logits, two).item(), abs=1e-7)


def test_pictures_without_a_tag_do_not_count() -> None:
    method = weakly_supervised()
    data = batch([2], [], [4, 0], [])["train"]
    known = torch.tensor([0, 2])
    assert data.tags is not None
    rest = Batch(
        (data.views[0][known],), (data.keys[0][known],), data.labels[known], data.indices[known], tags=data.tags[known]
    )
    some, few = method({"train": data}, START).loss, method({"train": rest}, START).loss
    assert some.item() == pytest.approx(few.item(), abs=1e-12)


def test_a_batch_without_tags_has_a_loss_and_gradients_of_zero() -> None:
    method = weakly_supervised()
    out = method(batch([], []), START)
    assert out.loss.item() == 0
    assert all(bool((g == 0).all()) for g in gradients(method, out.loss).values())


def test_right_is_whose_most_probable_class_is_one_of_its_tags() -> None:
    logits = torch.eye(4)[[0, 1, 2, 3]] * 5
    found = tagged(logits, rows([0, 2], [0], [2], []))
    assert found["classifier_accuracy"] == pytest.approx(2 / 3)
    assert found["cross_entropy"] == pytest.approx(
        tag_cross_entropy(logits, rows([0, 2], [0], [2], [])).item(), abs=1e-6
    )
    assert tagged(logits, rows([], [], [], [])) == {}


def test_pictures_with_one_class_of_tags_are_refused() -> None:
    with pytest.raises(DataError, match="D-17"):
        WeaklySupervisedSettings().check_classes("photos", 1)
