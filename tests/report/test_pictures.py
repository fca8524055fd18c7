"""Pictures: the right pixels in the right places."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from tutelage.batch import IGNORED, Batch, Objects, normalise
from tutelage.clock import Clock
from tutelage.data.index import Statistics
from tutelage.decoder import DecoderSettings
from tutelage.encoder import BackboneSettings, build_vit
from tutelage.heads import HeadSettings
from tutelage.method import MethodSettings
from tutelage.methods.lomar import LoMaRSettings
from tutelage.methods.mae import MAESettings
from tutelage.methods.pseudomae import PseudoMAESettings
from tutelage.methods.rc_mae import RCMAESettings
from tutelage.methods.sdae import SdAESettings
from tutelage.methods.supervised import SupervisedSettings
from tutelage.pictures import (
    HIDDEN,
    TILE,
    Marked,
    colour,
    denormalise,
    detections,
    draw_step,
    hidden_pixels,
    hide,
    neighbours,
    overlaid,
    pca_colours,
    prototypes,
    rebuild,
    show,
)
from tutelage.sheet import Cell, save, sheet

PATCH, GRID = (4, 2), (3, 4)  # pictures of 12 x 8
DECODER = DecoderSettings(width=16, depth=1, heads=2)


def pictures(b: int = 3, c: int = 2) -> torch.Tensor:
    return torch.rand(b, c, 12, 8, generator=torch.Generator().manual_seed(0))


def some_hidden(b: int = 3, h: int = 7) -> torch.Tensor:
    return torch.rand(b, 12, generator=torch.Generator().manual_seed(1)).argsort(1)[:, :h]


def patch_of_picture(x: np.ndarray, i: int) -> np.ndarray:
    """Pixels [4, 2, c] of patch i, rows first."""
    row, col = divmod(i, GRID[1])
    return x[:, 4 * row : 4 * row + 4, 2 * col : 2 * col + 2].transpose(1, 2, 0)


def test_what_was_normalised_comes_back() -> None:
    x = pictures()
    statistics = Statistics(mean=(0.3, 0.6), std=(0.2, 0.4))
    there = normalise(x, torch.tensor(statistics.mean), torch.tensor(statistics.std))
    assert torch.allclose(denormalise(there, statistics), x, atol=1e-6)


def test_a_perfect_prediction_of_standardised_patches_rebuilds_the_picture() -> None:
    x, ids = pictures(), some_hidden()
    perfect = np.zeros((3, 12, 16), np.float32)
    for b in range(3):
        for i in range(12):
            p = patch_of_picture(x[b].numpy(), i).reshape(-1)
            perfect[b, i] = (p - p.mean()) / np.sqrt(p.var(ddof=1) + 1e-6)
    rebuilt = rebuild(x, torch.from_numpy(perfect), ids, PATCH, GRID, norm_pix=True)
    assert torch.allclose(rebuilt, x, atol=1e-5)


@pytest.mark.parametrize("norm_pix", [True, False])
def test_visible_patches_are_pasted_and_hidden_ones_predicted(norm_pix: bool) -> None:
    x, ids = pictures(), some_hidden()
    rebuilt = rebuild(x, torch.zeros(3, 12, 16), ids, PATCH, GRID, norm_pix=norm_pix).numpy()
    for b in range(3):
        for i in range(12):
            there, original = patch_of_picture(rebuilt[b], i), patch_of_picture(x[b].numpy(), i)
            if i in ids[b].tolist():  # a prediction of zero is the patch's mean, or zero
                assert there == pytest.approx(original.mean() if norm_pix else 0, abs=1e-6)
            else:
                assert (there == original).all()


def test_hidden_patches_are_grey_and_no_others() -> None:
    x, ids = pictures(), some_hidden()
    masked = hide(x, hidden_pixels(ids, x, GRID)).numpy()
    for b in range(3):
        for i in range(12):
            expected = HIDDEN if i in ids[b].tolist() else patch_of_picture(x[b].numpy(), i)
            assert patch_of_picture(masked[b], i) == pytest.approx(expected)


def test_small_pictures_are_scaled_by_whole_pixels_and_large_ones_made_smaller() -> None:
    x = torch.zeros(1, 12, 8)
    x[0, 2, 3] = 1
    shown = np.asarray(show(x))
    assert shown.shape == (120, 80, 3)
    assert (shown[20:30, 30:40] == 255).all() and shown.sum() == 255 * 100 * 3
    assert show(torch.zeros(3, 448, 224)).size == (TILE // 2, TILE)
    assert show(torch.zeros(1, 1, 1000)).size == (TILE, 1)


def test_one_channel_is_grey_and_many_are_false_colour() -> None:
    assert np.ptp(np.asarray(show(torch.rand(1, 4, 4))), axis=2).max() == 0
    x = torch.rand(5, 128, 128)
    assert np.array_equal(np.asarray(show(x)), (x[:3] * 255).round().byte().permute(1, 2, 0).numpy())
    assert np.asarray(show(x[:2]))[..., 2].max() == 0


def test_the_same_tokens_have_the_same_colours_whatever_their_length() -> None:
    t = torch.randn(4, 7, 10, generator=torch.Generator().manual_seed(0))
    target, predicted = pca_colours(t, 3 * t)
    assert torch.allclose(target, predicted, atol=1e-5)
    assert target.std() > 0.1
    assert target.min() >= 0 and target.max() <= 1


def test_tokens_of_few_dimensions_and_equal_tokens_have_colours_too() -> None:
    for t in (torch.randn(2, 3, 2), torch.ones(2, 3, 8), torch.randn(1, 1, 8)):
        assert all(colours.isfinite().all() for colours in pca_colours(t, t))


STEPS: dict[str, tuple[MethodSettings, set[str]]] = {
    "mae": (MAESettings(decoder=DECODER), {"reconstruction.png"}),
    "mae without norm_pix": (MAESettings(decoder=DECODER, norm_pix=False), {"reconstruction.png"}),
    "sdae": (SdAESettings(decoder=DECODER), {"tokens.png"}),
    "pseudomae": (
        PseudoMAESettings(decoder=DECODER, head=HeadSettings(prototypes=8, hidden=16, bottleneck=8)),
        {"tokens.png", "prototypes.png"},
    ),
    "rc_mae": (RCMAESettings(decoder=DECODER), {"reconstruction.png"}),
    "lomar": (LoMaRSettings(window=3, num_windows=2), {"reconstruction.png"}),
    "supervised": (SupervisedSettings(), set()),
}


@pytest.mark.parametrize("channels", [1, 3, 5])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_is_drawn(tmp_path: Path, name: str, channels: int) -> None:
    settings, expected = STEPS[name]
    backbone = BackboneSettings(
        name="vit_tiny_patch16_224", image_size=(16, 24), patch_size=(4, 6), width=16, depth=1, heads=2
    )
    method = settings.build(build_vit(backbone, channels), num_classes=3)
    stream = settings.streams["train"]
    batch = {
        "train": Batch(
            tuple(torch.randn(5, channels, 16, 24) for _ in range(len(stream.views))),
            tuple(torch.rand(5, 16) for _ in range(stream.num_keys)),
            torch.zeros(5, dtype=torch.long),
            torch.arange(5),
        )
    }
    output = method(batch, Clock(batch_size=5, num_pictures=10, total_steps=3))
    paths = draw_step(method, batch, output, Statistics((0.5,) * channels, (0.25,) * channels), tmp_path / "pictures")
    assert {path.name for path in paths} == expected == {path.name for path in (tmp_path / "pictures").iterdir()}
    for path in paths:
        with Image.open(path) as image:
            assert image.format == "PNG" and image.getpixel((0, 0)) == (255, 255, 255) and min(image.size) > 200


def test_the_most_used_prototype_comes_first() -> None:
    x = torch.zeros(6, 1, 8, 8)
    x[[1, 2, 4]] = 1  # the white ones fall on prototype 3
    labels = torch.full((6, 5), 0.1)
    labels[torch.arange(6), torch.tensor([0, 3, 3, 1, 3, 2])] = 0.6
    drawn = np.asarray(prototypes(x, labels))
    black = np.where((drawn[:, 200:] == 0).all(-1).any(1))[0]
    assert len(black) > 3 * TILE // 2  # three rows of black pictures, below the row of the three white ones
    assert black.min() > 100 + TILE


def test_a_picture_is_not_its_own_neighbour() -> None:
    x = torch.eye(4).reshape(4, 1, 4, 1).expand(-1, 1, 4, 4)
    features = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0], [0.1, 1.0]])
    drawn = neighbours(x, features, num_queries=1, labels=torch.tensor([0, 0, 1, -1]), classes=("a", "b"))
    pixels = np.asarray(drawn.convert("L")).astype(int)
    first, second = pixels[:, 36 : 36 + TILE], pixels[:, 46 + TILE : 46 + 2 * TILE]
    rows = np.where((first == 0).sum(1) == TILE)[0]
    top = rows.min() - TILE // 4  # picture 0 is white in its first quarter only
    assert first[top + 5].mean() == 255 and first[top + TILE // 2].mean() == 0
    assert second[top + 5].mean() == 0 and second[top + TILE // 4 + 5].mean() == 255  # picture 1: the second quarter


def test_long_and_strange_names_fit_below_their_picture(tmp_path: Path) -> None:
    cell = Cell(Image.new("RGB", (TILE, TILE)), "a very long name of a class\nwith a second line " * 9)
    page = sheet("Title", "A note. " * 80, [[cell, Cell(Image.new("RGB", (TILE, TILE)), "\u202e日本")]], ("one", "two"))
    path = save(page, tmp_path / "sheet.png")
    assert np.asarray(page)[:, -36:].min() == 255  # nothing runs into the margin
    assert [p.name for p in tmp_path.iterdir()] == [path.name]


def test_a_class_has_its_colour_whatever_colour_lies_below() -> None:
    """Red, green and blue of one brightness become the same; what has no class stays as it was."""
    weights = torch.tensor([0.2989, 0.587, 0.114])
    picture = torch.diag(0.1 / weights)[:, None, :].repeat(1, 2, 1)  # three columns
    mask = torch.tensor([[3, 3, 3], [IGNORED, IGNORED, IGNORED]])
    found = overlaid(picture, mask)
    assert torch.allclose(found[:, 1], picture[:, 1])
    expected = 0.4 * 0.1 + 0.6 * torch.tensor(colour(3)) / 255
    assert torch.allclose(found[:, 0], expected[:, None].expand(3, 3), atol=1e-3)


def test_boxes_have_the_names_of_their_classes_and_names_do_not_cover_each_other() -> None:
    """Two objects in one place, and one on the lower border: three names of their colours, in three places."""
    boxes = torch.tensor([[40.0, 40, 90, 90], [40, 40, 88, 92], [60, 110, 99, 119]])
    found = Objects(boxes, torch.tensor([30, 31, 32]), torch.zeros(3).bool(), torch.zeros(3, 120, 160).bool())
    classes = [f"class {i}" for i in range(40)]
    picture = torch.zeros(3, 120, 160)
    plain, named = (
        np.asarray(detections([(picture, [Marked(found, scores)])], ("picture", "found"), classes, "A note.", tile=480))
        for scores in ((), (0.9, 0.5, 0.25))
    )
    areas = [[int((sheet[150:] == colour(c)).all(-1).sum()) for c in (30, 31, 32)] for sheet in (plain, named)]
    assert all(a > 600 for a in areas[0]), "each name lies on a patch of the colour of its class"
    assert all(b > a for a, b in zip(*areas, strict=True)), "and is longer with a score"
    assert plain[:150].tolist() == named[:150].tolist()
