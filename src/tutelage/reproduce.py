"""`tutelage reproduce`: the rows of an ablation, run one after another or several at once, beside the paper's numbers."""

import contextlib
import hashlib
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Literal

import tyro

from tutelage import ablations, api
from tutelage.ablations import Row, Table
from tutelage.comparison import PROTOCOLS, Result, compared, markdown, plain
from tutelage.config import Count, Settings
from tutelage.data.index import open_data
from tutelage.engine.run import write_json
from tutelage.engine.settings import RunSettings
from tutelage.errors import MachineError, SettingsError, Stopped, listed, printable
from tutelage.evaluation.low_shot import LowShotSettings, refuse_small_classes
from tutelage.evaluation.parts import labelled_parts
from tutelage.report.collect import read_lines

_JUDGE = {"encoder": "all", "classifier": "classifier"}
"""What `tutelage evaluate` is asked."""


class ReproduceOptions(Settings):
    """The rows of a paper's ablation beside its numbers: `tutelage reproduce pseudomae/table-8 --data fashion-mnist`."""

    table: Annotated[tyro.conf.Positional[str], tyro.conf.arg(metavar="TABLE")]
    """pseudomae/table-8, ...; all are listed by `tutelage reproduce`."""
    data: Annotated[str, tyro.conf.arg(metavar="DATA")]
    """With labels: a folder, a list or CSV file, or a named set. full: where the jobs find it; it is not looked at here."""
    scale: Literal["mini", "full"] = "mini"
    """mini: quick-starts of minutes, run here. full: the published setting, written as a SLURM array to submit."""
    seeds: Count = 3
    """Runs of each row."""
    pictures: Count = 100_000
    """mini: pictures seen by a run."""
    train_pictures: Count = 10_000
    """mini: labelled training pictures that judge an encoder, evenly spread."""
    jobs: Count = 1
    """mini: runs at once, which share the processors."""
    out: Path = Path("reproduced")
    """Where runs and tables are kept; the same command goes on with what is there."""


@dataclass(frozen=True)
class Job:
    """A run of a row with one seed."""

    row: Row
    seed: int
    settings: RunSettings[Any]
    out: Path
    """The run folder."""
    judged: Path
    """The folder of the run that is judged: this, or the one that was fine-tuned from it."""


def reproduce(options: ReproduceOptions) -> None:
    """Run what is missing of a table (or write it as a SLURM array), write and print what is there.

    Raises SettingsError (C-40: an option that means nothing to the table), DataError for pictures that runs cannot be judged
    on, MachineError R-25 where a run ended with an error, Stopped S-75 by Ctrl-C or SIGTERM.
    """
    table = ablations.table(options.table).at(options.scale)
    _refuse_idle(table, options)
    jobs = _jobs(table, options)
    for job in jobs:
        job.settings.check()
    wanted = _judgement(table, options)
    where = options.out / options.scale / options.table
    where.mkdir(parents=True, exist_ok=True)
    failed: list[Job] = []
    if options.scale == "full":
        _write_array(table, jobs, where, options)
    else:
        failed = _Runner(table, options, wanted).run(jobs)
    lines = compared(table, {row.name: _results(table, jobs, row, wanted) for row in table.runs})
    text = markdown(table, lines, _title(table, options))
    (where / "table.md").write_text(text, encoding="utf-8")
    write_json(where / "table.json", {"table": options.table, **options.model_dump(mode="json"), "rows": plain(lines)})
    print("\n".join(map(printable, text.splitlines())))
    print(f"{where}/table.md, table.json", file=sys.stderr)
    if failed:
        raise MachineError(
            "R-25",
            f"{len(failed)} of {len(jobs)} runs ended with an error: {listed([str(job.out) for job in failed])}.",
            "Their seeds are missing in the table.",
            "Read the file log beside each; the same command tries them again.",
        )


def _refuse_idle(table: Table, options: ReproduceOptions) -> None:
    """Raise SettingsError C-40 for options that change nothing at this scale, or in this table."""
    full = options.scale == "full"
    idle = {"pictures": full, "train_pictures": full or table.judged_by == "classifier", "jobs": full}
    if refused := [name for name, unused in idle.items() if unused and name in options.given]:
        flags = ", ".join("--" + name.replace("_", "-") for name in refused)
        raise SettingsError(
            "C-40",
            f"{flags} would change nothing in {options.table} at the {options.scale} scale.",
            todo="Leave it out.",
        )


