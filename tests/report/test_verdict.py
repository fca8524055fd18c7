"""The verdict on synthetic runs, each made to show one thing."""

import math
from collections.abc import Callable
from typing import Any

import pytest

from tutelage.report.verdict import Mark, Row, State, Verdict, verdict

LABELS = {"method": {"name": "pseudomae", "head": {"prototypes": 512}}}
FINISHED = [{"event": "started", "step": 0}, {"event": "finished", "step": 1000}]


def run(loss: Callable[[float], float], *, steps: int = 1000, **parts: Callable[[float], float]) -> list[Row]:
    """Logged lines every 10 steps; each number is a function of the share of the run."""
    lines = []
    for step in range(10, steps + 1, 10):
        f = step / steps
        more = {name: value(f) for name, value in parts.items()}
        lines.append(
            {"step": step, "epoch": step / 50, "loss": loss(f), "lr": 1e-3, "data_wait": 0.02, "skipped": 0} | more
        )
    return lines


def asked(**values: Callable[[float], float]) -> list[Row]:
    """Ten answers of the monitors."""
    return [{"step": 100 * i, "epoch": 2.0 * i} | {n: v(i / 10) for n, v in values.items()} for i in range(1, 11)]


def falling(f: float) -> float:
    """Falls fast, and hardly in the last two fifths, as a cosine schedule does to a loss."""
    return 0.5 + 0.5 * (1 - min(1, f / 0.7)) ** 2


def healthy(**values: Callable[[float], float]) -> list[Row]:
    return asked(**({"rank_me": lambda f: 40.0, "feature_std": lambda f: 0.5} | values))


def marks(found: Verdict, word: str) -> list[Mark]:
    return [reason.mark for reason in found.reasons if word in reason.text]


def test_a_loss_that_has_settled_after_falling_is_healthy() -> None:
    found = verdict(run(falling), healthy(), {}, FINISHED)
    assert (found.state, found.mark) == ("healthy", "good")
    assert marks(found, "RankMe 40.0") == ["good"]


def test_a_loss_that_still_falls_is_still_improving() -> None:
    found = verdict(run(lambda f: 1 - 0.3 * f), healthy(), {}, FINISHED)
    assert (found.state, found.mark) == ("improving", "good")
    assert any("epochs" in reason.todo for reason in found.reasons)


def test_a_knn_that_still_rises_is_still_improving_even_where_the_loss_rises() -> None:
    found = verdict(run(lambda f: 0.2 + 0.1 * f), healthy(knn_accuracy=lambda f: 0.5 + 0.2 * f), {}, FINISHED)
    assert found.state == "improving"


def test_a_loss_that_never_moved_in_the_second_half_has_plateaued() -> None:
    found = verdict(run(lambda f: max(0.5, 1 - 5 * f)), healthy(knn_accuracy=lambda f: 0.7), {}, FINISHED)
    assert (found.state, found.mark) == ("plateaued", "note")


def test_equal_features_have_collapsed() -> None:
    found = verdict(run(falling), asked(rank_me=lambda f: 1.01, feature_std=lambda f: 1e-4), {}, FINISHED)
    assert (found.state, found.mark) == ("collapsed", "bad")
    assert marks(found, "RankMe 1.0") == marks(found, "Feature standard deviation 0.000") == ["bad"]


def test_the_narrow_features_of_a_young_encoder_have_not_collapsed() -> None:
    # As measured on digits: an MAE on its way from 76 to 80 % kNN accuracy.
    found = verdict(run(falling), asked(rank_me=lambda f: 1.44, feature_std=lambda f: 0.02), {}, FINISHED)
    assert found.state == "healthy"


def test_a_target_that_a_constant_explains_is_named() -> None:
    monitors = healthy(
        position_constant_share=lambda f: 0.944,
        position_constant_loss=lambda f: 0.056,
        reconstruction_loss=lambda f: 0.060,
    )
    found = verdict(run(falling), monitors, {}, FINISHED)
    assert (found.state, found.mark) == ("constant", "bad")
    assert found.reasons[0].mark == "bad"
    assert "94%" in found.reasons[0].text and "0.056" in found.reasons[0].text and "0.060" in found.reasons[0].text
    assert "target-norm" in found.reasons[0].todo


