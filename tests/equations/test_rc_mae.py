"""RC-MAE's two losses, its teacher, and what ties it to MAE: oracle 16."""

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from equations import formulas
from equations.tiny import (
    DEPTH,
    HEADS,
    PATCH,
    PATCHES,
    START,
    VISIBLE,
    batch,
    build,
    disturbed,
    gradients,
    mae,
    rc_mae,
)
from tutelage.clock import Clock, CosineMomentum
from tutelage.masking import random_mask
from tutelage.teacher import TeacherSettings


def rebuilt(x: np.ndarray, key: np.ndarray, encoder: formulas.Weights, decoder: formulas.Weights) -> np.ndarray:
    """Every patch as one masked autoencoder predicts it."""
    keep = np.argsort(key)[:VISIBLE]
    z = formulas.encode(x, keep, encoder, patch=PATCH, depth=DEPTH, heads=HEADS)
    return formulas.decode(z, keep, decoder, num_patches=PATCHES, depth=2, heads=4)[1:]


@pytest.mark.parametrize("teacher_mask", ["same", "different"])
def test_rc_mae_loss_equals_the_papers_formula_on_shared_weights(teacher_mask: str) -> None:
    """L_r + gamma L_c: the pixels, and the teacher's reconstruction, of the patches hidden from the student."""
    method = build(rc_mae(teacher_mask=teacher_mask, consistency_weight=0.7))
    data = batch(method)
    (x,), keys, others = data["train"].views, data["train"].keys[0], data["train"].keys[-1]
    student = formulas.weights_of(method.student), formulas.weights_of(method.decoder)
    nets = method.consistency_teacher.nets
    teacher = formulas.weights_of(nets["encoder"]), formulas.weights_of(nets["decoder"])
    reconstruction, consistency = [], []
    for picture, key, other in zip(x.numpy(), keys.numpy(), others.numpy(), strict=True):
        y = rebuilt(picture, key, *student)
        c = rebuilt(picture, key if teacher_mask == "same" else other, *teacher)
        t = formulas.standardise(formulas.patches(picture, PATCH))
        for i in np.argsort(key)[VISIBLE:]:
            reconstruction.append(((y[i] - t[i]) ** 2).mean())
            consistency.append(((y[i] - c[i]) ** 2).mean())
    out = method(data, START)
    assert out.parts["reconstruction"].item() == pytest.approx(np.mean(reconstruction), abs=1e-10)
    assert out.parts["consistency"].item() == pytest.approx(np.mean(consistency), abs=1e-10)
    assert out.loss.item() == pytest.approx(np.mean(reconstruction) + 0.7 * np.mean(consistency), abs=1e-10)


def test_without_the_consistency_loss_it_is_mae() -> None:
    """Oracle 16: loss and gradients, bit for bit, from the same weights."""
    rc, plain = build(rc_mae(consistency_weight=0.0)), build(mae())
    plain.student.load_state_dict(rc.student.state_dict())
    plain.decoder.load_state_dict(rc.decoder.state_dict())
    data = batch(rc)
    ours, theirs = rc(data, START), plain({"train": batch(plain)["train"]}, START)
    assert ours.parts["reconstruction"].item() == theirs.loss.item() == ours.loss.item()
    found, expected = gradients(rc, ours.loss), gradients(plain, theirs.loss)
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, rtol=0, atol=0)


def test_a_fresh_teacher_agrees_exactly_and_one_with_another_mask_does_not() -> None:
    """Oracle 16: the same weights, and the same visible patches."""
    same = build(rc_mae(), trained=False)
    assert same(batch(same), START).parts["consistency"].item() == 0.0
    other = build(rc_mae(teacher_mask="different"), trained=False)
    assert other(batch(other), START).parts["consistency"].item() > 1e-4


