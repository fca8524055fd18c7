"""Reading a run folder: whatever is there, and nothing that is not whole. Text is made harmless to print and to read."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tutelage.errors import SettingsError

MAX_BYTES = 200_000_000
"""A file of the run larger than this is not read."""
MAX_PICTURES, MAX_PICTURE_BYTES = 12, 4_000_000
PNG = b"\x89PNG\r\n\x1a\n"

Row = dict[str, Any]


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


def collect(run: Path) -> Record:
    """What is in the folder of a run; missing, damaged or half-written parts are left out.

    Raises:
        SettingsError: R-10, the folder is not there or holds nothing of a run.

    """
    if not any((run / name).is_file() for name in ("settings.json", "metrics.jsonl", "events.jsonl")):
        raise SettingsError(
            "R-10",
            f"{run} is no run folder: it has no settings.json, metrics.jsonl or events.jsonl.",
            todo="Name the folder that pretrain wrote, such as runs/mae-quickstart-digits.",
        )
    return Record(
        name=plain(run.resolve().name),
        settings=_read_json(run / "settings.json"),
        environment=_read_json(run / "environment.json"),
        data=_read_json(run / "data.json"),
        metrics=_by_step(_read_lines(run / "metrics.jsonl")),
        monitors=_by_step(_read_lines(run / "monitors.jsonl")),
        events=_read_lines(run / "events.jsonl"),
        evaluations=_read_lines(run / "evaluations.jsonl"),
        pictures=_read_pictures(run / "pictures"),
    )


def plain(value: Any) -> Any:
    """The same JSON value with every character that is not printable (controls, text direction, surrogates) spelt out."""
    if isinstance(value, str):
        return "".join(c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in value)
    if isinstance(value, dict):
        return {plain(name): plain(item) for name, item in value.items()}
    return [plain(item) for item in value] if isinstance(value, list) else value


def _read(path: Path) -> str:
    try:
        if path.is_symlink() or not path.is_file() or path.stat().st_size > MAX_BYTES:
            return ""
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""


def _read_json(path: Path) -> Row:
    return _object(_read(path))


def _read_lines(path: Path) -> list[Row]:
    """The whole lines; a kill may have cut the last one short."""
    return [row for line in _read(path).split("\n") if (row := _object(line))]


def _object(text: str) -> Row:
    try:
        value = json.loads(text) if text.strip() else {}
    except (ValueError, RecursionError):
        return {}
    return plain(value) if isinstance(value, dict) else {}


def _by_step(rows: list[Row]) -> list[Row]:
    """In order of steps, a step's last line where a resumed run wrote it again."""
    steps = {row["step"]: row for row in rows if isinstance(row.get("step"), int)}
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
