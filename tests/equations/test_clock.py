"""The clock, the cadences of teachers and the schedules: oracles 48 and 62, A18."""

import math
from itertools import pairwise

import numpy as np
import pytest

from tutelage.clock import Clock, CosineMomentum, LinearRamp, move_fraction, moves, total_steps, warmup_cosine


def walk(clock: Clock) -> list[Clock]:
    """The clock before every step of a run, and at its end."""
    clocks = [clock]
    while not clocks[-1].done:
        clocks.append(clocks[-1].tick())
    return clocks


def test_an_epoch_is_a_number_of_pictures_and_a_batch_may_straddle_it() -> None:
    epochs = [c.epoch for c in walk(Clock(batch_size=4, num_pictures=10, total_steps=8))]
    assert epochs == [4 * step // 10 for step in range(9)] == [0, 0, 0, 1, 1, 2, 2, 2, 3]


@pytest.mark.parametrize(
    ("pictures", "batch", "epochs"), [(10, 4, 3), (10, 5, 2), (7, 7, 1), (10, 4, 0.5), (60000, 256, 300)]
)
def test_the_steps_of_a_run_are_the_fewest_that_consume_its_epochs(pictures: int, batch: int, epochs: float) -> None:
    steps = total_steps(pictures, batch, epochs)
    assert steps * batch >= epochs * pictures > (steps - 1) * batch
    assert Clock(batch, pictures, steps).total_epochs == max(1, int(epochs))


def test_a_skipped_step_counts_as_a_step_and_not_as_an_update() -> None:
    clock = Clock(4, 10, 8).tick().tick(applied=False).tick()
    assert (clock.step, clock.updates) == (3, 2)
    assert clock.fraction == 3 / 8


def test_an_epoch_teachers_schedule_starts_at_096_and_ends_below_099() -> None:
    """Oracle 48: m_e = 0.99 + (0.96 - 0.99) (1 + cos(pi e / E)) / 2, e = 0 .. E - 1."""
    schedule, clocks = CosineMomentum(start=0.96, end=0.99), walk(Clock(batch_size=4, num_pictures=8, total_steps=60))
    ends = [c for before, c in pairwise(clocks) if c.epoch > before.epoch]
    found = [schedule(move_fraction("epoch", c)) for c in ends]
    expected = [0.99 + 0.5 * (0.96 - 0.99) * (1 + math.cos(math.pi * e / 30)) for e in range(30)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0] == pytest.approx(0.96, abs=1e-12)
    assert found[-1] < 0.99
    assert (np.diff(found) > 0).all()


def test_a_step_teachers_schedule_starts_at_0996_and_ends_below_1() -> None:
    """Oracle 48: m_t = 1 + (0.996 - 1) (1 + cos(pi t / T)) / 2, t = 0 .. T - 1."""
    schedule, clocks = CosineMomentum(start=0.996, end=1.0), walk(Clock(batch_size=4, num_pictures=8, total_steps=60))
    found = [schedule(move_fraction("step", c)) for c in clocks[1:]]
    expected = [1 + 0.5 * (0.996 - 1) * (1 + math.cos(math.pi * t / 60)) for t in range(60)]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found[0] == pytest.approx(0.996, abs=1e-12)
    assert found[-1] < 1
    assert (np.diff(found) > 0).all()


def test_the_last_of_half_a_million_steps_still_moves_the_teacher() -> None:
    """Oracle 48: 1 - 4e-14."""
    last = Clock(768, 1_281_167, 500_400, step=500_400, updates=500_400)
    momentum = CosineMomentum(start=0.996, end=1.0)(move_fraction("step", last))
    assert 1 - 1e-13 < momentum < 1


@pytest.mark.parametrize("n", [1, 3, 5, 7])
def test_a_teacher_of_every_n_updates_takes_the_schedule_over_its_moves(n: int) -> None:
    clocks = walk(Clock(batch_size=4, num_pictures=8, total_steps=23))
    due = [c for before, c in pairwise(clocks) if moves(n, c) > moves(n, before)]
    assert [c.step for c in due] == list(range(n, 24, n))
    np.testing.assert_allclose([move_fraction(n, c) for c in due], np.arange(23 // n) / (23 // n))


@pytest.mark.parametrize(("steps", "interval"), [(3000, 10), (1000, 3), (100, 1)])
def test_a_teacher_of_a_300th_of_the_run_moves_as_often_as_one_of_300_epochs(steps: int, interval: int) -> None:
    """The small-data rule of methods 1.10: every max(1, T / 300) steps."""
    run = Clock(batch_size=4, num_pictures=8, total_steps=steps)
    due = [c.step for before, c in pairwise(walk(run)) if moves("run/300", c) > moves("run/300", before)]
    assert due == list(range(interval, steps + 1, interval))


def test_moves_are_counted_in_updates_or_in_epochs() -> None:
    """Oracle 49."""
    clock = Clock(4, 10, 20, step=11, updates=9)
    assert (moves("step", clock), moves("epoch", clock), moves(4, clock)) == (9, 4, 2)


# --- schedules --------------------------------------------------------------------------------------------------------


def test_the_learning_rate_warms_up_from_0_peaks_and_ends_at_its_floor() -> None:
    """Oracle 62; the peak itself, base rate x batch / 256, is the engine's."""
    run = Clock(batch_size=4, num_pictures=40, total_steps=100)  # 10 steps an epoch
    rates = [warmup_cosine(c, peak=8e-4, floor=1e-6, warmup_epochs=2) for c in walk(run)]
    assert rates[0] == 0
    assert rates[20] == 8e-4 == max(rates)
    assert rates[100] == pytest.approx(1e-6, abs=1e-15)
    for step, rate in enumerate(rates):
        if step < 20:
            expected = 8e-4 * step / 20
        else:
            expected = 1e-6 + (8e-4 - 1e-6) * (1 + math.cos(math.pi * (step - 20) / 80)) / 2
        assert rate == pytest.approx(expected, abs=1e-15)


def test_without_a_warmup_the_learning_rate_starts_at_its_peak() -> None:
    assert warmup_cosine(Clock(4, 40, 100), peak=1.0, floor=0.0, warmup_epochs=0) == 1.0


@pytest.mark.parametrize(("total_epochs", "length"), [(300, 30), (100, 10), (1000, 30)])
def test_the_teachers_temperature_rises_over_30_epochs_or_a_tenth_of_the_run(total_epochs: int, length: int) -> None:
    """A18."""
    ramp = LinearRamp(start=0.04, end=0.07, epochs=30)
    run = Clock(batch_size=10, num_pictures=20, total_steps=2 * total_epochs)
    for clock in walk(run):
        expected = 0.04 + 0.03 * min(1.0, clock.step / 2 / length)
        assert ramp(clock) == pytest.approx(expected, abs=1e-12)


def test_a_ramp_of_no_length_is_a_constant() -> None:
    assert LinearRamp(start=0.04, end=0.05, epochs=0)(Clock(4, 40, 100)) == 0.05
