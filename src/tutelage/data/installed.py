"""Sets that their users bring themselves, in the layout in which torchvision or the authors leave them on disk."""

import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tutelage.data.listing import Listing, list_folder
from tutelage.errors import DataError

NAMES = ("flowers102", "pets", "cars", "imagenet")


def data_folders() -> tuple[Path, ...]:
    """Where the user keeps sets: $TUTELAGE_DATA."""
    named = os.environ.get("TUTELAGE_DATA")
    return (Path(named).expanduser(),) if named else ()


def find(name: str, folders: tuple[Path, ...]) -> Listing:
    """The files of the set in the first of the folders (or of $TUTELAGE_DATA's) that has it. Raises DataError D-20."""
    folder_name, mark, read = _LAYOUTS[name]
    candidates = [*folders, *(f / name for f in data_folders()), *data_folders()]
    for folder in candidates:
        for root in (folder / folder_name, folder):
            if (root / mark).exists():
                return read(root)
    places = "".join(f"\n  - {folder / folder_name / mark}" for folder in candidates)
    raise DataError(
        "D-20",
        f"'{name}' is not on this machine; looked for{places}",
        todo=f"{_HOW[name]} Then set TUTELAGE_DATA to the folder that holds it.",
    )


def _flowers(root: Path) -> Listing:
    """102 flowers (Nilsback, Zisserman 2008): train and validation as published, 6,149 pictures for testing."""
    labels = _matrix(root / "imagelabels.mat", "labels")
    split = {"trnid": "train", "valid": "val", "tstid": "test"}
    part = {number: split[key] for key in split for number in _matrix(root / "setid.mat", key)}
    rows = [(f"jpg/image_{k:05d}.jpg", str(label), part[k]) for k, label in enumerate(labels, start=1)]
    return _listing(root, rows)


def _pets(root: Path) -> Listing:
    """37 breeds (Parkhi et al. 2012), from the lists in annotations/."""
    rows = []
    for file, part in (("trainval.txt", "train"), ("test.txt", "test")):
        for line in (root / "annotations" / file).read_text().splitlines():
            image = line.split()[0]
            rows.append((f"images/{image}.jpg", image.rsplit("_", 1)[0], part))
    return _listing(root, rows)


def _cars(root: Path) -> Listing:
    """196 cars (Krause et al. 2013), from the development kit."""
    rows = []
    for part, file in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        notes = _mat(root / file)["annotations"]
        rows += [(f"cars_{part}/{note['fname']}", str(int(note["class"])), part) for note in notes]
    return _listing(root, rows)


def _matrix(path: Path, key: str) -> list[int]:
    return [int(value) for value in _mat(path)[key].reshape(-1)]


def _mat(path: Path) -> dict[str, Any]:
    from scipy.io import loadmat

    contents: dict[str, Any] = loadmat(path, squeeze_me=True)
    return contents


def _listing(root: Path, rows: list[tuple[str, str, str]]) -> Listing:
    names, labels, parts = zip(*sorted(rows), strict=True)
    return Listing(root, names, labels, parts, Counter())


_LAYOUTS: dict[str, tuple[str, str, Callable[[Path], Listing]]] = {
    "flowers102": ("flowers-102", "setid.mat", _flowers),
    "pets": ("oxford-iiit-pet", "annotations", _pets),
    "cars": ("stanford_cars", "devkit", _cars),
    "imagenet": ("imagenet", "train", list_folder),
}
_HOW = {
    "flowers102": "torchvision.datasets.Flowers102(root, download=True) fetches it.",
    "pets": "torchvision.datasets.OxfordIIITPet(root, download=True) fetches it.",
    "cars": "Its authors no longer offer it; copies have the folders cars_train, cars_test and devkit.",
    "imagenet": "Ask for ILSVRC2012 at image-net.org and unpack it into train/<class> and val/<class>.",
}
