"""What is run: each table is a list of rows, each row a recipe with changes, for some pictures seen and some seeds."""

from dataclasses import dataclass, field
from typing import Any, Literal

Data = Literal["fashion-mnist", "glyphs"]


@dataclass(frozen=True)
class Row:
    """One kind of run; `name` tells it from the others of its table."""

    name: str
    recipe: str
    data: Data = "fashion-mnist"
    pictures: int = 300_000
    """Pictures seen; the schedules end there."""
    changes: dict[str, Any] = field(default_factory=dict)
    """Fields of the recipe that are set differently, nested."""
    share: float = 1.0
    """Share of the training pictures that is used."""
    curve: bool = False
    """Judge the encoder at each quarter of the run too."""
    seeds: tuple[int, ...] = (0, 1, 2)


SMALL: dict[str, Any] = {
    "backbone": {"image_size": 24, "width": 64, "depth": 4},
    "method": {"decoder": {"width": 64, "depth": 2, "heads": 4}},
}
"""24 px in 36 patches, 9 visible; a ViT of 64 x 4: four times as fast as the quick-starts, to find causes with."""


def merged(*changes: dict[str, Any]) -> dict[str, Any]:
    """Nested changes in one, the later ones last."""
    whole: dict[str, Any] = {}
    for change in changes:
        for name, value in change.items():
            both = isinstance(value, dict) and isinstance(whole.get(name), dict)
            whole[name] = merged(whole[name], value) if both else value
    return whole
