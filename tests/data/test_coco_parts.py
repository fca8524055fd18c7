"""Pretraining beside COCO files: what detection keeps for other parts is kept from it, in every layout that is usual."""

import errno
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from coco_sets import COCO, LAYOUTS, SIZE, coco, parts_of, picture, write
from tutelage.data.index import open_data
from tutelage.errors import DataError


@LAYOUTS
def test_pretraining_keeps_the_pictures_that_coco_files_keep(tmp_path: Path, folder: str, file: str) -> None:
    """A folder that tells its parts by COCO files alone: no picture for testing is pretrained on, no part is a class."""
    write(tmp_path, folder=folder, file=file)
    data = open_data(str(tmp_path))
    assert parts_of(tmp_path, "classes") == parts_of(tmp_path, "objects")
    assert len(data.test) == 6 and data.train.classes == ()
    names = " and ".join(file.format(part=part) for part in ("train", "val"))
    assert f"parts, and pictures with objects, are those of {names}" in data.found.notes


@pytest.mark.parametrize(
    ("folder", "name"),
    [
        ("images", "train.json"),
        ("images", "annotations/instances_default.json"),
        ("images/default", "annotations/instances_default.json"),
        ("images/Train", "annotations/instances_Train.json"),
    ],
)
def test_pretraining_keeps_the_pictures_that_detection_divides_off(tmp_path: Path, folder: str, name: str) -> None:
    """Of one COCO file, as CVAT writes it too, where some pictures have nothing and some crowds alone."""

    def change(values: dict[str, Any], part: str) -> None:
        for each in values["annotations"]:
            each["iscrowd"] = int(each["image_id"] % 3 == 0)
        values["annotations"] = [each for each in values["annotations"] if each["image_id"] % 4]

    write(tmp_path, folder=folder, change=lambda values, part: (values.update(coco(part, 100)), change(values, part)))
    (tmp_path / "val.json").unlink()
    for path in (tmp_path / folder).glob("val-*"):
        path.unlink()
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train.json").rename(tmp_path / name)
    told = parts_of(tmp_path, "objects")
    assert parts_of(tmp_path, "classes") == told and [len(part) for part in told] == [81, 9, 10]


def test_the_part_that_roboflow_calls_valid_is_validated_with(tmp_path: Path) -> None:
    write(tmp_path, folder="{part}", file="{part}/_annotations.coco.json")
    (tmp_path / "val").rename(tmp_path / "valid")
    for annotation in ("classes", "objects"):
        assert parts_of(tmp_path, annotation)[2] == {f"valid/val-{i}.png" for i in range(6)}


@pytest.mark.parametrize("layout", [COCO, COCO | {"folder": "images/{part}2017"}])
@pytest.mark.parametrize("val", [True, False], ids=["val", "train alone"])
def test_pictures_that_no_coco_file_names_are_trained_on_where_they_are_for_it(
    tmp_path: Path, layout: dict[str, str], val: bool
) -> None:
    """COCO's unlabelled ones, but not its test part; folders beside, with masks of things, are no pictures to learn from."""
    write(tmp_path, **layout)
    base = tmp_path / layout["folder"].format(part="train")
    for folder in ("unlabeled2017", "test2017"):
        for i in range(30):
            picture(base.with_name(folder) / f"{i}.png")
    picture(tmp_path / "annotations" / "panoptic_val2017" / "1.png")
    picture(base.with_name("stuffthingmaps") / "train2017" / "1.png")
    (tmp_path / "annotations" / "captions_train2017.json").write_text("{}")
    if not val:
        (tmp_path / "annotations" / "instances_val2017.json").unlink()
        shutil.rmtree(base.with_name("val2017"))
    train, held_out, test = parts_of(tmp_path, "classes")
    assert test == parts_of(tmp_path, "objects")[2] and len(test) == (6 if val else 1)
    assert {name.split("/")[0] for name in train | held_out} == {"train2017", "unlabeled2017"}
    assert len(train | held_out | test) == (42 if val else 36)
    notes = open_data(str(tmp_path)).found.notes
    folders = "stuffthingmaps, test2017" if "images" in str(base) else "annotations, stuffthingmaps, test2017"
    assert any(note.endswith(f"pictures that no COCO file names are left out, in {folders}") for note in notes)


