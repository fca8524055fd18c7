"""The run folder: the only thing a run leaves behind, and all that the report reads."""

import json
import math
import os
import platform
import shutil
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch

from tutelage.config import redacted
from tutelage.durable import LEFT_BEHIND, append_lines, make_folder, write_whole
from tutelage.engine.lease import Lease
from tutelage.engine.settings import RunSettings, differences, read_settings
from tutelage.errors import MachineError, SettingsError, TutelageError
from tutelage.version import __version__


class RunFolder:
    """Files of a run, opened by one process at a time; with `writes=False` (other ranks) nothing is written.

    Raises:
        SettingsError: K-01, another run holds the folder.
        MachineError: R-03, it cannot be written.

    """

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self.troubles: dict[str, str] = {}
        """Logs that could not be written, and why."""
        self.lease = _take(path) if writes else None

    @property
    def checkpoints(self) -> Path:
        """Where the checkpoints are."""
        return self.path / "checkpoints"

    @property
    def encoder(self) -> Path:
        """Where the student's timm folder is, once the run is done."""
        return self.path / "encoder"

    def agree(self, settings: RunSettings[Any]) -> None:
        """Keep the settings, or refuse others than those the run was begun with, naming what differs."""
        refuse_other_settings(self.path, settings)
        self.write("settings.json", settings.model_dump(mode="json"))

    def write(self, name: str, values: Any) -> None:
        """A JSON file, there whole or not at all."""
        if self.writes:
            write_json(self.path / name, values)

    def write_text(self, name: str, text: str) -> None:
        """A text file, there whole or not at all."""
        if self.writes:
            write_whole(self.path / name, text.encode("utf-8", "backslashreplace"))

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, empty where there is none."""
        file = self.path / name
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def append(self, name: str, values: dict[str, Any]) -> None:
        """A line of a JSONL file. A log that cannot be written is no reason to stop: it is noted in `troubles`."""
        if not self.writes or self.lost:
            return
        try:
            append_lines(self.path / name, [json.dumps(values)])
        except OSError as error:
            self.troubles.setdefault(name, (error.strerror or str(error)).lower())

    def event(self, event: str, **values: Any) -> None:
        """A line of events.jsonl."""
        self.append("events.jsonl", {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **values})

    def lines(self, name: str) -> list[dict[str, Any]]:
        """The lines of a JSONL file, without one that a kill cut short."""
        file, found = self.path / name, []
        for line in file.read_text(encoding="utf-8", errors="replace").splitlines() if file.is_file() else ():
            with suppress(ValueError, TypeError):
                found.append(dict(json.loads(line)))
        return found

    def rewind(self, step: int) -> None:
        """Drop lines of steps after `step`, which a resumed run writes again."""
        for name in ("metrics.jsonl", "monitors.jsonl"):
            if self.writes and (self.path / name).is_file():
                kept = [json.dumps(line) + "\n" for line in self.lines(name) if line.get("step", math.inf) <= step]
                write_whole(self.path / name, "".join(kept).encode())

    @property
    def lost(self) -> TutelageError | None:
        """Why this process must not write any more: the folder is gone, or another run has taken it."""
        return self.lease.lost if self.lease else None

    def check(self) -> None:
        """Look whether this process may write. Raises what `lost` says."""
        if self.lease:
            self.lease.check()

    def close(self) -> None:
        """Give the folder free."""
        if self.lease:
            self.lease.free()


def refuse_other_settings(path: Path, settings: RunSettings[Any]) -> None:
    """Raise SettingsError C-12 where the folder holds a run of other settings."""
    file = path / "settings.json"
    if file.exists() and (differing := differences(read_settings(file), settings)):
        rows = "; ".join(f"{name} was {old}, is {new}" for name, (old, new) in differing.items())
        raise SettingsError(
            "C-12",
            f"{path} holds a run with other settings: {rows}.",
            "The same settings go on with a run; others would make it another run.",
            "Use the same settings, or another --out.",
        )


def check_writable(path: Path) -> None:
    """Refuse, before any data is read, a place where no run can be written."""
    place = path
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        raise MachineError(
            "R-03",
            f"the run cannot be written to {path}: {place} {_why_not(place)}.",
            todo="Use another --out or mend its rights.",
        )


def _why_not(place: Path) -> str:
    if not place.is_dir():
        return "is a file"
    if os.statvfs(place).f_flag & os.ST_RDONLY:
        return "is on a read-only disk"
    return f"belongs to user {place.stat().st_uid}, and this is user {os.getuid()}, who may not write there"


def refuse_export(path: Path) -> None:
    """Raise SettingsError C-12 where the folder is an exported model: it has no optimizer's state to go on from."""
    if (path / "config.json").is_file() and not (path / "settings.json").is_file():
        raise SettingsError(
            "C-12",
            f"{path} is an exported model, which no run can go on from: it has no optimizer's state.",
            "A run would write its files among those of the model.",
            f"Begin from it with --init {path} and another --out.",
        )


def write_json(path: Path, values: Any) -> None:
    """A JSON file, there whole or not at all."""
    write_whole(path, (json.dumps(values, indent=1) + "\n").encode())


def environment(device: str, precision: str) -> dict[str, Any]:
    """What a number depends on besides settings and data."""
    import timm
    import torchvision

    return {
        "tutelage": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "timm": timm.__version__,
        "platform": platform.platform(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "device": torch.cuda.get_device_name() if device == "cuda" else device,
        "precision": precision,
        "command": redacted(sys.argv),
    }


def _take(path: Path) -> Lease:
    """Make the folder where it is not there, hold it, and clear what a killed process left in it."""
    try:
        make_folder(path)
        lease = Lease.take(path)
    except OSError as error:
        raise MachineError(
            "R-03",
            f"the run cannot be written to {path}: {error.strerror or error}.",
            todo="Use another --out or mend its rights.",
        ) from error
    left_behind = [item for item in path.iterdir() if LEFT_BEHIND.fullmatch(item.name)]
    for item in (*left_behind, *(path / "checkpoints").glob(".step-*")):
        shutil.rmtree(item, ignore_errors=True) if item.is_dir() else item.unlink(missing_ok=True)
    return lease