def test_a_target_that_a_constant_explains_in_part_is_not_blamed() -> None:
    monitors = healthy(position_constant_share=lambda f: 0.69, position_constant_loss=lambda f: 0.31)
    assert verdict(run(falling), monitors, {}, FINISHED).state == "healthy"


@pytest.mark.parametrize("kind", ["class", "patch"])
def test_a_label_loss_at_ln_of_the_prototypes_is_a_uniform_head(kind: str) -> None:
    found = verdict(run(falling, **{kind: lambda f: math.log(512) - 0.02}), healthy(), LABELS, FINISHED)
    assert (found.state, found.mark) == ("uniform", "bad")
    assert marks(found, "ln 512") == ["bad"]


@pytest.mark.parametrize(("weight", "other", "mark"), [(0.1, 2.0, "note"), (1.0, 2.0, "bad"), (0.1, 0.02, "bad")])
def test_flat_labels_that_weigh_little_are_noted_where_others_tell_something(
    weight: float, other: float, mark: str
) -> None:
    """Runs with flat class labels at a tenth of the weight, beside patch labels, were the best of all on glyphs."""
    losses = {"class": lambda f: math.log(512) - 0.02, "patch": lambda f: math.log(512) - other}
    method = {"head": {"prototypes": 512}, "class_weight": weight, "patch_weight": 0.01, "reconstruction_weight": 1.0}
    found = verdict(run(falling, **losses), healthy(), {"method": method}, FINISHED)
    assert marks(found, "The class label loss")[0] == mark
    assert found.state == ("uniform" if mark == "bad" else "healthy")


def test_flat_labels_are_told_from_a_flat_head() -> None:
    metrics = run(falling, **{"class": lambda f: math.log(512)})
    flat = verdict(metrics, healthy(class_kl=lambda f: 0.005), LABELS, FINISHED)
    sharp = verdict(metrics, healthy(class_kl=lambda f: 3.0), LABELS, FINISHED)
    assert "as flat" in flat.reasons[0].text and "teacher-temperature" in flat.reasons[0].todo
    assert "as flat" not in sharp.reasons[0].text


def test_a_label_loss_that_passed_ln_of_the_prototypes_is_fine() -> None:
    metrics = run(falling, **{"class": lambda f: math.log(512) + 0.2 - 2 * f})
    assert verdict(metrics, healthy(), LABELS, FINISHED).state == "healthy"


@pytest.mark.parametrize(("below", "state"), [(0.16, "uniform"), (0.6, "healthy")])
def test_a_twentieth_of_ln_of_the_prototypes_divides_flat_labels_from_those_that_tell(
    below: float, state: State
) -> None:
    found = verdict(run(falling, **{"class": lambda f: math.log(512) - below}), healthy(), LABELS, FINISHED)
    assert found.state == state


@pytest.mark.parametrize(
    ("spread", "used", "state", "mark"),
    [(0.0, 1, "one_label", ["bad"]), (0.45, 12, "healthy", ["note"]), (0.96, 94, "healthy", [])],
)
def test_labels_that_are_all_the_same_have_collapsed_though_their_loss_is_low(
    spread: float, used: int, state: State, mark: list[Mark]
) -> None:
    """As a softmax alone, centring and Sinkhorn left them in docs/results.md."""
    metrics = run(falling, **{"class": lambda f: 5.0 * (1 - f), "patch": lambda f: 3.0})
    monitors = healthy(class_prototype_entropy=lambda f: spread, class_prototypes_used=lambda f: used)
    found = verdict(metrics, monitors, LABELS, FINISHED)
    assert (found.state, marks(found, f"class labels fall on {used} of 512 prototypes")) == (state, mark)
    assert bool(marks(found, "The class label loss")) == (state != "one_label"), "a loss of 0 is no praise"
    assert marks(found, "The patch label loss") == ["good"]