def _judgement(table: Table, options: ReproduceOptions) -> dict[str, Any]:
    """What a line of evaluations.jsonl says where it counts here: whom it is of, and by which pictures it was judged.

    Refuses pictures by which nobody could be. At the full scale they are elsewhere, and any will do.
    """
    if options.scale == "full":
        return {"teacher": None}
    data = open_data(options.data)
    parts, _ = labelled_parts(data)
    if table.judged_by == "encoder":
        parts = parts.spread(options.train_pictures)
        refuse_small_classes(parts.train, LowShotSettings())
    return {"teacher": None, "fingerprint": data.fingerprint, "pictures": parts.counts}


def _title(table: Table, options: ReproduceOptions) -> str:
    setting = f"{options.pictures:,} pictures seen" if options.scale == "mini" else "as published"
    return f"{options.table}: {table.title} ({options.scale}, {options.data}, {setting})"


def _jobs(table: Table, options: ReproduceOptions) -> list[Job]:
    """Every row and seed, first seeds first. Rows with the same settings, of any table, share a run."""
    found = []
    for seed in range(options.seeds):
        for row in table.runs:
            base = table.base(row, options.scale)
            changes = base.changes | {"data": options.data}
            settings = api.settings_for(base.recipe, **changes)
            if options.scale == "mini":
                steps = max(1, options.pictures // settings.batch_size)
                settings = settings.model_copy(update={"steps": steps})
            digest = hashlib.sha256(settings.model_dump_json().encode()).hexdigest()[:10]
            out = options.out / options.scale / "runs" / f"{settings.recipe}-{digest}" / f"seed-{seed}"
            judged = out.with_name(f"{out.name}-finetuned") if table.finetuned and options.scale == "full" else out
            found.append(Job(row, seed, settings.model_copy(update={"seed": seed}), out, judged))
    return found


# --- running ----------------------------------------------------------------------------------------------------------


class _Runner:
    """Runs jobs in processes of their own, a few at a time; what is finished and judged is not run again."""

    def __init__(self, table: Table, options: ReproduceOptions, wanted: dict[str, Any]) -> None:
        self.table, self.options, self.wanted = table, options, wanted
        threads = max(1, (os.cpu_count() or 1) // options.jobs)
        self.environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
        self._processes: set[subprocess.Popen[bytes]] = set()
        self._lock = threading.Lock()
        self._stopping = False

    def run(self, jobs: Sequence[Job]) -> list[Job]:
        """Run what has no result yet; the jobs that ended with an error. Raises Stopped."""
        missing = list({job.out: job for job in jobs if not self._judged(job)}.values())
        print(f"{self.options.table}: {len(jobs)} runs, {len(missing)} to do", file=sys.stderr, flush=True)
        with self._interruptible(), ThreadPoolExecutor(self.options.jobs) as pool:
            codes = [pool.submit(self._one, job) for job in missing]
            try:
                done = {job.out: code.result() for job, code in zip(missing, codes, strict=True)}
            except KeyboardInterrupt:
                self._stop(signal.SIGTERM)
                pool.shutdown(cancel_futures=True)
                raise Stopped(
                    "S-75",
                    f"{self.options.table} was asked to stop; its runs are saved.",
                    todo="The same command goes on.",
                ) from None
        return [job for job in jobs if done.get(job.out)]

    def _one(self, job: Job) -> int:
        """Pretrain and judge; 0, or the first exit code that was not."""
        job.out.parent.mkdir(parents=True, exist_ok=True)
        asked = job.out.with_suffix(".json")
        write_json(asked, job.settings.model_dump(mode="json"))
        with job.out.with_suffix(".log").open("ab") as log:
            commands = [["pretrain", "--settings", str(asked), "--out", str(job.out)], self._judge(job)]
            code = next((code for code in (self._command(words, log) for words in commands) if code), 0)
        if not self._stopping:
            said = "done" if code == 0 else f"exit code {code}, see {job.out.with_suffix('.log')}"
            print(printable(f"  {job.row.name}, seed {job.seed}: {said}"), file=sys.stderr, flush=True)
        return code

    def _judge(self, job: Job) -> list[str]:
        words = ["evaluate", _JUDGE[self.table.judged_by], str(job.out), "--data", job.settings.data]
        if self.table.judged_by == "encoder":
            words += ["--no-baselines", "--train-pictures", str(self.options.train_pictures)]
        return words

    def _judged(self, job: Job) -> bool:
        return len(_scores(job, self.table, self.wanted)) == len(PROTOCOLS[self.table.judged_by])

    def _command(self, words: list[str], log: Any) -> int:
        # A session of its own: Ctrl-C reaches this process alone, which asks each run once.
        with self._lock:
            if self._stopping:
                return Stopped.exit_code
            process = subprocess.Popen(
                [sys.executable, "-m", "tutelage", *words],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.environment, start_new_session=True,
            )  # fmt: skip
            self._processes.add(process)
        code = process.wait()
        with self._lock:
            self._processes.discard(process)
        return code

    def _stop(self, number: int) -> None:
        with self._lock:
            self._stopping = True
            for process in self._processes:
                process.send_signal(number)

    @contextlib.contextmanager
    def _interruptible(self) -> Iterator[None]:
        """SIGTERM interrupts as Ctrl-C does, also where a shell in the background had Ctrl-C ignored."""
        before = signal.signal(signal.SIGTERM, signal.default_int_handler)
        try:
            yield
        finally:
            signal.signal(signal.SIGTERM, before)


def _write_array(table: Table, jobs: Sequence[Job], where: Path, options: ReproduceOptions) -> None:
    """The published runs as an array job: settings, one file each, and a script that goes on until a run is finished."""
    folders = {job.out: job for job in jobs}
    rows, data = [], shlex.quote(options.data)
    for out, job in folders.items():
        out.parent.mkdir(parents=True, exist_ok=True)
        write_json(out.with_suffix(".json"), job.settings.model_dump(mode="json"))
        rows.append(shlex.quote(str(out.resolve())))
    script = _ARRAY.format(
        name=options.table.replace("/", "-"),
        last=len(rows) - 1,
        rows="\n  ".join(rows),
        then=_FINETUNED.format(recipe=table.finetuned, data=data) if table.finetuned else "",
        judge=_JUDGE[table.judged_by],
        judged='"$run-finetuned"' if table.finetuned else '"$run"',
        data=data,
    )
    (where / "array.sh").write_text(script, encoding="utf-8")
    print(f"{len(rows)} runs: sbatch {where}/array.sh, then this command again for the table", file=sys.stderr)


_ARRAY = """\
#!/usr/bin/env bash
#SBATCH --job-name={name}
#SBATCH --array=0-{last}
#SBATCH --nodes=1 --gpus-per-node=8 --cpus-per-task=64
#SBATCH --time=24:00:00 --signal=B:USR1@300 --requeue
# Each run goes on where it was stopped; five minutes before its time is up it is asked to save, and is queued again.
set -euo pipefail
runs=(
  {rows}
)
run=${{runs[$SLURM_ARRAY_TASK_ID]}}
train() {{
  folder=$1
  shift
  torchrun --standalone --nproc-per-node 8 -m tutelage "$@" --out "$folder" >> "$run.log" 2>&1 &
  while kill -0 $! 2> /dev/null; do wait $! || true; done
  case "$(tail -n 1 "$folder/events.jsonl")" in
    *'"stopped"'*) scontrol requeue "$SLURM_JOB_ID"; exit 0 ;;
    *'"finished"'*) ;;
    *) exit 1 ;;
  esac
}}
trap 'touch "$folder/STOP"' USR1
train "$run" pretrain --settings "$run.json"
{then}tutelage evaluate {judge} {judged} --data {data} >> "$run.log" 2>&1
"""

_FINETUNED = """\
train "$run-finetuned" finetune "$run" --recipe {recipe} --data {data} --seed "${{run##*-}}"
"""


# --- what was found ---------------------------------------------------------------------------------------------------


def _scores(job: Job, table: Table, wanted: dict[str, Any]) -> dict[str, float]:
    """Accuracies of a run in per cent, by protocol: the first of each that counts, for later ones may be of other settings."""
    found: dict[str, float] = {}
    for line in read_lines(job.judged / "evaluations.jsonl"):
        if line["protocol"] in PROTOCOLS[table.judged_by] and wanted.items() <= line.items():
            found.setdefault(line["protocol"], 100 * line["accuracy"])
    return found


def _results(table: Table, jobs: Sequence[Job], row: Row, wanted: dict[str, Any]) -> dict[int, Result]:
    """By seed, the runs of a row that are finished and judged."""
    found = {}
    for job in (job for job in jobs if job.row is row):
        scores = _scores(job, table, wanted)
        speeds = [line["images_per_second"] for line in read_lines(job.out / "metrics.jsonl")]
        memory = [line["peak_memory"] for line in read_lines(job.out / "events.jsonl") if "peak_memory" in line]
        if len(scores) == len(PROTOCOLS[table.judged_by]) and speeds and memory:
            found[job.seed] = Result(scores, median(speeds), max(memory))
    return found