def test_flat_pictures_that_no_coco_file_names_are_trained_on(tmp_path: Path) -> None:
    """Whatever their names begin with."""
    write(tmp_path)
    for i in range(30):
        picture(tmp_path / "images" / f"test{2000 + i}.png")
    train, held_out, test = parts_of(tmp_path, "classes")
    assert len(train | held_out) == 36 and test == {f"val-{i}.png" for i in range(6)}


@pytest.mark.parametrize(
    ("text", "told"), [("[]", "D-40"), ('{"split": 1}', "has no list 'images'"), (json.dumps(coco("gone")), "D-42")]
)
@pytest.mark.parametrize("folder", ["images", "{part}"])
def test_a_coco_file_that_cannot_be_used_tells_nothing_and_the_other_does(
    tmp_path: Path, text: str, told: str, folder: str
) -> None:
    """What detection refuses is no reason not to learn from pictures alone; the pictures of the good file are still kept."""
    write(tmp_path, folder=folder)
    (tmp_path / "train.json").write_text(text)
    data = open_data(str(tmp_path))
    assert (len(data.train) + len(data.held_out), len(data.test)) == (6, 6)
    assert any(told in note for note in data.found.notes if note.startswith("warning: a COCO file tells nothing"))


def test_where_no_coco_file_can_be_used_folders_with_its_names_are_parts(tmp_path: Path) -> None:
    write(tmp_path, **COCO)
    for path in (tmp_path / "annotations").iterdir():
        path.write_text("{")
    data = open_data(str(tmp_path))
    assert (len(data.train) + len(data.held_out), len(data.test)) == (6, 6) and data.train.classes == ()
    assert sum("tells nothing" in note for note in data.found.notes) == 2


def test_a_file_called_as_cocos_that_is_none_changes_nothing(tmp_path: Path) -> None:
    for i in range(20):
        picture(tmp_path / "images" / f"{i}.png")
        picture(tmp_path / "drawings" / f"{i}.png")
    (tmp_path / "train.json").write_text('{"epochs": 3}')
    assert open_data(str(tmp_path)).train.classes == ("drawings", "images")


def test_two_files_of_one_part_are_both_heeded(tmp_path: Path) -> None:
    """COCO's of 2014 and of 2017, which detection refuses."""
    write(tmp_path, **COCO)
    values = coco("other")
    for each in values["images"]:
        picture(tmp_path / "val2014" / each["file_name"])
    (tmp_path / "annotations" / "instances_val2014.json").write_text(json.dumps(values))
    data = open_data(str(tmp_path))
    assert (len(data.train) + len(data.held_out), len(data.test)) == (6, 12)


def test_pictures_for_testing_alone_are_not_trained_on_and_all_can_be_had(tmp_path: Path) -> None:
    """COCO's val2017 is there, and files of both parts; `predict` asks for all, and for no part."""
    write(tmp_path, **COCO)
    for i in range(3):
        picture(tmp_path / "test2017" / f"{i}.png")
    assert len(open_data(str(tmp_path), holdout=0.0, divided=False).everything) == 15
    shutil.rmtree(tmp_path / "train2017")
    with pytest.raises(DataError, match="D-03: .* none is left to train on"):
        open_data(str(tmp_path))
    assert len(open_data(str(tmp_path), holdout=0.0, divided=False).everything) == 9


def test_missing_pictures_are_no_hindrance(tmp_path: Path) -> None:
    """Detection refuses them; the others of their file are kept all the same."""
    write(tmp_path)
    (tmp_path / "images" / "val-0.png").unlink()
    (tmp_path / "images" / "train-0.png").unlink()
    data = open_data(str(tmp_path))
    assert (len(data.train) + len(data.held_out), len(data.test)) == (5, 5)
    told = "warning: 2 pictures that COCO files name are not among these: images/train-0.png, images/val-0.png"
    assert told in data.found.notes


