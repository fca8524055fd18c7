import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.data.index import ArraySource, Data, Pictures, measure_statistics, open_data
from tutelage.errors import DataError

from .pictures_on_disk import damage, fill, picture


def names(pictures: Pictures) -> set[str]:
    return {pictures.name(i) for i in range(len(pictures))}


def everything(data: Data) -> set[str]:
    return names(data.train) | names(data.held_out) | names(data.test)


def refused(data: Path | str, code: str) -> str:
    with pytest.raises(DataError) as caught:
        open_data(str(data))
    assert caught.value.code == code
    assert caught.value.exit_code == 3
    return str(caught.value)


def test_a_flat_folder_has_no_labels_and_no_test_part(tmp_path):
    fill(tmp_path, 30)
    data = open_data(str(tmp_path))
    assert (len(data.train), len(data.held_out), len(data.test)) == (27, 3, 0)
    assert not data.train.has_labels
    assert data.train.classes == ()
    assert data.channels == 3
    assert names(data.train) & names(data.held_out) == set()


def test_a_nested_folder_with_loose_pictures_has_no_labels(tmp_path):
    fill(tmp_path / "a" / "deep", 5)
    fill(tmp_path / "b", 5)
    fill(tmp_path, 2)
    data = open_data(str(tmp_path))
    assert len(everything(data)) == 12
    assert not data.train.has_labels
    assert "a/deep/000.png" in everything(data)


def test_one_folder_of_pictures_is_no_class(tmp_path):
    fill(tmp_path / "photos", 6)
    assert not open_data(str(tmp_path)).train.has_labels


def test_class_folders_give_labels_and_a_stratified_fifth_for_testing(tmp_path):
    fill(tmp_path / "cat" / "2020", 20)
    fill(tmp_path / "dog", 40)
    data = open_data(str(tmp_path))
    assert data.train.classes == ("cat", "dog")
    assert np.bincount(data.test.labels).tolist() == [4, 8]
    assert np.bincount(data.held_out.labels).tolist() in ([2, 3], [1, 4], [1, 3], [2, 2])
    assert len(everything(data)) == len(data.train) + len(data.held_out) + len(data.test) == 60
    for part in (data.train, data.held_out, data.test):
        for i in range(len(part)):
            assert part.name(i).startswith(part.classes[part.labels[i]])
    assert any("2 class folders" in line and "cat, dog" in line for line in data.found.lines())
    assert any("kept for testing" in line for line in data.found.lines())
    assert any("held out" in line for line in data.found.lines())


@pytest.mark.parametrize("name", ["test", "val", "valid", "validation"])
def test_a_given_test_folder_is_kept_as_it_is(tmp_path, name):
    for label in ("a", "b"):
        fill(tmp_path / "train" / label, 20)
        fill(tmp_path / name / label, 3)
    data = open_data(str(tmp_path), holdout=0.25)
    assert names(data.test) == {f"{name}/{label}/00{k}.png" for label in "ab" for k in range(3)}
    assert (len(data.train), len(data.held_out)) == (30, 10)
    assert data.test.classes == data.train.classes == ("a", "b")


def test_with_both_a_validation_and_a_test_folder_the_first_is_held_out(tmp_path):
    for part, count in (("train", 10), ("val", 4), ("test", 3)):
        for label in ("a", "b"):
            fill(tmp_path / part / label, count)
    data = open_data(str(tmp_path))
    assert (len(data.train), len(data.held_out), len(data.test)) == (20, 8, 6)
    assert all(name.startswith("val/") for name in names(data.held_out))


def test_a_test_folder_without_labels_gives_way_to_a_labelled_validation_folder(tmp_path):
    for label in ("a", "b"):
        fill(tmp_path / "train" / label, 10)
        fill(tmp_path / "val" / label, 3)
    fill(tmp_path / "test", 5)
    data = open_data(str(tmp_path))
    assert all(name.startswith("val/") for name in names(data.test)) and len(data.test) == 6
    assert not any(name.startswith("test/") for name in names(data.train) | names(data.held_out))


def test_classes_that_only_the_test_part_has_are_refused(tmp_path):
    for part, labels in (("train", "ab"), ("test", "ac")):
        for label in labels:
            fill(tmp_path / part / label, 3)
    fill(tmp_path / "test" / "c", 3)
    # Two test folders, of which one is unknown to training.
    message = refused(tmp_path, "D-11")
    assert "only for testing c" in message and "for training b" in message


def test_classes_that_only_training_has_are_noted(tmp_path):
    for part, labels in (("train", "abcd"), ("test", "bd")):
        for label in labels:
            fill(tmp_path / part / label, 3)
    assert "2 of 4 classes are in no other part: a, c" in open_data(str(tmp_path)).found.notes


