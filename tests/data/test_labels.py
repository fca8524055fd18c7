"""Few labels: how many, which, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small_runs import tiny
from tutelage.batch import Stream
from tutelage.data.index import Data, Pictures, open_data
from tutelage.engine.feeds import open_feeds, pool
from tutelage.errors import DataError, SettingsError


def known(data: Data) -> int:
    return int((data.train.labels >= 0).sum())


@pytest.mark.parametrize(("labels", "count"), [("40", 40), ("10%", 129), ("100%", 1294), ("1294", 1294)])
def test_as_many_labels_are_used_as_are_asked_for(labels: str, count: int) -> None:
    few, whole = open_data("digits", labels=labels), open_data("digits")
    assert known(few) == count
    kept = few.train.labels >= 0
    assert np.array_equal(few.train.labels[kept], whole.train.labels[kept])
    per_class = np.bincount(few.train.labels[kept], minlength=10)
    assert np.ptp(per_class) <= max(1, count // 60)  # the set's classes are not quite even
    assert np.array_equal(few.held_out.labels, whole.held_out.labels)
    assert np.array_equal(few.test.labels, whole.test.labels)
    assert few.fingerprint != whole.fingerprint


def test_the_seed_chooses_them() -> None:
    a, b, again = (open_data("digits", labels="40", seed=seed) for seed in (1, 2, 1))
    assert np.array_equal(a.train.labels, again.train.labels) and a.fingerprint == again.fingerprint
    assert not np.array_equal(a.train.labels, b.train.labels) and a.fingerprint != b.fingerprint


def test_labelled_pictures_are_in_no_unlabelled_pool() -> None:
    """Oracle 57."""
    train = open_data("digits", labels="40").train
    labelled, unlabelled = (pool(train, Stream(("weak",), labels=which)) for which in ("known", "unknown"))
    assert (len(labelled), len(unlabelled)) == (40, 1254)
    assert not set(labelled.ids.tolist()) & set(unlabelled.ids.tolist())
    assert (unlabelled.labels == -1).all() and (labelled.labels >= 0).all()
    assert len(pool(train, Stream(("weak",)))) == 1294


@pytest.mark.parametrize("labels", ["", "0", "some", "-3", "2.5", "101%", "0%", "4 0"])
def test_what_is_no_number_of_labels_is_refused(labels: str) -> None:
    with pytest.raises(SettingsError, match="C-14: labels is"):
        open_data("digits", labels=labels)


def test_more_labels_than_there_are_and_classes_without_one_are_refused() -> None:
    with pytest.raises(DataError, match="D-23: labels asks for 2,000, but only 1,294"):
        open_data("digits", labels="2000")
    with pytest.raises(DataError, match=r"D-23: labels 6 leaves \d of 10 classes without one"):
        open_data("digits", labels="6")


# --- a table beside a folder ------------------------------------------------------------------------------------------


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """30 pictures without labels."""
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for i in range(30):
        place = folder / "more" if i % 2 else folder
        Image.fromarray(np.full((8, 8), 8 * i, np.uint8)).save(place / f"{i:02d}.png")
    return folder


def table(file: Path, rows: list[str]) -> str:
    file.write_text("path,label\n" + "\n".join(rows) + "\n")
    return str(file)


@pytest.mark.parametrize("below", ["data", "table"])
def test_a_table_labels_some_pictures_of_a_folder(photos: Path, tmp_path: Path, below: str) -> None:
    prefix = "photos/" if below == "table" else ""
    rows = [f"{prefix}{i:02d}.png,cat" for i in range(0, 20, 2)]
    rows += [f"{prefix}more/{i:02d}.png,dog" for i in range(1, 20, 2)]
    data = open_data(str(photos), labels=table(tmp_path / "labels.csv", rows))
    assert data.train.classes == ("cat", "dog")
    parts = (data.train, data.held_out, data.test)
    labelled = {part.name(i): int(part.labels[i]) for part in parts for i in range(len(part)) if part.labels[i] >= 0}
    assert len(labelled) == 20 and len(data.test) == 4
    assert all(label == ("more/" in name) for name, label in labelled.items())
    assert "labels.csv: 20 labels of 2 classes" in "\n".join(data.found.notes)


def notes(method: str, train: Pictures) -> list[str]:
    """What a run by this method says of the labels of its training pictures."""
    settings = tiny(method)
    return open_feeds(settings.method.streams, train, settings).notes(train)


def test_training_pictures_without_a_label_that_nobody_uses_are_named(photos: Path, tmp_path: Path) -> None:
    pictures = [f"{'more/' if i % 2 else ''}{i:02d}.png,{'cat' if i < 15 else 'dog'}" for i in range(30)]
    for left, told in (
        (2, "2 training pictures have no label and are not used (00.png, more/01.png)"),
        (10, "10 training pictures have no label and are not used (00.png, 02.png, 04.png, 06.png, 08.png, ...)"),
    ):
        train = open_data(str(photos), holdout=0.0, labels=table(tmp_path / "labels.csv", pictures[left:])).train
        assert notes("supervised", train) == [told]
        assert notes("semi-mae", train) == notes("mae", train) == []  # which use them all
        assert notes("supervised", train.labelled()) == []


@pytest.mark.parametrize("method", ["semi-mae", "fixmatch"])
def test_labelled_pictures_that_are_in_the_unlabelled_pool_too_are_counted(
    photos: Path, tmp_path: Path, method: str
) -> None:
    rows = [f"{i:02d}.png,{'cat' if i < 10 else 'dog'}" for i in range(0, 20, 2)]
    file = table(tmp_path / "labels.csv", rows)
    train = open_data(str(photos), holdout=0.0, labels=file).train
    assert notes(method, train) == []
    known, unknown = (
        [train.name(i) for i in np.flatnonzero((train.labels >= 0) == has).tolist()] for has in (True, False)
    )
    assert (len(known), len(unknown)) == (8, 20)  # two are kept for testing
    for k in (1, 5, 6):
        (photos / unknown[2 * k]).write_bytes((photos / known[k]).read_bytes())
    told = "3 of 8 labelled pictures are among those without a label too, byte for byte"
    train = open_data(str(photos), holdout=0.0, labels=file).train
    assert notes(method, train) == [f"warning: {told} ({known[1]} is {unknown[2]})"]
    assert notes("mae", train) == []  # which knows of no labels


def test_labels_of_pictures_that_are_not_there_are_refused(photos: Path, tmp_path: Path) -> None:
    file = table(tmp_path / "labels.csv", ["00.png,cat", "99.png,dog", "../photos.png,dog"])
    with pytest.raises(
        DataError, match=r"D-24: .*labels 2 pictures that are not in .*photos: \.\./photos\.png, 99\.png"
    ):
        open_data(str(photos), labels=file)


@pytest.fixture
def folders(tmp_path: Path) -> Path:
    """Ten pictures of cats and ten of dogs, in class folders."""
    for name in ("cat", "dog"):
        (tmp_path / "set" / name).mkdir(parents=True)
        for i in range(10):
            Image.fromarray(np.full((8, 8), 10 * i, np.uint8)).save(tmp_path / "set" / name / f"{i}.png")
    return tmp_path / "set"


def test_a_table_replaces_the_labels_of_class_folders(folders: Path, tmp_path: Path) -> None:
    rows = [f"cat/{i}.png,a" for i in range(5)] + [f"dog/{i}.png,b" for i in range(5)]
    data = open_data(str(folders), labels=table(tmp_path / "labels.csv", rows))
    assert data.train.classes == ("a", "b")
    assert sum(int((part.labels >= 0).sum()) for part in (data.train, data.held_out, data.test)) == 10


def test_a_class_beside_those_of_the_folders_is_refused_with_the_nearest(folders: Path, tmp_path: Path) -> None:
    rows = [f"cat/{i}.png,cat" for i in range(5)] + [f"dog/{i}.png,dog" for i in range(4)]
    file = table(tmp_path / "labels.csv", [*rows, "dog/9.png,dgo"])
    with pytest.raises(DataError, match=r"D-28: .*names 1 classes that are no class folder: dgo\..*Did you mean 'dog'"):
        open_data(str(folders), labels=file)
    found = open_data(str(folders), labels=table(tmp_path / "labels.csv", rows)).found
    assert not [note for note in found.notes if "class folders give the labels" in note]


@pytest.mark.parametrize("second", ["00.png", "./00.png", "more/../00.png"])
def test_two_labels_for_a_picture_are_refused_however_it_is_spelt(photos: Path, tmp_path: Path, second: str) -> None:
    file = table(tmp_path / "labels.csv", ["00.png,cat", "02.png,dog", f"{second},dog"])
    with pytest.raises(DataError, match=r"D-13: .*00\.png"):
        open_data(str(photos), labels=file)


def test_a_table_for_a_set_in_memory_and_a_missing_one_are_refused(tmp_path: Path, photos: Path) -> None:
    with pytest.raises(DataError, match="D-24: digits is no folder"):
        open_data("digits", labels=table(tmp_path / "labels.csv", ["a.png,1"]))
    with pytest.raises(DataError, match="D-13: .*cannot be read"):
        open_data(str(photos), labels=str(tmp_path / "none.csv"))


@pytest.mark.parametrize(("share", "count"), [(1.0, 1294), (0.5, 647), (0.1, 129), (0.01, 13)])
def test_a_share_of_the_pictures_is_of_every_class_and_leaves_the_other_parts(share: float, count: int) -> None:
    part, whole = open_data("digits", share=share, seed=3), open_data("digits")
    assert len(part.train) == count
    assert set(part.train.ids.tolist()) <= set(whole.train.ids.tolist())
    labels = dict(zip(whole.train.ids.tolist(), whole.train.labels.tolist(), strict=True))
    assert [labels[i] for i in part.train.ids.tolist()] == part.train.labels.tolist()
    assert np.abs(np.bincount(part.train.labels, minlength=10) - share * np.bincount(whole.train.labels)).max() <= 1
    assert np.array_equal(part.held_out.ids, whole.held_out.ids) and np.array_equal(part.test.ids, whole.test.ids)
    assert (part.fingerprint == whole.fingerprint) == (share == 1)


def test_a_smaller_share_is_part_of_a_larger_one_and_the_seed_chooses() -> None:
    tenth, half, other = (open_data("digits", share=share, seed=seed) for share, seed in ((0.1, 1), (0.5, 1), (0.1, 2)))
    assert set(tenth.train.ids.tolist()) <= set(half.train.ids.tolist())
    assert tenth.train.ids.tolist() != other.train.ids.tolist() and tenth.fingerprint != other.fingerprint


def test_labels_are_counted_within_a_share() -> None:
    part = open_data("digits", share=0.5, labels="40")
    assert (len(part.train), known(part)) == (647, 40)
    assert any("647 of 1,294 training pictures are used" in note for note in part.found.notes)
    with pytest.raises(DataError, match="D-27: a share of 0.0001 leaves none of 1,294"):
        open_data("digits", share=0.0001)
