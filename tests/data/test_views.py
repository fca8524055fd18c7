import math

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from scipy import stats
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional as tv

from tutelage.data.crops import eval_view, random_box
from tutelage.data.order import Draws, mix
from tutelage.data.views import ComplexView, SimpleView, ViewsSettings


def picture(channels: int = 3, height: int = 40, width: int = 50, seed: int = 0) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (channels, height, width), dtype=torch.uint8, generator=generator)


def boxes(height: int, width: int, scale, ratio, n: int = 3000) -> np.ndarray:
    return np.array([random_box(height, width, scale, ratio, Draws(mix(0, "box", k))) for k in range(n)])


@pytest.mark.parametrize(("height", "width"), [(40, 50), (30, 120)])
def test_crops_are_distributed_as_torchvisions(height, width):
    scale, ratio = (0.2, 1.0), (3 / 4, 4 / 3)
    ours = boxes(height, width, scale, ratio)
    torch.manual_seed(0)
    image = torch.zeros(1, height, width)
    get = v2.RandomResizedCrop(8, scale=scale, ratio=ratio).make_params
    theirs = np.array([[p[k] for k in ("top", "left", "height", "width")] for p in (get([image]) for _ in range(3000))])
    for mine, reference in (
        (ours[:, 2] * ours[:, 3], theirs[:, 2] * theirs[:, 3]),
        (ours[:, 3] / ours[:, 2], theirs[:, 3] / theirs[:, 2]),
        (ours[:, 0], theirs[:, 0]),
        (ours[:, 1], theirs[:, 1]),
    ):
        assert stats.ks_2samp(mine, reference).pvalue > 1e-4


def test_crops_stay_inside_the_picture():
    for height, width in ((1, 1), (1, 100), (100, 1), (7, 5)):
        for top, left, h, w in boxes(height, width, (0.2, 1.0), (3 / 4, 4 / 3), n=200):
            assert h >= 1 and w >= 1 and 0 <= top <= height - h and 0 <= left <= width - w


def test_of_extreme_pictures_the_middle_is_taken():
    # No crop of ratio 3/4 to 4/3 holds a fifth of a 10 x 1000 picture.
    assert random_box(10, 1000, (0.9, 1.0), (3 / 4, 4 / 3), Draws(0)) == (0, 493, 10, 13)


@pytest.mark.parametrize("view", [SimpleView(), ComplexView()])
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("size", [(32, 32), (16, 48)])
def test_views_keep_channels_and_dtype_and_range(view, channels, size):
    for k in range(8):
        x = picture(channels, 20, 30, seed=k)
        as_bytes = view(x, size, Draws(mix(k)))
        assert as_bytes.shape == (channels, *size) and as_bytes.dtype == torch.uint8
        as_floats = view(x / 255, size, Draws(mix(k)))
        assert as_floats.shape == (channels, *size) and as_floats.dtype == torch.float32
        assert as_floats.min() >= 0 and as_floats.max() <= 1
        # Solarisation turns a difference of one level around 128 into a large one; few pixels lie there.
        assert ((as_bytes / 255 - as_floats).abs() > 8 / 255).float().mean() < 0.08


@pytest.mark.parametrize("view", [SimpleView(), ComplexView()])
def test_a_view_is_a_function_of_picture_and_seed(view):
    x = picture()
    before = x.clone()
    assert torch.equal(view(x, (16, 16), Draws(3)), view(x, (16, 16), Draws(3)))
    assert not torch.equal(view(x, (16, 16), Draws(3)), view(x, (16, 16), Draws(4)))
    assert torch.equal(x, before)


def test_half_of_the_simple_views_are_flipped():
    slope = torch.arange(0, 240, 6, dtype=torch.uint8).expand(1, 40, 40)
    flipped = [bool((v := SimpleView()(slope, (8, 8), Draws(mix(k))))[0, 0, 0] > v[0, 0, -1]) for k in range(400)]
    assert 150 < sum(flipped) < 250


def test_the_resize_is_bicubic_and_antialiased():
    x = picture(3, 64, 64)
    whole = SimpleView(scale=(1.0, 1.0), ratio=(1.0, 1.0), flip=0.0)(x, (16, 16), Draws(0))
    reference = tv.resize_image(x, [16, 16], interpolation=v2.InterpolationMode.BICUBIC, antialias=True)
    assert (whole.int() - reference.int()).abs().max() <= 1
    pillow = np.asarray(Image.fromarray(x.permute(1, 2, 0).numpy()).resize((16, 16), Image.Resampling.BICUBIC))
    assert np.abs(whole.permute(1, 2, 0).numpy().astype(int) - pillow).max() <= 1


def only(**on) -> ComplexView:
    """A view with all the changes off but the given ones."""
    off = {
        "scale": (1.0, 1.0),
        "ratio": (1.0, 1.0),
        "flip": 0.0,
        "jitter": 0.0,
        "grey": 0.0,
        "blur": (0.0, 0.0),
        "solarise": (0.0, 0.0),
    }
    return ComplexView(**(off | on))


