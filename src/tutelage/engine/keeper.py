"""What happens after a step besides training: log, ask, save, stop."""

import time
from typing import Any

import torch

from tutelage.clock import Clock
from tutelage.data.index import Data
from tutelage.distributed import all_max, alone, barrier, rank
from tutelage.engine.checkpoint import prune_checkpoints, save_checkpoint
from tutelage.engine.launch import StopRequest
from tutelage.engine.progress import ProgressLine
from tutelage.engine.run import RunFolder
from tutelage.engine.settings import RunSettings
from tutelage.engine.watch import Watch
from tutelage.method import Method

FIRST_SAVE, SAVE_EVERY = 60.0, 600.0
"""Seconds to the first checkpoint, and between checkpoints, unless `save_steps` says otherwise."""


class Keeper:
    """Called after every step with the ticked clock, and a line of metrics where one is due."""

    def __init__(
        self,
        run: RunFolder,
        method: Method,
        optimizer: torch.optim.Optimizer,
        data: Data,
        settings: RunSettings[Any],
        watch: Watch,
        progress: ProgressLine,
        stop: StopRequest,
    ) -> None:
        self.run, self.method, self.optimizer, self.data = run, method, optimizer, data
        self.settings, self.watch, self.progress, self.stop = settings, watch, progress, stop
        self.told = 0
        self.next_save = time.monotonic() + FIRST_SAVE

    def begin(self, clock: Clock) -> None:
        """Ask once before the first step: what the untrained student knows is what learning is measured against."""
        if clock.step == 0 and self.settings.monitors:
            self._ask(clock)

    def after(self, clock: Clock, line: dict[str, Any] | None) -> bool:
        """Log, ask and save where due; True when the run is to stop. All processes decide alike."""
        self._tell_unreadable()
        if line:
            self.run.append("metrics.jsonl", line)
            self.progress.show(line)
        if self.watch.due(clock):
            self._ask(clock)
        stop, save = self._agree(self.stop.wanted, self._save_due(clock))
        if save or stop or clock.done:
            self._save(clock)
        return stop

    def _tell_unreadable(self) -> None:
        """A picture that could not be read any more was replaced by the next: say so once, by name."""
        failed = self.data.train.source.failed
        for name in list(failed)[self.told :]:
            self.run.event("unreadable", name=name, reason=failed[name])
        self.told = len(failed)

    def _ask(self, clock: Clock) -> None:
        if rank() > 0:
            return
        with alone():
            answer = self.watch.ask(self.method, clock)
        self.run.append("monitors.jsonl", answer)
        self.progress.say(_answer(answer))

    def _save_due(self, clock: Clock) -> bool:
        if self.settings.keep_steps and clock.step % self.settings.keep_steps == 0:
            return True
        if self.settings.save_steps:
            return clock.step % self.settings.save_steps == 0
        return time.monotonic() >= self.next_save

    def _agree(self, *wishes: bool) -> list[bool]:
        return [bool(wish) for wish in all_max(torch.tensor([float(w) for w in wishes], device=self._device)).tolist()]

    @property
    def _device(self) -> torch.device:
        return next(self.method.parameters()).device

    def _save(self, clock: Clock) -> None:
        if rank() == 0:
            save_checkpoint(self.run.checkpoints, self.method, self.optimizer, clock, self.data.fingerprint)
            prune_checkpoints(self.run.checkpoints, self.settings.keep_steps)
            self.run.event("checkpoint", step=clock.step)
        barrier()
        self.next_save = time.monotonic() + SAVE_EVERY


def _answer(answer: dict[str, Any]) -> str:
    names = {
        "classifier_accuracy": "classifier {:.1%}",
        "knn_accuracy": "kNN {:.1%}",
        "rank_me": "RankMe {:.1f}",
        "feature_std": "feature std {:.2f}",
    }
    told = [text.format(answer[name]) for name, text in names.items() if name in answer]
    return f"watch   step {answer['step']} · held out: {' · '.join(told)}"
