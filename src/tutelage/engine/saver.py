"""Saving, as training sees it: a snapshot is taken and training goes on; what became of it is told after a later step."""

import errno
import shutil
import time
from pathlib import Path
from types import TracebackType
from typing import Any

import torch

from tutelage.clock import Clock
from tutelage.data.index import Data
from tutelage.distributed import barrier, rank
from tutelage.engine.chain import DataChain
from tutelage.engine.checkpoint import NEWEST, best_checkpoint, checkpoint_folders, step_of
from tutelage.engine.guard import Guard
from tutelage.engine.progress import ProgressLine
from tutelage.engine.run import RunFolder
from tutelage.engine.settings import RunSettings
from tutelage.engine.snapshot import Best, Snapshot, copied, expected_bytes, optimizer_tensors
from tutelage.engine.writer import Outcome, Writer
from tutelage.errors import MachineError, TutelageError
from tutelage.method import Method

MOST_FAILURES = 3
"""Saves in a row that the disk may refuse before the run stops."""
_FULL = {errno.ENOSPC: "disk full", errno.EDQUOT: "the quota is used up", errno.EFBIG: "a file may not be so large"}


class Saver:
    """Used in a `with`: its end waits for a save that has begun, unless the user is in a hurry."""

    def __init__(
        self,
        run: RunFolder,
        method: Method,
        optimizer: torch.optim.Optimizer,
        data: Data,
        settings: RunSettings[Any],
        progress: ProgressLine,
        chain: DataChain,
        guard: Guard | None = None,
    ) -> None:
        self.run, self.method, self.optimizer, self.progress = run, method, optimizer, progress
        self.fingerprint, self.chain, self.guard = data.fingerprint, chain, guard
        self.writer = Writer(run.checkpoints, settings.keep_steps, run.check)
        self.last: Snapshot | None = None
        self.failures = 0
        self.error: TutelageError | None = None
        """What makes it pointless to train on: known to the process that writes."""
        if rank() == 0:
            self._check_room()

    def __enter__(self) -> "Saver":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None or issubclass(kind, Exception):  # a second Ctrl-C does not wait
            self.writer.wait()
            self.tell()

    def save(self, clock: Clock, best: Best | None = None) -> None:
        """Take a snapshot, which all processes do together, and have it written; marked where it is the best.

        Waits for the save before, whose memory it takes over.
        """
        links = self.chain.at(clock.step, next(self.method.parameters()).device)
        if rank() > 0:
            return
        self.writer.wait()
        self.tell()
        began, before = time.monotonic(), self.last
        self.last = Snapshot(
            clock=clock,
            fingerprint=self.fingerprint,
            links=links,
            model=copied(self.method.state_dict(), before.model if before else None),
            optimizer=copied(optimizer_tensors(self.method, self.optimizer), before.optimizer if before else None),
            guard=self.guard.state() if self.guard else {},
            best=best,
            seconds=time.monotonic() - began,
        )
        self.writer.start(self.last)

    def is_best(self, answer: Best) -> bool:
        """Whether no checkpoint had as good an answer."""
        self.writer.wait()
        best = best_checkpoint(self.run.checkpoints)
        return best is None or answer.score > best[1].score

    def settle(self) -> None:
        """Wait, on all processes, until nothing is being written: then all find the same checkpoints."""
        self.writer.wait()
        barrier()

    def finish(self) -> None:
        """Wait for the last save of a run, which must succeed. Raises what makes it fail, on the process that writes."""
        self.writer.wait()
        self.failures += MOST_FAILURES  # one is too many now
        self.tell()
        if self.error:
            raise self.error

    def tell(self) -> None:
        """Say what became of saves that ended since: in the run's events and, where it went wrong, to the user."""
        for outcome in self.writer.outcomes():
            if outcome.error is None:
                self._tell_saved(outcome)
            elif isinstance(outcome.error, TutelageError):
                self.error = self.error or outcome.error
            elif isinstance(outcome.error, OSError):
                self._tell_refused(outcome, outcome.error)
            else:
                raise outcome.error

    def _tell_saved(self, outcome: Outcome) -> None:
        self.failures = 0
        seconds = {"snapshot_seconds": round(outcome.snapshot_seconds, 4), "seconds": round(outcome.seconds, 4)}
        self.run.event("checkpoint", step=outcome.step, bytes=outcome.num_bytes, **seconds)
        if outcome.best is not None:
            self.run.event("best", step=outcome.step, by=outcome.best.by, value=outcome.best.value)

    def _tell_refused(self, outcome: Outcome, error: OSError) -> None:
        self.failures += 1
        given_up = self.failures >= MOST_FAILURES
        told = not_written(self.run.checkpoints, outcome, error, given_up=given_up)
        self.run.event("not_saved", step=outcome.step, reason=str(told))
        if given_up:
            self.error = self.error or told
        else:
            self.progress.say(str(told))

    def _check_room(self) -> None:
        """Say so before the run where there is no room for the newest two checkpoints and the one being written."""
        folder, size = self.run.checkpoints, expected_bytes(self.method)
        missing, free = max(0, NEWEST + 1 - len(checkpoint_folders(folder))), free_bytes(folder)
        if missing * size > free:
            text = f"{megabytes(free)} free, and {missing} checkpoints of {megabytes(size)} to come: free some"
            self.run.event("little_room", reason=text)
            self.progress.say(f"room    {text}")


def not_written(folder: Path, outcome: Outcome, error: OSError, *, given_up: bool) -> MachineError:
    """K-20, of a save that the disk refused."""
    reason, free = _FULL.get(error.errno or 0) or (error.strerror or str(error)).lower(), free_bytes(folder)
    if error.errno == errno.ENOSPC and free > 2 * outcome.num_bytes:
        reason = "the disk has room for no more names (inodes)"
    room = f"needs {megabytes(outcome.num_bytes)}, {megabytes(free)} free"
    good = next((f"step {step_of(path)}" for path in checkpoint_folders(folder)), "none yet")
    return MachineError(
        "K-20",
        f"the checkpoint at step {outcome.step} was not written: {reason} ({room}).",
        f"{'The run stops' if given_up else 'Training goes on'}; last good: {good}.",
        "Free some room and run the same command again." if given_up else "Free some room.",
    )


def free_bytes(folder: Path) -> int:
    """Bytes that this user can still write where the folder is or would be; 0 where that cannot be told."""
    while not folder.exists() and folder != folder.parent:
        folder = folder.parent
    try:
        return shutil.disk_usage(folder).free
    except OSError:
        return 0


def megabytes(num_bytes: int) -> str:
    """`412 MB`."""
    return f"{num_bytes / 1e6:,.1f} MB" if num_bytes < 1e7 else f"{num_bytes / 1e6:,.0f} MB"
