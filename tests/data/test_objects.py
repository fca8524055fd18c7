"""Sets with objects: COCO files, what is cut, what is left out and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from coco_sets import COCO, LAYOUTS, SIZE, coco, parts_of, write
from tutelage.data.index import open_data
from tutelage.data.objects import _mask
from tutelage.data.outlines import coco_masks
from tutelage.errors import DataError


@LAYOUTS
def test_boxes_classes_and_masks_are_those_of_the_file(tmp_path: Path, folder: str, file: str) -> None:
    data = open_data(str(write(tmp_path, folder=folder, file=file)), annotation="objects")
    assert data.train.classes == ("square", "bar") and data.train.instances.ids == (4, 9), (
        "in the order of COCO's numbers"
    )
    assert (len(data.train) + len(data.held_out), len(data.test)) == (6, 6)
    found = data.test.objects(0)
    assert found.boxes.tolist() == [[2, 3, 7, 8], [25, 0, 27, 20]] and found.labels.tolist() == [0, 1]
    square, bar = torch.zeros(2, *SIZE, dtype=torch.bool)
    square[3:8, 2:7], bar[:, 25:27] = True, True
    assert torch.equal(found.masks[0], square) and torch.equal(found.masks[1], bar)
    assert not found.crowd.any() and not any("outline" in note for note in data.found.notes)


def test_two_files_of_one_part_are_refused(tmp_path: Path) -> None:
    """As COCO's of 2014 and of 2017 in one folder."""
    write(tmp_path, **COCO)
    (tmp_path / "annotations/instances_train2014.json").write_text("{}")
    with pytest.raises(DataError, match=r"^D-40: .*train2014.json and .*train2017.json are both of the part train"):
        open_data(str(tmp_path), annotation="objects")


def test_every_task_keeps_the_same_pictures_from_training(tmp_path: Path) -> None:
    """What one learns from, another is not tested on or watched by: pretraining, segmentation and detection of one folder."""
    values = coco("train", 100)
    for each in values["images"]:
        name = each["file_name"]
        for folder, mode in (("images", "RGB"), ("masks", "L")):
            (tmp_path / folder).mkdir(exist_ok=True)
            Image.fromarray(np.arange(600).reshape(SIZE).astype(np.uint8) // 128).convert(mode).save(
                tmp_path / folder / name
            )
    (tmp_path / "train.json").write_text(json.dumps(values))
    parts = [parts_of(tmp_path, annotation)[1:] for annotation in ("classes", "masks", "objects")]
    assert parts[0] == parts[1] == parts[2] and [len(part) for part in parts[0]] == [8, 20]


