"""The first table of docs/results.md: what 100,000 pictures of Fashion-MNIST teach, one seed, on a CPU.

    .venv/bin/python benchmarks/first_table.py OUT

Rows: raw pixels, the untrained encoder, MAE, SdAE, PseudoMAE (their quick-starts), judged by kNN and linear-cached on 10,000
training pictures. Every number is the test accuracy of the token that was better on held-out pictures. Runs go on where they
stopped; results are in OUT/table.json.
"""

import json
import sys
from pathlib import Path

from tutelage.api import evaluate
from tutelage.cli import main

STEPS = 391  # of 256 pictures: 100,096
DATA = "fashion-mnist"


def table(out: Path) -> None:
    rows: dict[str, dict[str, float]] = {}
    for method in ("mae", "sdae", "pseudomae"):
        run = out / method
        code = main(["pretrain", f"{method}-quickstart", f"--data={DATA}", f"--steps={STEPS}", f"--out={run}"])
        if code:
            sys.exit(code)
        for protocol in ("knn", "linear"):
            result = evaluate(protocol, run, DATA, baselines=method == "mae", train_pictures=10_000)
            for row in result.rows:
                name = method if row.name == "encoder" else row.name
                rows.setdefault(name, {})[protocol] = row.accuracy
                rows[name][f"{protocol} token"] = row.token
            (out / "table.json").write_text(json.dumps(rows, indent=1))
    print("| features | kNN | linear-cached |\n|---|---|---|")
    for name, row in rows.items():
        cells = [f"{100 * row[p]:.2f} ({row[f'{p} token']})" for p in ("knn", "linear")]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    table(Path(sys.argv[1]))
