"""The strong view: RandAugment and erasing from our own draws, on pictures of any channels and depth."""

import numpy as np
import pytest
import torch

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
