"""Sets that have a name: in memory where they are small, else the files that somebody put on this machine.

A set comes from the first source that answers: the cache, a folder that the system has, its authors' site, a Debian
package unpacked without installing it. What came over the network is used only if its SHA-256 is the known one.
Nothing is unpickled.
"""

import gzip
import hashlib
import os
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from tutelage.data import download, installed
from tutelage.data.idx import parse_idx
from tutelage.data.listing import PICKLED, Listing
from tutelage.data.sources import Arrays, ArraySource
from tutelage.errors import DataError

NAMES = ("digits", "fashion-mnist", "cifar10", "cifar100", *installed.NAMES)

FASHION_FOLDER = Path("/usr/share/datasets/fashion-mnist")
_FASHION_IN_PACKAGE = FASHION_FOLDER
_FASHION_URL = "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/"
_FASHION_PACKAGE = "dataset-fashion-mnist"
# Of the unpacked contents: Debian packs the same bytes without gzip's file name.
_FASHION_SHA256 = {
    "train-images-idx3-ubyte.gz": "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "train-labels-idx1-ubyte.gz": "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "t10k-images-idx3-ubyte.gz": "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "t10k-labels-idx1-ubyte.gz": "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
}
_FASHION_CLASSES = (
    "T-shirt/top",
    "trouser",
    "pullover",
    "dress",
    "coat",
    "sandal",
    "shirt",
    "sneaker",
    "bag",
    "ankle boot",
)


@dataclass(frozen=True)
class CifarLayout:
    """What lies where in a binary archive of CIFAR (Krizhevsky 2009)."""

    archive: str
    sha256: str
    """As TensorFlow Datasets and others publish it."""
    folder: str
    train: tuple[str, ...]
    test: str
    names: str
    label_bytes: int
    """The last of them is the class; CIFAR-100 has the superclass before it."""
    pickled: str
    """The archive that torchvision leaves instead: the same pictures in pickles, which are not read."""


_CIFAR_URL = "https://www.cs.toronto.edu/~kriz/"
CIFAR = {
    "cifar10": CifarLayout(
        "cifar-10-binary.tar.gz",
        "c4a38c50a1bc5f3a1c5537f2155ab9d68f9f25eb1ed8d9ddda3db29a59bca1dd",
        "cifar-10-batches-bin",
        tuple(f"data_batch_{k}.bin" for k in range(1, 6)),
        "test_batch.bin",
        "batches.meta.txt",
        1,
        "cifar-10-python.tar.gz",
    ),
    "cifar100": CifarLayout(
        "cifar-100-binary.tar.gz",
        "58a81ae192c23a4be8b1804d68e518ed807d710a4eb253b1f2a199162a40d8ec",
        "cifar-100-binary",
        ("train.bin",),
        "test.bin",
        "fine_label_names.txt",
        2,
        "cifar-100-python.tar.gz",
    ),
}


def cache_folder() -> Path:
    """Where sets are kept: $TUTELAGE_CACHE, $XDG_CACHE_HOME/tutelage or ~/.cache/tutelage."""
    if named := os.environ.get("TUTELAGE_CACHE"):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "tutelage"


def open_named(name: str, cache: Path) -> Arrays | Listing:
    """The set of that name. Raises DataError D-20, which names every way to get it, when no source answers."""
    if name == "digits":
        return _digits()
    if name == "fashion-mnist":
        return _fashion(cache / name)
    if name in CIFAR:
        return read_cifar(_cifar_archive(name, cache / name), name)
    return installed.find(name, (cache / name, cache))


