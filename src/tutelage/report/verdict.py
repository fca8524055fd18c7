"""What a run's numbers say, in one sentence and its reasons. A pure function of what the run wrote down.

Thresholds are cautious: a bad word needs a number that no healthy run shows for long. They are assumptions, not
measured on many runs, but for those that name a section of docs/methods.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any, Literal, NamedTuple

from tutelage.report.collect import Row, prototypes_of

State = Literal[
    "numbers",
    "short",
    "collapsed",
    "constant",
    "worse",
    "uniform",
    "one_label",
    "hubs",
    "misled",
    "plateaued",
    "improving",
    "healthy",
]
"""From the worst; the first that applies is the verdict."""
Mark = Literal["good", "note", "bad"]

MIN_STEPS, MIN_LINES = 100, 10
"""A run of fewer steps or logged lines is too short to tell."""
SKIPPED = 0.05
"""Share of steps left out for non-finite numbers above which the numbers went wrong."""
COLLAPSED_STD, COLLAPSED_RANK = 0.005, 1.05
"""Feature standard deviation (1 is evenly spread) and RankMe (directions used) below which features are all alike. A
healthy MAE on digits passed through 0.02 and 1.4 in its first epochs, and had 0.12 and 3.4 untrained."""
NARROW_STD = 0.05
"""Feature standard deviation below which it is only noted."""
CONSTANT, CONSTANT_NOTE = 0.9, 0.75
"""Share of the target that a constant per position explains: nearly all of it, and much of it (docs/methods/sdae.md). On digits
it was 0.94 in an SdAE that made its encoder worse, and 0.69 with `target_norm` picture, which made it better."""
WORSE = 0.05
"""kNN accuracy lost since the best answer, in both last answers: no noise with a thousand held-out pictures."""
UNIFORM = 0.05
"""Share of ln m that a label loss must be below ln m, for m prototypes, to tell anything. It was 0.01 to 0.035 in runs
whose labels were flat and cost accuracy, and 0.12 to 0.23 in those that told something (docs/results.md). Flat labels that
weigh less than the reconstruction are noted only where the others tell something: such runs were the best of all on glyphs."""
ONE_LABEL, FEW_LABELS = 0.25, 0.5
"""Entropy of the mean label over that of even ones: all pictures have one or two prototypes, and few. It was 0.96 and more in
runs with Sinkhorn, 0.4 to 0.6 with centring, whose accuracy fell, and 0 with a softmax alone (docs/results.md)."""
HUBS, FEW_MATCHES = 0.15, 0.3
"""Share of a picture's teacher tokens that any student token matches: hubs that take everything, and few. It fell to 0.08
again and again in a run whose patch labels cost accuracy, and stayed at 0.4 to 0.6 in others (docs/results.md)."""
MISLED = 0.5
"""Share of pictures that a run is sure of, above which it counts for how many different classes (as the entropy of guesses
over that of even ones), and whether they are right. A run that had taught itself one class was sure of 0.9, right in 0.1."""
IMPROVING, KNN_IMPROVING = 0.01, 0.005
"""Relative fall of the loss from the last fifth but one to the last, or rise of kNN in the last third: still moving."""
FLAT, KNN_FLAT = 0.005, 0.01
"""Relative fall of the loss over the second half, and rise of kNN in it, below which neither moves."""
DATA_WAIT = 0.3
"""Share of the time spent waiting for pictures that is worth a word."""

SENTENCES: dict[State, str] = {
    "numbers": "The numbers went wrong: losses or gradients were not finite.",
    "short": "Too short to tell whether it learns.",
    "collapsed": "The features have collapsed: all pictures look alike to the encoder.",
    "constant": "The target is nearly a constant per position: the loss falls, but hardly for what the pictures show.",
    "worse": "The features are getting worse while the loss goes on.",
    "uniform": "The label head is uniform: it tells no more than a guess among all prototypes.",
    "one_label": "The labels have collapsed: nearly all pictures are given the same one.",
    "hubs": "The patch labels have collapsed: all tokens of a picture match the same few teacher tokens.",
    "misled": "The guessed labels feed on themselves: it is sure of many pictures, and wrong.",
    "plateaued": "Plateaued: the second half of the run changed next to nothing.",
    "improving": "Healthy, and still improving.",
    "healthy": "Healthy.",
}


class Reason(NamedTuple):
    """A finding with its number, and what to do about it."""

    mark: Mark
    text: str
    todo: str = ""


@dataclass(frozen=True)
class Verdict:
    """One sentence on a run, and why."""

    state: State
    sentence: str
    reasons: tuple[Reason, ...]

    @property
    def mark(self) -> Mark:
        """Whether the state is good, bad or neither."""
        if self.state in ("healthy", "improving"):
            return "good"
        return "note" if self.state in ("short", "plateaued") else "bad"


def verdict(
    metrics: Sequence[Row], monitors: Sequence[Row], settings: dict[str, Any], events: Sequence[Row]
) -> Verdict:
    """The verdict on a run from the lines of its metrics, monitors and events, in order of steps; all may have gaps."""
    found: dict[State, list[Reason]] = {
        "numbers": _numbers(metrics),
        "collapsed": _collapsed(monitors),
        "constant": _constant(metrics, monitors),
        "worse": _worse(monitors),
        "uniform": _uniform(metrics, monitors, settings),
        "one_label": _one_label(monitors, settings),
        "hubs": _hubs(monitors),
        "misled": _misled(monitors),
    }
    progress, trend = _trend(metrics, monitors)
    notes = [*_unwatched(settings), *_notes(metrics), *_events(metrics, events)]
    broken = any(reason.mark == "bad" for reason in found["numbers"])
    if not broken and _too_short(metrics):
        last = int(metrics[-1]["step"]) if metrics else 0
        text = f"{last} steps in {len(metrics)} logged lines; a verdict takes {MIN_STEPS} steps and {MIN_LINES} lines."
        return Verdict("short", SENTENCES["short"], (Reason("note", text, "Train longer."), *found["numbers"], *notes))
    state: State = next((s for s, reasons in found.items() if any(r.mark == "bad" for r in reasons)), progress)
    if state != progress:  # advice on how long to train makes no sense for a run that went wrong
        trend = [Reason("note", reason.text) for reason in trend]
    reasons = [reason for name in found for reason in found[name]]
    reasons.sort(key=lambda reason: ("bad", "note", "good").index(reason.mark))
    return Verdict(state, SENTENCES[state], (*reasons, *trend, *notes))


# --- each failure by name ---------------------------------------------------------------------------------------------


def _numbers(metrics: Sequence[Row]) -> list[Reason]:
    if not metrics:
        return []
    skipped = int(sum(_series(metrics, "skipped")))
    last = metrics[-1]
    steps = max(1, int(last["step"]))
    todo = "Lower --optim.base-lr, set --optim.clip 1, or use --precision float32."
    if _number(last.get("loss")) is None:
        return [Reason("bad", f"At step {last['step']} the loss is not finite.", todo)]
    if skipped > SKIPPED * steps:
        return [Reason("bad", f"{skipped} of {steps} steps were left out for numbers that were not finite.", todo)]
    return [Reason("note", f"{skipped} of {steps} steps were left out: not finite.", todo)] if skipped else []


def _collapsed(monitors: Sequence[Row]) -> list[Reason]:
    std, rank = _last(monitors, "feature_std"), _last(monitors, "rank_me")
    todo = "Use the run's last good checkpoint; try a lower --optim.base-lr, or a slower teacher."
    reasons = []
    if std is not None:
        bad, narrow = std < COLLAPSED_STD, std < NARROW_STD
        text = f"Feature standard deviation {std:.3f}, where 1 is evenly spread and 0 is collapse."
        reasons.append(Reason("bad" if bad else "note" if narrow else "good", text, todo if bad else ""))
    if rank is not None:
        bad, best = rank < COLLAPSED_RANK, max(_series(monitors, "rank_me"))
        fallen = rank < best / 2
        text = f"RankMe {rank:.1f}: about so many directions are used." + (f" It was {best:.1f}." if fallen else "")
        reasons.append(Reason("bad" if bad else "note" if fallen else "good", text, todo if bad else ""))
    return reasons


def _constant(metrics: Sequence[Row], monitors: Sequence[Row]) -> list[Reason]:
    share, constant = _last(monitors, "position_constant_share"), _last(monitors, "position_constant_loss")
    if share is None or constant is None:
        return []
    loss = _last(monitors, "reconstruction_loss") or _last(metrics, "reconstruction")
    text = f"A constant per position explains {share:.0%} of the target (loss {constant:.3f}"
    text += f"; the model's is {loss:.3f})." if loss is not None else ")."
    todo = "Standardise the target within each picture: --method.target-norm picture."
    if share >= CONSTANT:
        return [Reason("bad", text, todo)]
    return [Reason("note", text, todo)] if share >= CONSTANT_NOTE else [Reason("good", text)]


def _worse(monitors: Sequence[Row]) -> list[Reason]:
    knn = _series(monitors, "knn_accuracy")
    if not knn:
        return []
    best = max(knn)
    if len(knn) > 3 and max(knn[-2:]) < best - WORSE:
        text = f"kNN accuracy on held-out pictures fell from {best:.1%} to {knn[-1]:.1%}."
        return [Reason("bad", text, "Stop earlier or take an earlier checkpoint; try a lower --optim.base-lr.")]
    text = f"kNN accuracy on held-out pictures {knn[-1]:.1%}"
    text += f", from {knn[0]:.1%} at the first answer." if len(knn) > 1 else "."
    return [Reason("note" if knn[-1] < knn[0] - KNN_FLAT else "good", text)]


def _uniform(metrics: Sequence[Row], monitors: Sequence[Row], settings: dict[str, Any]) -> list[Reason]:
    method = settings.get("method")
    prototypes = _number(prototypes_of(method))
    if not prototypes or prototypes < 2:
        return []
    chance, reasons = math.log(prototypes), []
    recent = {kind: _part(_series(metrics, kind), 0.75, 1) for kind in ("class", "patch")}
    losses = {
        kind: median(values) for kind, values in recent.items() if values and _spread(monitors, kind) >= ONE_LABEL
    }
    flat = {kind for kind, loss in losses.items() if loss > (1 - UNIFORM) * chance}
    for kind, loss in losses.items():
        bad = kind in flat
        where = f"{chance - loss:.2f} below" if loss < chance else f"{loss - chance:.2f} above"
        text = (
            f"The {kind} label loss is {loss:.3f}, {where} the {chance:.3f} = ln {prototypes:.0f} of a uniform guess."
        )
        todo = "Train longer, use fewer --method.head.prototypes, or --method.head.in-norm batch." if bad else ""
        divergence = _last(monitors, f"{kind}_kl")
        if bad and divergence is not None and divergence < UNIFORM * chance:
            text += f" The teacher's labels are as flat: the loss is {divergence:.3f} above their entropy."
            todo = "Sharpen the labels: a lower --method.teacher-temperature.end, and --method.head.in-norm batch."
        light = flat != set(losses) and _weight(method, kind) < _weight(method, "reconstruction")
        text += " It weighs little, and other labels tell something." if bad and light else ""
        reasons.append(Reason("note" if bad and light else "bad" if bad else "good", text, todo))
    return reasons


def _one_label(monitors: Sequence[Row], settings: dict[str, Any]) -> list[Reason]:
    """Whether labels of all pictures are of few prototypes: their loss then falls to nothing, and they teach nothing."""
    method = settings.get("method")
    prototypes = _number(prototypes_of(method))
    used = {kind: n for kind in ("class", "patch") if (n := _last(monitors, f"{kind}_prototypes_used"))}
    spreads = {kind: _spread(monitors, kind) for kind in used}
    todo, reasons = "Balance them: --method.assignment sinkhorn with --method.sinkhorn-iterations 3.", []
    for kind, share in spreads.items():
        if share < FEW_LABELS and prototypes:
            light = max(spreads.values()) >= ONE_LABEL and _weight(method, kind) < _weight(method, "reconstruction")
            text = f"The {kind} labels fall on {used[kind]:.0f} of {prototypes:.0f} prototypes, "
            text += f"{share:.0%} as evenly as can be."
            reasons.append(Reason("bad" if share < ONE_LABEL and not light else "note", text, todo))
    return reasons


def _spread(monitors: Sequence[Row], kind: str) -> float:
    """The better of the two last answers on how evenly labels use the prototypes; 1 where nothing is known."""
    return max(_series(monitors, f"{kind}_prototype_entropy")[-2:], default=1.0)


def _weight(method: Any, part: str) -> float:
    return _number(method.get(f"{part}_weight")) or 0.0


def _hubs(monitors: Sequence[Row]) -> list[Reason]:
    """Hubs come and go from one answer to the next, so the worst of the second half counts."""
    late = _part(_series(monitors, "distinct_matches"), 0.5, 1)
    if not late:
        return []
    text = (
        f"Student tokens match {late[-1]:.0%} of a picture's teacher tokens, and at worst {min(late):.0%} in the second"
    )
    text += " half (random features match 63 %)."
    if min(late) >= FEW_MATCHES:
        return [Reason("good", text)]
    todo = "Match in the space of the target, --method.match-norm picture, and lower --method.patch-weight."
    return [Reason("bad" if min(late) < HUBS else "note", text, todo)]


def _misled(monitors: Sequence[Row]) -> list[Reason]:
    """Whether guesses are of many classes and, where that is known, right: asked of both last answers."""
    sure, spread, right = (_series(monitors, name)[-2:] for name in ("sure_share", "guess_entropy", "sure_accuracy"))
    if not sure:
        return []
    text = f"It is sure of {sure[-1]:.0%} of the held-out pictures"
    text += f", and right in {right[-1]:.0%} of those." if right else "."
    text += f" Its guesses are spread over the classes {spread[-1]:.0%} as evenly as can be." if spread else ""
    wrong = bool(right) and max(right) < MISLED
    if min(sure) >= MISLED and (wrong or (spread and max(spread) < MISLED)):
        todo = "Lower --method.unlabelled-weight, raise --method.threshold, or give more labels."
        return [Reason("bad", text, todo)]
    return [Reason("note" if wrong else "good", text)]


# --- progress ---------------------------------------------------------------------------------------------------------


def _trend(metrics: Sequence[Row], monitors: Sequence[Row]) -> tuple[State, list[Reason]]:
    """Whether the run still moved at its end. A moving target's loss may rise while features improve: kNN decides."""
    losses, knn = _series(metrics, "loss"), _series(monitors, "knn_accuracy")
    if len(losses) < MIN_LINES:
        return "healthy", []
    end = median(_part(losses, 0.8, 1))
    late, half = _fall(median(_part(losses, 0.6, 0.8)), end), _fall(median(_part(losses, 0.4, 0.6)), end)
    knn_late = knn[-1] - max(_part(knn, 0, 2 / 3), default=knn[-1]) if len(knn) >= 6 else 0.0
    knn_half = knn[-1] - max(_part(knn, 0, 0.5), default=knn[-1]) if len(knn) >= 4 else 0.0
    text = f"Over the last fifth of the run the loss {_moved(late)} to {end:.4f}"
    text += (
        f", and kNN {'rose' if knn_late >= 0 else 'fell'} by {abs(knn_late):.1%} in the last third."
        if knn_late
        else "."
    )
    if late > IMPROVING or knn_late > KNN_IMPROVING:
        return "improving", [Reason("good", text, "More --epochs are likely worth it.")]
    if half < FLAT and knn_half < KNN_FLAT:
        todo = "More epochs alone will not help: evaluate it, or try more pictures, a larger encoder or another rate."
        return "plateaued", [Reason("note", text, todo)]
    return "healthy", [Reason("good", text)]


