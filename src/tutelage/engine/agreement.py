"""Before the first step: all processes of a run have the same settings, pictures, code and torch."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from tutelage.data.index import Data
from tutelage.distributed import all_max, all_sum, rank, world_size
from tutelage.engine.settings import RunSettings
from tutelage.errors import DistributedError


@contextmanager
def beginning_together(device: torch.device) -> Iterator[None]:
    """A block that every process runs through; where it fails on some, the others are told.

    Raises:
        DistributedError: P-04, it failed on another process, which says why.

    """
    try:
        yield
    except Exception:
        all_max(torch.ones((), device=device))
        raise
    if all_max(torch.zeros((), device=device)) > 0:
        raise DistributedError(
            "P-04",
            "another process of this run could not begin.",
            "Its pictures, its disk or its version are not as they are here.",
            "Look at its output first.",
        )


def check_agreement(settings: RunSettings[Any], data: Data, device: torch.device) -> None:
    """Compare hashes over all processes. Raises DistributedError P-04, on all alike, naming what differs and where."""
    own = {
        "the settings": settings.model_dump_json(),
        "the pictures": data.fingerprint,
        "the code of tutelage": _code(),
        "torch": torch.__version__,
    }
    table = torch.zeros(world_size(), len(own), dtype=torch.int64, device=device)
    table[rank()] = torch.tensor([_number(text) for text in own.values()], device=device)
    table = all_sum(table)
    differing = [
        f"{name} on {', '.join(str(r) for r in range(world_size()) if column[r] != column[0])}"
        for name, column in zip(own, table.T.tolist(), strict=True)
        if len(set(column)) > 1
    ]
    if differing:
        raise DistributedError(
            "P-04",
            f"the processes do not agree: {'; '.join(differing)} differ from those on process 0.",
            "They would train different models and average them.",
            "Start all with the same command, version and files.",
        )


def _code() -> str:
    """A hash of the package's source."""
    folder = Path(__file__).parents[1]
    h = hashlib.sha256()
    for file in sorted(folder.rglob("*.py")):
        h.update(f"{file.relative_to(folder)}\0".encode() + file.read_bytes())
    return h.hexdigest()


def _number(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little", signed=True)
