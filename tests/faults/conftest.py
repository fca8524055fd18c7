"""How many trials a fault test makes: few in `make test`, a sample in `make faults`, the goals' numbers in `make faults-full`.

`FAULTS` in the environment says which: fast (the default), sample or full.
"""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

SCALES = ("fast", "sample", "full")
SCALE = os.environ.get("FAULTS", "fast")
FIGURES = Path(__file__).parents[2] / "build" / "faults.jsonl"

if SCALE not in SCALES:
    raise pytest.UsageError(f"FAULTS is '{SCALE}', and not one of {', '.join(SCALES)}")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What takes long is left out of `make test`."""
    for item in items:
        if SCALE == "fast" and item.get_closest_marker("long"):
            item.add_marker(pytest.mark.skip(reason="takes long: in `make faults`"))


@pytest.fixture
def amount() -> Callable[[int, int, int], int]:
    """`amount(fast, sample, full)`: the number of trials at this scale."""
    return lambda *numbers: numbers[SCALES.index(SCALE)]


@pytest.fixture
def figure(request: pytest.FixtureRequest) -> Iterator[Callable[[str, str], None]]:
    """`figure(goal, reached)` notes what was reached at full, once the test's own checks passed: docs/reliability.md has it."""
    noted: list[dict[str, Any]] = []
    yield lambda goal, reached: noted.append({"goal": goal, "reached": reached})
    if SCALE != "full":
        return
    FIGURES.parent.mkdir(exist_ok=True)
    with FIGURES.open("a") as file:
        for note in noted:
            file.write(json.dumps(note | {"test": request.path.name}) + "\n")
