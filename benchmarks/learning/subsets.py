"""A part of a set's training pictures as a set of its own, to see what fewer pictures teach."""

import os
from pathlib import Path

import numpy as np
from glyphs import idx

from tutelage.data.index import open_data


def part_of(data: str, share: float, folder: Path) -> Path:
    """A folder of idx files with that share of the pictures of each class that `data` trains on, evenly spread.

    Only of sets in memory of one channel. Its pictures have no labels: what is pretrained on them is judged on the whole set.
    """
    out = folder / f"{Path(data).name}-{share:g}"
    file = out / "train-images-idx3-ubyte"
    if not file.exists():
        pictures = open_data(data).train
        order = np.argsort(pictures.labels, kind="stable")
        chosen = np.sort(order[:: round(1 / share)])
        images = np.stack([pictures.read(int(i))[0].numpy() for i in chosen])
        out.mkdir(parents=True, exist_ok=True)
        part = out / f"{os.getpid()}.part"
        part.write_bytes(idx(images))
        part.rename(file)
    return out
