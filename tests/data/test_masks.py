"""Sets with index masks: where they lie, what their values mean, and what is refused."""

import os
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from shapes import CLASSES, VALUES, write_shapes
from tutelage.data import mask_files
from tutelage.data.index import open_data
from tutelage.data.joint import SegmentView
from tutelage.data.masks import CITYSCAPES
from tutelage.data.order import Draws
from tutelage.errors import DataError


def write(path: Path, values: np.ndarray, mode: str | None = None) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(values.astype(np.uint8))
    (image.convert(mode) if mode else image).save(path)


@pytest.fixture
def shapes(tmp_path: Path) -> Path:
    return write_shapes(tmp_path / "shapes", {"train": 10, "test": 4})


def test_values_become_the_classes_that_the_table_names(shapes: Path) -> None:
    data = open_data(str(shapes), annotation="masks")
    assert data.train.classes == CLASSES and data.train.masks is not None and data.train.masks.values == VALUES
    assert (len(data.train), len(data.held_out), len(data.test)) == (9, 1, 4)
    for part in (data.train, data.held_out, data.test):
        for i in range(len(part)):
            values = np.asarray(Image.open(shapes / "masks" / part.name(i)))
            expected = np.select([values == v for v in VALUES], [0, 1, 2], 255)
            found = part.mask(i)
            assert found is not None and found.dtype == torch.uint8
            np.testing.assert_array_equal(found.numpy(), expected)
            assert part.read(i).shape[1:] == found.shape
    assert (data.train.mask(0) == 255).sum() == 24 + 1, "the border, and the value without a name"


def test_without_a_table_every_value_is_a_class(shapes: Path) -> None:
    (shapes / "classes.csv").unlink()
    data = open_data(str(shapes), annotation="masks")
    assert data.train.classes == ("0", "3", "7", "9")


