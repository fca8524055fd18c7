import gzip
import io
import pickle
import subprocess
import tarfile
import time
from pathlib import Path

import numpy as np
import pytest
from sklearn.datasets import load_digits

from tutelage.data import download, named
from tutelage.data.index import open_data
from tutelage.errors import DataError

from .pictures_on_disk import fill
from .test_idx import idx


def refused(name: str, cache: Path, code: str = "D-20") -> str:
    with pytest.raises(DataError) as caught:
        open_data(name, cache=cache)
    assert (caught.value.code, caught.value.exit_code) == (code, 3)
    return str(caught.value)


def test_digits_are_scikit_learns_in_full_range(tmp_path):
    data = open_data("digits", cache=tmp_path)
    images, labels = load_digits(return_X_y=True)
    parts = (data.train, data.held_out, data.test)
    assert sum(map(len, parts)) == 1797
    for part in parts:
        assert np.array_equal(part.labels, labels[part.ids])
        assert np.abs(part.read(5)[0].numpy() / 255 - images[part.ids[5]].reshape(8, 8) / 16).max() < 1 / 255
    assert data.channels == 1 and data.train.classes == tuple("0123456789")
    # A fifth of every digit, and of the rest a tenth.
    assert np.abs(np.bincount(data.test.labels) - np.bincount(labels) / 5).max() <= 1
    assert len(data.test) == 359 and len(data.held_out) == 144
    assert any("8x8" in line for line in data.found.lines())


def write_fashion(folder: Path) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    arrays = {
        "train-images-idx3-ubyte.gz": rng.integers(0, 256, (50, 28, 28), dtype=np.uint8),
        "train-labels-idx1-ubyte.gz": np.repeat(np.arange(10, dtype=np.uint8), 5),
        "t10k-images-idx3-ubyte.gz": rng.integers(0, 256, (10, 28, 28), dtype=np.uint8),
        "t10k-labels-idx1-ubyte.gz": np.arange(10, dtype=np.uint8),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, array in arrays.items():
        (folder / name).write_bytes(gzip.compress(idx(array)))
    return arrays


def test_idx_files_are_read_with_their_split(tmp_path):
    arrays = write_fashion(tmp_path)
    read = named.read_fashion(tmp_path)
    assert np.array_equal(read.source.images[:50], arrays["train-images-idx3-ubyte.gz"])
    assert np.array_equal(read.source.images[50:], arrays["t10k-images-idx3-ubyte.gz"])
    assert read.labels.tolist() == [k // 5 for k in range(50)] + list(range(10))
    assert read.parts == ("train",) * 50 + ("test",) * 10
    assert len(read.classes) == 10


def test_files_that_are_not_the_published_ones_are_not_used(tmp_path, monkeypatch):
    write_fashion(tmp_path / "fashion-mnist")
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    monkeypatch.setattr(named, "FASHION_FOLDER", tmp_path / "nothing")
    message = refused("fashion-mnist", tmp_path)
    assert "another SHA-256" in message
    assert "TUTELAGE_OFFLINE" in message
    assert str(tmp_path / "fashion-mnist") in message and "dataset-fashion-mnist" in message


def test_the_installed_fashion_mnist_is_the_published_one(tmp_path, monkeypatch):
    if not named.FASHION_FOLDER.exists():
        pytest.skip("the package dataset-fashion-mnist is not installed")
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    data = open_data("fashion-mnist", cache=tmp_path)
    assert (len(data.train), len(data.held_out), len(data.test)) == (54_000, 6_000, 10_000)
    assert np.bincount(data.test.labels).tolist() == [1000] * 10
    assert np.bincount(data.held_out.labels).tolist() == [600] * 10
    assert data.train.classes[9] == "ankle boot" and data.channels == 1


def write_cifar(path: Path, name: str) -> tuple[np.ndarray, np.ndarray]:
    """An archive in the published layout, with 4 pictures in each file; images [n, 32, 32, 3] and labels in file order."""
    layout = named.CIFAR[name]
    rng = np.random.default_rng(0)
    images, labels = [], []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w:gz") as tar:

        def add(file: str, data: bytes) -> None:
            member = tarfile.TarInfo(f"{layout.folder}/{file}")
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))

        for file in (layout.test, *layout.train):  # in another order than they are read in
            planes = rng.integers(0, 256, (4, 3, 32, 32), dtype=np.uint8)
            classes = rng.integers(0, 3, 4)
            coarse = [bytes([99])] * (layout.label_bytes - 1)
            add(
                file,
                b"".join(b"".join([*coarse, bytes([c])]) + p.tobytes() for c, p in zip(classes, planes, strict=True)),
            )
            images.append(planes.transpose(0, 2, 3, 1))
            labels.append(classes)
        add(layout.names, b"airplane\nbird\ncat\n\n")
        add("readme.html", b"<html>")
    return np.concatenate([*images[1:], images[0]]), np.concatenate([*labels[1:], labels[0]])


