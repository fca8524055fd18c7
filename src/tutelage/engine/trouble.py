"""What is done about numbers gone wrong: name the pictures, go back to a checkpoint, or give up."""

import math
from dataclasses import replace
from typing import Any

import torch

from tutelage.clock import Clock, moves
from tutelage.distributed import rank
from tutelage.engine.checkpoint import load_newest, restore
from tutelage.engine.feeds import Feeds, Micro
from tutelage.engine.guard import Guard
from tutelage.engine.run import RunFolder, write_json
from tutelage.engine.train import StepResult
from tutelage.errors import NumericsError
from tutelage.method import Method

BUNDLES = 20
"""Steps in doubt whose pictures are kept by name, in the folder `repro` of the run."""


class Trouble:
    """Follows the losses of a run, and acts when they go wrong."""

    def __init__(
        self, guard: Guard, run: RunFolder, method: Method, optimizer: torch.optim.Optimizer, feeds: Feeds
    ) -> None:
        self.guard, self.run, self.method, self.optimizer, self.feeds = guard, run, method, optimizer, feeds

    def doubts(self, clock: Clock, result: StepResult, batches: list[Micro]) -> bool:
        """Judge the step that `clock` has just counted, and tell of it if it is in doubt; whether the run is to go back."""
        parts = tuple(result.losses)
        judgement = self.guard.judge(clock.step, result.losses["loss"], applied=result.applied, parts=parts)
        if judgement != "good":
            self._tell(judgement, clock, result, batches)
        return self.guard.lost

    def _tell(self, judgement: str, clock: Clock, result: StepResult, batches: list[Micro]) -> None:
        """An event, and of the first such steps the pictures that this process had."""
        numbers = {"loss": result.losses["loss"], "grad_norm": result.grad_norm}
        told: dict[str, Any] = {name: value if math.isfinite(value) else str(value) for name, value in numbers.items()}
        told |= {"processes": list(result.processes)}
        self.run.event(judgement, step=clock.step, **told)
        folder = self.run.path / "repro"
        if len(list(folder.glob(f"*-{rank()}.json"))) >= BUNDLES:
            return
        folder.mkdir(exist_ok=True)
        pictures = [name for batch in batches for name in self.feeds.names(batch)]
        values = {"judgement": judgement, "step": clock.step, "process": rank(), **told, "pictures": pictures}
        write_json(folder / f"step-{clock.step:08d}-{rank()}.json", values)

    def go_back(self, clock: Clock, result: StepResult) -> Clock:
        """Go back to the newest whole checkpoint from before the first step in doubt; the clock, with fewer updates.

        What was consumed since is consumed: schedules and data go on from here, so nothing that broke the run is met again.

        Raises:
            NumericsError: N-01, no checkpoint is from before the first step in doubt; N-02, no return is left.

        """
        first = self.guard.doubts[0]
        if self.guard.rollbacks == self.guard.settings.rollbacks:
            raise self._given_up(clock, result)
        checkpoint, _ = load_newest(self.run.checkpoints, before=first)
        if checkpoint is None:
            raise _nowhere_to_go(clock, result, len(self.guard.doubts))
        restore(checkpoint, self.method, self.optimizer, clock)
        clock = replace(clock, updates=checkpoint.updates)
        for teacher in self.method.teachers.values():  # an epoch that ended in between is over for its teacher too
            teacher.num_moves.fill_(moves(teacher.settings.every, clock))
        self.guard.went_back()
        self.run.event("went_back", step=clock.step, to=checkpoint.step, lr_factor=self.guard.lr_factor)
        return clock

    def _given_up(self, clock: Clock, result: StepResult) -> NumericsError:
        times = self.guard.rollbacks
        return NumericsError(
            "N-02",
            f"{wrong(result)} again at step {clock.step}, after {times} return{'s' if times != 1 else ''} to a checkpoint.",
            f"The learning rate was at {self.guard.lr_factor:g} of the schedule's by then; the checkpoints are good.",
            "See RUN/repro for the pictures; begin another (--init RUN --out OTHER) with a lower --optim.base-lr.",
        )


def _nowhere_to_go(clock: Clock, result: StepResult, doubts: int) -> NumericsError:
    return NumericsError(
        "N-01",
        f"{wrong(result)} in {doubts} of the last steps, up to step {clock.step}, and no checkpoint is from before them.",
        "No update that was not finite was applied.",
        "Begin another (--out OTHER) with a lower --optim.base-lr, --optim.clip 1, or --precision float32.",
    )


def wrong(result: StepResult) -> str:
    """Which number, and what is the matter with it."""
    names = [name for name, value in result.losses.items() if not math.isfinite(value)]
    if names:
        return f"{', '.join(names)} {'were' if len(names) > 1 else 'was'} not finite"
    return "the loss rose far above what is usual" if result.applied else "the gradient was not finite"
