"""Numbers gone wrong: which steps are in doubt, and when a run goes back to the last checkpoint before them.

Every process judges by the same averaged losses, so all judge alike, and what the judgement depends on is kept in the
checkpoints, so a resumed run judges as one that was not stopped.
"""

import math
from collections import deque
from statistics import median
from typing import Any, Literal

from tutelage.config import Count, NonNegativeInt, Positive, Ratio, Settings

Judgement = Literal["good", "skipped", "spike"]
_DEVIATION = 1.4826
"""Times the median absolute deviation is the standard deviation, of normally distributed numbers."""


class GuardSettings(Settings):
    """When losses count as gone wrong, and how often a run may go back for it."""

    window: Count = 50
    """Steps that are looked back on."""
    doubtful: Count = 10
    """Among them, steps that were left out (numbers not finite) or spiked, at which the run goes back."""
    spike: Positive = 10.0
    """A loss spikes that is so many robust deviations above the median of the window ..."""
    rise: Positive = 0.5
    """... and by this share of it: what a teacher's move or a new epoch does to a loss is less."""
    rollbacks: NonNegativeInt = 3
    """Times that a run may go back to a checkpoint; 0 stops it instead."""
    lr_factor: Ratio = 0.5
    """Each time the learning rate is multiplied by it, for the rest of the run."""


QUIET = 10
"""Good steps after one in doubt before a checkpoint is written again."""


class Guard:
    """Judges each step by its loss. `state` and `restore` make it part of a checkpoint."""

    def __init__(self, settings: GuardSettings) -> None:
        self.settings = settings
        self.rollbacks = 0
        self.losses: deque[float] = deque(maxlen=settings.window)
        """Finite losses of the latest steps."""
        self.parts: tuple[str, ...] = ()
        """What they were made of: with another part begins another stage of the method, and what is usual is not known."""
        self.doubts: deque[int] = deque()
        """Those of the latest `window` steps that were left out or spiked."""

    @property
    def lr_factor(self) -> float:
        """What the schedule's learning rate is multiplied by."""
        return self.settings.lr_factor**self.rollbacks

    @property
    def lost(self) -> bool:
        """Whether too many of the latest steps are in doubt."""
        return len(self.doubts) >= self.settings.doubtful

    def uneasy(self, step: int) -> bool:
        """Whether a step in doubt is so near that a checkpoint would perhaps keep what is to be left behind."""
        return bool(self.doubts) and step - self.doubts[-1] < QUIET

    def judge(self, step: int, loss: float, *, applied: bool, parts: tuple[str, ...] = ()) -> Judgement:
        """What to think of the step that was the `step`-th, counted from 1, with a loss made of `parts`."""
        if parts != self.parts:
            if self.parts:
                self.losses.clear()
            self.parts = parts
        judgement: Judgement = "skipped" if not applied else "spike" if self._spikes(loss) else "good"
        if math.isfinite(loss):
            self.losses.append(loss)
        if judgement != "good":
            self.doubts.append(step)
        while self.doubts and self.doubts[0] <= step - self.settings.window:
            self.doubts.popleft()
        return judgement

    def went_back(self) -> None:
        """Count a return to a checkpoint, and look at what follows afresh."""
        self.rollbacks += 1
        self.losses.clear()
        self.doubts.clear()

    def state(self) -> dict[str, Any]:
        """What the judgement of the next step depends on, for a checkpoint."""
        return {
            "rollbacks": self.rollbacks,
            "losses": list(self.losses),
            "doubts": list(self.doubts),
            "parts": list(self.parts),
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on from a checkpoint's `state`."""
        self.rollbacks = int(state["rollbacks"])
        self.losses.extend(map(float, state["losses"]))
        self.doubts.extend(map(int, state["doubts"]))
        self.parts = tuple(map(str, state.get("parts", ())))

    def _spikes(self, loss: float) -> bool:
        if len(self.losses) < self.settings.window:  # too few to know what is usual
            return False
        usual = median(self.losses)
        deviation = _DEVIATION * median(abs(x - usual) for x in self.losses)
        return loss > usual + max(self.settings.spike * deviation, self.settings.rise * abs(usual))
