"""What a segmentation run says of pictures: a mask for each, and a sheet for people."""

from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from tutelage.batch import to_unit
from tutelage.data.crops import resized_mask
from tutelage.data.index import open_data
from tutelage.errors import MachineError
from tutelage.evaluation.features import Say
from tutelage.evaluation.segmentation import classes_of
from tutelage.pictures import segmentations
from tutelage.segmenter import load_segmenter
from tutelage.sheet import save

SHOWN = 12


class MaskedPictures(NamedTuple):
    """What was predicted of a set."""

    pictures: int
    shares: dict[str, float]
    """Of all pixels, by class."""


def predict_masks(
    where: str, data: str, out: Path, *, device: torch.device | str | None = None, say: Say | None = None
) -> MaskedPictures:
    """Write OUT/masks with a PNG for each picture of `data`, named as the picture is, and OUT/predictions.png.

    The value of a pixel is that of its class in the masks that the run learned from. `data` is what `open_data` takes, or a
    folder with images and masks, of which the pictures are taken. Raises CheckpointError K-07 where there is no segmenter,
    what `open_data` raises, MachineError R-03.
    """
    segmenter = load_segmenter(where)
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    segmenter.method.to(device)
    pictures = open_data(data, holdout=0.0).everything
    names = _files_of([pictures.name(i) for i in range(len(pictures))])
    values = np.array(segmenter.values, dtype=np.uint8)
    counts, every = np.zeros(len(values)), max(1, len(pictures) // SHOWN)
    shown: list[tuple[Tensor, Tensor]] = []
    try:
        for i, name in enumerate(names):
            number, picture = pictures.fetch(i)
            if number != i:
                continue  # it cannot be read, and another one was read in its place
            found = classes_of(segmenter, picture.to(device))
            counts += np.bincount(found.flatten().numpy(), minlength=len(values))
            file = out / "masks" / name
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = resized_mask(found.to(torch.uint8), pictures.own_size(i))
            Image.fromarray(values[whole.numpy()]).save(file)
            if i % every == 0 and len(shown) < SHOWN:
                shown.append((to_unit(picture), found))
            if say:
                say(f"predict  {i + 1:,} of {len(names):,} pictures")
        note = f"{len(shown)} of {len(names):,} pictures, evenly spread, and what is predicted of each pixel."
        save(segmentations(shown, ("picture", "predicted"), segmenter.classes, note), out / "predictions.png")
    except OSError as error:
        raise MachineError("R-03", f"{out} cannot be written: {error.strerror or error}.") from error
    shares = dict(zip(segmenter.classes, (counts / max(1, counts.sum())).tolist(), strict=True))
    return MaskedPictures(len(names), shares)


def _files_of(names: list[str]) -> list[str]:
    """A file for each picture, inside the folder whatever it is called, and each its own."""
    found: dict[str, None] = {}
    for i, name in enumerate(names):
        parts = [part for part in PurePosixPath(name).with_suffix("").parts if part not in ("..", "/")]
        file = f"{'/'.join(parts) or i}.png"
        found[file if file not in found else f"{file.removesuffix('.png')}-{i}.png"] = None
    return list(found)
