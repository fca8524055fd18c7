"""Outlines of objects as COCO has them, polygons or run lengths: checked when a set is opened, drawn when a picture is read."""

from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from tutelage.errors import MachineError


def check_outline(outline: Any, height: int, width: int) -> None:
    """Raise ValueError, TypeError, KeyError or IndexError for an outline that could not be drawn on a picture of this size."""
    (_check_runs if isinstance(outline, dict) else _check_polygons)(outline, height, width)


def drawn(outline: Any, height: int, width: int) -> NDArray[np.bool_]:
    """The pixels of an object, by an outline that `check_outline` took."""
    return _of_runs(outline, height, width) if isinstance(outline, dict) else _of_polygons(outline, height, width)


def _check_polygons(polygons: Any, height: int, width: int) -> None:
    for polygon in polygons:
        numbers = isinstance(polygon, list) and all(isinstance(v, int | float) and abs(v) < 1e6 for v in polygon)
        if not numbers or len(polygon) < 6 or len(polygon) % 2:
            raise ValueError("a polygon takes three points or more, x and y of each")


def _of_polygons(polygons: list[list[int | float]], height: int, width: int) -> NDArray[np.bool_]:
    """The pixels inside any of the polygons, lists of x and y by turns, by COCO's own rule."""
    coco = coco_masks()
    return np.array(coco.decode(coco.merge(coco.frPyObjects(polygons, height, width))), dtype=np.bool_)


def _check_runs(runs: dict[str, Any], height: int, width: int) -> None:
    counts = _counts(runs)
    whole = all(isinstance(count, int) and count >= 0 for count in counts)
    if list(runs["size"]) != [height, width] or not whole or sum(counts) != height * width:
        raise ValueError(f"its run lengths are not those of {width} x {height} pixels")


def _of_runs(runs: dict[str, Any], height: int, width: int) -> NDArray[np.bool_]:
    """Run lengths by columns, of pixels outside and inside by turns, as numbers or as COCO's text."""
    counts = _counts(runs)
    inside = np.arange(len(counts)) % 2 == 1
    return np.repeat(inside, counts).reshape(width, height).T


def _counts(runs: dict[str, Any]) -> list[int]:
    counts: list[int] = _lengths(runs["counts"]) if isinstance(runs["counts"], str) else runs["counts"]
    return counts


def _lengths(text: str) -> list[int]:
    """COCO's compressed run lengths: five bits a character, the lowest first, from the fourth on as differences."""
    counts: list[int] = []
    value = place = 0
    for character in text:
        bits = ord(character) - 48
        value |= (bits & 31) << 5 * place
        place += 1
        if not bits & 32:
            value -= (bits & 16) and 1 << 5 * place
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = place = 0
    return counts


def coco_masks() -> Any:
    """Pycocotools' masks. Raises MachineError R-12 where it is not installed."""
    return pycocotools("mask")


def pycocotools(module: Literal["coco", "cocoeval", "mask"]) -> Any:
    """A module of pycocotools. Raises MachineError R-12 where it is not installed."""
    try:
        from pycocotools import coco, cocoeval, mask

        return {"coco": coco, "cocoeval": cocoeval, "mask": mask}[module]
    except ImportError as error:
        raise MachineError(
            "R-12", "pycocotools is not installed.", "It draws polygons, and judges what was found.",
            "Install it: pip install 'tutelage[detection]'.",
        ) from error  # fmt: skip
