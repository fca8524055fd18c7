"""What an evaluation found, as values for a program and as lines for a reader."""

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from tutelage.durable import append_lines
from tutelage.errors import MachineError


class Score(NamedTuple):
    """Shares of pictures whose class is predicted, 0 to 1."""

    held_out: float | None
    """None where no picture was held out, because nothing was to be chosen."""
    test: float
    details: dict[str, Any]
    """What was chosen (learning rate, C), the test accuracy for each k, or as the mean over classes."""


@dataclass(frozen=True)
class Row:
    """The scores of one kind of features."""

    name: str
    scores: dict[str, Score]
    """By token: `cls`, `mean`, or `pixels`."""

    @property
    def token(self) -> str:
        """The token that is better on held-out pictures; of equal ones the class token."""
        return max(self.scores, key=lambda token: self.scores[token].held_out or 0.0)

    @property
    def accuracy(self) -> float:
        """The headline: accuracy on test pictures of the token that was chosen on held-out ones."""
        return self.scores[self.token].test


@dataclass(frozen=True)
class Evaluation:
    """What `evaluate` found. The last row is the encoder's."""

    protocol: str
    """Name and version, as `knn/1`."""
    settings: dict[str, Any]
    encoder: str
    origin: str
    """The folder that the weights were read from."""
    teacher: str | None
    architecture: str
    data: str
    fingerprint: str
    pictures: dict[str, int]
    """Number of labelled pictures of each part: `train`, `held_out`, `test`."""
    num_classes: int
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    seconds: float
    """Of the whole call, in which several protocols may have shared the features."""

    @property
    def accuracy(self) -> float:
        """The encoder's headline, 0 to 1."""
        return self.rows[-1].accuracy

    def to_json(self) -> dict[str, Any]:
        """Plain values; accuracies are shares, 0 to 1."""
        rows = [
            {
                "name": row.name,
                "token": row.token,
                "accuracy": row.accuracy,
                "scores": {token: score._asdict() for token, score in row.scores.items()},
            }
            for row in self.rows
        ]
        return {**vars(self), "notes": list(self.notes), "accuracy": self.accuracy, "rows": rows}

    def table(self) -> list[str]:
        """Lines for a terminal; accuracies in per cent."""
        parts = ", ".join(f"{count:,} {name.replace('_', '-')}" for name, count in self.pictures.items())
        lines = [
            f"{self.protocol} on {self.data}: {parts} pictures, {self.num_classes} classes",
            f"  {'features':<18} {'token':<7} {'held-out':>9} {'test':>7}",
        ]
        lines += [line for row in self.rows for line in _lines(row)]
        lines += [f"  note: {note}" for note in self.notes]
        if any(len(row.scores) > 1 for row in self.rows):
            lines.append("  <: the token that is better on held-out pictures; its test accuracy is the result")
        what = {"segmentation": "mIoU", "detection": "AP"}.get(self.protocol.partition("/")[0], "accuracy")
        return [*lines, f"{what} {100 * self.accuracy:.2f} % ({self.encoder}, {self.seconds:.1f} s)"]


_NAMED = {"mean_per_class": "mean per class", **{name: name for name in ("ap50", "ap75", "small", "medium", "large")}}
"""Details that are worth a line, and how it calls them."""


def _lines(row: Row) -> Iterator[str]:
    """A line for each token; where there are deviations, the accuracy and deviation of each k behind it; for masks and
    objects one for each class.
    """
    for token, score in row.scores.items():
        mark = "<" if token == row.token and len(row.scores) > 1 else ""
        name = row.name if token == next(iter(row.scores)) else ""
        std, test = score.details.get("std_by_k", {}), score.details.get("test_by_k", {})
        by_k = ", ".join(f"k={k} {100 * test[k]:.1f}±{100 * std[k]:.1f}" for k in std)
        held_out = "" if score.held_out is None else f"{100 * score.held_out:.2f}"
        line = f"  {name:<18} {token:<7} {held_out:>9} {100 * score.test:>7.2f} {mark:<2}{by_k}"
        yield line.rstrip()
        more = {label: score.details[name] for name, label in _NAMED.items() if name in score.details}
        for of, value in (more | score.details.get("ap", {}) | score.details.get("iou", {})).items():
            yield f"    {of:<34} {'' if value is None else f'{100 * value:.2f}':>7}"


def remember(where: str, evaluations: Sequence[Evaluation]) -> None:
    """Append the results to evaluations.jsonl where the encoder is a run. Raises MachineError R-03."""
    run = Path(where).expanduser()
    if not (run / "settings.json").is_file():
        return
    now = time.strftime("%Y-%m-%dT%H:%M:%S%z")
    try:
        append_lines(run / "evaluations.jsonl", [json.dumps({"time": now, **one.to_json()}) for one in evaluations])
    except OSError as error:
        raise MachineError("R-03", f"{run}/evaluations.jsonl cannot be written: {error.strerror or error}.") from error