def test_a_palette_counts_by_its_numbers_and_one_bit_as_0_and_1(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for i in range(6):
        write(tmp_path / "images" / f"{i}.png", rng.integers(0, 255, (8, 8, 3)))
        mask = Image.fromarray(np.tile([0, 0, 0, 0, 1, 1, 1, 1], (8, 1)).astype(np.uint8), "P" if i % 2 else "L")
        if i % 2:
            mask.putpalette([200, 0, 0, 0, 200, 0])
        else:
            mask = mask.point(lambda value: 255 * value).convert("1")
        (tmp_path / "masks").mkdir(exist_ok=True)
        mask.save(tmp_path / "masks" / f"{i}.png")
    data = open_data(str(tmp_path), annotation="masks")
    assert data.train.classes == ("0", "1")
    assert all((data.train.mask(i)[:, :4] == 0).all() and (data.train.mask(i)[:, 4:] == 1).all() for i in range(3))


def test_without_masks_being_asked_for_only_pictures_are_taken(shapes: Path) -> None:
    data = open_data(str(shapes))
    assert len(data.train.source) == 14 and data.train.masks is None and not data.train.has_labels
    assert "the pictures of images/ are taken: masks/ holds masks" in data.found.notes


def test_ade20k_counts_from_1_and_its_0_counts_for_nothing(tmp_path: Path) -> None:
    names = ["Idx\tRatio\tTrain\tVal\tName", "1\t0.1\t1\t1\twall", "2\t0.1\t1\t1\tbuilding, edifice", "3\t0\t1\t1\tsky"]
    (tmp_path / "objectInfo150.txt").write_text("\n".join(names))
    for part in ("training", "validation"):
        for i in range(5):
            write(tmp_path / "images" / part / f"{i}.jpg", np.full((8, 8, 3), 50 * i))
            write(tmp_path / "annotations" / part / f"{i}.png", np.tile([0, 1, 2, 3], (8, 2)))
    data = open_data(str(tmp_path), annotation="masks")
    assert data.train.classes == ("wall", "building", "sky")
    assert data.train.mask(0)[0, :4].tolist() == [255, 0, 1, 2]
    assert len(data.test) == 5 and data.test.name(0).startswith("validation/")


def test_cityscapes_has_its_own_names(tmp_path: Path) -> None:
    for part in ("train", "val"):
        for i in range(4):
            stem = f"{part}/aachen/aachen_{i:06d}_000019"
            write(tmp_path / "leftImg8bit" / f"{stem}_leftImg8bit.png", np.full((8, 16, 3), i))
            write(tmp_path / "gtFine" / f"{stem}_gtFine_labelTrainIds.png", np.tile([0, 18, 255, 13], (8, 4)))
            write(tmp_path / "gtFine" / f"{stem}_gtFine_color.png", np.zeros((8, 16, 3)))
    data = open_data(str(tmp_path), annotation="masks")
    assert data.train.classes == CITYSCAPES and len(data.test) == 4
    assert data.train.mask(0)[0, :4].tolist() == [0, 18, 255, 13]


def test_a_picture_without_a_mask_counts_as_unlabelled(shapes: Path) -> None:
    (shapes / "masks/train/003.png").unlink()
    data = open_data(str(shapes), annotation="masks", holdout=0.0)
    assert [data.train.name(i) for i in np.flatnonzero(data.train.labels < 0).tolist()] == ["train/003.png"]
    assert any("1 pictures have no mask" in note for note in data.found.notes)


def another_size(root: Path) -> None:
    write(root / "masks/train/001.png", np.zeros((24, 20)))


def in_colour(root: Path) -> None:
    write(root / "masks/train/001.png", np.zeros((20, 24, 3)))


def no_png(root: Path) -> None:
    (root / "masks/train/001.png").write_bytes(b"not a png at all")


def no_masks(root: Path) -> None:
    for file in (root / "masks").rglob("*.png"):
        file.unlink()


def no_folder(root: Path) -> None:
    (root / "masks").rename(root / "elsewhere")


def a_bad_table(root: Path) -> None:
    (root / "classes.csv").write_text("value,name\n0,ground\n300,disc\n")


def no_columns(root: Path) -> None:
    (root / "classes.csv").write_text("class;name\n0;ground\n")


def one_class(root: Path) -> None:
    (root / "classes.csv").write_text("value,name\n0,ground\n3,\n7,\n9,\n")


@pytest.mark.parametrize(
    ("harm", "told"),
    [
        (another_size, r"D-31: 1 of 14 masks have another size than their picture: 001.png \(20 x 24, not 24 x 20\)"),
        (in_colour, "D-32: the mask .*001.png is of mode RGB"),
        (no_png, "D-30: the mask .*001.png cannot be read: it is no PNG"),
        (no_masks, "D-34: no picture in .*images has a mask"),
        (no_folder, "D-34: .* has no pictures with masks"),
        (a_bad_table, "D-35: .*row 3: '300' is no value"),
        (no_columns, "D-35: .*line 1: the columns are not value and name"),
        (one_class, "D-34: the masks of .* tell 1 classes apart"),
    ],
    ids=lambda value: value.__name__ if callable(value) else "",
)
def test_what_cannot_be_right_is_refused(shapes: Path, harm, told: str) -> None:
    harm(shapes)
    with pytest.raises(DataError, match=told):
        open_data(str(shapes), annotation="masks")


def revalued(path: Path, change) -> None:
    """The mask with other values."""
    write(path, change(np.asarray(Image.open(path)).copy()))


@pytest.mark.parametrize("part", ["train", "test"])
def test_a_value_that_no_class_has_is_refused_at_the_door_in_every_part(shapes: Path, part: str) -> None:
    """Not only where it is met: of a test mask that would be after the whole training."""
    revalued(shapes / f"masks/{part}/001.png", lambda mask: np.where(mask == 0, 77, mask))
    told = rf"D-33: 1 of 14 masks have values that are no class: masks/{part}/001.png \(77\). There are 3 classes"
    with pytest.raises(DataError, match=told):
        open_data(str(shapes), annotation="masks")


def test_a_mask_that_gets_a_wrong_value_under_a_run_is_refused_where_it_is_read(shapes: Path) -> None:
    data = open_data(str(shapes), annotation="masks", holdout=0.0)
    revalued(shapes / "masks/train/001.png", lambda mask: np.where(mask == 0, 77, mask))
    with pytest.raises(DataError, match=r"D-33: .*001.png \(77\)"):
        data.train.mask(1)


def test_masks_of_which_no_pixel_counts_are_refused_where_all_are_so_and_else_unlabelled(shapes: Path) -> None:
    revalued(shapes / "masks/train/003.png", lambda mask: np.full_like(mask, 255))
    revalued(shapes / "masks/train/004.png", lambda mask: np.full_like(mask, 9))  # named as nothing
    data = open_data(str(shapes), annotation="masks", holdout=0.0)
    unlabelled = [data.train.name(i) for i in np.flatnonzero(data.train.labels < 0).tolist()]
    assert unlabelled == ["train/003.png", "train/004.png"]
    assert "2 pictures have a mask of which no pixel counts, and are not trained on" in data.found.notes
    for file in (shapes / "masks").rglob("*.png"):
        revalued(file, lambda mask: np.full_like(mask, 255))
    for _ in range(2):
        with pytest.raises(DataError, match="D-37: no pixel of the 14 masks of .* counts: all are 255"):
            open_data(str(shapes), annotation="masks")
        (shapes / "classes.csv").unlink(missing_ok=True)


def test_a_class_that_no_training_mask_contains_is_told(shapes: Path) -> None:
    """Held-out and test masks do not teach: what they alone contain is told too."""
    warned = "warning: 1 of 3 classes are in no mask to train on: disc"
    assert warned not in open_data(str(shapes), annotation="masks").found.notes
    for file in (shapes / "masks/train").iterdir():
        revalued(file, lambda mask: np.where(mask == 3, 0, mask))
    assert warned in open_data(str(shapes), annotation="masks").found.notes


def test_looks_at_many_masks_are_kept_and_files_that_changed_are_read_anew(
    shapes: Path, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.setattr(mask_files, "MAX_UNKEPT", 3)
    old = time.time() - 60
    for file in (shapes / "masks").rglob("*.png"):
        os.utime(file, (old, old))

    real, read, shown = mask_files._read, list[str](), []

    def noted(path: Path):
        read.append(path.name)
        return real(path)

    def opened() -> list[str]:
        read.clear()
        shown.append(open_data(str(shapes), annotation="masks", cache=tmp_path / "cache").train.masks.shown)
        return read

    monkeypatch.setattr(mask_files, "_read", noted)
    assert len(opened()) == 14
    assert opened() == [] and shown[0] == shown[1]
    revalued(shapes / "masks/test/002.png", lambda mask: np.full_like(mask, 7))
    assert opened() == ["002.png"] and shown[2] != shown[1]
    revalued(shapes / "masks/test/003.png", lambda mask: np.full_like(mask, 77))
    with pytest.raises(DataError, match="D-33: 1 of 14 masks"):
        opened()


@pytest.mark.parametrize("size", [(2, 203), (405, 4)])
def test_pictures_that_no_window_fits_are_refused(shapes: Path, size: tuple[int, int]) -> None:
    write(shapes / "images/train/002.png", np.zeros((*size, 3)))
    write(shapes / "masks/train/002.png", np.zeros(size))
    told = f"D-38: train/002.png has {size[1]} x {size[0]} pixels: one side is more than 100 times the other"
    with pytest.raises(DataError, match=told):
        open_data(str(shapes), annotation="masks")


def test_photographs_that_are_given_as_masks_are_no_masks(shapes: Path) -> None:
    (shapes / "classes.csv").unlink()
    revalued(shapes / "masks/train/000.png", lambda mask: np.arange(mask.size).reshape(mask.shape) % 255)
    with pytest.raises(DataError, match="D-34: the masks of .* tell 255 classes apart. They look like pictures"):
        open_data(str(shapes), annotation="masks")


def test_another_mask_makes_another_set(shapes: Path) -> None:
    before = open_data(str(shapes), annotation="masks").fingerprint
    (shapes / "masks/train/003.png").unlink()
    assert open_data(str(shapes), annotation="masks").fingerprint != before


# --- the view ---------------------------------------------------------------------------------------------------------


def blocks(h: int, w: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A picture whose colour tells the class, in blocks of 16 pixels, and its mask."""
    mask = (torch.arange(h)[:, None] // 16 + torch.arange(w)[None] // 16) % 3
    return torch.stack([mask * 100] * 3).to(torch.uint8), mask.to(torch.uint8)


@pytest.mark.parametrize("size", [(32, 32), (24, 48)])
def test_what_moves_a_pixel_moves_its_class(size: tuple[int, int]) -> None:
    picture, mask = blocks(64, 96)
    view, agree = SegmentView(distort=0.0), []
    for seed in range(30):
        x, m = view(picture, mask, size, Draws(seed))
        assert x.shape == (3, *size) and m.shape == size and x.dtype == m.dtype == torch.uint8
        counts = m != 255
        assert (x[0][counts].float() - 100 * m[counts].float()).abs().lt(40).float().mean() > 0.8
        agree.append(counts.float().mean().item())
    assert min(agree) < 0.6 and max(agree) == 1.0, "some pictures are smaller than the crop and are filled up"


def test_a_view_is_a_function_of_its_draws_and_flips_both() -> None:
    picture, mask = blocks(64, 64)
    exact = SegmentView(scale=(1.0, 1.0), most_of_one=1.0, distort=0.0)
    kept = exact.model_copy(update={"flip": 0.0})(picture, mask, (64, 64), Draws(3))
    turned = exact.model_copy(update={"flip": 1.0})(picture, mask, (64, 64), Draws(3))
    torch.testing.assert_close(kept[0], picture)
    torch.testing.assert_close(kept[1], mask)
    torch.testing.assert_close(turned[0], picture.flip(-1))
    torch.testing.assert_close(turned[1], mask.flip(-1))
    again = [SegmentView()(picture, mask, (40, 40), Draws(7)) for _ in range(2)]
    assert torch.equal(again[0][0], again[1][0]) and torch.equal(again[0][1], again[1][1])


def test_crops_of_one_class_are_drawn_again() -> None:
    """A small object in a corner is in nearly every crop where crops of the ground alone are drawn again, up to ten times."""
    picture, mask = torch.zeros(3, 128, 128, dtype=torch.uint8), torch.zeros(128, 128, dtype=torch.uint8)
    mask[:32, :32] = 1
    plain = SegmentView(scale=(2.0, 2.0), most_of_one=1.0, distort=0.0)
    strict = plain.model_copy(update={"most_of_one": 0.9})
    shares = [
        sum(bool((view(picture, mask, (64, 64), Draws(s))[1] == 1).any()) for s in range(60))
        for view in (plain, strict)
    ]
    assert shares[0] < 20 < 30 < shares[1], shares


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_colours_change_and_classes_do_not(channels: int) -> None:
    picture = torch.randint(60, 200, (channels, 32, 32), generator=torch.Generator().manual_seed(0)).to(torch.uint8)
    mask = torch.zeros(32, 32, dtype=torch.uint8)
    view = SegmentView(scale=(1.0, 1.0), flip=0.0, distort=1.0)
    x, m = view(picture, mask, (32, 32), Draws(1))
    assert torch.equal(m, mask) and torch.equal(x, picture) == (channels == 4)