@pytest.mark.parametrize(
    "others", [("test/a", "test/b"), ("test/a", "test/b", "val/a"), ("test/a", "val/b"), ("test",), ()]
)
def test_where_every_class_or_none_is_in_another_part_nothing_is_noted(tmp_path, others):
    for folder in ("train/a", "train/b", *others):
        fill(tmp_path / folder, 3)
    data = open_data(str(tmp_path))
    assert data.train.classes == ("a", "b")
    assert not [note for note in data.found.notes if "in no other part" in note]


@pytest.mark.parametrize("part", ["", "train/", "test/"])
def test_class_folders_without_pictures_are_noted(tmp_path, part):
    folders = [f"{each}{label}" for each in (("train/", "test/") if part else ("",)) for label in "ab"]
    for k, folder in enumerate(folders):
        fill(tmp_path / folder, 5, start=10 * k)
    (tmp_path / f"{part}.thumbnails").mkdir()
    told = re.compile(r"(\d+) .*ha(?:s|ve) no picture.*: (.*)")

    def without() -> list[tuple[str, ...]]:
        data = open_data(str(tmp_path))
        assert data.train.classes == ("a", "b")
        return [found.groups() for note in data.found.notes if (found := told.fullmatch(note))]

    assert without() == []
    (tmp_path / f"{part}c" / "deeper").mkdir(parents=True)
    assert without() == [("1", f"{part}c")]
    (tmp_path / f"{part}d").mkdir()
    (tmp_path / f"{part}d" / "notes.md").write_text("no picture")
    assert without() == [("2", f"{part}c, {part}d")]


def test_classes_with_a_single_training_picture_are_noted(tmp_path):
    for label, count in {"a": 5, "b": 1, "c": 2, "d": 1}.items():
        fill(tmp_path / "train" / label, count)
        fill(tmp_path / "test" / label, 2)
    assert "2 of 4 classes have one training picture or none: b, d" in open_data(str(tmp_path), holdout=0.0).found.notes
    for label in "bd":
        fill(tmp_path / "train" / label, 1, start=7)
    assert not [note for note in open_data(str(tmp_path), holdout=0.0).found.notes if "or none" in note]


def test_hidden_files_and_the_droppings_of_other_systems_are_no_pictures(tmp_path):
    fill(tmp_path, 12)
    for name in (".hidden.png", "._000.png", "Thumbs.db", ".DS_Store", "notes.md"):
        (tmp_path / name).write_bytes(b"x")
    fill(tmp_path / ".thumbnails", 3)
    data = open_data(str(tmp_path))
    assert data.found.num_pictures == 12
    assert data.found.unreadable == ()
    assert dict(data.found.other_files) == {"(hidden)": 4, ".md": 1}
    assert "      other files: (hidden) 4, .md 1" in data.found.lines()


def test_of_a_set_without_hidden_files_none_are_told(tmp_path):
    fill(tmp_path / "a", 3)
    assert dict(open_data(str(tmp_path)).found.other_files) == {}
    (tmp_path / "notes.md").write_bytes(b"x")
    found = open_data(str(tmp_path)).found
    assert dict(found.other_files) == {".md": 1}
    assert not [line for line in found.lines() if "hidden" in line]


def test_links_that_circle_are_cut(tmp_path):
    fill(tmp_path / "a" / "b", 3)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "broken.png").symlink_to(tmp_path / "nothing.png")
    data = open_data(str(tmp_path))
    assert data.found.num_pictures == 3
    assert data.found.unreadable == (("a/broken.png", "no such file or directory"),)


def test_strange_names_are_read_and_printed_on_one_line(tmp_path):
    strange = ["a b.png", 'q"uote.png', "new\nline.png", "-dash.png", "snow☃.png", os.fsdecode(b"\xff\xfe.png")]
    for k, name in enumerate(strange):
        picture(k).save(tmp_path / name, format="PNG")
    (tmp_path / "bad\n.png").write_bytes(b"")
    data = open_data(str(tmp_path), holdout=0.0)
    assert names(data.train) == set(strange)
    for line in data.found.lines():
        assert "\n" not in line
        line.encode("utf-8")


def test_a_text_list_names_pictures_relative_to_itself(tmp_path):
    fill(tmp_path / "pictures", 5)
    (tmp_path / "list.txt").write_text(
        "\ufeffpictures/003.png\r\npictures/001.png\r\n\r\npictures/001.png\r\n", encoding="utf-8"
    )
    data = open_data(str(tmp_path / "list.txt"), holdout=0.0)
    assert [data.train.name(i) for i in range(2)] == ["pictures/001.png", "pictures/003.png"]
    assert any("twice" in note for note in data.found.notes)


