"""Run a table of the learning bench: pretrain each row with each seed, judge it, append a line to the results.

    .venv/bin/python benchmarks/learning/run.py TABLE --out RUNS [--glyphs FOLDER] [--stamps FOLDER] [--tags 'tags-{seed}.csv']

Interrupt it at will: the same command goes on, with runs where they stopped and without those that have a line. Jobs share
the processors; on a GPU there is one. The lines are in benchmarks/learning/<scale>.jsonl, one for each row and seed, with
settings, versions, hardware, time, accuracies, monitors and thinned losses; page.py makes tables and charts of them.
"""

import argparse
import hashlib
import json
import os
import platform
import subprocess
import sys
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from tables import TABLES, Row, name_of

HERE = Path(__file__).parent
PROTOCOLS = ("knn", "linear", "low-shot")
TRAIN_PICTURES = 10_000
"""Labelled pictures that the classifiers on frozen features learn from; a quarter as many are held out to choose by."""
CORRUPTED_PICTURES = 2000
"""Test pictures that are corrupted, in each kind and severity."""


def key(table: str, row: Row, seed: int) -> str:
    """What tells a run from all others: the name of its folder and of its line."""
    return f"{name_of(table, row)}{seed}"


def lines(file: Path) -> list[dict[str, Any]]:
    """The lines of a JSONL file, none where there is no file."""
    return [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []


def run_table(args: argparse.Namespace) -> None:
    """Every row and seed that has no line yet, first seeds first, `jobs` at a time, each in a process of its own."""
    rows = [row for row in TABLES[args.table] if not args.rows or row.name in args.rows]
    seeds = [(seed, i, row) for i, row in enumerate(rows) for seed in args.seeds or row.seeds]
    wanted = sorted(seeds, key=lambda job: job[:2])
    have = {line["key"] for line in lines(HERE / f"{args.scale}.jsonl")}
    missing = [key(args.table, row, seed) for seed, _, row in wanted if key(args.table, row, seed) not in have]
    print(f"{args.table}: {len(wanted) - len(missing)} of {len(wanted)} runs are judged", flush=True)
    inits = {name_of(table, row): row.init for table, rows in TABLES.items() for row in rows}

    def first_of(name: str) -> str:
        """The run that this one begins from, empty where it begins from nothing."""
        row, slash, seed = name.rpartition("/")
        return inits[row + slash] and inits[row + slash] + seed

    for name in (needed := [*missing]):  # it grows by the encoders that were lost
        first = first_of(name)
        if first and first not in needed and not Path(args.out, first, "encoder").exists():
            needed.append(first)
    begun = {first_of(name) for name in needed}
    environment = {**os.environ, "OMP_NUM_THREADS": str(max(1, (os.cpu_count() or 1) // args.jobs))}

    def one(name: str, first: Future[int] | None) -> int:
        if first and (code := first.result()):
            return code
        log = Path(args.out, f"{name}.log")
        log.parent.mkdir(parents=True, exist_ok=True)
        command = [sys.executable, __file__, *sys.argv[1:], "--one", name]
        with log.open("a") as file:
            code = subprocess.run(command, env=environment, stdout=file, stderr=file, check=False).returncode
        print(f"{name}: {'done' if code == 0 else f'exit code {code}, see {log}'}", flush=True)
        return code

    runs: dict[str, Future[int]] = {}
    with ThreadPoolExecutor(args.jobs) as pool:
        # What others begin from comes before them, and of it what begins from nothing; all else in the order of seeds.
        for name in sorted(needed, key=lambda name: 2 if name not in begun else bool(first_of(name))):
            runs[name] = pool.submit(one, name, runs.get(first_of(name)))
    sys.exit(next((code for run in runs.values() if (code := run.result())), 0))


def run_one(args: argparse.Namespace) -> None:
    """One row with one seed: pretrain or go on, judge, append the line; a lost run that has a line is only run."""
    name, _, digits = args.one.rpartition("/")
    rows = ((table, row) for table in (args.table, *TABLES) for row in TABLES[table])
    row, seed = next(row for table, row in rows if name_of(table, row) == f"{name}/"), int(digits)
    judged = any(line["key"] == args.one for line in lines(HERE / f"{args.scale}.jsonl"))
    data = {"glyphs": args.glyphs, "stamps": args.stamps}.get(row.data, row.data)
    out = Path(args.out, args.one)
    line: dict[str, Any] = {"key": args.one, "table": args.table, "row": asdict(row), "seed": seed}
    if judged:
        row = replace(row, judge="nothing")
    line |= unchanged(row, seed, data, out, args) if row.pictures == 0 else trained(row, seed, data, out, args)
    if judged:
        return
    line |= {"machine": machine(), "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())}
    with (HERE / f"{args.scale}.jsonl").open("a") as file:
        file.write(json.dumps(line) + "\n")


def trained(row: Row, seed: int, data: str, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """What a run says: accuracies by step, seconds, monitors, losses, settings."""
    from tutelage import api

    steps = round(row.pictures / api.settings_for(row.recipe, **row.changes).batch_size)
    curve = {"keep_steps": steps // 4} if row.curve else {}
    run = api.pretrain(
        row.recipe, data, out, steps=steps, seed=seed, **curve, **begun_from(row, seed, args), **row.changes
    )
    metrics = lines(run / "metrics.jsonl")
    places = {steps: run}
    if row.curve:
        places |= {k * (steps // 4): run / "checkpoints" / f"step-{k * (steps // 4):08d}" for k in (1, 2, 3)}
    return {
        "fingerprint": json.loads((run / "data.json").read_text())["fingerprint"],
        "judged": {
            str(step): judge(place, data, row.judge, of_tags=row.tags) for step, place in sorted(places.items())
        },
        "images_per_second": sorted(m["images_per_second"] for m in metrics)[len(metrics) // 2],
        "metrics": metrics[:: max(1, len(metrics) // 40)],
        "monitors": lines(run / "monitors.jsonl"),
        # Where things lay on the machine is nobody's business: the row says what was begun from, and on which set.
        "settings": json.loads((run / "settings.json").read_text())
        | {"init": row.init or None, "data": row.data, "tags": tagged_by(row, seed, args)},
        "environment": {
            name: value
            for name, value in json.loads((run / "environment.json").read_text()).items()
            if name != "command"
        },
    }


def tagged_by(row: Row, seed: int, args: argparse.Namespace) -> str | None:
    """Which table of hashtags.py a row learns, by its SHA-256: another rate of wrong words is another table."""
    return f"hashtags.py {hashlib.sha256(tags_of(seed, args).read_bytes()).hexdigest()}" if row.tags else None


def tags_of(seed: int, args: argparse.Namespace) -> Path:
    """The table of tags of a seed."""
    return Path(args.tags.format(seed=seed))


def begun_from(row: Row, seed: int, args: argparse.Namespace) -> dict[str, Any]:
    """The settings that name the run with the same seed that a row begins from, and the tags that it learns."""
    init = {"init": str(Path(args.out, f"{row.init}{seed}"))} if row.init else {}
    return init | ({"tags": str(tags_of(seed, args))} if row.tags else {})


def unchanged(row: Row, seed: int, data: str, out: Path, args: argparse.Namespace) -> dict[str, Any]:
    """The encoder before its first step: untrained, beside raw pixels, or that of the run that it begins from."""
    from tutelage import api
    from tutelage.data.index import open_data
    from tutelage.engine.pretrain import build
    from tutelage.export import write_timm

    settings = api.settings_for(row.recipe, **row.changes, data=data, seed=seed, **begun_from(row, seed, args))
    opened = open_data(data)
    method, statistics, _ = build(settings, opened)
    write_timm(method.student, out, statistics, architecture=settings.backbone.name)
    dump = settings.model_dump(mode="json") | {"init": row.init or None, "data": row.data}
    return {
        "fingerprint": opened.fingerprint,
        "judged": {"0": judge(out, data, row.judge, baselines=True)},
        "settings": dump,
    }


def judge(place: Path, data: str, whom: str, *, baselines: bool = False, of_tags: bool = False) -> list[dict[str, Any]]:
    """Accuracies on test pictures, by protocol; token and rates of an encoder chosen on held-out ones.

    A classifier `of_tags` tells other classes apart than those of the set.
    """
    from tutelage import api

    if whom == "nothing":
        return []
    if whom == "robustness":
        corrupted = {"test_pictures": CORRUPTED_PICTURES}
        return _lines(
            api.evaluate(whom, place, data, baselines=False, train_pictures=TRAIN_PICTURES, robustness=corrupted)
        )
    if whom in ("segmentation", "detection"):
        return _lines(api.evaluate(whom, place, data))
    options: dict[str, Any] = {"train_pictures": TRAIN_PICTURES, "baselines": baselines}
    found = api.evaluate_all(PROTOCOLS, place, data, **options) if whom == "encoder" else []
    own = any((place / name).exists() for name in ("classifier", "joint")) and not of_tags
    if own or whom == "classifier":
        found.append(api.evaluate("classifier", place, data))
    return [line for one in found for line in _lines(one)]


def _lines(found: Any) -> list[dict[str, Any]]:
    """The rows of an evaluation, each with its protocol."""
    names = ("name", "token", "accuracy", "scores")
    return [{"protocol": found.protocol, **{name: row[name] for name in names}} for row in found.to_json()["rows"]]


def machine() -> dict[str, str]:
    """What it ran on."""
    file = Path("/proc/cpuinfo")
    known = file.read_text().splitlines() if file.exists() else []
    names = [line.split(":")[1].strip() for line in known if line.startswith("model name")]
    return {
        "cpu": names[0] if names else platform.processor(),
        "cores": str(os.cpu_count()),
        "threads": os.environ["OMP_NUM_THREADS"],
    }


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("table", choices=TABLES)
    parser.add_argument("--out", required=True, help="where runs are kept")
    parser.add_argument("--glyphs", default="glyphs", help="the folder that glyphs.py made")
    parser.add_argument("--stamps", default="stamps", help="the folder that downstream/stamps.py made")
    parser.add_argument("--tags", default="tags-{seed}.csv", help="the tables that hashtags.py made, one for each seed")
    parser.add_argument("--scale", choices=("cpu", "gpu"), default="cpu")
    parser.add_argument("--jobs", type=int, default=2, help="runs at once")
    parser.add_argument("--rows", nargs="*", default=(), help="only these rows")
    parser.add_argument("--seeds", nargs="*", type=int, default=(), help="these seeds instead of the rows' own")
    parser.add_argument("--one", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    (run_one if arguments.one else run_table)(arguments)
