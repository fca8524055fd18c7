"""Corruptions against the paper's words, written out with NumPy, SciPy, scikit-image and Pillow."""

import io
import math

import numpy as np
import pytest
import skimage.color
import skimage.data
import skimage.measure
import torch
from PIL import Image
from scipy import ndimage, stats

from tutelage.data.corruptions import KINDS, SEVERITIES, Corruption, corrupt, corrupted
from tutelage.data.crops import eval_view
from tutelage.data.fields import blurred, clouds, filtered, line, moved
from tutelage.data.order import Draws

STILL = {"defocus-blur", "zoom-blur", "brightness", "contrast", "pixelate", "jpeg"}
"""Kinds in which nothing is drawn."""


def photograph(size=224, name="astronaut"):
    pixels = np.atleast_3d(getattr(skimage.data, name)())
    return eval_view(torch.from_numpy(pixels.copy()).permute(2, 0, 1), (size, size))


COLOUR, GREY = photograph(), photograph(name="camera")


def done(picture, kind, severity, seed=5):
    return corrupt(picture, Corruption(kind, severity), Draws(seed))


def distance(one, other):
    return float((one.float() - other.float()).square().mean().sqrt())


def test_there_are_the_fifteen_kinds_of_the_paper_in_five_severities():
    assert len(KINDS) == len(set(KINDS)) == 15 and SEVERITIES == (1, 2, 3, 4, 5)
    with pytest.raises(ValueError, match="severity 6 is not one of 1 to 5"):
        done(GREY, "fog", 6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("picture", [COLOUR, GREY], ids=["colour", "grey"])
def test_a_photograph_is_further_from_itself_the_severer_the_corruption(kind, picture):
    away = [distance(done(picture, kind, severity), picture) for severity in SEVERITIES]
    assert away[0] > 2 and away == sorted(set(away)), away


@pytest.mark.parametrize("kind", KINDS)
def test_small_pictures_change_too_and_stay_pictures(kind):
    for picture in (photograph(32), photograph(28, "camera")):
        mild, severe = (distance(done(picture, kind, severity), picture) for severity in (1, 5))
        assert 1 < mild < severe < 160, (mild, severe)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 17, 40), (2, 33, 9), (5, 8, 8), (3, 1, 1)])
def test_shape_and_type_stay_for_any_number_of_channels_and_any_size(kind, shape):
    picture = torch.from_numpy((Draws(1).uniforms(math.prod(shape)) * 256).astype(np.uint8)).reshape(shape)
    before = picture.clone()
    for severity in (1, 5):
        found = done(picture, kind, severity)
        assert found.shape == shape and found.dtype == torch.uint8
    assert torch.equal(picture, before)


@pytest.mark.parametrize("kind", KINDS)
def test_a_corruption_is_a_function_of_the_draws(kind):
    first, second, other = (done(COLOUR, kind, 3, seed) for seed in (5, 5, 6))
    assert torch.equal(first, second)
    assert torch.equal(first, other) == (kind in STILL)


def test_gaussian_noise_has_the_deviation_of_its_severity():
    grey = torch.full((3, 100, 100), 128, dtype=torch.uint8)
    noise = (done(grey, "gaussian-noise", 1).float() - 128) / 255
    assert float(noise.std()) == pytest.approx(0.08, rel=0.02) and abs(float(noise.mean())) < 0.003
    assert stats.kstest(noise.flatten().numpy() / 0.08, "norm").statistic < 0.03
    assert float(np.corrcoef(noise[0].flatten(), noise[1].flatten())[0, 1]) == pytest.approx(0, abs=0.03)


