"""Reading a run folder: whatever is there, and nothing that is not whole. Text is made harmless to print and to read."""

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import SettingsError, printable

MAX_BYTES, MAX_LINE = 50_000_000, 1_000_000
"""A JSON file or a line larger than this is not read."""
MAX_ROWS = 20_000
"""Of more lines, one in two, four, eight ... is kept, evenly, and the last."""
MAX_DEPTH = 12
MAX_PICTURES, MAX_PICTURE_BYTES = 12, 4_000_000
FIRST = "first"
"""The folder, in that of a run, of the run that came before it; and the setting that names the recipe of that."""
PNG = b"\x89PNG\r\n\x1a\n"

Row = dict[str, Any]
"""A line of a JSONL file of the run."""


@dataclass(frozen=True)
class Record:
    """What a run wrote down. Any part may be empty."""

    name: str
    settings: Row
    environment: Row
    data: Row
    metrics: list[Row]
    """A row per logged step, in order."""
    monitors: list[Row]
    events: list[Row]
    evaluations: list[Row]
    pictures: dict[str, bytes]
    """PNG files by name."""
    before: str
    """The recipe of the run in `first`, whose encoder this one began with; "" where there is none."""
    after: str
    """The name of the run that this one is the `first` of; "" where there is none."""


def collect(run: Path) -> Record:
    """What is in the folder of a run; missing, damaged or half-written parts are left out.

    Of a run's first run, the settings of the run that it is in are read too.

    Raises:
        SettingsError: R-10, the folder is not there or holds nothing of a run.

    """
    if not any((run / name).is_file() for name in ("settings.json", "metrics.jsonl", "events.jsonl")):
        raise SettingsError(
            "R-10",
            f"{run} is no run folder: it has no settings.json, metrics.jsonl or events.jsonl.",
            todo="Name the folder that pretrain wrote, such as runs/mae-quickstart-digits.",
        )
    place, settings = run.resolve(), _read_json(run / "settings.json")
    is_first = place.name == FIRST
    return Record(
        name=plain(f"{place.parent.name}/{FIRST}" if is_first else place.name),
        settings=settings,
        environment=_read_json(run / "environment.json"),
        data=_read_json(run / "data.json"),
        metrics=_by_step(read_lines(run / "metrics.jsonl")),
        monitors=_by_step(read_lines(run / "monitors.jsonl")),
        events=read_lines(run / "events.jsonl"),
        evaluations=read_lines(run / "evaluations.jsonl"),
        pictures=_read_pictures(run / "pictures"),
        before=str(settings.get(FIRST) or "") if (run / FIRST).is_dir() else "",
        after=plain(place.parent.name) if is_first and _read_json(place.parent / "settings.json").get(FIRST) else "",
    )


def plain(value: Any, depth: int = 0) -> Any:
    """The same JSON value with every character that is not printable (controls, text direction, surrogates) spelt out.

    What is nested deeper than anything of a run, and whole numbers that no float can hold, become None.
    """
    if isinstance(value, str):
        return printable(value)
    if isinstance(value, dict | list) and depth > MAX_DEPTH:
        return None
    if isinstance(value, dict):
        return {printable(name): plain(item, depth + 1) for name, item in value.items()}
    if isinstance(value, int) and abs(value) >= 2**63:
        return None
    return [plain(item, depth + 1) for item in value] if isinstance(value, list) else value


def prototypes_of(method: Any) -> Any:
    """Over how many prototypes the labels of a method's settings are spread; None where there are none."""
    head = method.get("head") if isinstance(method, dict) and method.get("assignment") != "none" else None
    return head.get("prototypes") if isinstance(head, dict) else None


def _usable(path: Path, most: int) -> bool:
    return not path.is_symlink() and path.is_file() and path.stat().st_size <= most


def _read_json(path: Path) -> Row:
    try:
        text = path.read_text(encoding="utf-8", errors="replace") if _usable(path, MAX_BYTES) else ""
    except OSError:
        return {}
    return _row(plain(_object(text)))


def read_lines(path: Path) -> list[Row]:
    """The whole lines, thinned where there are many; a kill may have cut the last one short."""
    try:
        return [plain(row) for row in _thinned(_rows(path))] if _usable(path, MAX_LINE * 10_000) else []
    except OSError:
        return []


def _rows(path: Path) -> Iterator[Row]:
    with path.open(encoding="utf-8", errors="replace", newline="\n") as file:
        while line := file.readline(MAX_LINE):
            if row := _row(_object(line)):
                yield row


def _thinned(rows: Iterable[Row]) -> list[Row]:
    """Up to MAX_ROWS of the rows, each with the steps `skipped` since the one before."""
    kept: list[Row] = []
    group: list[Row] = []
    every = 1
    for row in rows:
        group.append(row)
        if len(group) < every:
            continue
        kept.append(_last_of(group))
        group = []
        if len(kept) == MAX_ROWS:
            kept = [_last_of([*pair]) for pair in zip(kept[::2], kept[1::2], strict=True)]
            every *= 2
    return [*kept, _last_of(group)] if group else kept


def _last_of(group: list[Row]) -> Row:
    if len(group) == 1:
        return group[0]
    skipped = sum(row["skipped"] for row in group if isinstance(row.get("skipped"), int))
    return {**group[-1], "skipped": skipped} if skipped else group[-1]


def _object(text: str) -> Any:
    try:
        return json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return {}


def _row(value: Any) -> Row:
    return value if isinstance(value, dict) else {}


def _by_step(rows: list[Row]) -> list[Row]:
    """In order of steps, a step's last line where a resumed run wrote it again."""
    steps = {row["step"]: row for row in rows if type(row.get("step")) is int}
    return [steps[step] for step in sorted(steps)]


def _read_pictures(folder: Path) -> dict[str, bytes]:
    pictures: dict[str, bytes] = {}
    for path in sorted(folder.glob("*.png"))[:MAX_PICTURES]:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_PICTURE_BYTES:
            continue
        content = path.read_bytes()
        if content.startswith(PNG):
            pictures[plain(path.stem)] = content
    return pictures