def test_the_transforms_are_dinos():
    x = picture(3, 224, 224)
    plain = only()(x, (224, 224), Draws(0))
    assert torch.equal(plain, x)
    defaults = ComplexView()
    assert (defaults.scale, defaults.ratio) == ((0.4, 1.0), (3 / 4, 4 / 3))
    assert (defaults.jitter, defaults.brightness, defaults.contrast, defaults.saturation, defaults.hue) == (
        0.8,
        0.4,
        0.4,
        0.2,
        0.1,
    )
    assert (defaults.grey, defaults.radius, defaults.transform) == (0.2, (0.1, 2.0), "mix")
    assert ViewsSettings().simple == SimpleView(scale=(0.2, 1.0), ratio=(3 / 4, 4 / 3), flip=0.5)


def share_changed(view: ComplexView, n: int = 300, size: int = 32) -> float:
    x = picture(3, size, size)
    return sum(not torch.equal(view(x, (size, size), Draws(mix("c", k))), x) for k in range(n)) / n


def test_each_change_comes_as_often_as_it_should():
    within = 4 * math.sqrt(0.25 / 300)
    assert abs(share_changed(only(jitter=0.8)) - 0.8) < within
    assert abs(share_changed(only(grey=0.2)) - 0.2) < within
    solarise = {"solarise": (0.0, 0.2)}
    assert share_changed(only(transform="1", **solarise)) == 0
    assert abs(share_changed(only(transform="2", **solarise)) - 0.2) < within
    assert abs(share_changed(only(transform="mix", **solarise)) - 0.1) < within
    large = {"radius": (1.9, 2.0), "blur": (1.0, 0.1)}
    assert share_changed(only(transform="1", **large), n=20, size=224) == 1
    assert share_changed(only(transform="2", **large), n=40, size=224) < 0.4


def test_small_views_are_not_blurred():
    assert share_changed(only(blur=(1.0, 1.0), radius=(2.0, 2.0)), n=20, size=32) == 0
    assert share_changed(only(blur=(1.0, 1.0), radius=(2.0, 2.0)), n=5, size=64) == 1


def test_a_blur_wider_than_the_picture_is_left_out():
    x = picture(3, 40, 224)
    view = only(blur=(1.0, 1.0), radius=(50.0, 50.0))
    assert torch.equal(view(x, (224, 224), Draws(0)), only()(x, (224, 224), Draws(0)))


@pytest.mark.parametrize("channels", [1, 2, 5])
def test_grey_and_many_channelled_pictures_know_no_colours(channels):
    x = picture(channels)
    assert torch.equal(only(grey=1.0, solarise=(1.0, 1.0))(x, (40, 40), Draws(0)), only()(x, (40, 40), Draws(0)))
    view = only(jitter=1.0, saturation=1.0, hue=0.5, brightness=0.0, contrast=0.0)
    assert (view(x, (40, 40), Draws(1)).int() - only()(x, (40, 40), Draws(1)).int()).abs().max() <= 1


def test_grey_pictures_change_in_brightness():
    x = picture(1)
    changed = only(jitter=1.0, brightness=0.4, contrast=0.0)(x, (40, 40), Draws(1)).float()
    factor = changed.sum() / only()(x, (40, 40), Draws(1)).float().sum()
    assert 0.6 <= factor <= 1.4 and abs(factor - 1) > 1e-3


def test_settings_out_of_range_are_refused():
    for wrong in ({"flip": 1.5}, {"scale": (0.0, 1.0)}, {"transform": "3"}, {"blurr": 1}):
        with pytest.raises(ValidationError):
            ComplexView(**wrong)


def test_the_evaluation_view_is_imagenets_for_large_pictures():
    x = picture(3, 300, 400)
    reference = tv.center_crop_image(
        tv.resize_image(x, [256], interpolation=v2.InterpolationMode.BICUBIC, antialias=True), [224, 224]
    )
    assert (eval_view(x, (224, 224)).int() - reference.int()).abs().max() <= 1


def test_the_evaluation_view_of_small_pictures_loses_no_margin():
    x = picture(1, 28, 28)
    assert torch.equal(eval_view(x, (28, 28)), x)
    wide = picture(1, 20, 40)
    assert torch.equal(eval_view(wide, (20, 20)), wide[:, :, 10:30])
    assert eval_view(picture(2, 17, 31), (32, 64)).shape == (2, 32, 64)


@pytest.mark.parametrize("size", [(32, 32), (224, 224), (96, 192), (33, 47)])
def test_the_evaluation_view_fits_any_picture(size):
    for height, width in ((1, 1), (1, 500), (37, 41), (500, 3)):
        view = eval_view(picture(3, height, width) / 255, size)
        assert view.shape == (3, *size)
        assert view.min() >= 0 and view.max() <= 1
