"""The loop. One step is: forward, backward, agree that the numbers are finite, update, tick, move the teachers."""

import math
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from tutelage.batch import Batch
from tutelage.clock import Clock, warmup_cosine, warmup_poly, warmup_steps
from tutelage.data.order import mix
from tutelage.distributed import all_sum, rank, world_size
from tutelage.engine.feeds import Micro
from tutelage.engine.optim import set_lr
from tutelage.engine.settings import RunSettings
from tutelage.method import Method


@dataclass(frozen=True)
class Numerics:
    """Where and in which precision a run computes, and how its pictures are normalised."""

    device: torch.device
    dtype: torch.dtype
    """Of weights and pictures: float32, or float64 in tests."""
    autocast: torch.dtype | None
    """bfloat16, where it was asked for or the GPU has it natively."""
    mean: Tensor
    std: Tensor

    @property
    def name(self) -> str:
        """The precision in a word."""
        return str(self.autocast or self.dtype).removeprefix("torch.")

    def ready(self, batch: Batch) -> Batch:
        """A batch on the device, normalised."""
        return batch.to(self.device).normalised(self.mean, self.std)

    def prepare(self, batch: Micro) -> Micro:
        """The batches of all streams, as a method takes them."""
        return {name: self.ready(part) for name, part in batch.items()}

    def cast(self) -> Any:
        """The autocast context, or none."""
        return torch.autocast(self.device.type, self.autocast) if self.autocast else nullcontext()


@dataclass(frozen=True)
class StepResult:
    """Losses of a step, averaged over its micro-batches and all processes, and whether its update was applied."""

    losses: dict[str, float]
    grad_norm: float
    applied: bool
    processes: tuple[int, ...] = ()
    """Where a loss was not finite."""
    wishes: tuple[bool, ...] = ()
    """What at least one process wished for."""


class Attendant(Protocol):
    """What surrounds the loop: it watches, saves, stops and goes back; all processes decide alike."""

    @property
    def lr_factor(self) -> float:
        """What the schedule's learning rate is multiplied by."""
        ...

    def enter(self, section: Literal["data", "step"], clock: Clock) -> None:
        """Told what begins."""
        ...

    def wishes(self, step: int) -> tuple[bool, ...]:
        """What this process wants after a step: the step's own reduction tells all whether one of them does."""
        ...

    def judge(self, clock: Clock, result: StepResult, micro_batches: list[Micro]) -> Clock:
        """The clock to go on with after a step: another where the run goes back to a checkpoint."""
        ...

    def after(self, clock: Clock, line: dict[str, Any] | None, wishes: tuple[bool, ...]) -> bool:
        """Save and watch, with a line of metrics where one is due; True to stop."""
        ...


def train(
    method: Method,
    optimizer: torch.optim.Optimizer,
    batches: Iterator[list[Micro]],
    clock: Clock,
    settings: RunSettings[Any],
    numerics: Numerics,
    attendant: Attendant,
) -> Clock:
    """Run all steps that are left, or until the attendant wants to stop."""
    module = _shared(method) if world_size() > 1 else method
    meter = Meter(settings)
    while not clock.done:
        attendant.enter("data", clock)
        micro_batches = meter.wait_for(batches)
        attendant.enter("step", clock)
        lr = learning_rate(clock, settings) * attendant.lr_factor
        set_lr(optimizer, lr)
        torch.manual_seed(mix(settings.seed, "drop path", clock.step, rank()) % 2**63)

        result = step(
            module, optimizer, micro_batches, clock, settings, numerics, partial(attendant.wishes, clock.step + 1)
        )
        clock = clock.tick(applied=result.applied)
        method.after_step(clock)

        clock = attendant.judge(clock, result, micro_batches)
        if attendant.after(clock, meter.read(clock, lr, result), result.wishes):
            break
    return clock


def _shared(method: Method) -> DistributedDataParallel:
    """The method with gradients averaged over processes, always in the same order.

    After its first step DDP lays gradients out anew, in the order in which they came, unless it is told to look for parameters
    without any. Among three processes and more the layout decides in which order numbers are added, so a run that goes on
    would take its first step with other roundings than one that was never stopped.
    """
    warnings.filterwarnings("ignore", message="find_unused_parameters=True was specified")
    return DistributedDataParallel(method, find_unused_parameters=True)


