"""What saving costs: the state of a ViT-B/16 PseudoMAE (three encoders, decoder, heads, AdamW) is saved three times.

Prints the seconds that training stands still for the snapshot and those that the writer's thread works beside it, and of
both the processor's time, as a share of the ten minutes between two checkpoints; exits 1 where that is more than 2 % of them.

    python benchmarks/saving.py [--folder DIR] [--recipe pseudomae-vitb16]
"""

import argparse
import shutil
import sys
import tempfile
import time
from pathlib import Path

import torch

from tutelage import recipes
from tutelage.clock import Clock
from tutelage.encoder import build_vit
from tutelage.engine.chain import DataChain
from tutelage.engine.checkpoint import read_checkpoint
from tutelage.engine.keeper import SAVE_EVERY
from tutelage.engine.optim import build_optimizer
from tutelage.engine.snapshot import Snapshot, copied, optimizer_tensors, write_snapshot

GOAL = 0.02


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()))
    parser.add_argument("--recipe", default="pseudomae-vitb16")
    options = parser.parse_args()
    settings = recipes.load(options.recipe)
    method = settings.method.build(build_vit(settings.backbone, 3), 0)
    optimizer = build_optimizer(method, settings.optim)
    for parameter in (p for p in method.parameters() if p.requires_grad):
        moments = {"exp_avg": torch.rand_like(parameter), "exp_avg_sq": torch.rand_like(parameter)}
        optimizer.state[parameter] = {"step": torch.ones(()), **moments}

    folder = Path(tempfile.mkdtemp(dir=options.folder))
    worst, snapshot = 0.0, None
    try:
        for step in range(1, 4):
            began, used = time.perf_counter(), time.process_time()
            snapshot = Snapshot(
                clock=Clock(batch_size=1, num_pictures=1, total_steps=9, step=step, updates=step),
                fingerprint="",
                links=DataChain().at(step, torch.device("cpu")),
                model=copied(method.state_dict(), snapshot and snapshot.model),
                optimizer=copied(optimizer_tensors(method, optimizer), snapshot and snapshot.optimizer),
            )
            stood, began = time.perf_counter() - began, time.perf_counter()
            path = write_snapshot(folder, snapshot)
            wrote = time.perf_counter() - began
            share = (time.process_time() - used) / SAVE_EVERY
            worst = max(worst, share)
            print(
                f"{snapshot.num_bytes / 1e9:.2f} GB: snapshot {stood:.2f} s, check, hash, write and sync {wrote:.2f} s, "
                f"processor {share * SAVE_EVERY:.2f} s ({share:.2%} of {SAVE_EVERY:.0f} s)"
            )
        began = time.perf_counter()
        read_checkpoint(path)
        print(f"read back, hashes checked: {time.perf_counter() - began:.2f} s")
    finally:
        shutil.rmtree(folder)
    return 0 if worst <= GOAL else 1


if __name__ == "__main__":
    sys.exit(main())