@pytest.mark.parametrize("name", ["cifar10", "cifar100"])
def test_cifar_is_read_from_its_binary_archive(tmp_path, name):
    images, labels = write_cifar(tmp_path / "a.tar.gz", name)
    read = named.read_cifar(tmp_path / "a.tar.gz", name)
    assert np.array_equal(read.source.images, images)
    assert np.array_equal(read.labels, labels)
    assert read.parts == ("train",) * (len(labels) - 4) + ("test",) * 4
    assert read.classes == ("airplane", "bird", "cat")
    assert np.array_equal(read.source.picture(2).numpy(), images[2].transpose(2, 0, 1))


def test_an_archive_that_is_not_cifars_is_refused(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    write_cifar(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", "cifar10")
    message = refused("cifar10", tmp_path)
    assert "SHA-256" in message and "cifar-10-binary.tar.gz" in message
    with pytest.raises(DataError, match="not complete"):
        named.read_cifar(tmp_path / "cifar10" / "cifar-10-binary.tar.gz", "cifar100")


@pytest.mark.parametrize(("name", "folder"), [("cifar10", "cifar-10-batches-py"), ("cifar100", "cifar-100-python")])
def test_the_pickles_that_torchvision_leaves_are_named_and_not_read(tmp_path, monkeypatch, name, folder):
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    (tmp_path / folder).mkdir()
    (tmp_path / folder / "test_batch").write_bytes(pickle.dumps(Touches(tmp_path / "canary"), protocol=2))
    message = refused(name, tmp_path / "cache")
    assert f"{tmp_path / folder}: pickles, which can run code" in message and "binary.tar.gz" in message
    for place in (tmp_path, tmp_path / folder):
        assert (
            f"{folder} holds pickles" in (told := refused(str(place), tmp_path, "D-02")) and f"--data {name} " in told
        )
    assert not (tmp_path / "canary").exists()
    pickle.loads((tmp_path / folder / "test_batch").read_bytes())
    assert (tmp_path / "canary").exists(), "the canary sings when it is run, so the test can fail"


class Touches:
    """What makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def test_sets_are_looked_for_where_the_user_keeps_them(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path / "mine"))
    message = refused("pets", tmp_path / "cache")
    assert str(tmp_path / "mine" / "oxford-iiit-pet") in message and "TUTELAGE_DATA" in message
    root = tmp_path / "mine" / "oxford-iiit-pet"
    for label in ("Abyssinian", "great_pyrenees"):
        for path in fill(root / "images", 4, ".jpg"):
            path.rename(path.with_name(f"{label}_{int(path.stem)}.jpg"))
    (root / "annotations").mkdir()
    for part, numbers in (("trainval", (0, 1, 2)), ("test", (3,))):
        lines = [f"{label}_{k} 1 1 1" for label in ("Abyssinian", "great_pyrenees") for k in numbers]
        (root / "annotations" / f"{part}.txt").write_text("\n".join(lines))
    data = open_data("pets", cache=tmp_path / "cache", holdout=0.0)
    assert data.train.classes == ("Abyssinian", "great_pyrenees")
    assert (len(data.train), len(data.test)) == (6, 2)


def test_flowers_are_divided_as_published(tmp_path):
    from scipy.io import savemat

    root = tmp_path / "flowers102" / "flowers-102"
    for path in fill(root / "jpg", 6, ".jpg"):
        path.rename(path.with_name(f"image_{int(path.stem) + 1:05d}.jpg"))
    savemat(root / "imagelabels.mat", {"labels": [[1, 2, 1, 2, 1, 2]]})
    savemat(root / "setid.mat", {"trnid": [[1, 2]], "valid": [[3, 4]], "tstid": [[5, 6]]})
    data = open_data("flowers102", cache=tmp_path)
    assert [part.name(0) for part in (data.train, data.held_out, data.test)] == [
        f"jpg/image_0000{k}.jpg" for k in (1, 3, 5)
    ]
    assert data.test.labels.tolist() == [0, 1]
    everything = open_data("flowers102", cache=tmp_path, holdout=0.0)
    assert [len(part) for part in (everything.train, everything.held_out, everything.test)] == [4, 0, 2]
    assert "the validation part (2 pictures) is trained on too" in everything.found.notes


def test_cars_are_read_from_the_development_kit_as_torchvision_reads_them(tmp_path, monkeypatch):
    """Krause et al. 2013: annotations are a structure of boxes, a class from 1 on and a file's name, one a picture."""
    from scipy.io import savemat
    from torchvision.datasets import StanfordCars

    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    root = tmp_path / "stanford_cars"
    classes = {"train": [2, 1, 3, 1], "test": [3, 2]}
    (root / "devkit").mkdir(parents=True)
    savemat(root / "devkit/cars_meta.mat", {"class_names": np.array([["AM General", "Acura", "Audi"]], dtype=object)})
    kind = [(name, object) for name in ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2", "class", "fname")]
    for part, told in classes.items():
        for k, path in enumerate(fill(root / f"cars_{part}", len(told), ".jpg"), start=1):
            path.rename(path.with_name(f"{k:05d}.jpg"))
        rows = [(1, 2, 30, 40, label, f"{k:05d}.jpg") for k, label in enumerate(told, start=1)]
        file = "devkit/cars_train_annos.mat" if part == "train" else "cars_test_annos_withlabels.mat"
        savemat(root / file, {"annotations": np.array(rows, dtype=kind)})
    data = open_data("cars", cache=tmp_path / "cache", holdout=0.0)
    assert (len(data.train), len(data.test)) == (4, 2) and data.train.classes == ("1", "2", "3")
    for part, pictures in (("train", data.train), ("test", data.test)):
        theirs = StanfordCars(tmp_path, split=part)
        for i, (image, label) in enumerate(theirs):
            assert pictures.name(i) == f"cars_{part}/{i + 1:05d}.jpg"
            assert pictures.labels[i] == label == classes[part][i] - 1
            assert np.array_equal(pictures.read(i).permute(1, 2, 0).numpy(), np.array(image))


def test_imagenet_is_a_folder_with_train_and_val(tmp_path, monkeypatch):
    monkeypatch.setenv("TUTELAGE_DATA", str(tmp_path))
    for part in ("train", "val"):
        for label in ("n01440764", "n01443537"):
            fill(tmp_path / "imagenet" / part / label, 2, ".jpg")
    data = open_data("imagenet", cache=tmp_path / "cache", holdout=0.0)
    assert (len(data.train), len(data.test), data.train.classes) == (4, 4, ("n01440764", "n01443537"))


def test_a_folder_with_the_name_of_a_set_is_a_folder(tmp_path, monkeypatch):
    fill(tmp_path / "digits", 3)
    monkeypatch.chdir(tmp_path)
    assert open_data("digits").found.num_pictures == 3


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"TUTELAGE_CACHE": "/c"}, "/c"),
        ({"XDG_CACHE_HOME": "/x"}, "/x/tutelage"),
        ({"HOME": "/h"}, "/h/.cache/tutelage"),
    ],
)
def test_the_cache_lies_where_the_user_says(monkeypatch, variables, expected):
    for name in ("TUTELAGE_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert named.cache_folder() == Path(expected)


def test_a_download_is_kept_only_with_the_known_hash(tmp_path):
    (tmp_path / "source").write_bytes(b"content")
    url = (tmp_path / "source").as_uri()
    known = "ed7002b439e9ac845f22357d822bac1444730fbdb6016d3ec9432297b9ec9f73"  # of "content"
    target = tmp_path / "cache" / "file"
    assert download.file(url, known, target).read_bytes() == b"content"
    target.unlink()
    with pytest.raises(download.NotOurs):
        download.file(url, "0" * 64, target)
    assert list((tmp_path / "cache").iterdir()) == []


def test_a_host_that_does_not_answer_costs_seconds(tmp_path):
    start = time.monotonic()
    with pytest.raises(OSError, match=r"."):
        download.file("http://127.0.0.1:9/nothing", "0" * 64, tmp_path / "file")
    assert time.monotonic() - start < 6


def test_a_debian_package_is_unpacked_and_not_installed(tmp_path, monkeypatch):
    # The program that fetches is replaced by one that packs; the unpacking is dpkg's own.
    if subprocess.run(["which", "dpkg-deb"], capture_output=True, check=False).returncode:
        pytest.skip("dpkg is not on this machine")
    tree = tmp_path / "tree"
    (tree / "usr/share/datasets/x").mkdir(parents=True)
    (tree / "usr/share/datasets/x/a.gz").write_bytes(b"data")
    (tree / "DEBIAN").mkdir()
    (tree / "DEBIAN/control").write_text(
        "Package: x\nVersion: 1\nArchitecture: all\nMaintainer: a <a@b>\nDescription: x\n"
    )
    programs = tmp_path / "programs"
    programs.mkdir()
    (programs / "apt-get").write_text(f'#!/bin/sh\nexec dpkg-deb -b "{tree}" "$PWD/x_1_all.deb"\n')
    (programs / "apt-get").chmod(0o755)
    monkeypatch.setenv("PATH", str(programs), prepend=":")
    folder = download.debian_package("x", Path("/usr/share/datasets/x"), tmp_path / "cache")
    assert [path.name for path in folder.iterdir()] == ["a.gz"]
    (programs / "apt-get").write_text("#!/bin/sh\necho E: no such package >&2\nexit 100\n")
    with pytest.raises(OSError, match="no such package"):
        download.debian_package("x", Path("/usr/share/datasets/x"), tmp_path / "cache")
