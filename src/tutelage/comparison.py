"""An ablation's results beside the paper's numbers: differences from the default row, their noise, and a table."""

import math
from collections.abc import Sequence
from statistics import mean, stdev
from typing import Any, NamedTuple

from scipy.stats import t as students_t

from tutelage.ablations import Row, Table

PROTOCOLS = {"encoder": ("linear-cached/1", "knn/1", "low-shot/1"), "classifier": ("classifier/1",)}
"""By what a table is judged."""
HEADINGS = {"linear-cached/1": "linear", "knn/1": "kNN", "low-shot/1": "10-shot", "classifier/1": "accuracy"}


class Result(NamedTuple):
    """What a run of a row came to."""

    scores: dict[str, float]
    """Accuracy in per cent by protocol."""
    pictures_a_second: float
    memory: float
    """Most memory in bytes, of the device or the process."""


class Spread(NamedTuple):
    """A mean over seeds."""

    mean: float
    half: float | None
    """Half its 95 % interval (Student's t), None with one seed."""

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """Of one value or more."""
        n = len(values)
        half = stdev(values) / math.sqrt(n) * float(students_t.ppf(0.975, n - 1)) if n > 1 else None
        return cls(mean(values), half)


def compared(table: Table, results: dict[str, dict[int, Result]]) -> list[dict[str, Any]]:
    """A line for each row of a table: the paper's number, ours, and the difference from the default row on either side.

    Ours is the mean of the differences of runs with the same seed, by protocol as all that is measured. `directions` are
    `same`, `opposite`, `within noise` where the 95 % interval of the difference holds 0, `one seed`, or empty where the paper
    says nothing.
    """
    protocols = PROTOCOLS[table.judged_by]
    default = results[table.default]
    said = next(row for row in table.rows if row.name == table.default).paper
    lines = []
    for row in table.rows:
        runs = results.get(row.name, {})
        line: dict[str, Any] = {"row": row.name, "paper": row.paper, "quoted": row.quoted, "seeds": len(runs)}
        line["scores"] = {
            protocol: Spread.of([run.scores[protocol] for run in runs.values()]) for protocol in protocols if runs
        }
        both = sorted(runs.keys() & default.keys()) if row.name != table.default else []
        if both:
            told = _told(row, said)
            line["differences"] = {
                protocol: Spread.of([runs[s].scores[protocol] - default[s].scores[protocol] for s in both])
                for protocol in protocols
            }
            line["directions"] = {protocol: _direction(ours, told) for protocol, ours in line["differences"].items()}
            line["step_time"] = mean(default[s].pictures_a_second / runs[s].pictures_a_second for s in both)
            line["memory"] = mean(runs[s].memory / default[s].memory for s in both)
        lines.append(line)
    return lines


def plain(value: Any) -> Any:
    """Lines as values that JSON has."""
    if isinstance(value, Spread):
        return value._asdict()
    if isinstance(value, dict):
        return {name: plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _told(row: Row, default: float | None) -> float:
    """The sign of what the paper says of a row beside the default one; 0 where it says nothing."""
    if row.paper is not None and default is not None:
        return row.paper - default
    return {"worse": -1.0, "better": 1.0, "": 0.0}[row.claim]


def _direction(ours: Spread, told: float) -> str:
    if told == 0:
        return ""
    if ours.half is None:
        return "one seed"
    if abs(ours.mean) <= ours.half:
        return "within noise"
    return "same" if (ours.mean > 0) == (told > 0) else "opposite"


def markdown(table: Table, lines: Sequence[dict[str, Any]], title: str) -> str:
    """The table for a reader."""
    protocols = PROTOCOLS[table.judged_by]
    columns = ["row", "paper", *(name for p in protocols for name in (HEADINGS[p], "difference"))]
    columns += ["step time", "memory", "seeds"]
    out = [
        f"**{title}**\n",
        f"Paper: {table.source}; {table.measure}. Ours: test accuracy in per cent, the mean over seeds ± half its 95 % "
        f"interval; the difference from the row {table.default} of the same seed, and whether its direction is the "
        "paper's (of twenty such intervals one misses by chance); step time, which other work on the machine spoils, and peak "
        "memory as multiples of that row's.\n",
        f"| {' | '.join(columns)} |",
        "|" + "---|" * len(columns),
    ]
    for line in lines:
        paper = "" if line["paper"] is None else f"{line['paper']:g}{' (quoted)' if line['quoted'] else ''}"
        cells = [line["row"], paper]
        for p in protocols:
            cells.append(_show(line["scores"][p]) if line["scores"] else "")
            differs = "differences" in line
            cells.append(f"{_show(line['differences'][p], '+')} {line['directions'][p]}".strip() if differs else "")
        cells += [f"{line[name]:.2f}" if name in line else "" for name in ("step_time", "memory")]
        out.append(f"| {' | '.join([*cells, str(line['seeds'] or '')])} |")
    return "\n".join([*out, *([f"\n{table.note}"] if table.note else []), ""])


def _show(spread: Spread, sign: str = "") -> str:
    return f"{spread.mean:{sign}.1f}" + ("" if spread.half is None else f" ± {spread.half:.1f}")
