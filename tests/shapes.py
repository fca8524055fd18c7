"""Pictures of 20 x 24 px with a disc or a square on a quiet ground, and what lies where: as masks, and as COCO JSON."""

import json
from pathlib import Path
from typing import Any

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


def write_objects(root: Path, counts: dict[str, int] | None = None) -> Path:
    """A folder of images and COCO JSON with boxes and run lengths; every tenth picture is empty."""
    rng = np.random.default_rng(0)
    for part, count in (counts or {"train": 60, "test": 12}).items():
        (root / "images" / part).mkdir(parents=True)
        images: list[dict[str, Any]] = []
        annotations: list[dict[str, Any]] = []
        for i in range(count):
            picture, mask = shape(rng, i % 2 + 1)
            inside = mask == VALUES[i % 2 + 1]
            images.append({"id": i, "file_name": f"{part}/{i:03d}.png", "height": 20, "width": 24})
            if i % 10 == 9:
                picture = rng.integers(0, 60, (20, 24, 3), dtype=np.uint8)
            else:
                ys, xs = np.nonzero(inside)
                box = [int(v) for v in (xs.min(), ys.min(), np.ptp(xs) + 1, np.ptp(ys) + 1)]
                runs = {"size": [20, 24], "counts": _runs(inside)}
                told = {"id": i + 1, "image_id": i, "category_id": 5 * (i % 2 + 1), "bbox": box, "segmentation": runs}
                annotations.append({**told, "area": int(inside.sum()), "iscrowd": 0})
            Image.fromarray(picture).save(root / "images" / part / f"{i:03d}.png")
        categories = [{"id": 5 * k, "name": CLASSES[k]} for k in (1, 2)]
        told = {"images": images, "annotations": annotations, "categories": categories}
        (root / f"{part}.json").write_text(json.dumps(told))
    return root


def _runs(mask: np.ndarray) -> list[int]:
    """Lengths of the runs outside and inside by turns, by columns."""
    flat = np.concatenate([[0], mask.T.ravel().astype(int)])
    changes = np.flatnonzero(np.diff(flat))
    return [int(n) for n in np.diff([0, *changes, mask.size])]


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