@pytest.mark.parametrize(("severity", "photons"), [(1, 60), (5, 3)])
def test_shot_noise_counts_photons_as_scipy_does(severity, photons):
    picture = torch.arange(256, dtype=torch.uint8).repeat(20).reshape(1, 20, 256)
    u = Draws(5).uniforms(20 * 256).reshape(1, 20, 256).astype(np.float64)
    counts = stats.poisson.ppf(np.maximum(u, 1e-12), picture.numpy() / 255 * photons)
    expected = np.clip(counts / photons, 0, 1) * 255
    np.testing.assert_allclose(done(picture, "shot-noise", severity).numpy(), np.round(expected), atol=1)
    assert not done(torch.zeros(1, 9, 9, dtype=torch.uint8), "shot-noise", severity).any()


def test_impulses_are_as_often_black_as_white():
    grey = torch.full((1, 200, 200), 100, dtype=torch.uint8)
    found = done(grey, "impulse-noise", 5)
    assert [float((found == v).float().mean()) for v in (0, 255)] == pytest.approx([0.135, 0.135], abs=0.006)
    assert int(((found != 0) & (found != 255) & (found != 100)).sum()) == 0


def test_filters_are_those_of_scipy():
    x = COLOUR[:, :40, :57].float() / 255
    kernel = np.random.default_rng(0).random((5, 9)).astype(np.float32)
    ours = filtered(x, torch.from_numpy(kernel))
    theirs = [ndimage.convolve(channel, kernel / kernel.sum(), mode="nearest") for channel in x.numpy()]
    np.testing.assert_allclose(ours, theirs, atol=1e-5)
    theirs = [ndimage.gaussian_filter(channel, 2.0, mode="nearest", truncate=3) for channel in x.numpy()]
    np.testing.assert_allclose(blurred(x, 2.0), theirs, atol=1e-5)


def test_pixels_are_moved_as_scipy_does():
    x = COLOUR[:, :40, :57].float() / 255
    rng = np.random.default_rng(0)
    down, right = rng.normal(0, 2, (2, 40, 57))
    rows, cols = np.mgrid[:40, :57]
    theirs = [ndimage.map_coordinates(c, (rows + down, cols + right), order=1, mode="reflect") for c in x.numpy()]
    ours = moved(x, *(torch.from_numpy(way).float() for way in (down, right)))
    np.testing.assert_allclose(ours, theirs, atol=1e-3)


def test_a_point_out_of_focus_is_a_disk_of_its_radius_and_keeps_its_light():
    point = torch.zeros(1, 224, 224, dtype=torch.uint8)
    point[0, 100:103, 100:103] = 255
    found = done(point, "defocus-blur", 3).float()
    rows, cols = np.nonzero(found[0].numpy())
    reach = np.hypot(rows - 101, cols - 101).max()
    assert 6 < reach < 6 + 1 + 1.5
    assert float(found.sum()) == pytest.approx(9 * 255, rel=0.1)


@pytest.mark.parametrize("angle", [-0.7, 0.3, 2.0])
def test_a_line_smears_to_one_side_in_its_angle(angle):
    kernel = line(15.0, 8.0, angle).numpy()
    middle = len(kernel) // 2
    rows, cols = np.mgrid[: len(kernel), : len(kernel)] - middle
    weights = np.exp(-0.5 * (np.linspace(0, 15, 1000) / 8) ** 2)
    mean = (weights * np.linspace(0, 15, 1000)).sum() / weights.sum()
    centre = [(way * kernel).sum() / kernel.sum() for way in (rows, cols)]
    np.testing.assert_allclose(centre, [mean * math.sin(angle), mean * math.cos(angle)], atol=0.15)
    across = (rows * math.cos(angle) - cols * math.sin(angle))[kernel > 0]
    assert np.abs(across).max() < 1.5


def test_motion_is_within_45_degrees_of_level():
    point = torch.zeros(1, 101, 101, dtype=torch.uint8)
    point[0, 50, 50] = 255
    steep = []
    for seed in range(40):
        y, x = ndimage.center_of_mass(done(point, "motion-blur", 5, seed)[0].numpy())
        steep.append(math.atan2(y - 50, x - 50))
    assert max(map(abs, steep)) < math.radians(50) and min(steep) < -0.4 and max(steep) > 0.4


