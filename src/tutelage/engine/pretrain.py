"""A run from settings to a finished run folder: open, build, go on where it stopped, train, export, report."""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tutelage.clock import Clock, total_steps
from tutelage.data.index import Data, Statistics, measure_statistics, open_data
from tutelage.data.order import mix
from tutelage.data.streams import default_workers
from tutelage.distributed import all_max, alone, barrier, rank, world_size
from tutelage.encoder import build_vit
from tutelage.engine.agreement import beginning_together, check_agreement
from tutelage.engine.announce import announcement, record, standing_still
from tutelage.engine.feeds import Feeds, open_feeds
from tutelage.engine.finish import finish
from tutelage.engine.guard import Guard
from tutelage.engine.keeper import Keeper
from tutelage.engine.launch import StopRequest, has_bf16, launched
from tutelage.engine.optim import build_optimizer
from tutelage.engine.progress import ProgressLine
from tutelage.engine.pulse import Pulse, naming_the_lost
from tutelage.engine.resume import refuse_other_pictures_than, resume
from tutelage.engine.run import RunFolder, check_writable, refuse_export, refuse_other_settings
from tutelage.engine.saver import Saver
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import Numerics, train
from tutelage.engine.trouble import Trouble
from tutelage.engine.watch import Watch
from tutelage.errors import DataError, SettingsError
from tutelage.export import Coverage, init_from
from tutelage.method import Method
from tutelage.teacher import EMATeacher
from tutelage.weights import IMAGENET


@dataclass(frozen=True)
class Finished:
    """What `pretrain` leaves."""

    out: Path
    clock: Clock
    stopped: bool
    """The run was asked to stop and saved; the same command goes on."""
    leads: bool
    """This process is the first of its run: the one that writes and speaks."""
    labelled: bool
    """Some pictures have labels, so the encoder can be evaluated on them."""
    asked: bool = False
    """It was asked to stop when there was nothing left to train: what would follow is not to begin."""


def pretrain(settings: RunSettings[Any], out: Path, *, quiet: bool = False, stops: tuple[Path, ...] = ()) -> Finished:
    """Pretrain as `settings` say and leave the run in `out`; go on where an earlier call was stopped or killed.

    A file STOP in the run folder stops it, or in one of the folders `stops`.

    Raises:
        TutelageError: with code and exit code, before anything is written where that can be known.

    """
    with StopRequest(out, *stops).listening() as stop, launched(settings.device) as device:
        if device.type == "cuda":
            torch.cuda.reset_peak_memory_stats()
        with beginning_together(device):
            data, feeds, clock = prepared(settings, out)
            of_classes = settings.method.annotation in ("classes", "tags")  # others may divide pictures their own way
            if settings.first and of_classes:
                refuse_other_pictures_than(out / "first", data)
        check_agreement(settings, data, device)
        run = RunFolder(out, writes=rank() == 0)
        try:
            run.agree(settings)
            with Pulse(out, rank(), world_size(), settings.stuck_minutes).beating() as pulse, naming_the_lost(pulse):
                return _pretrain(settings, run, data, feeds, clock, device, stop, pulse, quiet=quiet or rank() > 0)
        finally:
            run.close()


def prepared(settings: RunSettings[Any], out: Path) -> tuple[Data, Feeds, Clock]:
    """The pictures of a run in `out`, their order, and the clock at step 0. Raises all that can be known before it begins."""
    settings.check(world_size())
    check_writable(out)
    refuse_export(out)
    refuse_other_settings(out, settings)
    data = open_data(
        settings.data,
        holdout=settings.holdout,
        share=settings.share,
        labels=settings.labels,
        seed=settings.seed,
        annotation=settings.method.annotation,
        tags=settings.tags,
        tagging=settings.tagging,
    )
    if settings.patch == (1, 1) and data.channels == 1:
        raise SettingsError(
            "C-20",
            "a patch of 1x1 px of a grey picture is a single number.",
            "It has no variance to be normalised by.",
            "Use --backbone.patch-size 2 or more.",
        )
    settings.method.check_classes(data.name, data.train.num_shown)
    feeds = open_feeds(settings.method.streams, data.train, settings)
    found = replace(data.found, notes=(*data.found.notes, *feeds.notes(data.train)))
    return replace(data, found=found), feeds, new_clock(settings, data, feeds)


