"""The strong view: RandAugment and erasing from our own draws, on pictures of any channels and depth."""

import numpy as np
import pytest
import skimage.data
import torch
from PIL import Image
from timm.data import auto_augment

from tutelage.data.order import Draws
from tutelage.data.strong import GREY, StrongView, _changes_of, _erased, _moved, _normal
from tutelage.data.views import SimpleView


def picture(channels: int = 3, dtype: torch.dtype = torch.uint8) -> torch.Tensor:
    x = torch.randint(0, 256, (channels, 20, 28), generator=torch.Generator().manual_seed(1), dtype=torch.uint8)
    return x if dtype == torch.uint8 else x.float() / 255


@pytest.mark.parametrize("channels", [1, 2, 3, 4, 5])
@pytest.mark.parametrize("dtype", [torch.uint8, torch.float32])
def test_every_operation_keeps_shape_depth_and_range(channels: int, dtype: torch.dtype) -> None:
    x = picture(channels, dtype)
    for change in _changes_of(x):
        for strength, sign in ((0.0, 1.0), (0.5, -1.0), (1.0, 1.0)):
            y = change(x, strength, sign)
            assert y.shape == x.shape and y.dtype == x.dtype
            assert dtype == torch.uint8 or (y.min() >= 0 and y.max() <= 1)


TIMMS = (
    "Invert", "Rotate", "SolarizeIncreasing", "SolarizeAdd", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel",
    "AutoContrast", "ContrastIncreasing", "BrightnessIncreasing", "SharpnessIncreasing", "ColorIncreasing",
    "Equalize", "PosterizeIncreasing",
)  # fmt: skip
MOVING = ("Rotate", "ShearX", "ShearY", "TranslateXRel", "TranslateYRel")


@pytest.mark.parametrize("magnitude", [0.0, 2.5, 7.9, 9.0, 10.0])
@pytest.mark.parametrize("name", TIMMS)
def test_each_operation_does_what_timms_does_to_a_photograph(name, magnitude: float, monkeypatch) -> None:
    """To either side, at timm's own level for the magnitude: to one of 255; where pixels move, but for how they are blended."""
    photograph = Image.fromarray(skimage.data.chelsea())
    ours = _changes_of(torch.from_numpy(np.array(photograph)).permute(2, 0, 1).contiguous())[TIMMS.index(name)]
    if (name, magnitude) == ("PosterizeIncreasing", 10.0):  # Pillow refuses to leave no bits
        assert not ours(picture(), 1.0, 1.0).any()
        return

    def theirs(sign: float) -> np.ndarray:
        monkeypatch.setattr(auto_augment, "_randomly_negate", lambda value: sign * value)
        level = auto_augment.LEVEL_TO_ARG[name]
        how = {"fillcolor": (128, 128, 128), "resample": Image.Resampling.BILINEAR}
        return np.array(auto_augment.NAME_TO_OP[name](photograph, *(level(magnitude, {}) if level else ()), **how))

    x = torch.from_numpy(np.array(photograph)).permute(2, 0, 1).contiguous()
    found = {sign: ours(x, magnitude / 10, sign).permute(1, 2, 0).numpy().astype(float) for sign in (1.0, -1.0)}
    turned = -1 if name in ("Rotate", "TranslateXRel", "TranslateYRel") else 1  # which side is plus is a convention
    for sign, view in found.items():
        difference = np.abs(view - theirs(turned * sign))
        assert difference.mean() < 0.7 if name in MOVING else difference.max() <= 1


def test_they_are_the_operations_of_the_recipe_each_as_likely() -> None:
    """`rand-m9-mstd0.5-inc1`, as the published fine-tuning has it."""
    timms = auto_augment.rand_augment_transform("rand-m9-mstd0.5-inc1", {})
    assert sorted(op.name for op in timms.ops) == sorted(TIMMS) and timms.choice_weights is None
    view = StrongView()
    assert (timms.num_layers, timms.ops[0].prob) == (view.operations, 0.5)
    assert (timms.ops[0].magnitude, timms.ops[0].magnitude_std) == (view.magnitude, view.magnitude_std)


@pytest.mark.parametrize("strength", [0.0, 0.25, 0.9, 1.0])
def test_pictures_of_floats_are_changed_as_those_of_bytes(strength: float) -> None:
    x, y = picture(3), picture(3, torch.float32)
    for byte, real in zip(_changes_of(x), _changes_of(y), strict=False):  # bytes have two more, at the end
        a, b = byte(x, strength, 1.0).float(), 255 * real(y, strength, 1.0)
        torch.testing.assert_close(a, b, atol=1.5, rtol=0)


def test_there_are_timms_fifteen_operations_for_colour() -> None:
    assert len(_changes_of(picture(3))) == 15
    assert len(_changes_of(picture(1))) == 14
    assert len(_changes_of(picture(3, torch.float32))) == 13


def test_a_view_is_a_function_of_its_draws() -> None:
    view, x = StrongView(), picture()
    a, again, other = (view(x, (32, 32), Draws(seed)) for seed in (5, 5, 6))
    assert torch.equal(a, again) and not torch.equal(a, other)
    assert a.shape == (3, 32, 32) and a.dtype == torch.uint8


def test_without_operations_and_erasing_it_is_crop_and_flip() -> None:
    strong = StrongView(operations=0, erase=0.0, scale=(0.2, 1.0))
    for seed in range(5):
        assert torch.equal(strong(picture(), (24, 24), Draws(seed)), SimpleView()(picture(), (24, 24), Draws(seed)))


def test_each_operation_is_applied_half_of_the_time_and_some_pictures_are_erased() -> None:
    x = picture()
    plain = StrongView(operations=0, erase=0.0)
    one, erasing = StrongView(operations=1, erase=0.0), StrongView(operations=0, erase=0.25)
    changed = [not torch.equal(one(x, (24, 24), Draws(s)), plain(x, (24, 24), Draws(s))) for s in range(600)]
    erased = [not torch.equal(erasing(x, (24, 24), Draws(s)), plain(x, (24, 24), Draws(s))) for s in range(600)]
    assert 0.42 < np.mean(changed) < 0.54  # a few operations change nothing in some pictures
    assert 0.19 < np.mean(erased) < 0.31


def test_erasing_takes_a_rectangle_of_the_published_area() -> None:
    x = torch.zeros(1, 40, 50)
    shares = []
    for seed in range(200):
        y = _erased(x, Draws(seed))[0] > 0
        rows, cols = y.any(1).nonzero().flatten(), y.any(0).nonzero().flatten()
        box = y[rows.min() : rows.max() + 1, cols.min() : cols.max() + 1]
        assert box.float().mean() > 0.99
        shares.append(float(y.float().mean()))
    assert min(shares) > 0.015 and max(shares) < 0.35


def test_moving_right_moves_right_and_fills_with_grey() -> None:
    x = torch.zeros(1, 10, 20, dtype=torch.uint8)
    x[:, :, 0] = 255
    y = _moved(x, shift=(0.25, 0.0))
    assert (y[0, :, 5] == 255).all() and (y[0, :, :5] == GREY).all() and (y[0, :, 6:] == 0).all()


def test_normal_draws_are_standard_normal() -> None:
    values = np.array([_normal(Draws(seed)) for seed in range(4000)])
    assert abs(values.mean()) < 0.05 and abs(values.std() - 1) < 0.04