@pytest.mark.parametrize(
    ("spread", "weight", "patches", "mark"),
    [
        (0.0, 0.1, 0.9, "note"),
        (0.0, 0.1, 0.1, "bad"),
        (0.0, 1.0, 0.9, "bad"),
        (0.24, 1.0, 0.9, "bad"),
        (0.26, 1.0, 0.9, "note"),
    ],
)
def test_collapsed_labels_that_weigh_little_are_noted_where_others_are_spread(
    spread: float, weight: float, patches: float, mark: Mark
) -> None:
    method = {"head": {"prototypes": 512}, "class_weight": weight, "patch_weight": 0.01, "reconstruction_weight": 1.0}
    spreads = {"class": spread, "patch": patches}
    monitors = healthy(
        **{f"{kind}_prototype_entropy": lambda f, kind=kind: spreads[kind] for kind in spreads},
        **{f"{kind}_prototypes_used": lambda f: 3.0 for kind in spreads},
    )
    found = verdict(run(falling), monitors, {"method": method}, FINISHED)
    assert marks(found, "class labels fall on 3 of 512 prototypes") == [mark]
    assert found.state == ("one_label" if mark == "bad" else "healthy")


def test_labels_that_were_alike_once_are_not_called_so() -> None:
    spread = iter([0.0] * 9 + [0.9])
    monitors = healthy(class_prototype_entropy=lambda f: next(spread), class_prototypes_used=lambda f: 90.0)
    assert verdict(run(falling), monitors, LABELS, FINISHED).state == "healthy"


def test_without_prototypes_no_head_is_called_uniform() -> None:
    metrics = run(falling, **{"class": lambda f: math.log(512)})
    assert verdict(metrics, healthy(), {"method": {"head": None}}, FINISHED).state == "healthy"


def test_a_knn_that_falls_for_good_is_getting_worse() -> None:
    monitors = healthy(knn_accuracy=lambda f: 0.80 - 0.2 * max(0, f - 0.5))
    found = verdict(run(falling), monitors, {}, FINISHED)
    assert (found.state, found.mark) == ("worse", "bad")
    assert marks(found, "fell from 80.0% to 70.0%") == ["bad"]


def test_one_low_answer_is_noise() -> None:
    monitors = healthy(knn_accuracy=lambda f: 0.70 if f == 1 else 0.80)
    assert verdict(run(falling), monitors, {}, FINISHED).state != "worse"


def test_a_loss_that_is_not_finite_at_the_end_went_wrong() -> None:
    metrics = run(falling)
    metrics[-1]["loss"] = None
    assert verdict(metrics, healthy(), {}, FINISHED).state == "numbers"
    metrics[-1]["loss"] = math.nan
    assert verdict(metrics, healthy(), {}, FINISHED).state == "numbers"


def test_wrong_numbers_are_said_of_short_runs_too() -> None:
    assert verdict([{"step": 1, "loss": None, "skipped": 1}], [], {}, []).state == "numbers"


def test_a_tenth_of_the_steps_left_out_went_wrong_and_a_few_are_a_note() -> None:
    many, few = run(falling), run(falling)
    for line in many:
        line["skipped"] = 1
    few[20]["skipped"] = 2
    assert verdict(many, healthy(), {}, FINISHED).state == "numbers"
    found = verdict(few, healthy(), {}, FINISHED)
    assert found.state == "healthy"
    assert marks(found, "2 of 1000 steps") == ["note"]


@pytest.mark.parametrize("steps", [0, 10, 90])
def test_few_steps_are_too_short_to_tell(steps: int) -> None:
    found = verdict(run(falling, steps=steps) if steps else [], [], {}, [])
    assert (found.state, found.mark) == ("short", "note")
    assert f"{steps} steps" in found.reasons[0].text


def test_the_worst_finding_is_the_verdict_and_the_others_are_reasons() -> None:
    metrics = run(falling, **{"class": lambda f: math.log(512)})
    monitors = asked(
        feature_std=lambda f: 0.0, position_constant_share=lambda f: 0.99, position_constant_loss=lambda f: 0.01
    )
    found = verdict(metrics, monitors, LABELS, FINISHED)
    assert found.state == "collapsed"
    assert [reason.mark for reason in found.reasons[:3]] == ["bad", "bad", "bad"]