def test_a_table_may_label_some_pictures(tmp_path):
    fill(tmp_path, 40)
    rows = [f"{k:03d}.png,{('10', '9')[k % 2] if k < 20 else ''}" for k in range(40)]
    (tmp_path / "labels.csv").write_text("path,label\n" + "\n".join(rows))
    data = open_data(str(tmp_path / "labels.csv"))
    assert data.train.classes == ("9", "10")  # numbers in the order of their values
    assert np.bincount(data.test.labels).tolist() == [2, 2]
    assert (data.test.labels >= 0).all()
    labelled = data.train.labelled()
    assert 0 < len(labelled) < len(data.train)
    for i in range(len(labelled)):
        assert int(labelled.name(i)[:3]) % 2 == 1 - labelled.labels[i]


def test_a_table_may_divide_the_set(tmp_path):
    fill(tmp_path, 12)
    rows = [f'"{k:03d}.png",{"ab"[k % 2]},{("", "train", "test")[k % 3]}' for k in range(12)]
    (tmp_path / "t.csv").write_text("path,label,split\n" + "\n".join(rows))
    data = open_data(str(tmp_path / "t.csv"), holdout=0.0)
    assert names(data.test) == {f"{k:03d}.png" for k in (2, 5, 8, 11)}
    assert len(data.train) == 8


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("file;label\na.png;1\n", "D-13", "line 1"),
        ("", "D-13", "line 1"),
        ("path,label\na.png,1,2\n", "D-13", "row 2"),
        ("path,label\na.png,nan\n", "D-12", "row 2"),
        ("path,label\n000.png,1\n000.png,2\n", "D-13", "rows 2 and 3"),
        ("path,split\n000.png,trian\n", "D-12", "'train'"),
        ("path,label\n", "D-02", "0 pictures"),
    ],
)
def test_tables_that_cannot_be_read_are_refused_with_the_row(tmp_path, text, code, says):
    fill(tmp_path, 1)
    (tmp_path / "t.csv").write_text(text)
    assert says in refused(tmp_path / "t.csv", code)


def test_missing_and_empty_and_wrong_folders_are_refused(tmp_path):
    assert "nowhere" in refused(tmp_path / "nowhere", "D-01")
    refused(tmp_path, "D-02")
    for k in range(3):
        (tmp_path / f"{k}.txt").write_text("words")
    (tmp_path / "t.weird").write_text("words")
    assert "4 other files: .txt 3, .weird 1" in refused(tmp_path, "D-02")
    refused(tmp_path / "t.weird", "D-01")