def _fall(before: float, after: float) -> float:
    return (before - after) / max(abs(before), 1e-12)


def _moved(fall: float) -> str:
    return "stayed close" if abs(fall) < 0.0005 else f"{'fell' if fall > 0 else 'rose'} by {abs(fall):.1%}"


# --- worth a word -----------------------------------------------------------------------------------------------------


def _unwatched(settings: dict[str, Any]) -> list[Reason]:
    if settings.get("holdout") != 0:
        return []
    text = "No picture was held out (--holdout 0): nothing here is of pictures that it has not seen."
    return [Reason("note", text, "Judge it by tutelage evaluate.")]


def _notes(metrics: Sequence[Row]) -> list[Reason]:
    notes = []
    wait = _part(_series(metrics, "data_wait"), 0.5, 1)
    if wait and median(wait) > DATA_WAIT:
        text = f"Training waits for pictures {median(wait):.0%} of the time."
        notes.append(Reason("note", text, "Use more --workers, or make large pictures smaller beforehand."))
    return notes


def _events(metrics: Sequence[Row], events: Sequence[Row]) -> list[Reason]:
    kinds = [event.get("event") for event in events]
    notes = []
    if kinds.count("resumed"):
        notes.append(Reason("note", f"The run was resumed {_times(kinds.count('resumed'))}."))
    if kinds and "finished" not in kinds and metrics:
        text = f"The run is not finished: its last logged step is {metrics[-1]['step']}."
        notes.append(Reason("note", text, "The same command goes on with it."))
    if "damaged_checkpoint" in kinds:
        text = f"Damaged checkpoints were passed over {_times(kinds.count('damaged_checkpoint'))}."
        notes.append(Reason("note", text, "Check the disk."))
    return notes


def _times(count: int) -> str:
    return {1: "once", 2: "twice"}.get(count, f"{count} times")


# --- numbers ----------------------------------------------------------------------------------------------------------


def _too_short(metrics: Sequence[Row]) -> bool:
    return len(metrics) < MIN_LINES or int(metrics[-1]["step"]) < MIN_STEPS


def _number(value: Any) -> float | None:
    """A finite number, or nothing."""
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None


def _series(rows: Sequence[Row], name: str) -> list[float]:
    return [value for row in rows if (value := _number(row.get(name))) is not None]


def _last(rows: Sequence[Row], name: str) -> float | None:
    return next(iter(_series(rows, name)[::-1]), None)


def _part(values: Sequence[float], start: float, end: float) -> list[float]:
    """The values from one share of the way to another."""
    n = len(values)
    return list(values[math.floor(start * n) : math.ceil(end * n)])
