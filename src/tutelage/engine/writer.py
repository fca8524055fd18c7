"""The thread that writes checkpoints, one at a time, while training goes on."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from tutelage.engine.checkpoint import prune_checkpoints
from tutelage.engine.snapshot import Best, Snapshot, write_snapshot


@dataclass(frozen=True)
class Outcome:
    """What became of a save."""

    step: int
    num_bytes: int
    snapshot_seconds: float
    """That training stood still."""
    seconds: float
    """That writing took beside it."""
    best: Best | None
    """Where it was the best so far."""
    error: Exception | None
    """What was raised; None where the checkpoint is there."""


class Writer:
    """Holds at most one snapshot that is being written. `fence` is asked before a checkpoint gets its name."""

    def __init__(self, folder: Path, keep_steps: int | None, fence: Callable[[], None]) -> None:
        self.folder, self.keep_steps, self.fence = folder, keep_steps, fence
        self._thread: threading.Thread | None = None
        self._outcomes: list[Outcome] = []

    def start(self, snapshot: Snapshot) -> None:
        """Begin to write, once the save before is done."""
        self.wait()
        self._thread = threading.Thread(target=self._write, args=(snapshot,), name="writer", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Until nothing is being written."""
        if self._thread is not None:
            self._thread.join()

    def outcomes(self) -> list[Outcome]:
        """Of the saves that ended since this was last asked."""
        ended, self._outcomes = self._outcomes, []
        return ended

    def _write(self, snapshot: Snapshot) -> None:
        began, error = time.monotonic(), None
        try:
            write_snapshot(self.folder, snapshot, self.fence)
        except Exception as raised:  # it is the training thread's to say so
            error = raised
        else:
            with suppress(OSError):  # what cannot be removed now is tried again after the next save
                prune_checkpoints(self.folder, self.keep_steps)
        self._outcomes.append(
            Outcome(
                step=snapshot.clock.step,
                num_bytes=snapshot.num_bytes,
                snapshot_seconds=snapshot.seconds,
                seconds=time.monotonic() - began,
                best=snapshot.best,
                error=error,
            )
        )