def learning_rate(clock: Clock, settings: RunSettings[Any]) -> float:
    """The learning rate at the clock's step; a run shorter than its recipe's warms up in a share of it at most."""
    optim = settings.optim
    warmup = min(optim.warmup_epochs, optim.max_warmup_share * clock.run_epochs)
    falling = partial(warmup_steps, drops=optim.drops)
    schedules: dict[str, Callable[..., float]] = {"cosine": warmup_cosine, "poly": warmup_poly, "steps": falling}
    return schedules[optim.schedule](clock, peak=settings.lr, floor=optim.min_lr, warmup_epochs=warmup)


def step(
    module: nn.Module,
    optimizer: torch.optim.Optimizer,
    micro_batches: list[Micro],
    clock: Clock,
    settings: RunSettings[Any],
    numerics: Numerics,
    wishes: Callable[[], tuple[bool, ...]] = tuple,
) -> StepResult:
    """One update from accumulated micro-batches; left out, on all processes alike, if anything is not finite.

    One reduction of a few numbers tells every process that, the losses, and what any of them wishes for.
    """
    totals: dict[str, Tensor] = {}
    count = len(micro_batches)
    for i, batch in enumerate(micro_batches):
        last = i == count - 1
        sync = nullcontext() if last or not isinstance(module, DistributedDataParallel) else module.no_sync()
        with sync:
            with numerics.cast():
                output = module(numerics.prepare(batch), clock)
            (output.loss / count).backward()
        for name, value in {"loss": output.loss, **output.parts}.items():
            totals[name] = totals.get(name, 0) + value.detach() / count

    parameters = [p for p in module.parameters() if p.grad is not None]
    grad_norm = torch.nn.utils.clip_grad_norm_(parameters, settings.optim.clip or math.inf)
    own = torch.stack([*totals.values(), grad_norm]).double()
    sums = all_sum(torch.cat([own, own.new_tensor(wishes())])).tolist()  # not finite where one process's number is not
    means = [total / world_size() for total in sums[: len(own)]]
    applied = all(map(math.isfinite, means))
    if applied:
        optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    losses = dict(zip(totals, means[:-1], strict=True))
    wrong = () if applied else _where_not_finite(own[:-1])
    return StepResult(losses, means[-1], applied, wrong, tuple(wish > 0 for wish in sums[len(own) :]))


def _where_not_finite(losses: Tensor) -> tuple[int, ...]:
    """The processes with a loss that is not finite: none where only the gradient is not."""
    own = torch.zeros(world_size(), device=losses.device)
    own[rank()] = float((~losses.isfinite()).any())
    return tuple(all_sum(own).nonzero().flatten().tolist())


@dataclass
class Meter:
    """Averages over the steps of a log line, with speed and the share of time spent waiting for pictures."""

    settings: RunSettings[Any]
    started: float = field(default_factory=time.perf_counter)
    waited: float = 0.0
    results: list[StepResult] = field(default_factory=list)

    def wait_for(self, batches: Iterator[list[Micro]]) -> list[Micro]:
        """The next micro-batches, on the clock."""
        before = time.perf_counter()
        micro_batches = next(batches)
        self.waited += time.perf_counter() - before
        return micro_batches

    def read(self, clock: Clock, lr: float, result: StepResult) -> dict[str, Any] | None:
        """A line of metrics.jsonl every `log_steps`, at the first step and at the last."""
        self.results.append(result)
        if clock.step % self.settings.log_steps and clock.step > 1 and not clock.done:
            return None
        seconds = max(1e-9, time.perf_counter() - self.started)
        good = [r for r in self.results if r.applied]
        line: dict[str, Any] = {"step": clock.step, "epoch": round(clock.epochs, 4)}
        line |= {name: _mean([r.losses[name] for r in good if name in r.losses]) for name in result.losses}
        line |= {
            "lr": lr,
            "grad_norm": _mean([r.grad_norm for r in good]),
            "images_per_second": round(len(self.results) * self.settings.batch_size / seconds, 2),
            "data_wait": round(self.waited / seconds, 4),
            "skipped": len(self.results) - len(good),
        }
        if torch.cuda.is_available():
            line["gpu_memory_gb"] = round(torch.cuda.max_memory_allocated() / 1e9, 2)
        self.restart()
        return line

    def restart(self) -> None:
        """Begin the next line; called too after a pause that is not training."""
        self.started, self.waited, self.results = time.perf_counter(), 0.0, []


def _mean(values: list[float]) -> float | None:
    return sum(values) / len(values) if values else None
