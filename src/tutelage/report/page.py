"""One offline page for a run: no script, nothing from outside, every name escaped."""

import base64
import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from tutelage.durable import write_whole
from tutelage.report.charts import charts
from tutelage.report.collect import Record, Row, collect, plain
from tutelage.report.verdict import verdict

SHOWN_UNREADABLE = 50
TITLES = {
    "reconstruction": "Reconstruction",
    "tokens": "Target and predicted tokens",
    "masks": "Masks",
    "neighbours": "Nearest neighbours",
    "prototypes": "Most used prototypes",
}


def write_report(run: Path) -> Path:
    """Write RUN/report.html from what is in the run folder, whole or not at all; its path.

    Raises:
        SettingsError: R-10, the folder holds nothing of a run.

    """
    path = run / "report.html"
    write_whole(path, render(collect(run)).encode("utf-8"))
    return path


def render(record: Record) -> str:
    """The page as text."""
    environment = Environment(
        loader=PackageLoader("tutelage.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"data_uri": _data_uri, "csp_hash": _csp_hash, "number": number}
    settings = flatten(record.settings)
    return environment.get_template("page.html").render(
        record=record,
        verdict=verdict(record.metrics, record.monitors, record.settings, record.events),
        key_numbers=key_numbers(record),
        charts=charts(record),
        evaluations=evaluation_rows(record.evaluations),
        pictures=_titled(record.pictures),
        found=_strings(record.data.get("found")),
        unreadable=_pairs(record.data.get("unreadable")),
        shown_unreadable=SHOWN_UNREADABLE,
        settings=settings,
        environment=flatten(record.environment),
    )


def key_numbers(record: Record) -> list[tuple[str, str]]:
    """The few numbers that one asks for first: name and value."""
    numbers: list[tuple[str, str]] = []
    last = record.metrics[-1] if record.metrics else {}
    answer = record.monitors[-1] if record.monitors else {}
    judged = {"box_ap": "AP of boxes", "mask_ap": "AP of masks", "miou": "mIoU", "knn_accuracy": "kNN accuracy"}
    for key, name in ((key, f"{name}, held out") for key, name in judged.items()):
        if key in answer:
            numbers.append((name, number(answer[key], percent=True)))
    numbers += [(name, number(last[key])) for key, name in (("loss", "loss"),) if key in last]
    numbers += [(name, number(last[key])) for key, name in (("epoch", "epochs"), ("step", "steps")) if key in last]
    if isinstance(record.data.get("train"), int):
        numbers.append(("training pictures", number(record.data["train"])))
    speeds = sorted(row["images_per_second"] for row in record.metrics if _finite(row.get("images_per_second")))
    if speeds:
        numbers.append(("pictures a second", number(round(speeds[len(speeds) // 2]))))
    return numbers


def evaluation_rows(evaluations: Iterable[Row]) -> list[Row]:
    """Rows of the evaluation table, accuracies as shares: of each protocol, set and teacher the last that was run."""
    latest = {tuple(str(e.get(name)) for name in ("protocol", "data", "teacher")): e for e in evaluations}
    return [
        {
            "protocol": f"{evaluation.get('protocol')}",
            "data": f"{evaluation.get('data')}",
            "name": " ".join(str(word) for word in (row.get("name"), _teacher(evaluation, row)) if word),
            "token": f"{row.get('token')}",
            "test": row.get("accuracy"),
            "held_out": _held_out(row),
            "own": row.get("name") == "encoder",
        }
        for evaluation in latest.values()
        for row in _dicts(evaluation.get("rows"))
    ]


def _teacher(evaluation: Row, row: Row) -> str:
    return f"({evaluation['teacher']})" if evaluation.get("teacher") and row.get("name") == "encoder" else ""


def _held_out(row: Row) -> Any:
    scores = row.get("scores")
    score = scores.get(f"{row.get('token')}") if isinstance(scores, dict) else None
    return score.get("held_out") if isinstance(score, dict) else None


def flatten(values: Row, prefix: str = "") -> dict[str, str]:
    """Nested values as dotted names and text."""
    flat: dict[str, str] = {}
    for name, value in values.items():
        if isinstance(value, dict):
            flat |= flatten(value, f"{prefix}{name}.")
        else:
            flat[prefix + str(name)] = _text(value)
    return flat


def number(value: Any, *, percent: bool = False) -> str:
    """A number as a person reads it, or a dash."""
    if not _finite(value):
        return "–"
    if percent:
        return f"{value:.1%}"
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


def _finite(value: Any) -> bool:
    return isinstance(value, int | float) and abs(value) < float("inf")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return " ".join(_text(item) for item in value)
    return "–" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)


def _strings(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _dicts(value: Any) -> list[Row]:
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _pairs(value: Any) -> list[tuple[str, str]]:
    rows = value if isinstance(value, list) else []
    return [(str(row[0]), str(row[1])) for row in rows if isinstance(row, list) and len(row) == 2]


def _titled(pictures: dict[str, bytes]) -> list[tuple[str, bytes]]:
    order = [*(name for name in TITLES if name in pictures), *(name for name in pictures if name not in TITLES)]
    return [(TITLES.get(name, plain(name)), pictures[name]) for name in order]


def _data_uri(content: bytes, kind: str) -> str:
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _csp_hash(text: str) -> str:
    """The source expression that allows this style and no other."""
    return f"sha256-{base64.b64encode(hashlib.sha256(str(text).encode('utf-8')).digest()).decode('ascii')}"
