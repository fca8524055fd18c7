"""Pictures of 20 x 24 px with a disc or a square on a quiet ground, and masks of what lies where."""

from pathlib import Path

import numpy as np
from PIL import Image

CLASSES = ("ground", "disc", "square")
VALUES = (0, 3, 7)


def write_shapes(root: Path, counts: dict[str, int] | None = None) -> Path:
    """A folder of images, masks (with a border of 255) and classes.csv."""
    rng = np.random.default_rng(0)
    for part, count in (counts or {"train": 60, "test": 8}).items():
        for folder in ("images", "masks"):
            (root / folder / part).mkdir(parents=True)
        for i in range(count):
            picture, mask = shape(rng, i % 2 + 1)
            Image.fromarray(picture).save(root / "images" / part / f"{i:03d}.png")
            Image.fromarray(mask).save(root / "masks" / part / f"{i:03d}.png")
    lines = ["value,name", *(f"{value},{name}" for value, name in zip(VALUES, CLASSES, strict=True)), "9,"]
    (root / "classes.csv").write_text("\n".join(lines) + "\n")
    return root


def shape(rng: np.random.Generator, kind: int) -> tuple[np.ndarray, np.ndarray]:
    """A picture [20, 24, 3] and its mask: a disc (1) or a square (2) of one colour."""
    rows, columns = np.mgrid[:20, :24]
    y, x, r = rng.integers(6, 14), rng.integers(6, 18), rng.integers(3, 6)
    inside = (
        (rows - y) ** 2 + (columns - x) ** 2 <= r * r if kind == 1 else np.maximum(abs(rows - y), abs(columns - x)) <= r
    )
    picture = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
    picture[inside] = rng.integers(120, 255, 3, dtype=np.uint8)
    mask = np.where(inside, VALUES[kind], 0).astype(np.uint8)
    mask[0] = 255
    mask[-1, -1] = 9  # named as nothing
    return picture, mask