def test_bad_files_among_good_ones_are_left_out_and_listed(tmp_path):
    good = fill(tmp_path, 60)
    data = good[0].read_bytes()
    (tmp_path / "cut.png").write_bytes(data[: len(data) // 2])
    (tmp_path / "empty.png").write_bytes(b"")
    (tmp_path / "text.png").write_text("no picture")
    found = open_data(str(tmp_path)).found
    assert found.num_pictures == 60
    assert dict(found.unreadable).keys() == {"cut.png", "empty.png", "text.png"}
    assert dict(found.unreadable)["empty.png"] == "empty file"
    assert "3 unreadable" in found.lines()[0]


def test_ten_bad_files_that_are_more_than_a_twentieth_are_refused(tmp_path):
    fill(tmp_path, 100)
    for k in range(10):
        (tmp_path / f"bad{k}.png").write_bytes(b"")
    message = refused(tmp_path, "D-04")
    assert "10 of 110 files" in message and "empty file (10)" in message and "bad0.png" in message
    (tmp_path / "bad9.png").unlink()
    assert len(open_data(str(tmp_path)).found.unreadable) == 9
    (tmp_path / "bad9.png").write_bytes(b"")
    fill(tmp_path, 90, start=100)
    assert len(open_data(str(tmp_path)).found.unreadable) == 10  # of 200: a twentieth, and no more


def test_small_sets_may_have_bad_files(tmp_path):
    fill(tmp_path, 5)
    (tmp_path / "a.png").write_bytes(b"")
    assert open_data(str(tmp_path)).found.num_pictures == 5
    for path in tmp_path.glob("0*"):
        path.write_bytes(b"")
    refused(tmp_path, "D-02")


def test_grey_and_colour_together_make_a_colour_set(tmp_path):
    fill(tmp_path / "a", 3, channels=1)
    fill(tmp_path / "b", 3, start=3)
    data = open_data(str(tmp_path), holdout=0.0)
    assert data.channels == 3
    assert all(data.train.read(i).shape == (3, 12, 10) for i in range(len(data.train)))
    assert open_data(str(tmp_path / "a")).channels == 1


def test_sets_of_many_channels_keep_them_and_mixtures_are_refused(tmp_path):
    for k in range(4):
        np.save(tmp_path / f"{k}.npy", np.full((6, 5, 5), k / 10, dtype=np.float32))
    data = open_data(str(tmp_path), holdout=0.0)
    assert data.channels == 5
    assert data.train.read(3).shape == (5, 6, 5)
    picture().save(tmp_path / "a.png")
    assert "3 (a.png), 5 (0.npy)" in refused(tmp_path, "D-06")


def test_a_set_with_one_deep_picture_is_deep(tmp_path):
    fill(tmp_path, 2, channels=1)
    Image.fromarray(np.full((12, 10), 30000, dtype=np.uint16)).save(tmp_path / "deep.png")
    data = open_data(str(tmp_path), holdout=0.0)
    read = [data.train.read(i) for i in range(3)]
    assert {x.dtype for x in read} == {torch.float32}
    assert max(float(x.max()) for x in read) <= 1


def test_splits_and_fingerprints_do_not_depend_on_where_the_set_lies(tmp_path):
    first, second = tmp_path / "x" / "set", tmp_path / "yy" / "set"
    for root in (first, second):
        for label in ("a", "b"):
            (root / label).mkdir(parents=True)
            for k in range(15):
                picture(k).save(root / label / f"{k}.png")
    a, b = open_data(str(first)), open_data(str(second))
    assert names(a.test) == names(b.test) and names(a.held_out) == names(b.held_out)
    assert a.fingerprint == b.fingerprint
    picture(3, size=(40, 40)).save(second / "a" / "0.png")
    assert open_data(str(second)).fingerprint != a.fingerprint
    assert open_data(str(first), holdout=0.5).fingerprint != a.fingerprint


def test_a_picture_that_is_damaged_later_is_replaced_by_the_next_with_its_own_label(tmp_path):
    fill(tmp_path / "a", 5)
    fill(tmp_path / "b", 5)
    data = open_data(str(tmp_path), holdout=0.0)
    train = data.train
    last_a = int(np.flatnonzero(train.labels == 0)[-1])
    damage(tmp_path / train.name(last_a))
    number, shown = train.fetch(last_a)
    assert number == last_a + 1 and train.labels[number] == 1
    assert torch.equal(shown, train.read(last_a + 1))
    assert list(train.source.failed) == [train.name(last_a)]


def test_a_set_that_vanishes_is_an_error(tmp_path):
    fill(tmp_path, 5)
    train = open_data(str(tmp_path)).train
    for path in tmp_path.iterdir():
        path.unlink()
    with pytest.raises(DataError) as caught:
        train.read(0)
    assert caught.value.code == "D-07"


def test_parts_are_chosen_by_mask_or_number():
    images = np.arange(10, dtype=np.uint8)[:, None, None] * np.ones((10, 2, 2), dtype=np.uint8)
    pictures = Pictures(ArraySource(images, "x"), np.arange(10), np.arange(10) % 3 - 1, ("a", "b"))
    assert [int(pictures.subset(np.array([7, 2])).read(i)[0, 0, 0]) for i in (0, 1)] == [7, 2]
    odd = pictures.subset(np.arange(10) % 2 == 1)
    assert odd.subset(np.array([4])).name(0) == "x/00009"
    assert len(pictures.labelled()) == 6 and (pictures.labelled().labels >= 0).all()


def test_statistics_are_those_of_all_pixels():
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (37, 6, 5, 3), dtype=np.uint8)
    images[..., 2] = 7  # a channel of one value
    everything = Pictures(ArraySource(images, "x"), np.arange(37), np.full(37, -1), ())
    mean, std = measure_statistics(everything)
    pixels = images.reshape(-1, 3) / 255
    assert np.allclose(mean, pixels.mean(axis=0), atol=1e-12)
    assert np.allclose(std[:2], pixels[:, :2].std(axis=0), atol=1e-12)
    assert std[2] == 1 / 255
    mean, _ = measure_statistics(everything, limit=5)
    assert np.allclose(mean, images[[0, 7, 14, 22, 29]].reshape(-1, 3).mean(axis=0) / 255)


@pytest.mark.parametrize(("dtype", "top"), [(np.uint8, 255), (np.uint16, 65535)])
def test_statistics_of_files_count_every_pixel(tmp_path, dtype, top):
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, top, shape, dtype=dtype, endpoint=True) for shape in ((9, 4), (5, 7))]
    for name, pixels in zip("ab", pictures, strict=True):
        Image.fromarray(pixels).save(tmp_path / f"{name}.png")
    pixels = np.concatenate([pixels.ravel() / top for pixels in pictures])
    everything = open_data(str(tmp_path), holdout=0.0).train
    assert np.allclose(measure_statistics(everything), [[pixels.mean()], [pixels.std()]], atol=1e-6)
