"""What a segmentation run says of pictures: a mask for each, and a sheet for people."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage.batch import to_unit
from tutelage.data.crops import resized, resized_mask
from tutelage.data.index import open_data
from tutelage.data.masks import check_aspect
from tutelage.errors import MachineError
from tutelage.evaluation.features import Say
from tutelage.evaluation.segmentation import classes_of
from tutelage.pictures import colour, segmentations, shown_size
from tutelage.segmenter import load_segmenter
from tutelage.sheet import save

SHOWN, TILE = 12, 400
"""Pictures that are drawn, and pixels of each."""


class MaskedPictures(NamedTuple):
    """What was predicted of a set."""

    pictures: int
    shares: dict[str, float]
    """Of all pixels, by class."""


def predict_masks(
    where: str, data: str, out: Path, *, device: torch.device | str | None = None, say: Say | None = None
) -> MaskedPictures:
    """Write OUT/masks with a PNG for each picture of `data`, named as the picture is, and OUT/predictions.png.

    The value of a pixel is that of its class in the masks that the run learned from; a palette gives each class the colour that
    it has in predictions.png. `data` is what `open_data` takes, or a folder with images and masks, of which the pictures are
    taken. Raises CheckpointError K-07 where there is no segmenter, what `open_data` raises, DataError D-38 for a picture too
    thin for windows, MachineError R-03.
    """
    segmenter = load_segmenter(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    segmenter.method.to(device)
    pictures = open_data(data, holdout=0.0, divided=False).everything
    for i in range(len(pictures)):
        check_aspect(pictures.name(i), pictures.own_size(i))
    names = _files_of([pictures.name(i) for i in range(len(pictures))])
    values, palette = np.array(segmenter.values, dtype=np.uint8), _palette(segmenter.values)
    counts, every = np.zeros(len(values)), max(1, len(pictures) // SHOWN)
    shown: list[tuple[Tensor, Tensor]] = []
    try:
        for i, name in enumerate(names):
            number, picture = pictures.fetch(i)
            if number != i:
                continue  # it cannot be read, and another one was read in its place
            found = classes_of(segmenter, picture.to(device))
            counts += torch.bincount(found.flatten(), minlength=len(values)).numpy()
            file = out / "masks" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            image = Image.fromarray(values[resized_mask(found, pictures.own_size(i)).numpy()])
            image.putpalette(palette)
            image.save(file)
            if i % every == 0 and len(shown) < SHOWN:
                at = shown_size(picture, TILE)
                shown.append((to_unit(resized(picture, at)), resized_mask(found, at)))
            if say:
                say(f"predict  {i + 1:,} of {len(names):,} pictures")
        note = f"{len(shown)} of {len(names):,} pictures, evenly spread, and what is predicted of each pixel."
        drawn = segmentations(shown, ("picture", "predicted"), segmenter.classes, note, tile=TILE)
        save(drawn, out / "predictions.png")
    except OSError as error:
        raise MachineError("R-03", f"{out} cannot be written: {error.strerror or error}.") from error
    shares = dict(zip(segmenter.classes, (counts / max(1, counts.sum())).tolist(), strict=True))
    return MaskedPictures(len(names), shares)


def _palette(values: tuple[int, ...]) -> bytes:
    """Red, green and blue of the 256 values: each class in its colour, all else black."""
    of = {value: colour(number) for number, value in enumerate(values)}
    return bytes(part for value in range(256) for part in of.get(value, (0, 0, 0)))


def _files_of(names: list[str]) -> list[str]:
    """A file for each picture, inside the folder whatever it is called, and each its own."""
    found: dict[str, None] = {}
    for i, name in enumerate(names):
        parts = [part for part in PurePosixPath(name).with_suffix("").parts if part not in ("..", "/")]
        file = f"{'/'.join(parts) or i}.png"
        found[file if file not in found else f"{file.removesuffix('.png')}-{i}.png"] = None
    return list(found)