def test_zoom_keeps_the_middle_and_smears_outwards():
    picture = torch.zeros(1, 225, 225, dtype=torch.uint8)
    picture[0, 112, :] = picture[0, :, 112] = 255
    picture[0, 112, 212] = picture[0, 40, 112] = 0
    found = done(picture, "zoom-blur", 5)[0].float()
    assert float(found[112, 112]) > 250
    assert float(found[112, 60]) > 200  # a ray from the middle stays a ray
    assert 0 < float(found[112, 212]) < 255 and float(found[20, 200]) == 0


def test_contrast_and_brightness_are_what_they_say():
    x = COLOUR.numpy() / 255
    mean = x.mean(axis=(1, 2), keepdims=True)
    np.testing.assert_allclose(done(COLOUR, "contrast", 2), np.round(255 * (mean + 0.3 * (x - mean))), atol=1)
    hsv = skimage.color.rgb2hsv(x.transpose(1, 2, 0))
    hsv[..., 2] = np.clip(hsv[..., 2] + 0.2, 0, 1)
    expected = 255 * skimage.color.hsv2rgb(hsv).transpose(2, 0, 1)
    np.testing.assert_allclose(done(COLOUR, "brightness", 2), np.round(expected), atol=1)
    np.testing.assert_array_equal(done(GREY, "brightness", 2), np.clip(GREY.numpy().astype(int) + 51, 0, 255))


def test_pixels_become_the_means_of_blocks():
    x = GREY[:, :64, :32]
    means = skimage.measure.block_reduce(x[0].numpy(), (2, 2), np.mean)
    np.testing.assert_allclose(done(x, "pixelate", 2)[0], np.kron(means, np.ones((2, 2))), atol=0.51)
    rows, cols = (np.unique(done(x, "pixelate", 4)[0].numpy(), axis=axis).shape[axis] for axis in (0, 1))
    assert (rows, cols) == (19, 9)  # of 64 and 32, times 0.3


def test_jpeg_is_pillows():
    for picture, mode in ((COLOUR, "RGB"), (GREY, "L")):
        file = io.BytesIO()
        Image.fromarray(picture.permute(1, 2, 0).squeeze(2).numpy(), mode).save(file, "JPEG", quality=25)
        theirs = np.atleast_3d(np.asarray(Image.open(file))).transpose(2, 0, 1)
        np.testing.assert_array_equal(done(picture, "jpeg", 1), theirs)


def test_elastic_moves_pixels_by_its_distance_and_neighbours_alike():
    ramp = torch.arange(224, dtype=torch.uint8).expand(1, 224, 224)
    right = done(ramp, "elastic", 5).float() - ramp.float()
    down = done(ramp.transpose(1, 2), "elastic", 5).float() - ramp.transpose(1, 2).float()
    inside = (slice(None), slice(20, -20), slice(20, -20))
    moves = torch.stack([right[inside], down[inside]])
    assert float(moves.square().mean().sqrt()) == pytest.approx(4.2, rel=0.15)
    assert float(moves.diff(dim=-1).square().mean().sqrt()) < 0.4 * 4.2


def test_glass_takes_pixels_from_near_by():
    stripes = torch.zeros(1, 224, 224, dtype=torch.uint8)
    stripes[..., 112:] = 255
    found = done(stripes, "glass-blur", 5)[0].float()
    assert bool((found[:, :90] == 0).all()) and bool((found[:, 134:] == 255).all())
    assert float(found[:, 108:116].std(dim=0).min()) > 10  # rows differ: no blur alone does that


def test_snow_falls_steeply_and_makes_pictures_brighter():
    means = [float(done(COLOUR, "snow", severity).float().mean()) for severity in (1, 3, 5)]
    assert float(COLOUR.float().mean()) < means[0] < means[1] < means[2]
    dark = torch.zeros(1, 224, 224, dtype=torch.uint8)
    flakes = done(dark, "snow", 1)[0].float()
    assert 0.02 < float((flakes > 128).float().mean()) < 0.3
    torch.testing.assert_close(flakes, flakes.flip(0, 1), atol=1, rtol=0)  # each has its twin