def test_class_folders_in_folders_of_parts_stay(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        for i, each in enumerate(values["images"]):
            name = f"{'cd'[i % 2]}/{each['file_name']}"
            picture(tmp_path / part / name)
            each.update(file_name=name, absent=True)

    write(tmp_path, folder="{part}", change=change)
    data = open_data(str(tmp_path))
    assert data.train.classes == ("c", "d") and len(data.test) == 6
    assert any("class folders divide the pictures" in note for note in data.found.notes)


def test_folders_in_images_are_no_classes(tmp_path: Path) -> None:
    """Batches of a labelling tool; what lies beside images/ is not taken, and it is told."""

    def change(values: dict[str, Any], part: str) -> None:
        for i, each in enumerate(values["images"]):
            name = f"batch{i % 2}/{each['file_name']}"
            picture(tmp_path / "images" / name)
            each.update(file_name=name, absent=True)

    write(tmp_path, change=change)
    picture(tmp_path / "more" / "1.png")
    data = open_data(str(tmp_path))
    assert data.train.classes == () and len(data.test) == 6 and len(data.everything) == 12
    assert "the pictures of images/ are taken" in data.found.notes


def test_pictures_with_masks_are_in_the_parts_of_coco_files_too(tmp_path: Path) -> None:
    """Pretraining, segmentation and detection of one folder keep the same pictures from training."""
    write(tmp_path)
    for path in (tmp_path / "images").iterdir():
        (tmp_path / "masks").mkdir(exist_ok=True)
        Image.fromarray(np.arange(600).reshape(SIZE).astype(np.uint8) // 128).save(tmp_path / "masks" / path.name)
    parts = [parts_of(tmp_path, annotation) for annotation in ("classes", "masks", "objects")]
    assert parts[0] == parts[1] == parts[2] and len(parts[0][2]) == 6


def test_pretraining_and_detection_know_the_same_pictures(tmp_path: Path) -> None:
    """By what their hash is made of: their names below the folder."""
    write(tmp_path)
    one, other = (open_data(str(tmp_path), annotation=annotation).hashes for annotation in ("classes", "objects"))
    assert one == other


def test_a_folder_that_cannot_be_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And not taken for one without COCO files, by which its pictures would be in other parts."""
    write(tmp_path, **COCO)
    read = os.listdir

    def refuse(path: Path) -> list[str]:
        if Path(path).name == "annotations":
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        return read(path)

    monkeypatch.setattr(os, "listdir", refuse)
    with pytest.raises(DataError, match="D-05: the folder .*annotations cannot be read: Input/output error"):
        open_data(str(tmp_path))


def test_a_name_is_normed_before_it_is_compared(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        for each in values["images"]:
            each["file_name"] = f"./{each['file_name']}"

    write(tmp_path, change=change)
    assert len(open_data(str(tmp_path)).test) == 6


def test_a_picture_that_coco_names_and_that_is_none_is_told(tmp_path: Path) -> None:
    write(tmp_path, change=lambda values, part: values["images"][0].update(file_name=f".{part}.png"))
    notes = open_data(str(tmp_path)).found.notes
    assert "warning: 2 pictures that COCO files name are not among these: images/.train.png, images/.val.png" in notes


def test_a_picture_of_two_parts_is_not_trained_on(tmp_path: Path) -> None:
    """Detection refuses it."""
    write(tmp_path, change=lambda values, part: values["images"][0].update(file_name="same.png"))
    assert [{"same.png"} <= part for part in parts_of(tmp_path, "classes")] == [False, False, True]


def test_class_folders_beside_a_coco_file_stay_and_it_is_told(tmp_path: Path) -> None:
    write(tmp_path, folder="{part}ing-yard", change=lambda values, part: [
        each.update(file_name=f"{part}ing-yard/{each['file_name']}", absent=True) for each in values["images"]
    ])  # fmt: skip
    for part in ("train", "val"):
        for each in coco(part)["images"]:
            picture(tmp_path / f"{part}ing-yard" / each["file_name"])
    data = open_data(str(tmp_path))
    assert data.train.classes == ("training-yard", "valing-yard")
    assert any("class folders divide the pictures" in note for note in data.found.notes)


def test_labels_of_a_table_divide_pictures_in_the_parts_of_coco_files(tmp_path: Path) -> None:
    root = write(tmp_path / "set")
    table = tmp_path / "labels.csv"
    names = [f"set/images/{part}-{i}.png,{'ab'[i % 2]}" for part in ("train", "val") for i in range(6)]
    table.write_text("\n".join(["path,label", *names]))
    data = open_data(str(root), labels=str(table))
    assert data.train.classes == ("a", "b")
    assert {data.test.name(i) for i in range(len(data.test))} == {f"images/val-{i}.png" for i in range(6)}


def test_masks_called_annotations_are_masks_beside_other_json(tmp_path: Path) -> None:
    """ADE20K's folders, with a file that describes them."""
    for i in range(20):
        picture(tmp_path / "images" / f"{i}.png")
        picture(tmp_path / "annotations" / f"{i}.png")
    (tmp_path / "annotations" / "about.json").write_text("{}")
    data = open_data(str(tmp_path))
    assert len(data.test) == 4 and "the pictures of images/ are taken: annotations/ holds masks" in data.found.notes
