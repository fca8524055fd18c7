"""Which losses count as gone wrong, from the definition: median, deviation, share, window."""

import math
import random
from statistics import median

import pytest

from tutelage.engine.guard import Guard, GuardSettings


def judged(guard: Guard, losses: list[float], first: int = 1) -> list[str]:
    return [guard.judge(step, loss, applied=math.isfinite(loss)) for step, loss in enumerate(losses, first)]


def noisy(count: int, seed: int = 0, level: float = 1.0) -> list[float]:
    rng = random.Random(seed)
    return [level + rng.gauss(0, 0.02) for _ in range(count)]


@pytest.mark.parametrize("seed", range(5))
def test_a_loss_spikes_beyond_both_deviations_and_share(seed: int) -> None:
    """The formula, written again: x - m > max(10 * 1.4826 MAD, 0.5 |m|)."""
    before = noisy(50, seed, level=0.4)
    middle = median(before)
    mad = median(abs(x - middle) for x in before)
    edge = middle + max(10 * 1.4826 * mad, 0.5 * middle)
    for loss, expected in ((edge - 1e-9, "good"), (edge + 1e-9, "spike")):
        guard = Guard(GuardSettings())
        judged(guard, before)
        assert guard.judge(51, loss, applied=True) == expected


def test_losses_that_fall_drift_or_jump_by_a_third_are_no_spikes() -> None:
    falling = [5 * 0.99**step for step in range(400)]
    drifting = [1 + 0.004 * step for step in range(400)]
    jumping = [1.0 + 0.3 * (step // 100 % 2) + 0.01 * math.sin(step) for step in range(400)]
    for losses in (falling, drifting, jumping, noisy(400)):
        assert set(judged(Guard(GuardSettings()), losses)) == {"good"}


def test_a_new_level_is_accepted_once_most_of_the_window_has_it() -> None:
    guard = Guard(GuardSettings(doubtful=100, window=50))
    judged(guard, noisy(50))
    told = judged(guard, noisy(60, level=2.0), first=51)
    assert told[:20] == ["spike"] * 20
    assert told[-30:] == ["good"] * 30


def test_ten_doubtful_steps_among_fifty_are_too_many_and_nine_are_not() -> None:
    guard = Guard(GuardSettings())
    judged(guard, [float("nan") if step % 5 == 0 else 1.0 for step in range(1, 50)])
    assert len(guard.doubts) == 9 and not guard.lost
    guard.judge(50, float("inf"), applied=False)
    assert guard.lost and list(guard.doubts) == list(range(5, 51, 5))


def test_doubts_are_forgotten_after_a_window() -> None:
    guard = Guard(GuardSettings())
    judged(guard, [float("nan")] * 9 + [1.0] * 50)
    assert not guard.doubts


def test_a_return_halves_the_learning_rate_and_looks_afresh() -> None:
    guard = Guard(GuardSettings())
    judged(guard, noisy(50) + [float("nan")] * 10)
    assert guard.lost and guard.lr_factor == 1
    guard.went_back()
    assert (guard.rollbacks, guard.lr_factor, guard.lost) == (1, 0.5, False)
    assert guard.judge(61, 1000.0, applied=True) == "good", "what is usual is not known yet"
    guard.went_back()
    assert guard.lr_factor == 0.25


@pytest.mark.parametrize("stop_at", [3, 49, 50, 55, 59])
def test_a_resumed_guard_judges_as_one_that_was_not_stopped(stop_at: int) -> None:
    losses = [*noisy(50), 3.0, 1.0, float("nan"), 3.1, 0.2, 3.0, 1.0, 3.0, 3.0, 3.0, *noisy(40)]
    whole = Guard(GuardSettings())
    expected = judged(whole, losses)
    first = Guard(GuardSettings())
    told = judged(first, losses[:stop_at])
    second = Guard(GuardSettings())
    second.restore(first.state())
    assert told + judged(second, losses[stop_at:], first=stop_at + 1) == expected
    assert second.state() == whole.state()
    assert "spike" in expected and "skipped" in expected


def test_another_stage_of_a_method_is_no_spike_and_a_spike_in_it_is_one() -> None:
    """Semi-MAE's loss rises tenfold when it begins to learn from guesses: it is made of more parts then."""
    guard, first, then = Guard(GuardSettings()), ("loss", "labelled"), ("loss", "labelled", "unlabelled")
    for step, loss in enumerate(noisy(60), 1):
        assert guard.judge(step, loss, applied=True, parts=first) == "good"
    for step, loss in enumerate(noisy(60, level=12.0), 61):
        assert guard.judge(step, loss, applied=True, parts=then) == "good"
    assert guard.judge(121, 40.0, applied=True, parts=then) == "spike"
    resumed = Guard(GuardSettings())
    resumed.restore(guard.state())
    assert (
        resumed.judge(122, 40.0, applied=True, parts=then)
        == guard.judge(122, 40.0, applied=True, parts=then)
        == "spike"
    )
