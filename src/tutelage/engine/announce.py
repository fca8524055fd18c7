"""What is about to run on what: printed, and kept in the run folder."""

from dataclasses import replace
from typing import Any

from tutelage.clock import Cadence, Clock, moves
from tutelage.data.index import Data, Statistics
from tutelage.data.tags import table_rows
from tutelage.distributed import world_size
from tutelage.encoder import show_size
from tutelage.engine.run import RunFolder, environment
from tutelage.engine.settings import RunSettings
from tutelage.engine.train import Numerics
from tutelage.export import Coverage
from tutelage.method import Method
from tutelage.tables import csv_text


def record(run: RunFolder, data: Data, statistics: Statistics, numerics: Numerics, clock: Clock, reached: int) -> None:
    """Keep, in the run folder, what the run depends on besides its settings."""
    run.write("environment.json", environment(numerics.device.type, numerics.name) | {"processes": world_size()})
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
            "found": data.found.lines(),
            "notes": list(data.found.notes),
            "unreadable": [list(item) for item in data.found.unreadable],
            "fingerprint": data.fingerprint,
            "division": data.division,
            "hashes": data.hashes,
        },
    )
    if data.train.tags and run.writes:
        run.write_text("tags.csv", csv_text(table_rows(data.train.tags)))
    for name, reason in data.found.unreadable if clock.step == 0 else ():
        run.event("unreadable", name=name, reason=reason)
    run.event("resumed" if clock.step else "started", step=clock.step, reached=reached)


def announcement(
    settings: RunSettings[Any], data: Data, numerics: Numerics, clock: Clock, coverage: Coverage | None
) -> list[str]:
    """What is about to run on what, in lines: derived numbers with their derivation."""
    backbone, world = settings.backbone, world_size()
    parts = settings.micro_batches(world)
    pictures = settings.batch_size // parts
    batch = f"{settings.batch_size} = {pictures} x {parts} accumulated" if parts > 1 else f"{settings.batch_size}"
    rate = f"{settings.lr:.2e} = {settings.optim.base_lr:.2e} x {settings.batch_size}/256"
    lines = [
        *data.found.lines(),
        f"recipe  {settings.recipe}: {settings.method.name} · {backbone.name} at {show_size(backbone.size)} px, "
        f"{settings.num_patches} patches",
        f"device  {numerics.device.type} · {numerics.name} · {world} process{'es' if world > 1 else ''}",
        f"batch   {batch} · lr {rate} · {clock.total_steps} steps, {clock.run_epochs:.1f} epochs",
        *settings.method.notes(settings.num_patches, pictures),
    ]
    if coverage:
        lines.append(f"init    {coverage.line()}")
    if clock.step:
        lines.append(f"resume  at step {clock.step} of {clock.total_steps}")
    return lines


def standing_still(method: Method, clock: Clock) -> list[str]:
    """A line for each teacher that a run as short as this one never moves."""
    end = replace(clock, step=clock.total_steps, updates=clock.total_steps)
    return [
        f"note    the {name.replace('_', ' ')} moves {_how_seldom(teacher.settings.every, clock)}: it stays as it begins"
        for name, teacher in method.teachers.items()
        if moves(teacher.settings.every, end) == 0
    ]


def _how_seldom(every: Cadence, clock: Clock) -> str:
    if every == "epoch":
        return f"when an epoch ends, and the run has {clock.run_epochs:.2g} epochs"
    return f"every {every} updates, and the run has {clock.total_steps}"