def _pretrain(
    settings: RunSettings[Any],
    run: RunFolder,
    data: Data,
    feeds: Feeds,
    clock: Clock,
    device: torch.device,
    stop: StopRequest,
    pulse: Pulse,
    *,
    quiet: bool,
) -> Finished:
    method, statistics, coverage = build(settings, data, run.path / "first" if settings.first else None)
    numerics = _numerics(settings, device, statistics)
    method.to(device=device, dtype=numerics.dtype)
    optimizer = build_optimizer(method, settings.optim)
    guard = Guard(settings.guard)
    resumed = resume(run, method, optimizer, clock, data, feeds, numerics.name, guard)
    clock = resumed.clock

    progress = ProgressLine(clock.total_steps, clock.step, quiet=quiet)
    record(run, data, statistics, numerics, clock, resumed.reached)
    still = standing_still(method, clock)
    for line in (*announcement(settings, data, numerics, clock, coverage), *still, *resumed.notes):
        progress.say(line)
    source = feeds.steps(
        clock.step,
        clock.total_steps,
        micro_batches=settings.micro_batches(world_size()),
        rank=rank(),
        world=world_size(),
        workers=default_workers(data.train, device) if settings.workers is None else settings.workers,
    )
    watch = Watch(data, settings, numerics)
    try:
        with Saver(run, method, optimizer, data, settings, progress, resumed.chain, guard) as saver:
            trouble = Trouble(guard, run, method, optimizer, feeds)
            keeper = Keeper(run, method, data, settings, watch, progress, stop, saver, trouble, pulse)
            stop.training = True
            keeper.begin(clock)
            clock = train(method, optimizer, resumed.chain.follow(source), clock, settings, numerics, keeper)
            pulse.enter("finishing", clock.step)
        if not clock.done:
            stop.obeyed()
            run.event("stopped", step=clock.step)
            progress.say(f"saved   step {clock.step} of {clock.total_steps}; run the same command to go on")
            return Finished(run.path, clock, stopped=True, leads=rank() == 0, labelled=data.train.has_labels)
        if rank() == 0:
            progress.say("export  writing encoder and pictures")
            with alone():
                finish(run, method, data, settings, numerics, statistics, watch, clock)
        barrier()
        if asked := bool(all_max(torch.tensor(float(stop.wanted), device=device))):
            stop.obeyed()
        labelled = data.train.has_labels
        return Finished(run.path, clock, stopped=False, leads=rank() == 0, labelled=labelled, asked=asked)
    finally:
        progress.close()
        source.close()  # type: ignore[attr-defined]


def build(
    settings: RunSettings[Any], data: Data, first: Path | None = None
) -> tuple[Method, Statistics, Coverage | None]:
    """The method on fresh or given weights, the normalisation of its pictures, and which weights were taken.

    Where a `first` run came before, they are those that it hands on: the settings' are what that began with.
    """
    torch.manual_seed(mix(settings.seed, "weights") % 2**63)
    vit = build_vit(settings.backbone, data.channels)
    init, teacher = (str(first), None) if first else (settings.init, settings.init_teacher)
    coverage = init_from(vit, init, teacher=teacher) if init else None
    if coverage and coverage.statistics and len(coverage.statistics.mean) == data.channels:
        statistics = coverage.statistics
    elif settings.normalisation == "imagenet" and data.channels == 3:
        statistics = IMAGENET
    else:
        statistics = measure_statistics(data.train)
    given = set(vit.parameters())
    method = settings.method.build(vit, len(data.train.learned))
    if coverage:
        coverage = replace(coverage, fresh=_fresh(method, given))
    return method, statistics, coverage


def _fresh(method: Method, given: set[nn.Parameter]) -> tuple[str, ...]:
    """The parts of a method, by name, that are none of the encoder's `given` parameters nor an average of them."""
    averaged = {p for module in method.modules() if isinstance(module, EMATeacher) for p in module.parameters()}
    fresh = [name for name, p in method.named_parameters() if p not in given | averaged]
    return tuple(dict.fromkeys(re.sub(r"^((student|branch)\.)*(\w+).*", r"\3", name) for name in fresh))


def new_clock(settings: RunSettings[Any], data: Data, feeds: Feeds) -> Clock:
    """The clock at step 0, which counts epochs of the first stream; refuses fewer pictures than its part of a batch takes."""
    n, g = len(feeds.main.stream.pictures), feeds.main.batch_size
    if n == 0 and len(data.train):
        raise DataError(
            "D-25",
            f"every training picture of {data.name} has a label.",
            f"The method {settings.method.name} learns from pictures without one, beside a few with.",
            "Use --labels 40, or 10%, or a table; or the method supervised.",
        )
    if n < g:
        kind = {"any": "", "known": "labelled ", "unknown": "unlabelled ", "tagged": "tagged "}[
            feeds.main.stream.labels
        ]
        largest = n * settings.batch_size // g
        fitting = next((size for size in range(largest, 0, -1) if _fits(settings, size)), None)
        raise DataError(
            "D-03",
            f"{data.name} has {n} {kind}training pictures, fewer than the batch_size of {g}.",
            "A batch would hold the same picture twice.",
            f"Use --batch-size {fitting} or less."
            if fitting
            else f"No batch of up to {n} pictures fits the other settings: use fewer prototypes, or more pictures.",
        )
    steps = settings.steps or total_steps(n, g, settings.epochs)
    return Clock(batch_size=g, num_pictures=n, total_steps=steps)


def _fits(settings: RunSettings[Any], batch_size: int) -> bool:
    try:
        settings.model_copy(update={"batch_size": batch_size}).check_batch(world_size())
    except SettingsError:
        return False
    return True


def _numerics(settings: RunSettings[Any], device: torch.device, statistics: Statistics) -> Numerics:
    wanted = settings.precision
    if wanted == "bf16" and not has_bf16(device):
        raise SettingsError(
            "C-26", f"precision bf16: this {device.type} has no native bfloat16.", "Emulated, it is some 20 times slower.",
            "Use --precision auto.",
        )  # fmt: skip
    bf16 = wanted == "bf16" or (wanted == "auto" and device.type == "cuda" and has_bf16(device))
    dtype = torch.float64 if wanted == "float64" else torch.float32
    mean, std = (torch.tensor(values, dtype=dtype, device=device) for values in (statistics.mean, statistics.std))
    return Numerics(device, dtype, torch.bfloat16 if bf16 else None, mean, std)
