"""A run from settings to a finished run folder: open, build, go on where it stopped, train, export, report."""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tutelage.clock import Clock, total_steps
from tutelage.data.index import Data, Statistics, measure_statistics, open_data
from tutelage.data.order import mix
from tutelage.data.streams import PictureStream, batches
from tutelage.distributed import all_max, alone, barrier, rank, world_size
from tutelage.encoder import build_vit
from tutelage.engine.checkpoint import load_newest, restore, save_checkpoint
from tutelage.engine.finish import finish
from tutelage.engine.launch import StopRequest, has_bf16, launched
from tutelage.engine.optim import build_optimizer
from tutelage.engine.progress import ProgressLine
from tutelage.engine.run import RunFolder, check_writable, environment
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import Numerics, train
from tutelage.engine.watch import Watch
from tutelage.errors import CheckpointError, DataError, SettingsError
from tutelage.export import Coverage, init_from
from tutelage.method import Method
from tutelage.weights import IMAGENET

FIRST_SAVE, SAVE_EVERY = 60.0, 600.0
"""Seconds to the first checkpoint, and between checkpoints, unless `save_steps` says otherwise."""


@dataclass(frozen=True)
class Finished:
    """What `pretrain` leaves."""

    out: Path
    clock: Clock
    stopped: bool
    """The run was asked to stop and saved; the same command goes on."""
    labelled: bool
    """Some pictures have labels, so the encoder can be evaluated on them."""


def pretrain(settings: RunSettings[Any], out: Path, *, quiet: bool = False) -> Finished:
    """Pretrain as `settings` say and leave the run in `out`; go on where an earlier call was stopped or killed.

    Raises:
        TutelageError: with code and exit code, before anything is written where that can be known.

    """
    with launched(settings.device) as device:
        settings.check(world_size())
        check_writable(out)
        data = open_data(settings.data, holdout=settings.holdout)
        clock = new_clock(settings, data)
        run = RunFolder(out, writes=rank() == 0)
        try:
            run.agree(settings)
            return _pretrain(settings, run, data, clock, device, quiet=quiet or rank() > 0)
        finally:
            run.close()


def _pretrain(
    settings: RunSettings[Any], run: RunFolder, data: Data, clock: Clock, device: torch.device, *, quiet: bool
) -> Finished:
    method, statistics, coverage = build(settings, data)
    numerics = _numerics(settings, device, statistics)
    method.to(device=device, dtype=numerics.dtype)
    optimizer = build_optimizer(method, settings.optim)
    clock = _resume(run, method, optimizer, clock, data)

    progress = ProgressLine(clock.total_steps, clock.step, quiet=quiet)
    _describe(settings, run, data, clock, numerics, statistics, progress, coverage)
    stream = PictureStream(
        data.train, method.streams["train"], settings.views, settings.backbone.size, settings.num_patches, settings.seed
    )
    micro_batches = settings.micro_batches(world_size())
    source = batches(
        stream,
        first_step=clock.step,
        last_step=clock.total_steps,
        batch_size=settings.batch_size,
        micro_batches=micro_batches,
        rank=rank(),
        world=world_size(),
        workers=_workers(settings, device),
    )
    watch = Watch(data, method, settings, numerics)
    try:
        with StopRequest().listening() as stop:
            keeper = _Keeper(run, method, optimizer, data, settings, watch, progress, stop)
            keeper.begin(clock)
            clock = train(method, optimizer, source, clock, settings, numerics, keeper.after)
        if not clock.done:
            progress.say(f"saved   step {clock.step} of {clock.total_steps}; run the same command to go on")
            return Finished(run.path, clock, stopped=True, labelled=data.train.has_labels)
        if rank() == 0:
            progress.say("export  writing encoder and pictures")
            with alone():
                finish(run, method, data, settings, numerics, statistics, watch, clock)
        barrier()
        return Finished(run.path, clock, stopped=False, labelled=data.train.has_labels)
    finally:
        progress.close()
        source.close()  # type: ignore[attr-defined]


def build(settings: RunSettings[Any], data: Data) -> tuple[Method, Statistics, Coverage | None]:
    """The method on fresh or given weights, the normalisation of its pictures, and which weights were taken."""
    torch.manual_seed(mix(settings.seed, "weights") % 2**63)
    vit = build_vit(settings.backbone, data.channels)
    coverage = init_from(vit, settings.init) if settings.init else None
    if coverage and coverage.statistics and len(coverage.statistics.mean) == data.channels:
        statistics = coverage.statistics
    elif settings.normalisation == "imagenet" and data.channels == 3:
        statistics = IMAGENET
    else:
        statistics = measure_statistics(data.train)
    return settings.method.build(vit), statistics, coverage


def new_clock(settings: RunSettings[Any], data: Data) -> Clock:
    """The clock at step 0; refuses fewer training pictures than a batch takes."""
    n, g = len(data.train), settings.batch_size
    if n < g:
        raise DataError(
            "D-03",
            f"{data.name} has {n} training pictures, fewer than the batch_size of {g}.",
            "A batch would hold the same picture twice.",
            f"Use --batch-size {n} or less." if n else "Use more pictures.",
        )
    steps = settings.steps or total_steps(n, g, settings.epochs)
    return Clock(batch_size=g, num_pictures=n, total_steps=steps)


