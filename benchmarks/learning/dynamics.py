"""What RC-MAE's teacher does to the student's gradient, in training (Lee et al., ICLR 2023, figures 2 and 3).

    .venv/bin/python benchmarks/learning/dynamics.py --out RUNS [--seeds 0 1 2]

Pretrains RC-MAE at the small size with the same and with another mask for the teacher, keeping ten checkpoints. At each, on
256 held-out pictures, the cosine between the gradients of reconstruction and consistency; at the last, what the teacher takes
back of one picture's update, by how alike another picture is. Appends a line for each run to dynamics.jsonl, of which page.py
makes the charts. The same command goes on.
"""

import argparse
import json
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from tables import SMALL

from tutelage import api
from tutelage.analysis.teacher_dynamics import correction, gradient_cosine
from tutelage.batch import Batch
from tutelage.clock import Clock
from tutelage.config import merged
from tutelage.data.index import open_data
from tutelage.engine.pretrain import build
from tutelage.engine.settings import read_settings
from tutelage.engine.train import Numerics
from tutelage.engine.watch import Watch

HERE = Path(__file__).parent
STEPS, POINTS = 1_560, 10
FIRSTS, PROBES, LR = 8, 48, 1e-3


def analysed(run: Path) -> dict[str, Any]:
    """Cosines by step, and pairs of (similarity, how much of an update comes back) at the end."""
    settings = read_settings(run / "settings.json")
    data = open_data(settings.data)
    method, statistics, _ = build(settings, data)
    mean, std = (torch.tensor(values) for values in statistics)
    numerics = Numerics(torch.device("cpu"), torch.float32, None, mean, std)
    held_out = numerics.prepare(Watch(data, settings.model_copy(update={"batch_size": 256}), numerics).batch)
    method.eval()
    cosines = {}
    for point in range(1, POINTS + 1):
        step = STEPS // POINTS * point
        method.load_state_dict(load_file(run / "checkpoints" / f"step-{step:08d}" / "model.safetensors"))
        clock = Clock(settings.batch_size, len(data.train), STEPS, step, step)
        cosines[step] = gradient_cosine(method, held_out, clock)
    pairs = []
    for i in range(FIRSTS):
        probes = [one(held_out, FIRSTS + PROBES * i % 200 + j) for j in range(PROBES)]
        found = correction(method, one(held_out, i), [*probes, one(held_out, i)], clock, lr=LR)
        pairs += list(zip(found.similarity.tolist(), found.along.tolist(), strict=True))
    return {"cosines": cosines, "corrections": pairs}


def one(batch: dict[str, Batch], i: int) -> dict[str, Batch]:
    """One picture of a batch."""
    return {
        name: replace(
            part, views=tuple(v[i : i + 1] for v in part.views), keys=tuple(k[i : i + 1] for k in part.keys),
            labels=part.labels[i : i + 1], indices=part.indices[i : i + 1],
        )
        for name, part in batch.items()
    }  # fmt: skip


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", required=True, type=Path, help="where runs are kept")
    parser.add_argument("--seeds", nargs="*", type=int, default=(0, 1, 2))
    args = parser.parse_args()
    file = HERE / "dynamics.jsonl"
    have = {
        (row["mask"], row["seed"]) for row in map(json.loads, file.read_text().splitlines() if file.exists() else [])
    }
    for seed in args.seeds:
        for mask in ("same", "different"):
            if (mask, seed) in have:
                continue
            run = args.out / "dynamics" / mask / str(seed)
            changes = merged(SMALL, {"method": {"teacher_mask": mask}})
            api.pretrain(
                "rc-mae-quickstart", "fashion-mnist", run, seed=seed, steps=STEPS, keep_steps=STEPS // POINTS, **changes
            )
            line = {
                "mask": mask,
                "seed": seed,
                **analysed(run),
                "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            }
            with file.open("a") as lines:
                lines.write(json.dumps(line) + "\n")
            print(mask, seed, {step: round(cosine, 3) for step, cosine in line["cosines"].items()}, flush=True)
