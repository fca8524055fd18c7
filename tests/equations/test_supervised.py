"""The supervised control: its loss against the formula, and pictures without a label."""

import numpy as np
import pytest
import torch

from equations import formulas
from equations.tiny import DEPTH, HEADS, PATCH, PATCHES, START, gradients, pictures, shake, tiny_vit
from tutelage.batch import Batch
from tutelage.errors import DataError
from tutelage.method import Method
from tutelage.methods.supervised import SupervisedSettings, cross_entropy
from tutelage.monitors import classified

CLASSES = 5


def supervised(**settings: object) -> Method:
    method = SupervisedSettings(**settings).build(tiny_vit(), CLASSES).double()
    shake(method)
    return method


def batch(labels: list[int], seed: int = 1) -> dict[str, Batch]:
    b = len(labels)
    keys = torch.rand(b, PATCHES)
    return {"train": Batch((pictures(b, seed),), (keys,), torch.tensor(labels), torch.arange(b))}


def formula(logits: np.ndarray, label: int, smoothing: float) -> float:
    q = np.full(CLASSES, smoothing / CLASSES)
    q[label] += 1 - smoothing
    return -(q * np.log(formulas.softmax(logits))).sum()


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("pool", ["token", "avg"])
def test_loss_is_the_cross_entropy_of_a_linear_classifier_on_the_whole_picture(pool: str, smoothing: float) -> None:
    method = supervised(pool=pool, label_smoothing=smoothing)
    labels = [3, 0, 4]
    data = batch(labels)
    encoder, head = formulas.weights_of(method.student), formulas.weights_of(method.head)
    losses = []
    for picture, label in zip(data["train"].views[0].numpy(), labels, strict=True):
        z = formulas.encode(picture, np.arange(PATCHES), encoder, patch=PATCH, depth=DEPTH, heads=HEADS)
        pooled = z[0] if pool == "token" else z[1:].mean(0)
        losses.append(formula(head["weight"] @ pooled + head["bias"], label, smoothing))
    out = method(data, START)
    assert out.loss.item() == pytest.approx(np.mean(losses), abs=1e-10)
    assert out.parts == {"cross_entropy": out.loss}


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_pictures_without_a_label_do_not_count(smoothing: float) -> None:
    method = supervised(label_smoothing=smoothing)
    data = batch([2, -1, 4, -1])["train"]
    known = torch.tensor([0, 2])
    rest = Batch((data.views[0][known],), (data.keys[0][known],), data.labels[known], data.indices[known])
    some, few = method({"train": data}, START).loss, method({"train": rest}, START).loss
    assert some.item() == pytest.approx(few.item(), abs=1e-12)
    here, there = gradients(method, some), gradients(method, few)
    assert here.keys() == there.keys()
    for name, gradient in here.items():
        torch.testing.assert_close(gradient, there[name], atol=1e-12, rtol=1e-9)


def test_a_batch_without_any_label_costs_nothing_and_moves_nothing() -> None:
    method = supervised()
    loss = method(batch([-1, -1]), START).loss
    assert loss.item() == 0
    found = gradients(method, loss)
    assert found.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    assert all((gradient == 0).all() for gradient in found.values())


@pytest.mark.parametrize("pool", ["token", "avg"])
def test_every_parameter_learns(pool: str) -> None:
    method = supervised(pool=pool)
    found = gradients(method, method(batch([1, 2]), START).loss)
    assert found.keys() == {name for name, p in method.named_parameters() if p.requires_grad}
    assert all((gradient != 0).any() for gradient in found.values())


def test_half_precision_logits_are_compared_in_float32() -> None:
    logits = (3 * torch.randn(4, CLASSES, generator=torch.Generator().manual_seed(0))).bfloat16()
    labels = torch.tensor([0, 1, 2, 3])
    loss = cross_entropy(logits, labels)
    assert loss.dtype == torch.float32
    expected = np.mean([formula(row, k, 0.0) for k, row in enumerate(logits.double().numpy())])
    assert loss.item() == pytest.approx(expected, abs=1e-6)


def test_a_classifier_is_told_by_its_accuracy_and_cross_entropy() -> None:
    method = supervised()
    logits = method.logits(batch([0, 1, 2, 3])["train"].views[0])
    guessed = logits.argmax(1).tolist()
    labels = torch.tensor([guessed[0], guessed[1], (guessed[2] + 1) % CLASSES, guessed[3]])
    values = classified(logits, labels)
    assert values["classifier_accuracy"] == 0.75
    expected = np.mean([formula(row, k, 0.0) for row, k in zip(logits.detach().numpy(), labels.tolist(), strict=True)])
    assert values["cross_entropy"] == pytest.approx(expected, abs=1e-10)


@pytest.mark.parametrize(("shown", "told"), [(0, "have no labels"), (1, "all of one class")])
def test_data_without_two_classes_is_refused(shown: int, told: str) -> None:
    with pytest.raises(DataError, match=f"D-17: .*photos .*{told}"):
        SupervisedSettings().check_classes("photos", shown)
    SupervisedSettings().check_classes("photos", 2)
