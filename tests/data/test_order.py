import numpy as np
import pytest
from scipy import stats

from tutelage.data.order import Draws, mix, permute


@pytest.mark.parametrize("num_pictures", [1, 2, 3, 4, 5, 16, 17, 63, 1000, 4097])
def test_every_picture_has_one_place_in_an_epoch(num_pictures):
    places = np.arange(num_pictures)
    for seed, epoch in [(0, 0), (0, 1), (7, 0), (2**40, 12345)]:
        assert np.array_equal(np.sort(permute(places, num_pictures, seed, epoch)), places)


def test_the_order_does_not_depend_on_which_places_are_asked_for():
    whole = permute(np.arange(1000), 1000, seed=3, epoch=5)
    some = np.array([999, 0, 17, 17, 500])
    assert np.array_equal(permute(some, 1000, seed=3, epoch=5), whole[some])


def test_seeds_and_epochs_give_unrelated_orders():
    orders = [permute(np.arange(5000), 5000, seed, epoch) for seed in (0, 1) for epoch in (0, 1)]
    for i, first in enumerate(orders):
        for second in orders[:i]:
            assert abs(np.corrcoef(first, second)[0, 1]) < 4 / np.sqrt(5000)
            assert (first == second).sum() < 10  # one is expected


def test_neighbours_in_an_order_are_unrelated():
    order = permute(np.arange(20000), 20000, seed=1, epoch=0)
    assert abs(np.corrcoef(order[:-1], order[1:])[0, 1]) < 4 / np.sqrt(20000)
    assert abs(np.corrcoef(order, np.arange(20000))[0, 1]) < 4 / np.sqrt(20000)


def test_every_picture_comes_first_as_often():
    first = [permute(np.array([0]), 8, seed, 0)[0] for seed in range(4000)]
    assert stats.chisquare(np.bincount(first, minlength=8)).pvalue > 1e-4


@pytest.mark.parametrize("position", [-1, 10])
def test_a_place_outside_the_set_is_refused(position):
    with pytest.raises(ValueError, match=r"0\.\.9"):
        permute(np.array([position]), 10, 0, 0)


def test_hashes_are_the_same_on_every_machine():
    # Worked out from the definition with Python's integers, on paper's terms: h <- scramble((h xor part) + golden).
    golden, mask = 0x9E3779B97F4A7C15, 2**64 - 1

    def scramble(x):
        x = ((x ^ x >> 30) * 0xBF58476D1CE4E5B9) & mask
        x = ((x ^ x >> 27) * 0x94D049BB133111EB) & mask
        return x ^ x >> 31

    expected = scramble((scramble((golden ^ 5) + golden & mask) ^ 6) + golden & mask)
    assert mix(5, 6) == expected
    # The first number of splitmix64 from state 0, as its authors publish it.
    assert Draws(0)._draw() == 0xE220A8397B1DCDAF


def test_parts_of_a_hash_have_an_order_and_a_type():
    assert len({mix(1, 2), mix(2, 1), mix(1, 2, 0), mix("1", 2), mix(12), mix(-1, 2)}) == 6


def test_draws_are_uniform():
    draws = Draws(mix(0, "test"))
    x = np.array([draws.uniform() for _ in range(20000)])
    assert stats.kstest(x, "uniform").pvalue > 1e-4
    keys = Draws(mix(1, "test")).uniforms(100_000)
    assert keys.dtype == np.float32
    assert keys.min() >= 0 and keys.max() < 1
    assert stats.kstest(keys, "uniform").pvalue > 1e-4
    assert abs(keys.mean() - 0.5) < 4 / np.sqrt(12 * 1e5)
    assert abs(keys.var() - 1 / 12) < 0.001


def test_integers_are_as_likely_as_each_other():
    draws = Draws(3)
    counts = np.bincount([draws.integer(7) for _ in range(14000)], minlength=7)
    assert len(counts) == 7
    assert stats.chisquare(counts).pvalue > 1e-4


def test_ranges_are_kept():
    draws = Draws(4)
    x = np.array([draws.uniform(-2.0, 5.0) for _ in range(2000)])
    assert -2 <= x.min() < -1.9 and 4.9 < x.max() < 5


def first_draws(purpose: str, n: int = 10000) -> np.ndarray:
    return np.array([Draws(mix(0, purpose, 0, place)).uniform() for place in range(n)])


def test_neighbouring_places_and_other_purposes_draw_unrelated_numbers():
    crops, keys = first_draws("simple"), first_draws("keys")
    limit = 4 / np.sqrt(len(crops))
    assert abs(np.corrcoef(crops[:-1], crops[1:])[0, 1]) < limit
    assert abs(np.corrcoef(crops, keys)[0, 1]) < limit
    assert stats.kstest(crops, "uniform").pvalue > 1e-4


def test_keys_of_neighbouring_places_are_unrelated():
    rows = np.stack([Draws(mix(0, "keys", 0, place)).uniforms(64) for place in range(2000)])
    assert abs(np.corrcoef(rows[:-1].ravel(), rows[1:].ravel())[0, 1]) < 4 / np.sqrt(rows.size)
    counts = np.bincount(rows.argmin(axis=1), minlength=64)  # every patch is the first one as often
    assert stats.chisquare(counts).pvalue > 1e-4


def test_drawing_one_by_one_and_together_advances_alike():
    one, many = Draws(9), Draws(9)
    for _ in range(5):
        one.uniform()
    many.uniforms(5)
    assert one.uniform() == many.uniform()
