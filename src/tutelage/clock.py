"""The one clock of a run, and the schedules and cadences that are functions of it.

Two integers are the only clocks: `step` counts global batches consumed, `updates` counts optimizer updates applied.
An epoch is a number of pictures, never "the loader ran out", so a batch may straddle two epochs and nothing is dropped.
"""

import math
from dataclasses import dataclass, replace
from typing import Annotated, Literal

from pydantic import Field

from tutelage.config import Momentum, NonNegative, Settings, Share


@dataclass(frozen=True)
class Clock:
    """Where a run stands. In a method's `forward`, `step` is the number of batches before this one."""

    batch_size: int
    """Pictures in a global batch."""
    num_pictures: int
    """Pictures in an epoch."""
    total_steps: int
    step: int = 0
    updates: int = 0

    @property
    def epoch(self) -> int:
        """Whole epochs consumed."""
        return self.step * self.batch_size // self.num_pictures

    @property
    def epochs(self) -> float:
        """Epochs consumed, with the fraction."""
        return self.step * self.batch_size / self.num_pictures

    @property
    def run_epochs(self) -> float:
        """Epochs of the run, with the fraction."""
        return self.total_steps * self.batch_size / self.num_pictures

    def within(self, epochs: float, max_share: float) -> bool:
        """Whether it is still in a warm-up of so many epochs, which takes at most a share of the run."""
        return self.epochs < min(epochs, max_share * self.run_epochs)

    @property
    def total_epochs(self) -> int:
        """Whole epochs of the run, at least one: the E of the papers' schedules."""
        return max(1, self.total_steps * self.batch_size // self.num_pictures)

    @property
    def within_epoch(self) -> "Clock":
        """The clock, its steps counted from the first one of the epoch that the latest step began in."""
        epoch = (self.step - 1) * self.batch_size // self.num_pictures
        first = math.ceil(epoch * self.num_pictures / self.batch_size)
        return replace(self, step=self.step - first)

    @property
    def fraction(self) -> float:
        """The share of the run consumed, 0 at the first step."""
        return self.step / self.total_steps

    @property
    def done(self) -> bool:
        """Whether no step is left."""
        return self.step >= self.total_steps

    def tick(self, *, applied: bool = True) -> "Clock":
        """The clock after one more batch; `applied` is False when its update was skipped."""
        return replace(self, step=self.step + 1, updates=self.updates + applied)


def total_steps(num_pictures: int, batch_size: int, epochs: float) -> int:
    """Steps after which at least `epochs` epochs are consumed: the last batch may straddle the end."""
    return max(1, math.ceil(epochs * num_pictures / batch_size - 1e-9))


# --- cadences: when a teacher moves, and which share of its moves lies behind ------------------------------------------

Cadence = Literal["step", "epoch", "run/300"] | Annotated[int, Field(ge=1)]
"""After every update, after the step that ends an epoch, every 300th of the run (the small-data rule:
as often as an epoch teacher of a 300-epoch run), or after every n updates."""


def moves(cadence: Cadence, clock: Clock) -> int:
    """How often a teacher of this cadence has moved by `clock`. A pure function, so a resumed run cannot disagree."""
    return clock.epoch if cadence == "epoch" else clock.updates // _interval(cadence, clock)


def move_fraction(cadence: Cadence, clock: Clock) -> float:
    """Index of the latest move over the number of moves in the run: e/E for an epoch teacher, t/T for a step teacher.

    0 at the first move and below 1 at the last, as in DINO's and SdAE's schedules. Steps, not updates, are counted,
    so that a skipped step does not stretch the schedule.
    """
    if cadence == "epoch":
        return (clock.epoch - 1) / clock.total_epochs
    n = _interval(cadence, clock)
    return ((clock.step - 1) // n) / max(1, clock.total_steps // n)


def _interval(cadence: Literal["step", "run/300"] | int, clock: Clock) -> int:
    """Updates between two moves."""
    if cadence == "run/300":
        return max(1, clock.total_steps // 300)
    return 1 if cadence == "step" else cadence


# --- schedules: settings that are called with a fraction of the run --------------------------------------------------


class CosineMomentum(Settings):
    """m(f) = end + (start - end) (1 + cos(pi f)) / 2 (DINO; SdAE per epoch)."""

    start: Momentum
    """Momentum at the first move."""
    end: Momentum
    """Momentum that the last move comes close to."""

    def __call__(self, fraction: float) -> float:
        """Momentum at `fraction` of the teacher's moves."""
        return self.end + 0.5 * (self.start - self.end) * (1 + math.cos(math.pi * fraction))


class LinearRamp(Settings):
    """From start to end, linear over the first epochs, then constant (DINO's teacher temperature)."""

    start: Annotated[float, Field(gt=0)]
    """Value at the first step."""
    end: Annotated[float, Field(gt=0)]
    """Value from the end of the ramp on."""
    epochs: NonNegative
    """Length of the ramp, at most `max_share` of the run."""
    max_share: Share = 0.1
    """The ramp never takes more than this share of the run (methods A18)."""

    def __call__(self, clock: Clock) -> float:
        """Value at the clock's step."""
        length = min(self.epochs, self.max_share * clock.total_steps * clock.batch_size / clock.num_pictures)
        if clock.epochs >= length:
            return self.end
        return self.start + (self.end - self.start) * clock.epochs / length


def warmup_poly(clock: Clock, *, peak: float, floor: float, warmup_epochs: float, power: float = 1.0) -> float:
    """Linear from 0 to `peak` over the warm-up, beside which the rate falls as (1 - t / T)^power from the first step on.

    mmsegmentation's poly schedule with its linear warm-up, as BEiT's, MAE's and SdAE's segmentation have it.
    """
    rate: float = floor + (peak - floor) * (1 - clock.fraction) ** power
    return rate * _risen(clock, warmup_epochs)


def warmup_steps(clock: Clock, *, peak: float, floor: float, warmup_epochs: float, drops: tuple[float, ...]) -> float:
    """Linear from 0 to `peak` over the warm-up, and at each of the epochs `drops` down to a tenth, never below `floor`.

    mmdetection's step schedule with its linear warm-up (which begins at a thousandth).
    """
    rate = max(floor, peak * 0.1 ** sum(clock.epochs >= epoch for epoch in drops))
    return rate * _risen(clock, warmup_epochs)


def _risen(clock: Clock, warmup_epochs: float) -> float:
    """How much of the rate a linear warm-up lets through at the clock's step, 0 to 1."""
    warmup = warmup_epochs * clock.num_pictures / clock.batch_size
    return min(1.0, clock.step / warmup) if warmup else 1.0


def warmup_cosine(clock: Clock, *, peak: float, floor: float, warmup_epochs: float) -> float:
    """Linear from 0 to `peak` over the warm-up, then half a cosine to `floor` at the end of the run (MAE).

    Counted in steps: 0 at step 0, `peak` at the end of the warm-up, `floor` at the last step's end.
    """
    warmup = warmup_epochs * clock.num_pictures / clock.batch_size
    if clock.step < warmup:
        return peak * clock.step / warmup
    fraction = (clock.step - warmup) / max(1e-12, clock.total_steps - warmup)
    return floor + 0.5 * (peak - floor) * (1 + math.cos(math.pi * min(1.0, fraction)))
