"""The progress of a run: a live line on a terminal, plain lines elsewhere."""

import sys
import time
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn


class ProgressLine:
    """Shows the step, losses, speed, data wait and time left. Everything goes to standard error."""

    def __init__(self, total_steps: int, first_step: int, *, quiet: bool = False) -> None:
        self.console = Console(stderr=True, quiet=quiet, highlight=False, soft_wrap=True)
        self.total_steps, self.first_step = total_steps, first_step
        self.started = time.monotonic()
        self._last_plain = -1e9
        self._live = None
        if self.console.is_terminal and not quiet:
            columns = (TextColumn("{task.description}"), BarColumn(bar_width=20), TimeRemainingColumn(compact=True))
            self._live = Progress(*columns, console=self.console, transient=True)
            self._task = self._live.add_task("starting", total=total_steps, completed=first_step)
            self._live.start()

    def show(self, line: dict[str, Any]) -> None:
        """A line of metrics.jsonl, in words."""
        text = describe(line, self.total_steps)
        if self._live:
            self._live.update(self._task, completed=line["step"], description=text)
            return
        now = time.monotonic()
        if now - self._last_plain >= 5 or line["step"] >= self.total_steps:
            self._last_plain = now
            done = line["step"] - self.first_step
            left = (now - self.started) / max(1, done) * (self.total_steps - line["step"])
            self.say(f"{text} · {duration(left)} left")

    def say(self, text: str) -> None:
        """A line that stays."""
        self.console.print(text, markup=False)

    def close(self) -> None:
        """Take the live line away."""
        if self._live:
            self._live.stop()
        sys.stderr.flush()


def describe(line: dict[str, Any], total_steps: int) -> str:
    """`step 120/400 · epoch 1.2 · loss 0.41 (class 6.1, patch 6.2) · lr 3.0e-04 · 130 pictures/s · data wait 2 %`."""
    known = {"step", "epoch", "loss", "lr", "grad_norm", "images_per_second", "data_wait", "skipped", "gpu_memory_gb"}
    parts = ", ".join(f"{name} {value:.3g}" for name, value in line.items() if name not in known and value is not None)
    memory = f" · {line['gpu_memory_gb']:.1f} GB" if "gpu_memory_gb" in line else ""
    loss = f"{line['loss']:.4f} ({parts})" if line["loss"] is not None else "not finite"
    return (
        f"step {line['step']}/{total_steps} · epoch {line['epoch']:.2f} · loss {loss} · lr {line['lr']:.1e} · "
        f"{line['images_per_second']:,.0f} pictures/s · data wait {line['data_wait']:.0%}{memory}"
    )


def duration(seconds: float) -> str:
    """Seconds as a person says them: 42 s, 3 min 10 s, 2 h 5 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