def test_boxes_are_cut_at_the_border_and_left_out_where_nothing_is_left(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        values["annotations"][0]["bbox"] = [-3, 15, 10, 50]
        values["annotations"][1]["bbox"] = [40, 3, 5, 5]
        values["annotations"][2]["bbox"] = [4, 4, 0, 7]

    data = open_data(str(write(tmp_path, change=change)), annotation="objects", holdout=0.0)
    assert data.train.objects(0).boxes.tolist() == [[0, 15, 7, 20]]
    assert data.train.objects(1).labels.tolist() == [1]
    notes = data.found.notes
    assert "warning: 2 objects outside its picture are left out" in notes
    assert "warning: 2 objects without area are left out" in notes


def test_a_picture_without_objects_is_not_trained_on(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        values["annotations"] = values["annotations"][2:]

    data = open_data(str(write(tmp_path, change=change)), annotation="objects", holdout=0.0)
    assert data.train.labels.tolist() == [-1, 0, 0, 0, 0, 0]
    empty = data.train.objects(0)
    assert empty.boxes.shape == (0, 4) and empty.masks.shape == (0, *SIZE)
    assert "2 pictures have no objects, and are not trained on" in data.found.notes


def test_crowds_are_kept_apart(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        for each in values["annotations"][:2]:
            each["iscrowd"] = 1

    data = open_data(str(write(tmp_path, change=change)), annotation="objects", holdout=0.0)
    assert data.train.objects(0).crowd.all() and data.train.labels[0] == -1, "nothing but a crowd teaches nothing"
    assert "24 objects of 2 classes, 4 of them crowds" in data.found.notes
    assert "2 pictures have crowds alone, and are not trained on" in data.found.notes
    assert not any("no objects" in note for note in data.found.notes)


def test_a_category_that_nothing_teaches_is_told(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        values["categories"].append({"id": 12, "name": "unicorn"})

    data = open_data(str(write(tmp_path, change=change)), annotation="objects")
    assert "warning: no object to train on is a unicorn" in data.found.notes


def test_without_outlines_a_mask_is_its_box(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        for each in values["annotations"]:
            del each["segmentation"]

    data = open_data(str(write(tmp_path, change=change)), annotation="objects")
    assert "warning: 24 objects have no outline: their boxes stand for it" in data.found.notes
    assert data.train.objects(0).masks.sum((1, 2)).tolist() == [25, 40]


def test_run_lengths_are_cocos(tmp_path: Path) -> None:
    """As pycocotools writes and reads them, as text and as numbers."""
    rng = np.random.default_rng(0)
    for share in (0.0, 0.02, 0.5, 1.0):
        mask = np.asfortranarray(rng.random(SIZE) < share)
        text = {"size": list(SIZE), "counts": coco_masks().encode(mask.astype(np.uint8))["counts"].decode()}
        changes = np.flatnonzero(np.diff(mask.flatten(order="F"))) + 1
        runs = np.diff([0, *changes, mask.size]).tolist()
        numbers = {"size": list(SIZE), "counts": [0, *runs] if mask[0, 0] else runs}
        for outline in (text, numbers):
            np.testing.assert_array_equal(_mask({"outline": outline}, *SIZE), mask)


def set_to(place: str, index: int, name: str, value: Any):
    def change(values: dict[str, Any], part: str) -> None:
        values[place][index][name] = value

    return change


def lacking(name: str):
    def change(values: dict[str, Any], part: str) -> None:
        del values[name]

    return change


def other_categories(values: dict[str, Any], part: str) -> None:
    if part == "val":
        values["categories"][0]["name"] = "another"


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (
            set_to("images", 2, "absent", True),
            r"D-42: .*train.json names 6 pictures, and 1 are not in .*images: train-2.png",
        ),
        (set_to("images", 1, "id", 10), "D-41: .*the picture 10 comes twice"),
        (set_to("images", 0, "height", 21), r"D-43: 2 of 12 pictures .*train-0.png \(30 x 21, not 30 x 20\)"),
        (set_to("images", 0, "width", "30"), 'D-40: .*width is "30", no whole number'),
        (set_to("annotations", 0, "image_id", 99), "D-41: .*object 0 is of the picture 99, which is not there"),
        (set_to("annotations", 0, "category_id", 5), "D-41: .*object 0 is of the category 5, which is not there"),
        (set_to("annotations", 3, "bbox", [1, 2, 3]), r"D-40: .*bbox of the object 3 is \[1, 2, 3\], not 4 numbers"),
        (set_to("annotations", 3, "bbox", "all"), 'D-40: .*bbox of the object 3 is "all"'),
        (set_to("categories", 1, "id", 9), "D-41: .*two categories have the same number or name"),
        (lacking("annotations"), "D-40: .*it has no list 'annotations'"),
        (other_categories, "D-41: the categories of .*val.json are not those of .*train.json"),
    ],
)
def test_what_cannot_be_right_is_refused(tmp_path: Path, change, told: str) -> None:
    with pytest.raises(DataError, match=told):
        open_data(str(write(tmp_path, change=change)), annotation="objects")


@pytest.mark.parametrize(
    "outline",
    [
        {"size": [20, 30], "counts": [5, 10_000_000, 2]},
        {"size": [20, 30], "counts": [-5, 605]},
        {"size": [2000, 3000], "counts": "aaaa"},
        {"size": [20, 30], "counts": "00000000000000000000000000000"},
        [[1, 2]],
        "all of it",
        {"counts": []},
    ],
    ids=repr,
)
def test_an_outline_that_cannot_be_drawn_is_refused_at_the_door_with_its_file(tmp_path: Path, outline: Any) -> None:
    root = write(tmp_path, change=set_to("annotations", 3, "segmentation", outline))
    told = "D-44: .*train.json: the outline of the object 3 on images/train-1.png cannot be drawn"
    with pytest.raises(DataError, match=told):
        open_data(str(root), annotation="objects")


@pytest.mark.parametrize("gone", [[0], [0, 1], [1, 4]])
def test_missing_pictures_are_counted_where_the_others_are(tmp_path: Path, gone: list[int]) -> None:
    """Also where the first one is missing: it must not decide where the others are looked for."""
    root = write(tmp_path, **COCO)
    for i in gone:
        (root / f"train2017/train-{i}.png").unlink()
    names = ", ".join(f"train-{i}.png" for i in gone)
    told = f"names 6 pictures, and {len(gone)} are not in .*train2017: {names}. Put them there; images/, images/train2017/, "
    with pytest.raises(DataError, match=told):
        open_data(str(root), annotation="objects")


def test_a_file_without_pictures_is_refused(tmp_path: Path) -> None:
    root = write(tmp_path, change=lambda values, part: values.update(images=[], annotations=[]))
    with pytest.raises(DataError, match="D-42: .*train.json names no pictures"):
        open_data(str(root), annotation="objects")


def test_no_coco_file_is_said(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"D-40: .* has no train.json"):
        open_data(str(tmp_path), annotation="objects")
    (tmp_path / "train.json").write_text("[" * 100_000)
    with pytest.raises(DataError, match="D-40: .*nested too deeply"):
        open_data(str(tmp_path), annotation="objects")


def test_a_jpeg_that_is_read_at_half_its_size_has_its_objects_there(tmp_path: Path) -> None:
    """Of more than 16.7 million pixels (docs of the decoder)."""
    (tmp_path / "images").mkdir()
    images, annotations = [], []
    for i in range(6):
        dark = np.zeros((4000, 5000), dtype=np.uint8)
        dark[400:1200, 1000:3000] = 255
        Image.fromarray(dark).save(tmp_path / f"images/{i}.jpg")
        images.append({"id": i, "file_name": f"{i}.jpg", "height": 4000, "width": 5000})
        outline = [[1000, 400, 3000, 400, 3000, 1200, 1000, 1200]]
        box = [1000, 400, 2000, 800]
        annotations.append({"id": i + 1, "image_id": i, "category_id": 1, "bbox": box, "segmentation": outline})
    told = {"images": images, "annotations": annotations, "categories": [{"id": 1, "name": "light"}]}
    (tmp_path / "train.json").write_text(json.dumps(told))
    pictures = open_data(str(tmp_path), annotation="objects").train
    picture = pictures.read(0)
    assert picture.shape == (1, 2000, 2500) and pictures.own_size(0) == (4000, 5000)
    found = pictures.objects(0, picture)
    assert found.boxes.tolist() == [[500, 200, 1500, 600]]
    assert torch.equal(found.masks[0, 10:-10], picture[0, 10:-10] > 127)
    assert pictures.objects(0).boxes.tolist() == [[1000, 400, 3000, 1200]]


def test_a_picture_in_two_parts_is_refused(tmp_path: Path) -> None:
    def change(values: dict[str, Any], part: str) -> None:
        values["images"][0]["file_name"] = "same.png"

    with pytest.raises(DataError, match="D-41: the picture images/same.png comes twice"):
        open_data(str(write(tmp_path, change=change)), annotation="objects")


def test_a_table_of_labels_beside_objects_is_refused(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("path,label\n")
    with pytest.raises(DataError, match="D-24: the objects of"):
        open_data(str(write(tmp_path / "set")), annotation="objects", labels=str(tmp_path / "labels.csv"))
