"""What happens after a step besides training: log, ask, save, stop."""

import math
import time
from typing import Any

import torch

from tutelage.clock import Clock
from tutelage.data.index import Data
from tutelage.distributed import all_max, alone, barrier, rank
from tutelage.engine.feeds import Micro
from tutelage.engine.launch import StopRequest
from tutelage.engine.progress import ProgressLine
from tutelage.engine.pulse import Pulse, Section
from tutelage.engine.run import RunFolder
from tutelage.engine.saver import Saver
from tutelage.engine.settings import RunSettings
from tutelage.engine.snapshot import Best
from tutelage.engine.train import StepResult
from tutelage.engine.trouble import Trouble, wrong
from tutelage.engine.watch import Watch
from tutelage.errors import MachineError, listed
from tutelage.method import Method

FIRST_SAVE, SAVE_EVERY = 60.0, 600.0
"""Seconds to the first checkpoint, and between checkpoints, unless `save_steps` says otherwise."""


class Keeper:
    """Called after every step with the ticked clock, and a line of metrics where one is due."""

    def __init__(
        self,
        run: RunFolder,
        method: Method,
        data: Data,
        settings: RunSettings[Any],
        watch: Watch,
        progress: ProgressLine,
        stop: StopRequest,
        saver: Saver,
        trouble: Trouble,
        pulse: Pulse,
    ) -> None:
        self.run, self.method, self.data, self.settings = run, method, data, settings
        self.watch, self.progress, self.stop, self.saver = watch, progress, stop, saver
        self.trouble, self.pulse = trouble, pulse
        self.told = 0
        self.warned: set[str] = set()
        self.next_save = time.monotonic() + FIRST_SAVE

    def begin(self, clock: Clock) -> None:
        """Ask once before the first step: what the untrained student knows is what learning is measured against."""
        if clock.step == 0 and self.settings.monitors:
            self._ask(clock)

    @property
    def lr_factor(self) -> float:
        """What the schedule's learning rate is multiplied by: less after each return to a checkpoint."""
        return self.trouble.guard.lr_factor

    def enter(self, section: Section, clock: Clock) -> None:
        """Tell the other processes what this one begins."""
        self.pulse.enter(section, clock.step)

    def judge(self, clock: Clock, result: StepResult, micro_batches: list[Micro]) -> Clock:
        """Look at the step's losses; where too many are in doubt, go back to the checkpoint before them."""
        if not result.applied:
            where = f" (process {listed(list(map(str, result.processes)))})" if result.processes else ""
            self.progress.say(
                f"N-01    step {clock.step}: {wrong(result)}{where}; its update is left out, its pictures are in "
                f"{self.run.path / 'repro'}"
            )
        if self.trouble.doubts(clock, result, micro_batches):
            self.saver.settle()
            clock = self.trouble.go_back(clock, result)
            self.progress.say(
                f"back    to before the trouble; from step {clock.step} on learning rate x {self.lr_factor:g}"
            )
        return clock

    def wishes(self, step: int) -> tuple[bool, ...]:
        """Whether this process wants to stop, to save, or to give up after a step."""
        return self.stop.wanted, self._save_due(step), bool(self.run.lost or self.saver.error)

    def after(self, clock: Clock, line: dict[str, Any] | None, wishes: tuple[bool, ...]) -> bool:
        """Log, ask and save where due; True when the run is to stop. All processes decide alike.

        Raises:
            MachineError: K-20, three saves in a row were refused, or the last one; K-22, the run folder is lost.
            NumericsError: K-17, weights are not finite.

        """
        stop, save, failed = wishes
        self._tell(line)
        if failed:
            other = MachineError("K-20", "process 0 can no longer save.", todo="Look at its output.")
            raise self.run.lost or self.saver.error or other
        best = None
        if self.watch.due(clock):
            self.enter("watching", clock)
            best = self._ask(clock)
            save |= self._agree(best is not None)
        self.enter("saving", clock)
        if stop or clock.done or (save and not self.trouble.guard.uneasy(clock.step)):
            self.saver.save(clock, best)
            self.next_save = time.monotonic() + SAVE_EVERY
        if stop or clock.done:
            self.saver.finish()
            barrier()
        return stop

    def _tell(self, line: dict[str, Any] | None) -> None:
        """What became of saves, pictures that were replaced by others, the line of metrics, and logs that failed."""
        self.saver.tell()
        source = self.data.train.source
        failed = source.failed
        for name in list(failed)[self.told :]:
            self.run.event("unreadable", name=name, reason=failed[name], sha256=source.hashes[name])
        self.told = len(failed)
        if line:
            self.run.append("metrics.jsonl", line)
            self.progress.show(line)
        for name in self.run.troubles.keys() - self.warned:
            self.progress.say(f"warning {name} cannot be written ({self.run.troubles[name]}); training goes on")
            self.warned.add(name)

    def _ask(self, clock: Clock) -> Best | None:
        """Ask, on one process; by what the checkpoint is to be kept as the best, where it is."""
        if rank() > 0:
            return None
        with alone():
            answer = self.watch.ask(self.method, clock)
        self.run.append("monitors.jsonl", answer)
        self.progress.say(_answer(answer, unseen=self.watch.unseen))
        chosen_by = ("cross_entropy", *CHOSEN_BY) if self.data.train.tags else CHOSEN_BY
        by = next((name for name in chosen_by if math.isfinite(answer.get(name, math.nan))), None)
        if by is None or clock.step == 0 or not self.settings.chooses_best:
            return None
        best = Best(by=by, value=answer[by])
        return best if self.saver.is_best(best) else None

    def _save_due(self, step: int) -> bool:
        if self.settings.keep_steps and step % self.settings.keep_steps == 0:
            return True
        if self.settings.save_steps:
            return step % self.settings.save_steps == 0
        return time.monotonic() >= self.next_save

    def _agree(self, wish: bool) -> bool:
        device = next(self.method.parameters()).device
        return bool(all_max(torch.tensor(float(wish), device=device)) > 0)


CHOSEN_BY = ("mask_ap", "box_ap", "miou", "classifier_accuracy", "knn_accuracy")
"""By what the best checkpoint is chosen: the first of these that a method answers with.

Of tags it is their cross-entropy: a word that most pictures have would make any network right, and the first the best.
"""


def _answer(answer: dict[str, Any], *, unseen: bool) -> str:
    names = {
        "miou": "mIoU {:.1%}",
        "box_ap": "AP of boxes {:.1%}",
        "mask_ap": "AP of masks {:.1%}",
        "pixel_accuracy": "pixels {:.1%}",
        "classifier_accuracy": "classifier {:.1%}",
        "sure_share": "sure of {:.0%}",
        "sure_accuracy": "right of them {:.1%}",
        "knn_accuracy": "kNN {:.1%}",
        "rank_me": "RankMe {:.1f}",
        "feature_std": "feature std {:.2f}",
    }
    told = [text.format(answer[name]) for name, text in names.items() if name in answer]
    return f"watch   step {answer['step']} · {'held out' if unseen else 'trained on'}: {' · '.join(told)}"
