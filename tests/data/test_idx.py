import gzip
import struct
from pathlib import Path

import numpy as np
import pytest

from tutelage.data.idx import parse_idx
from tutelage.data.index import open_data
from tutelage.errors import DataError

RNG = np.random.default_rng(0)
TRAIN = RNG.integers(0, 256, (40, 9, 7), dtype=np.uint8)
TEST = RNG.integers(0, 256, (10, 9, 7), dtype=np.uint8)


def idx(array: np.ndarray) -> bytes:
    return b"\0\0\x08" + bytes([array.ndim]) + struct.pack(f">{array.ndim}I", *array.shape) + array.tobytes()


def write(folder: Path, **files: bytes) -> Path:
    """The files by their names, with _ for -."""
    for name, data in files.items():
        (folder / name.replace("_", "-")).write_bytes(data)
    return folder


def refused(folder: Path) -> str:
    with pytest.raises(DataError) as caught:
        open_data(str(folder))
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_folder_of_idx_files_is_a_set(tmp_path):
    write(
        tmp_path,
        emnist_train_images_idx3_ubyte=idx(TRAIN),
        emnist_train_labels_idx1_ubyte=idx(np.repeat(np.arange(2, dtype=np.uint8), 20)),
        emnist_test_images_idx3_ubyte=idx(TEST),
        emnist_test_labels_idx1_ubyte=idx(np.arange(10, dtype=np.uint8) % 2),
    )
    for file in list(tmp_path.iterdir())[:2]:  # gzipped or not
        file.with_suffix(".gz").write_bytes(gzip.compress(file.read_bytes()))
        file.unlink()
    data = open_data(str(tmp_path))
    assert (len(data.train), len(data.held_out), len(data.test)) == (36, 4, 10)
    assert data.train.classes == ("0", "1") and data.channels == 1
    for i, number in enumerate(data.train.ids):
        assert np.array_equal(data.train.read(i)[0], TRAIN[number])
        assert data.train.labels[i] == number // 20
    assert np.array_equal(data.test.read(3)[0], TEST[3]) and data.test.labels[3] == 1


def test_labels_and_test_part_may_be_missing(tmp_path):
    data = open_data(str(write(tmp_path, train_images_idx3_ubyte=idx(TRAIN))))
    assert len(data.train) + len(data.held_out) == 40 and not data.train.has_labels and not len(data.test)


def test_what_does_not_fit_is_refused(tmp_path):
    write(tmp_path, train_images_idx3_ubyte=idx(TRAIN), train_labels_idx1_ubyte=idx(np.zeros(39, np.uint8)))
    assert "D-22" in refused(tmp_path) and "40 pictures and 39 labels" in refused(tmp_path)
    write(tmp_path, train_labels_idx1_ubyte=idx(np.zeros(40, np.uint8)), t10k_images_idx3_ubyte=idx(TEST[:, :5]))
    assert "9, 7" in refused(tmp_path) and "5, 7" in refused(tmp_path)
    write(tmp_path, t10k_images_idx3_ubyte=idx(TEST)[:-3])
    assert "t10k" in refused(tmp_path) and "again" in refused(tmp_path)
    write(tmp_path, t10k_images_idx3_ubyte=idx(TEST[0]))
    assert "3 axes" in refused(tmp_path)
    write(tmp_path, mnist_test_images_idx3_ubyte=idx(TEST))
    assert "2 sets" in refused(tmp_path)


WHOLE = idx(np.zeros((2, 3, 3), dtype=np.uint8))


@pytest.mark.parametrize("data", [WHOLE[:-5], b"PK" + WHOLE[2:], WHOLE + b"\0", WHOLE[:3], WHOLE[:9]])
def test_damaged_idx_files_are_refused(data):
    assert parse_idx(WHOLE).shape == (2, 3, 3)
    with pytest.raises(ValueError, match="idx"):
        parse_idx(data)