def _digits() -> Arrays:
    """1,797 handwritten digits of 8 by 8 pixels (scikit-learn), 0..16 scaled to 0..255; not divided."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pixels = np.round(images.reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    classes = tuple(str(k) for k in range(10))
    return Arrays(ArraySource(pixels, "digits"), labels.astype(np.int64), classes, ("train",) * len(labels))


def _fashion(cache: Path) -> Arrays:
    """70,000 pictures of clothes, 28 by 28 (Xiao et al. 2017), from the first of its sources that is whole."""
    ways: list[tuple[str, Callable[[], Path]]] = [
        (f"four files in {cache}", lambda: cache),
        (f"the Debian package {_FASHION_PACKAGE}, installed (in {FASHION_FOLDER})", lambda: FASHION_FOLDER),
    ]
    if download.allowed():
        ways += [
            (f"a download from {_FASHION_URL}", lambda: download.files(_FASHION_URL, _FASHION_SHA256, cache)),
            (
                f"apt-get download {_FASHION_PACKAGE}, unpacked into the cache",
                lambda: download.debian_package(_FASHION_PACKAGE, _FASHION_IN_PACKAGE, cache),
            ),
        ]
    tried = []
    for way, get in ways:
        try:
            return read_fashion(get(), _FASHION_SHA256)
        except (OSError, EOFError, download.NotOurs) as error:
            tried.append(f"{way}: {download.why(error)}")
    raise download.none_answered("fashion-mnist", tried)


def read_fashion(folder: Path, sha256: dict[str, str] | None = None) -> Arrays:
    """The four files of Fashion-MNIST in a folder. Raises OSError, EOFError, or NotOurs when a content hash differs."""
    contents = []
    for name in _FASHION_SHA256:
        with gzip.open(folder / name) as file:
            data = file.read()
        if sha256 and hashlib.sha256(data).hexdigest() != sha256[name]:
            raise download.NotOurs(f"{name} has another SHA-256 than the published file")
        try:
            contents.append(parse_idx(data))
        except ValueError as error:
            raise download.NotOurs(str(error)) from None
    train, train_labels, test, test_labels = contents
    labels = np.concatenate([train_labels, test_labels]).astype(np.int64)
    parts = ("train",) * len(train) + ("test",) * len(test)
    return Arrays(ArraySource(np.concatenate([train, test]), "fashion-mnist"), labels, _FASHION_CLASSES, parts)


def _cifar_archive(name: str, cache: Path) -> Path:
    layout = CIFAR[name]
    folders = [cache, *installed.data_folders()]
    tried = []
    for folder in folders:
        try:
            return download.checked(folder / layout.archive, layout.sha256)
        except (OSError, download.NotOurs) as error:
            tried.append(f"{folder / layout.archive}: {download.why(error)}")
    if download.allowed():
        try:
            return download.file(_CIFAR_URL + layout.archive, layout.sha256, cache / layout.archive)
        except (OSError, download.NotOurs) as error:
            tried.append(f"a download from {_CIFAR_URL + layout.archive}: {download.why(error)}")
    left = [layout.pickled, *(folder for folder, of in PICKLED.items() if of == name)]
    pickled = [folder / file for folder in folders for file in left]
    tried += [
        f"{path}: pickles, which can run code when they are read; the binary archive has the same pictures"
        for path in pickled
        if path.exists()
    ]
    raise download.none_answered(name, tried)


def read_cifar(archive: Path, name: str) -> Arrays:
    """CIFAR-10 or CIFAR-100 from its binary archive: records of label bytes and 3 x 32 x 32 pixels."""
    layout = CIFAR[name]
    wanted = {f"{layout.folder}/{file}" for file in (*layout.train, layout.test, layout.names)}
    with tarfile.open(archive) as tar:
        content = {member.name.rsplit("/", 1)[-1]: _read(tar, member) for member in tar if member.name in wanted}
    if len(content) < len(wanted):
        raise DataError("D-21", f"{archive} is no archive of {name}: {layout.folder} is not complete.")
    length = layout.label_bytes + 3 * 32 * 32
    records = {
        file: np.frombuffer(content[file], np.uint8).reshape(-1, length) for file in (*layout.train, layout.test)
    }
    rows = np.concatenate(list(records.values()))
    images = np.ascontiguousarray(rows[:, layout.label_bytes :].reshape(-1, 3, 32, 32).transpose(0, 2, 3, 1))
    num_test = len(records[layout.test])
    parts = ("train",) * (len(rows) - num_test) + ("test",) * num_test
    classes = tuple(line for line in content[layout.names].decode().split() if line)
    return Arrays(ArraySource(images, name), rows[:, layout.label_bytes - 1].astype(np.int64), classes, parts)


def _read(tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    return file.read() if file else b""
