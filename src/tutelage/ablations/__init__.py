"""The papers' ablations as data: each row is a recipe with changes, beside the number that the paper reports.

A module per method, named as the method is; a table is called `pseudomae/table-8`. Listing them imports nothing heavy.
"""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

from tutelage.config import merged
from tutelage.errors import SettingsError, nearest

Scale = Literal["mini", "full"]
"""A quick-start at a size at which a row takes minutes; or the published setting."""
Changes = dict[str, Any]
"""Fields of a recipe that are set differently, nested."""

SIZE: Changes = {"backbone": {"image_size": 24, "width": 64, "depth": 4}}
"""The mini scale: pictures of 24 px, which are 36 patches of 4 px, 9 of them visible; a ViT of 64 x 4."""
DECODER: Changes = {"decoder": {"width": 64, "depth": 2, "heads": 4}}
MINI: Changes = {**SIZE, "method": DECODER}
"""Of a method that is masked itself; where it is another's branch, `DECODER` goes there."""


@dataclass(frozen=True)
class Base:
    """What a row begins from."""

    recipe: str
    changes: Changes = field(default_factory=dict)

    def changed(self, changes: Changes) -> "Base":
        """The same with more changes on top."""
        return Base(self.recipe, merged(self.changes, changes))


@dataclass(frozen=True)
class Row:
    """A run of a table, or a number that is only quoted."""

    name: str
    changes: Changes = field(default_factory=dict)
    paper: float | None = None
    """The paper's number, in per cent; None where it gives none."""
    claim: Literal["worse", "better", ""] = ""
    """What the paper says in words, beside the default row, where it gives no number."""
    bases: Mapping[Scale, Base] = field(default_factory=dict)
    """Begin from these instead of the table's."""
    quoted: bool = False
    """A system that is not here, or of another kind: its number is quoted, and nothing is run."""


@dataclass(frozen=True)
class Table:
    """The rows of an ablation; the others are compared with the row `default`."""

    title: str
    source: str
    measure: str
    """What the paper's numbers are."""
    bases: Mapping[Scale, Base]
    rows: tuple[Row, ...]
    default: str = "default"
    judged_by: Literal["encoder", "classifier"] = "encoder"
    """By classifiers on frozen features, or by the classifier that the run trains itself."""
    finetuned: str = ""
    """At the full scale encoders are fine-tuned by this recipe, as the paper's are, and judged by what comes of it."""
    note: str = ""

    def base(self, row: Row, scale: Scale) -> Base:
        """The recipe of a row, with all that is changed."""
        return row.bases.get(scale, self.bases[scale]).changed(row.changes)

    def at(self, scale: Scale) -> "Table":
        """The table as it is judged at a scale."""
        return replace(self, judged_by="classifier") if scale == "full" and self.finetuned else self

    @property
    def runs(self) -> tuple[Row, ...]:
        """The rows that are run."""
        return tuple(row for row in self.rows if not row.quoted)


def tables() -> dict[str, Table]:
    """Every table by its name."""
    modules = sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem != "__init__")
    return {
        f"{module.replace('_', '-')}/{name}": table
        for module in modules
        for name, table in importlib.import_module(f"tutelage.ablations.{module}").TABLES.items()
    }


def table(name: str) -> Table:
    """The table of that name. Raises SettingsError C-42."""
    known = tables()
    if name not in known:
        raise SettingsError("C-42", f"there is no table '{name}'.", todo=nearest(name, known))
    return known[name]