def test_fog_keeps_the_brightest_value_and_takes_contrast():
    for severity in SEVERITIES:
        found = done(COLOUR, "fog", severity)
        assert int(found.max()) <= int(COLOUR.max())
        assert float(found.float().std()) < 0.65 * float(COLOUR.float().std())


def test_frost_is_crystals_that_differ_between_pictures_but_lie_in_the_same_places_at_every_severity():
    dark = torch.zeros(3, 224, 224, dtype=torch.uint8)
    mild, severe, other = (done(dark, "frost", s, seed).float() for s, seed in ((1, 5), (5, 5), (1, 6)))
    alike = [np.corrcoef(mild.flatten(), one.flatten())[0, 1] for one in (severe, other)]
    assert alike[0] > 0.99 and abs(alike[1]) < 0.6
    assert float(mild[2].mean()) > float(mild[0].mean())  # bluish


def test_clouds_are_softer_the_steeper_their_slope():
    soft, rough = (clouds(Draws(3), 100, 140, slope) for slope in (2.0, 1.0))
    assert soft.shape == (100, 140) and [float(v) for v in soft.aminmax()] == [0, 1]
    step = [float(field.diff(dim=1).std() / field.std()) for field in (soft, rough)]
    assert step[0] < 0.5 * step[1]


@pytest.mark.parametrize("kind", ["defocus-blur", "motion-blur", "zoom-blur"])
def test_lengths_shrink_with_the_picture(kind):
    """A picture of half the size is corrupted to the half-sized corrupted picture."""
    large = photograph(224).float()
    halved = [torch.nn.functional.avg_pool2d(x, 2) for x in (large, done(large.byte(), kind, 5).float())]
    small = done(halved[0].round().byte(), kind, 5)
    assert distance(small, halved[1]) < 0.35 * distance(halved[0], halved[1])


def test_a_pictures_corruption_depends_on_its_number_not_on_its_place_or_the_workers():
    views = torch.stack([photograph(32), photograph(32).flip(-1), photograph(32).flip(-2)])
    asked = [None, Corruption("snow", 1), Corruption("elastic", 5)]
    plain = dict(corrupted(views, [7, 8, 9], asked))
    assert list(plain) == asked and torch.equal(plain[None], views)
    ahead = dict(corrupted(views, [7, 8, 9], asked, workers=3))
    turned = dict(corrupted(views.flip(0), [9, 8, 7], asked))
    other = dict(corrupted(views, [17, 18, 19], asked))
    for one in asked[1:]:
        assert torch.equal(plain[one], ahead[one]) and torch.equal(plain[one], turned[one].flip(0))
        assert not torch.equal(plain[one], other[one])
    deep = dict(corrupted(views.float() / 255, [7, 8, 9], asked))
    assert torch.equal(deep[asked[1]], plain[asked[1]]) and deep[None].dtype == torch.float32


PINNED = {
    "gaussian-noise": 359160,
    "shot-noise": 343512,
    "impulse-noise": 357015,
    "defocus-blur": 352646,
    "glass-blur": 345285,
    "motion-blur": 352420,
    "zoom-blur": 357648,
    "snow": 539316,
    "frost": 499810,
    "fog": 527922,
    "brightness": 513072,
    "contrast": 352684,
    "elastic": 352313,
    "pixelate": 352712,
    "jpeg": 358290,
}


def test_the_pictures_of_version_1_stay():
    """Raise VERSION in evaluation/robustness.py when these sums change, but for jpeg's, which are Pillow's."""
    sums = {kind: int(done(photograph(32), kind, 3).long().sum()) for kind in KINDS}
    assert sums == pytest.approx(PINNED, rel=1e-3)