def test_a_run_that_went_wrong_is_not_advised_to_train_longer() -> None:
    found = verdict(run(lambda f: 1 - 0.3 * f), asked(feature_std=lambda f: 0.0), {}, FINISHED)
    assert found.state == "collapsed"
    assert marks(found, "Over the last fifth") == ["note"]
    assert not any("epochs" in reason.todo for reason in found.reasons)


def test_starved_training_and_an_unfinished_run_are_worth_a_word() -> None:
    metrics = run(falling, data_wait=lambda f: 0.6)
    events = [{"event": "started"}, {"event": "resumed"}, {"event": "resumed"}]
    found = verdict(metrics, healthy(), {}, events)
    assert found.state == "healthy"
    assert marks(found, "waits for pictures 60%") == marks(found, "not finished") == ["note"]
    assert marks(found, "resumed twice") == ["note"]


@pytest.mark.parametrize(
    ("share", "state", "mark"), [(0.06, "hubs", "bad"), (0.2, "healthy", "note"), (0.5, "healthy", "good")]
)
def test_tokens_that_all_match_a_few_hubs_are_named(share: float, state: State, mark: str) -> None:
    found = verdict(run(falling), healthy(distinct_matches=lambda f: share), {}, FINISHED)
    assert found.state == state
    assert marks(found, f"match {share:.0%}") == [mark]


def test_hubs_that_come_and_go_are_named_too() -> None:
    found = verdict(run(falling), healthy(distinct_matches=lambda f: 0.08 if 0.6 < f < 0.75 else 0.4), {}, FINISHED)
    assert found.state == "hubs"
    assert marks(found, "match 40%") == ["bad"]


@pytest.mark.parametrize(
    ("numbers", "state", "mark"),
    [
        ({"sure_share": 0.94, "guess_entropy": 0.1, "sure_accuracy": 0.12}, "misled", "bad"),
        ({"sure_share": 0.94, "guess_entropy": 0.1}, "misled", "bad"),  # no label is known to tell
        ({"sure_share": 0.94, "guess_entropy": 0.9, "sure_accuracy": 0.2}, "misled", "bad"),
        ({"sure_share": 0.94, "sure_accuracy": 0.2}, "misled", "bad"),
        ({"sure_share": 0.2, "guess_entropy": 0.9, "sure_accuracy": 0.2}, "healthy", "note"),
        ({"sure_share": 0.6, "guess_entropy": 0.95, "sure_accuracy": 0.9}, "healthy", "good"),
        ({"sure_share": 0.0, "guess_entropy": 0.3}, "healthy", "good"),  # not sure of anything yet
    ],
)
def test_a_run_that_taught_itself_wrong_labels_is_named(numbers: dict[str, float], state: State, mark: str) -> None:
    monitors = healthy(**{name: lambda f, value=value: value for name, value in numbers.items()})
    found = verdict(run(falling), monitors, {}, FINISHED)
    assert found.state == state
    assert marks(found, f"It is sure of {numbers['sure_share']:.0%}") == [mark]


def test_every_state_has_a_sentence_and_every_bad_reason_a_remedy() -> None:
    states: set[State] = set()
    for monitors in (healthy(), asked(rank_me=lambda f: 1.0), healthy(knn_accuracy=lambda f: 0.9 - 0.5 * f)):
        found = verdict(run(falling, patch=lambda f: 9.0), monitors, LABELS, FINISHED)
        states.add(found.state)
        assert found.sentence.endswith(".")
        assert all(reason.todo for reason in found.reasons if reason.mark == "bad")
    assert states == {"uniform", "collapsed", "worse"}


@pytest.mark.parametrize("value", [None, "much", True, math.inf, [], {}])
def test_strange_values_in_a_run_never_stop_the_verdict(value: Any) -> None:
    metrics = [line | {"loss": 0.5, "class": value, "data_wait": value, "skipped": 0} for line in run(falling)]
    monitors = [
        {"step": 1, "rank_me": value, "feature_std": value, "knn_accuracy": value, "position_constant_share": value}
        | {"class_prototype_entropy": value, "class_prototypes_used": value}
    ]
    assert verdict(metrics, monitors, {"method": value}, [{"event": value}]).sentence
