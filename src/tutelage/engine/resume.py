"""Going on where a run stopped: which checkpoint, whether it is of this run, and what has to be said about it."""

import shutil
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.clock import Clock
from tutelage.config import read_json
from tutelage.data.index import Data
from tutelage.distributed import all_max, rank
from tutelage.durable import move
from tutelage.engine.chain import DataChain
from tutelage.engine.checkpoint import Checkpoint, checkpoint_folders, load_newest, restore, step_of
from tutelage.engine.feeds import Feeds
from tutelage.engine.guard import Guard
from tutelage.engine.run import RunFolder
from tutelage.errors import CheckpointError, NumericsError, SettingsError
from tutelage.method import Method

LATE = 30.0
"""Seconds that a checkpoint may take to be seen by other machines."""
TIMES = 3
"""How often a run may end after the same step, unasked, before it is not begun again by itself."""


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on."""

    clock: Clock
    chain: DataChain
    notes: tuple[str, ...]
    """What the user is to know: checkpoints that were passed over."""
    reached: int
    """The last step that the run had told of when it ended; 0 where it told of none."""


def resume(
    run: RunFolder,
    method: Method,
    optimizer: torch.optim.Optimizer,
    clock: Clock,
    data: Data,
    feeds: Feeds,
    precision: str,
    guard: Guard | None = None,
) -> Resumed:
    """Put the newest whole checkpoint back, or begin at `clock` where there is none.

    Raises:
        CheckpointError: K-11 none is whole, K-12 it is of a later version, K-14 of other pictures or tags, K-16 its teachers'
            clocks are wrong, K-18 it saw other pictures than were due, K-21 not all processes see it, K-30 it is of another
            size.
        SettingsError: C-12, it is of another precision.
        NumericsError: N-09, the run has ended after the same step several times.

    """
    device = next(method.parameters()).device
    reached = _reached(run, clock, device)
    checkpoint, wrong = _newest_of_all(run, device)
    if checkpoint is None:
        run.rewind(-1)
        return Resumed(clock, DataChain(), (), reached)
    _refuse_other_pictures(checkpoint, run, data, feeds)
    _refuse_other_precision(run, precision)
    clock = restore(checkpoint, method, optimizer, clock)
    if guard and checkpoint.guard:
        guard.restore(checkpoint.guard)
    notes = _pass_over(run, checkpoint, wrong)
    run.rewind(clock.step)
    return Resumed(clock, _chain(checkpoint, clock, feeds), notes, reached)


def _reached(run: RunFolder, clock: Clock, device: torch.device) -> int:
    """The last step told of; refuses, on all processes alike, to begin again what would only fail again."""
    reached = max((int(line.get("step", 0)) for line in run.lines("metrics.jsonl")), default=0)
    ends: list[int] = []  # where it was at each beginning since it last stopped as asked; the first is where that was
    for event in run.lines("events.jsonl"):
        if event.get("event") in ("stopped", "failed_again"):
            ends.clear()
        elif event.get("event") in ("started", "resumed"):
            ends.append(event.get("reached", 0))
    again = 0 < reached < clock.total_steps and (*ends[1:], reached)[-TIMES:] == (reached,) * TIMES
    if all_max(torch.tensor(float(again), device=device)) > 0:
        run.event("failed_again", step=reached)
        raise NumericsError(
            "N-09",
            f"{run.path} has ended {TIMES} times after step {reached}, and nobody asked it to.",
            "By itself it would again: it is the machine's memory, a picture, or a mistake in the code.",
            f"Look at what it printed last, and at {run.path / 'repro'}; the same command tries once more.",
        )
    return reached


def _chain(checkpoint: Checkpoint, clock: Clock, feeds: Feeds) -> DataChain:
    """The chain to add to: the first process has what there is, the others add what they train on from here."""
    if rank() > 0:
        return DataChain(clock.step)
    if checkpoint.links:
        return DataChain(clock.step, checkpoint.links.digest)
    return DataChain(clock.step, f"{feeds.chain(0, clock.step):016x}")  # format 1


def _newest_of_all(run: RunFolder, device: torch.device) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint, once this process sees the one that the others see."""
    checkpoint, wrong = load_newest(run.checkpoints)
    step = checkpoint.step if checkpoint else -1
    newest = int(all_max(torch.tensor(step, device=device)))
    limit = time.monotonic() + LATE
    while step < newest:
        if time.monotonic() > limit:
            raise CheckpointError(
                "K-21",
                f"process {rank()} does not see the checkpoint of step {newest} in {run.checkpoints}, which others see.",
                f"It looked for {LATE:.0f} seconds.",
                "Mend the shared folder of its machine.",
            )
        time.sleep(0.5)
        checkpoint, wrong = load_newest(run.checkpoints)
        step = checkpoint.step if checkpoint else -1
    return checkpoint, wrong