def test_a_teacher_without_memory_agrees_after_every_step() -> None:
    """Oracle 16: momentum 0 makes the teacher the student."""
    every_step = TeacherSettings(every="step", momentum=CosineMomentum(start=0.0, end=0.0))
    method = build(rc_mae(consistency_teacher=every_step))
    assert method(batch(method), START).parts["consistency"].item() > 1e-4
    method.after_step(START.tick())
    assert method(batch(method), START).parts["consistency"].item() == 0.0


def test_neither_network_sees_a_hidden_patch() -> None:
    """Oracle 11: noise in the hidden patches changes the target, not what student and teacher rebuild."""
    method = build(rc_mae())
    data = batch(method)
    (x,), keys = data["train"].views, data["train"].keys
    hidden = random_mask(keys[0], 0.75).ids_mask
    before = method(data, START).seen
    noisy = type(data["train"])((disturbed(x, hidden),), keys, data["train"].labels, data["train"].indices)
    after = method({"train": noisy}, START).seen
    torch.testing.assert_close(after["pixels"], before["pixels"], rtol=0, atol=0)
    torch.testing.assert_close(after["teacher_pixels"], before["teacher_pixels"], rtol=0, atol=0)
    assert not torch.equal(after["target"], before["target"])


def test_gradients_stop_at_the_teacher_which_follows_encoder_and_decoder() -> None:
    method = build(rc_mae())
    names = gradients(method, method(batch(method), START).loss)
    assert not any(name.startswith("consistency_teacher") for name in names)
    assert any(name.startswith("decoder.") for name in names)
    before = {name: value.clone() for name, value in method.consistency_teacher.nets.state_dict().items()}
    method.after_step(START.tick())
    students = {"encoder": method.student.state_dict(), "decoder": method.decoder.state_dict()}
    for name, value in method.consistency_teacher.nets.state_dict().items():
        net, _, key = name.partition(".")
        expected = 0.996 * before[name] + 0.004 * students[net][key]
        torch.testing.assert_close(value, expected, rtol=0, atol=1e-12)


def test_the_run_hands_on_the_teacher_or_by_choice_the_student() -> None:
    method = build(rc_mae())
    assert method.encoder is method.consistency_teacher.encoder
    student = build(rc_mae(hands_on="student"))
    assert student.encoder is student.student


def test_the_published_codes_schedule_begins_again_with_each_epoch() -> None:
    """It looks up the step within the epoch in a cosine as long as the run: the momentum hardly leaves its start."""
    momentum = CosineMomentum(start=0.9, end=1.0)
    settings = TeacherSettings(every="step", momentum=momentum, schedule="epoch")
    clock = Clock(batch_size=4, num_pictures=20, total_steps=50)
    found = []
    method = build(rc_mae(consistency_teacher=settings))
    weight = method.consistency_teacher.nets["decoder"].predict.bias
    with torch.no_grad():
        method.decoder.predict.bias.fill_(1.0)
    for _ in range(50):
        clock = clock.tick()
        with torch.no_grad():
            weight.zero_()
        method.after_step(clock)
        found.append(1 - weight[0].item())  # 0 m + 1 (1 - m)
    expected = [1.0 + 0.5 * (0.9 - 1.0) * (1 + np.cos(np.pi * (i % 5) / 50)) for i in range(50)]
    assert found == pytest.approx(expected, abs=1e-12)


def test_steps_within_an_epoch_are_counted_from_its_first() -> None:
    """Where a batch straddles two epochs, its step belongs to the one that it begins in."""
    clock, found = Clock(batch_size=3, num_pictures=10, total_steps=20), []
    for _ in range(8):
        clock = clock.tick()
        found.append(clock.within_epoch.step)
    assert found == [1, 2, 3, 4, 1, 2, 3, 1]  # steps begin at pictures 0 3 6 9 | 12 15 18 | 21


def test_a_teacher_that_moves_once_an_epoch_has_no_schedule_within_it() -> None:
    with pytest.raises(ValidationError, match="moves within it"):
        TeacherSettings(every="epoch", momentum=CosineMomentum(start=0.9, end=1.0), schedule="epoch")