def _numerics(settings: RunSettings[Any], device: torch.device, statistics: Statistics) -> Numerics:
    wanted = settings.precision
    if wanted == "bf16" and not has_bf16(device):
        raise SettingsError(
            "C-26", f"precision bf16: this {device.type} has no native bfloat16.", "Emulated, it is some 20 times slower.",
            "Use --precision auto.",
        )  # fmt: skip
    bf16 = wanted == "bf16" or (wanted == "auto" and has_bf16(device))
    dtype = torch.float64 if wanted == "float64" else torch.float32
    mean, std = (torch.tensor(values, dtype=dtype, device=device) for values in (statistics.mean, statistics.std))
    return Numerics(device, dtype, torch.bfloat16 if bf16 else None, mean, std)


def _workers(settings: RunSettings[Any], device: torch.device) -> int:
    if settings.workers is not None:
        return settings.workers
    return min(8, torch.get_num_threads()) if device.type == "cuda" else 0


def _resume(run: RunFolder, method: Method, optimizer: torch.optim.Optimizer, clock: Clock, data: Data) -> Clock:
    checkpoint, wrong = load_newest(run.checkpoints)
    for reason in wrong:
        run.event("damaged_checkpoint", reason=reason)
    if checkpoint is None:
        run.rewind(-1)
        return clock
    if checkpoint.fingerprint != data.fingerprint:
        raise CheckpointError(
            "K-14",
            f"the pictures of {data.name} are not those that {run.path} was begun with.",
            "Going on would mix two data sets without a trace.",
            "Restore the pictures, or begin another run with --init and another --out.",
        )
    clock = restore(checkpoint, method, optimizer, clock)
    run.rewind(clock.step)
    return clock


class _Keeper:
    """What happens after a step besides training: log, save, ask, stop."""

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
        self.next_save = time.monotonic() + FIRST_SAVE

    def begin(self, clock: Clock) -> None:
        """Ask once before the first step: what the untrained student knows is what learning is measured against."""
        if clock.step == 0 and self.settings.monitors:
            self._ask(clock)

    def after(self, clock: Clock, line: dict[str, Any] | None) -> bool:
        """Log, ask and save where due; True when the run is to stop. All processes decide alike."""
        if line:
            self.run.append("metrics.jsonl", line)
            self.progress.show(line)
        if self.watch.due(clock):
            self._ask(clock)
        stop, save = self._agree(self.stop.wanted, self._save_due(clock))
        if save or stop or clock.done:
            self._save(clock)
        return stop

    def _ask(self, clock: Clock) -> None:
        if rank() > 0:
            return
        with alone():
            answer = self.watch.ask(self.method, clock)
        self.run.append("monitors.jsonl", answer)
        self.progress.say(_answer(answer))

    def _save_due(self, clock: Clock) -> bool:
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
            self.run.event("checkpoint", step=clock.step)
        barrier()
        self.next_save = time.monotonic() + SAVE_EVERY


def _answer(answer: dict[str, Any]) -> str:
    names = {"knn_accuracy": "kNN {:.1%}", "rank_me": "RankMe {:.1f}", "feature_std": "feature std {:.2f}"}
    told = [text.format(answer[name]) for name, text in names.items() if name in answer]
    return f"watch   step {answer['step']} · held out: {' · '.join(told)}"


def _describe(
    settings: RunSettings[Any],
    run: RunFolder,
    data: Data,
    clock: Clock,
    numerics: Numerics,
    statistics: Statistics,
    progress: ProgressLine,
    coverage: Coverage | None,
) -> None:
    """Print and keep what is about to run on what."""
    precision = str(numerics.autocast or numerics.dtype).removeprefix("torch.")
    found = data.found.lines()
    run.write("environment.json", environment(numerics.device.type, precision) | {"processes": world_size()})
    run.write(
        "data.json",
        {
            "name": data.name,
            "channels": data.channels,
            **statistics._asdict(),
            "train": len(data.train),
            "held_out": len(data.held_out),
            "test": len(data.test),
            "classes": list(data.train.classes),
            "found": found,
            "notes": list(data.found.notes),
            "unreadable": [list(item) for item in data.found.unreadable],
            "fingerprint": data.fingerprint,
        },
    )
    for name, reason in data.found.unreadable if clock.step == 0 else ():
        run.event("unreadable", name=name, reason=reason)
    run.event("resumed" if clock.step else "started", step=clock.step)

    b = settings.backbone
    accumulated = settings.micro_batches(world_size())
    lines = [
        *found,
        f"recipe  {settings.recipe}: {settings.method.name} · {b.name} at {b.size[0]}x{b.size[1]}, "
        f"{settings.num_patches} patches",
        f"device  {numerics.device.type} · {precision} · {world_size()} process{'es' if world_size() > 1 else ''}",
        f"batch   {settings.batch_size}"
        + (f" = {settings.batch_size // accumulated} x {accumulated} accumulated" if accumulated > 1 else "")
        + f" · lr {settings.lr:.2e} = {settings.optim.base_lr:.2e} x {settings.batch_size}/256"
        + f" · {clock.total_steps} steps, {clock.total_steps * clock.batch_size / clock.num_pictures:.1f} epochs",
    ]
    lines += settings.method.notes(settings.num_patches, settings.batch_size // accumulated)
    if coverage:
        lines.append(f"init    {coverage.line()}")
    if clock.step:
        lines.append(f"resume  at step {clock.step} of {clock.total_steps}")
    for line in lines:
        progress.say(line)
