"""The run folder: the only thing a run leaves behind, and all that the report reads."""

import fcntl
import json
import os
import platform
import sys
import time
from pathlib import Path
from typing import IO, Any

import torch

from tutelage.engine.settings import RunSettings, differences, read_settings
from tutelage.errors import MachineError, SettingsError
from tutelage.version import __version__


class RunFolder:
    """Files of a run, opened by one process at a time; with `writes=False` (other ranks) nothing is written."""

    def __init__(self, path: Path, *, writes: bool = True) -> None:
        self.path = path
        self.writes = writes
        self._lock: IO[str] | None = None
        if writes:
            _make(path)
            self._lock = _lock(path)

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
        file = self.path / "settings.json"
        if file.exists():
            differing = differences(read_settings(file), settings)
            if differing:
                rows = "; ".join(f"{name} was {old}, is {new}" for name, (old, new) in differing.items())
                raise SettingsError(
                    "C-12",
                    f"{self.path} holds a run with other settings: {rows}.",
                    "The same settings go on with a run; others would make it another run.",
                    "Use the same settings, or another --out.",
                )
        self.write("settings.json", settings.model_dump(mode="json"))

    def write(self, name: str, values: Any) -> None:
        """A JSON file, there whole or not at all."""
        if self.writes:
            write_json(self.path / name, values)

    def read(self, name: str) -> dict[str, Any]:
        """A JSON file of the run, empty where there is none."""
        file = self.path / name
        return dict(json.loads(file.read_text(encoding="utf-8"))) if file.exists() else {}

    def append(self, name: str, values: dict[str, Any]) -> None:
        """A line of a JSONL file."""
        if self.writes:
            with (self.path / name).open("ab+") as file:
                torn = file.tell() and (file.seek(-1, os.SEEK_END), file.read(1))[1] != b"\n"  # by a kill
                file.write(("\n" * bool(torn) + json.dumps(values, ensure_ascii=False) + "\n").encode())

    def event(self, event: str, **values: Any) -> None:
        """A line of events.jsonl."""
        self.append("events.jsonl", {"time": time.strftime("%Y-%m-%dT%H:%M:%S%z"), "event": event, **values})

    def rewind(self, step: int) -> None:
        """Drop lines of steps after `step`, which a resumed run writes again, and a line that a kill cut short."""
        for name in ("metrics.jsonl", "monitors.jsonl"):
            file = self.path / name
            if not self.writes or not file.exists():
                continue
            kept = []
            for line in file.read_text(encoding="utf-8").splitlines():
                try:
                    if json.loads(line)["step"] <= step:
                        kept.append(line + "\n")
                except ValueError:
                    continue
            _replace(file, "".join(kept))

    def close(self) -> None:
        """Give the folder free."""
        if self._lock:
            self._lock.close()


def check_writable(path: Path) -> None:
    """Refuse, before any data is read, a place where no run can be written."""
    place = path
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        reason = "is a file" if not place.is_dir() else "is not writable for this user"
        raise MachineError(
            "R-03",
            f"the run cannot be written to {path}: {place} {reason}.",
            todo="Use another --out or mend its rights.",
        )


def write_json(path: Path, values: Any) -> None:
    """A JSON file, there whole or not at all."""
    _replace(path, json.dumps(values, indent=1, ensure_ascii=False) + "\n")


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
        "command": sys.argv,
    }


def _replace(path: Path, text: str) -> None:
    temporary = path.with_name(f".{path.name}-{os.getpid()}")
    temporary.write_text(text, encoding="utf-8")
    temporary.replace(path)


def _make(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
        (path / ".lock").touch()
    except OSError as error:
        raise MachineError(
            "R-03",
            f"the run cannot be written to {path}: {error.strerror}.",
            todo="Use another --out or mend its rights.",
        ) from error


def _lock(path: Path) -> IO[str]:
    """Hold the folder. The kernel frees the lock when the process ends, however it ends."""
    file = (path / ".lock").open("r+", encoding="utf-8")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = file.read().strip() or "another process"
        file.close()
        raise SettingsError(
            "K-01",
            f"{path} is in use by {holder}.",
            "Two runs cannot share a folder.",
            "Wait for it, or use another --out.",
        ) from error
    file.truncate(0)
    file.write(f"pid {os.getpid()} on {platform.node()} since {time.strftime('%Y-%m-%d %H:%M:%S')}")
    file.flush()
    return file
