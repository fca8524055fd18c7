"""Small sets with COCO files."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from tutelage.data.index import open_data

SIZE = (20, 30)
COCO = {"folder": "{part}2017", "file": "annotations/instances_{part}2017.json"}
LAYOUTS = pytest.mark.parametrize(
    ("folder", "file"),
    [
        ("images", "{part}.json"),
        ("images", "annotations/{part}.json"),
        (COCO["folder"], COCO["file"]),
        (f"images/{COCO['folder']}", COCO["file"]),
        ("{part}", "{part}/_annotations.coco.json"),
    ],
)


def coco(part: str, count: int = 6) -> dict[str, Any]:
    """A square of each picture, as a polygon, and a bar, as run lengths by columns."""
    images, annotations = [], []
    for i in range(count):
        images.append({"id": 10 + i, "file_name": f"{part}-{i}.png", "height": SIZE[0], "width": SIZE[1]})
        square = {"bbox": [2, 3, 5, 5], "segmentation": [[2, 3, 7, 3, 7, 8, 2, 8]], "category_id": 4}
        counts = [20 * 25, 20 * 2, 20 * 3]  # columns 25 and 26
        bar = {"bbox": [25, 0, 2, 20], "segmentation": {"size": list(SIZE), "counts": counts}, "category_id": 9}
        for each in (square, bar):
            annotations.append({"id": len(annotations), "image_id": 10 + i, "iscrowd": 0, "area": 1, **each})
    return {
        "images": images,
        "annotations": annotations,
        "categories": [{"id": 9, "name": "bar"}, {"id": 4, "name": "square"}],
    }


def write(root: Path, *, folder: str = "images", file: str = "{part}.json", change=None) -> Path:
    """A set of six pictures to train on and six to validate with; `change` may change what is said of a part."""
    for part in ("train", "val"):
        values = coco(part)
        if change:
            change(values, part)
        pictures = root / folder.format(part=part)
        pictures.mkdir(parents=True, exist_ok=True)
        for image in values["images"]:
            if not image.pop("absent", False):
                Image.fromarray(np.full((*SIZE, 3), 90, dtype=np.uint8)).save(pictures / image["file_name"])
        path = root / file.format(part=part)
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    return root


def picture(path: Path) -> None:
    """A black one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.zeros((*SIZE, 3), dtype=np.uint8)).save(path)


def parts_of(root: Path, annotation: str) -> list[set[str]]:
    """The names of the pictures to train on, held out, and for testing."""
    data = open_data(str(root), annotation=annotation)
    return [
        {part.name(i).removeprefix("images/") for i in range(len(part))}
        for part in (data.train, data.held_out, data.test)
    ]