def _refuse_other_pictures(checkpoint: Checkpoint, run: RunFolder, data: Data, feeds: Feeds) -> None:
    if checkpoint.fingerprint != data.fingerprint:
        raise _of_other_pictures(run, data)
    links = checkpoint.links
    due = links.differs(checkpoint.step, feeds) if links else None
    if links and due:
        raise CheckpointError(
            "K-18",
            f"{checkpoint.path} was not trained on the pictures that were due: its data chain is {links.digest}, not {due}.",
            "Some were skipped or repeated, or this version orders them otherwise.",
            "Go on with the version of tutelage that wrote it, or begin another run with --init and another --out.",
        )


def refuse_other_pictures_than(first: Path, data: Data) -> None:
    """Raise CheckpointError K-14 where the run before this one saw other pictures, or others were kept from its training."""
    before = read_json(first / "data.json") if (first / "data.json").exists() else {}
    if "division" in before and before["division"] != data.division:  # an earlier version did not tell it
        raise CheckpointError(
            "K-14",
            f"the pictures of {data.name} are not those that {first} was trained on ({_counts(before, data)}).",
            "What is tested or held out now may have been trained on then.",
            "Restore them, or begin both runs with another --out.",
        )


def _counts(before: dict[str, Any], data: Data) -> str:
    """How many pictures each part had and has."""
    parts = ("train", "held_out", "test")
    return "; ".join(
        f"{before.get(part, '?')} {part.replace('_', ' ')} then, {len(getattr(data, part))} now" for part in parts
    )


def _of_other_pictures(run: RunFolder, data: Data) -> CheckpointError:
    """K-14, naming what has changed since the run began: WordNet or the tags where the pictures are the same, else those."""
    before = run.read("data.json")
    then, now = before.get("hashes", {}), data.hashes
    same = {name for name in now if then.get(name) == now[name]}
    changed = "tags" if "wordnet" in same else "wordnet"
    if data.train.tags and "pictures" in same and changed not in same:
        what = f"the tags of {data.name}" if changed == "tags" else "the nouns of WordNet"
        told = f"SHA-256 {str(then.get(changed))[:12]} then, {now[changed][:12]} now"
    else:
        what = f"the pictures{' or tags' if data.train.tags and 'tags' not in then else ''} of {data.name}"
        told = _counts(before, data)
    return CheckpointError(
        "K-14",
        f"{what} are not those that {run.path} was begun with ({told}).",
        "Going on would mix two data sets without a trace.",
        "Restore them, or begin another run with --init and another --out.",
    )


def _refuse_other_precision(run: RunFolder, precision: str) -> None:
    began = run.read("environment.json").get("precision", precision)
    if began != precision:
        raise SettingsError(
            "C-12",
            f"{run.path} was begun in {began}, and would go on in {precision} on this device.",
            "Its numbers would change on the way.",
            f"Use --precision {'bf16' if began == 'bfloat16' else began} on a device that has it, or another --out.",
        )


def _pass_over(run: RunFolder, checkpoint: Checkpoint, wrong: list[str]) -> tuple[str, ...]:
    """Say which newer checkpoints are damaged, and take their names: they are no checkpoints to count or to go on from."""
    notes = []
    damaged = [path for path in checkpoint_folders(run.checkpoints) if step_of(path) > checkpoint.step]
    for path, reason in zip(damaged, wrong, strict=False):
        lost = step_of(path) - checkpoint.step
        said = f"K-10: step {step_of(path)} is damaged: {reason.removeprefix(f'{path.name}: ')}. "
        notes.append(f"{said}Using step {checkpoint.step} ({lost} steps are redone).")
        run.event("damaged_checkpoint", reason=reason, used=checkpoint.step, redone=lost)
    if run.writes:
        for path in damaged:  # out of the way, and gone with the next save
            hidden = path.with_name(f".{path.name}")
            shutil.rmtree(hidden, ignore_errors=True)
            move(path, hidden)
    return tuple(notes)
