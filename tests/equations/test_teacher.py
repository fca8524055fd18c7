"""How teachers move and how they begin: oracles 47, 49 and 51, A4."""

import copy

import pytest
import torch
from torch import Tensor, nn

from equations.tiny import START, batch, build, pseudomae, sdae, shake, tiny_vit
from tutelage.clock import Clock, CosineMomentum
from tutelage.encoder import encode
from tutelage.teacher import EMATeacher, TeacherSettings


def constant(momentum: float, every: str | int = "step", **changes: str) -> TeacherSettings:
    return TeacherSettings(every=every, momentum=CosineMomentum(start=momentum, end=momentum), **changes)


def state(module: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().clone() for name, p in module.named_parameters()}


def equal(a: dict[str, Tensor], b: dict[str, Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def ticked(steps: int) -> Clock:
    clock = Clock(batch_size=2, num_pictures=6, total_steps=12)
    for _ in range(steps):
        clock = clock.tick()
    return clock


def test_without_momentum_the_teacher_is_the_student() -> None:
    """Oracle 47."""
    vit = tiny_vit()
    teacher = EMATeacher(constant(0.0), encoder=vit)
    shake(vit)
    assert teacher.update(ticked(1), encoder=vit)
    for name, p in state(teacher.encoder).items():
        torch.testing.assert_close(p, vit.get_parameter(name).detach(), rtol=0, atol=1e-12)


def test_with_full_momentum_the_teacher_never_changes() -> None:
    """Oracle 47."""
    vit = tiny_vit()
    teacher = EMATeacher(constant(1.0), encoder=vit)
    before = state(teacher)
    shake(vit)
    teacher.update(ticked(1), encoder=vit)
    assert equal(state(teacher), before)


def test_n_moves_towards_a_constant_student_decay_geometrically() -> None:
    """Oracle 47: m^n theta_0 + (1 - m^n) theta_s, for every parameter, class token and norms among them."""
    vit = tiny_vit()
    teacher = EMATeacher(constant(0.9), encoder=vit)
    start = state(teacher.encoder)
    shake(vit)
    for step in range(1, 8):
        teacher.update(ticked(step), encoder=vit)
    student, end = state(vit), state(teacher.encoder)
    for name in start:
        expected = 0.9**7 * start[name] + (1 - 0.9**7) * student[name]
        torch.testing.assert_close(end[name], expected, rtol=0, atol=1e-10)
    changed = {name for name in start if not torch.equal(start[name], end[name])}
    assert set(start) - changed == {"pos_embed"}


def test_each_move_takes_the_momentum_of_its_time() -> None:
    vit = tiny_vit()
    settings = TeacherSettings(every="step", momentum=CosineMomentum(start=0.5, end=1.0))
    teacher = EMATeacher(settings, encoder=vit)
    clock, theta = START, state(teacher.encoder)["cls_token"]
    for t in range(12):
        shake(vit)
        clock = clock.tick()
        teacher.update(clock, encoder=vit)
        m = settings.momentum(t / 12)
        theta = m * theta + (1 - m) * vit.cls_token.detach()
        torch.testing.assert_close(teacher.encoder.cls_token.detach(), theta, rtol=0, atol=1e-12)
    assert int(teacher.num_moves) == 12


def test_the_epoch_teacher_moves_only_on_the_last_step_of_an_epoch() -> None:
    """Oracle 49: bit for bit constant in between, while the step teacher moves every time."""
    method = build(pseudomae())
    clock = START  # 3 steps an epoch
    rec, label = [], []
    for _ in range(9):
        before = state(method.reconstruction_teacher), state(method.labelling_teacher)
        shake(method.student)
        shake(method.head)
        clock = clock.tick()
        method.after_step(clock)
        rec.append(not equal(before[0], state(method.reconstruction_teacher)))
        label.append(not equal(before[1], state(method.labelling_teacher)))
    assert rec == [False, False, True] * 3
    assert label == [True] * 9


def test_an_epoch_that_ends_within_a_batch_moves_the_teacher_after_it() -> None:
    vit = tiny_vit()
    teacher = EMATeacher(constant(0.5, "epoch"), encoder=vit)
    clock, moved = Clock(batch_size=4, num_pictures=10, total_steps=8), []
    for _ in range(8):
        clock = clock.tick()
        moved.append(teacher.update(clock, encoder=vit))
    assert [step for step, did in enumerate(moved, 1) if did] == [3, 5, 8]


def test_a_skipped_step_moves_no_step_teacher_and_delays_an_epoch_teacher() -> None:
    """Oracle 49: a step whose gradient was not finite ticks the clock, but is no update."""
    vit = tiny_vit()
    step, epoch = EMATeacher(constant(0.5), encoder=vit), EMATeacher(constant(0.5, "epoch"), encoder=vit)
    clock, moved = START, []
    for applied in (True, True, False, True, True):  # the third ends the epoch
        shake(vit)
        clock = clock.tick(applied=applied)
        moved.append((step.update(clock, encoder=vit), applied and epoch.update(clock, encoder=vit)))
    assert moved == [(True, False), (True, False), (False, False), (True, True), (True, False)]


def test_a_second_call_at_the_same_clock_moves_nothing() -> None:
    vit = tiny_vit()
    teacher, clock = EMATeacher(constant(0.5), encoder=vit), START.tick()
    shake(vit)
    assert teacher.update(clock, encoder=vit)
    before = state(teacher)
    assert not teacher.update(clock, encoder=vit)
    assert equal(before, state(teacher))


def test_accumulated_micro_batches_do_not_move_a_teacher() -> None:
    """Oracle 49: forward and backward leave both teachers alone; only a ticked clock moves them."""
    method = build(pseudomae())
    before = state(method.reconstruction_teacher), state(method.labelling_teacher)
    for seed in (1, 2):
        method(batch(method, seed=seed), START).loss.backward()
    method.after_step(START)
    assert equal(before[0], state(method.reconstruction_teacher))
    assert equal(before[1], state(method.labelling_teacher))


def test_a_teacher_of_every_n_updates_moves_every_n_updates() -> None:
    vit = tiny_vit()
    teacher = EMATeacher(constant(0.5, 4), encoder=vit)
    moved = [teacher.update(ticked(step), encoder=vit) for step in range(1, 13)]
    assert [step for step, did in enumerate(moved, 1) if did] == [4, 8, 12]


# --- how they begin ---------------------------------------------------------------------------------------------------


def test_a_copied_teacher_encodes_as_its_student() -> None:
    """Oracle 51."""
    method = build(sdae(), trained=False, drop_path=0.3)
    assert equal(state(method.reconstruction_teacher.encoder), state(method.student))
    x = batch(method)["train"].views[0]
    method.eval()
    assert torch.equal(encode(method.student, x).patches, encode(method.reconstruction_teacher.encoder, x).patches)


@pytest.mark.parametrize("positions", ["shared", "ema"])
def test_an_independent_teacher_begins_elsewhere_with_the_positions_of_the_setting(positions: str) -> None:
    """Oracle 51, A4."""
    settings = constant(0.5, init="independent", positions=positions)
    method = build(sdae(reconstruction_teacher=settings), trained=False)
    student, teacher = state(method.student), state(method.reconstruction_teacher.encoder)
    same = {name for name in student if torch.equal(student[name], teacher[name])}
    weights = {name for name in student if name.endswith("weight") and "norm" not in name}
    assert not same & weights
    assert ("pos_embed" in same) == (positions == "shared")
    # Its positions follow: they stay the student's, or move towards them.
    before = (teacher["pos_embed"] - student["pos_embed"]).norm()
    method.reconstruction_teacher.update(ticked(1), encoder=method.student)
    after = (method.reconstruction_teacher.encoder.pos_embed - student["pos_embed"]).norm()
    torch.testing.assert_close(after, before / 2)
    assert (before == 0) == (positions == "shared")


def test_an_independent_teacher_has_timms_narrow_initial_weights() -> None:
    """A4: truncated normal 0.02, as the encoder of SdAE's code begins."""
    method = build(sdae(reconstruction_teacher=constant(0.5, init="independent", positions="ema")), trained=False)
    vit = method.reconstruction_teacher.encoder
    assert abs(vit.blocks[0].mlp.fc1.weight.std().item() / 0.02 - 1) < 0.1
    assert abs(vit.pos_embed.std().item() / 0.02 - 1) < 0.1


def test_a_teachers_memory_is_its_own() -> None:
    vit = tiny_vit()
    teacher = EMATeacher(constant(0.5), encoder=vit)
    before = state(teacher)
    shake(vit)
    assert equal(before, state(teacher))


def test_teachers_take_no_gradient_and_stay_in_eval_mode() -> None:
    """Oracle 44."""
    method = build(pseudomae(), drop_path=0.5).train()
    assert method.student.training
    for teacher in method.teachers.values():
        assert not any(p.requires_grad for p in teacher.parameters())
        assert not any(module.training for module in teacher.modules())
    data = batch(method)
    once, again = (method(data, START).seen for _ in range(2))
    assert not torch.equal(once["prediction"], again["prediction"])
    assert torch.equal(once["target"], again["target"])
    assert torch.equal(once["patch_labels"], again["patch_labels"])


def test_teachers_survive_a_deep_copy_and_a_state_dict() -> None:
    method = build(pseudomae())
    method.after_step(START.tick())
    other = build(pseudomae())
    other.load_state_dict(method.state_dict())
    assert equal(state(other), state(method))
    assert int(other.labelling_teacher.num_moves) == 1
    assert not copy.deepcopy(method).train().labelling_teacher.encoder.training
