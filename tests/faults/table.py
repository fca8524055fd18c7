"""Write the figures that `make faults-full` has just reached into docs/reliability.md."""

import json
import re
from pathlib import Path

ROOT = Path(__file__).parents[2]
PAGE, FIGURES = ROOT / "docs" / "reliability.md", ROOT / "build" / "faults.jsonl"
BLOCK = re.compile(r"(<!-- figures -->\n).*?(<!-- end -->)", re.DOTALL)


def table(lines: list[dict[str, str]]) -> str:
    """The figures, the last of each goal, with the test that reached them."""
    last = {line["goal"]: line for line in lines}
    ordered = sorted(last.items(), key=lambda item: (item[1]["test"], item[0]))
    rows = [f"| {goal} | {one['reached']} | {one['test']} |" for goal, one in ordered]
    return "\n".join(["", "| goal | reached | test |", "|---|---|---|", *rows, "", ""])


if __name__ == "__main__":
    found = [json.loads(line) for line in FIGURES.read_text().splitlines()]
    PAGE.write_text(BLOCK.sub(lambda m: m[1] + table(found) + m[2], PAGE.read_text()))
