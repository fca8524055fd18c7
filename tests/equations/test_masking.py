"""Masks and folds: oracles 1 to 4 and the mask's part of 5, and what is refused."""

import numpy as np
import pytest
import torch

from equations.tiny import HIDDEN, PATCHES, VISIBLE, keys
from tutelage.errors import SettingsError
from tutelage.masking import check_folds, check_mask, random_mask, visible_count


@pytest.mark.parametrize(("n", "ratio"), [(64, 0.75), (196, 0.75), (49, 0.75), (196, 0.6), (64, 0.9)])
def test_visible_and_hidden_patches_partition_the_picture(n: int, ratio: float) -> None:
    """Oracle 1."""
    mask = random_mask(torch.rand(5, n), ratio)
    for keep, hide in zip(mask.ids_keep.tolist(), mask.ids_mask.tolist(), strict=True):
        assert sorted(keep + hide) == list(range(n))
        assert len(keep) == int(n * (1 - ratio))


def test_the_patches_with_the_smallest_keys_stay_visible() -> None:
    k = keys(3)
    mask = random_mask(k, 0.75)
    for row in range(3):
        order = np.argsort(k[row].numpy())
        assert mask.ids_keep[row].tolist() == order[:VISIBLE].tolist()
        assert mask.ids_mask[row].tolist() == order[VISIBLE:].tolist()


def test_the_hidden_map_is_true_exactly_at_hidden_patches() -> None:
    """Oracle 2: m_i = 1 means hidden."""
    mask = random_mask(keys(3), 0.75)
    assert mask.hidden_map.sum(1).tolist() == [HIDDEN] * 3
    assert mask.hidden_map.gather(1, mask.ids_mask).all()
    assert not mask.hidden_map.gather(1, mask.ids_keep).any()


def test_restoring_shuffled_patches_gives_the_picture_back() -> None:
    """Oracle 2."""
    mask, x = random_mask(keys(3), 0.75), torch.randn(3, PATCHES, 5)
    assert not torch.equal(torch.cat([mask.visible(x), mask.hidden(x)], 1), x)
    assert torch.equal(mask.restore(mask.visible(x), mask.hidden(x)), x)


def test_visible_and_hidden_rows_are_those_of_the_ids() -> None:
    mask, x = random_mask(keys(2), 0.75), torch.randn(2, PATCHES, 5)
    for row in range(2):
        assert np.array_equal(mask.visible(x)[row].numpy(), x[row].numpy()[mask.ids_keep[row].numpy()])
        assert np.array_equal(mask.hidden(x)[row].numpy(), x[row].numpy()[mask.ids_mask[row].numpy()])


def test_every_patch_is_hidden_as_often_as_the_ratio_says() -> None:
    """Oracle 3."""
    draws = 4000
    share = random_mask(torch.rand(draws, PATCHES), 0.75).hidden_map.double().mean(0)
    # 64 patches at three sigma: one may fall outside by chance, so four sigma bound each and three sigma all but a few.
    sigma = np.sqrt(0.75 * 0.25 / draws)
    assert ((share - 0.75).abs() < 4 * sigma).all()
    assert ((share - 0.75).abs() < 3 * sigma).sum() >= PATCHES - 2


def test_folds_are_disjoint_equal_and_cover_the_hidden_patches() -> None:
    """Oracle 4: fold k is rows [k n, (k+1) n) of the shuffled order."""
    ids = random_mask(keys(2), 0.75).ids_mask
    for row in ids.reshape(2, 3, 16).tolist():
        assert [len(set(fold)) for fold in row] == [16, 16, 16]
        assert len(set().union(*map(set, row))) == HIDDEN


def test_the_same_keys_give_the_same_mask_and_others_another() -> None:
    """Oracle 5."""
    once, again, other = (random_mask(keys(2, seed), 0.75).ids_mask for seed in (2, 2, 3))
    assert torch.equal(once, again)
    assert not torch.equal(once, other)


def test_a_mask_that_leaves_nothing_visible_is_refused() -> None:
    check_mask(PATCHES, 0.98)
    with pytest.raises(SettingsError, match="N-05: mask_ratio 0.99 leaves 0 of 64 patches visible"):
        check_mask(PATCHES, 0.99)


def test_folds_that_divide_the_hidden_patches_are_accepted() -> None:
    """Oracle 4: 147, 48 and 36 hidden patches."""
    for n, ratio, folds in [(196, 0.75, (1, 3, 7)), (64, 0.75, (1, 2, 3, 4, 16)), (49, 0.73, (1, 2, 3, 4))]:
        for k in folds:
            check_folds(n, ratio, k)


def test_folds_that_do_not_divide_are_refused_with_folds_that_do() -> None:
    """Oracle 4."""
    with pytest.raises(
        SettingsError, match="C-21: method.label_folds is 5, but 48 of 64 patches are hidden"
    ) as refusal:
        check_folds(64, 0.75, 5, "method.label_folds")
    folds = str(refusal.value).split("Use one of the folds ")[1].split(", or with")[0]
    assert [int(k) for k in folds.split(", ")] == [1, 2, 3, 4, 6, 8, 12, 16]


@pytest.mark.parametrize("n", [36, 49, 64, 100, 196, 256])
@pytest.mark.parametrize("folds", [2, 3, 5, 7, 11])
def test_every_mask_ratio_that_a_refusal_offers_is_accepted(n: int, folds: int) -> None:
    hidden = n - visible_count(n, 0.75)
    if hidden % folds == 0:
        check_folds(n, 0.75, folds)
        return
    with pytest.raises(SettingsError) as refusal:
        check_folds(n, 0.75, folds)
    ratios = str(refusal.value).split("mask_ratio of ")[1].rstrip(".").split(", ")
    assert ratios
    for ratio in map(float, ratios):
        check_mask(n, ratio)
        check_folds(n, ratio, folds)


def test_more_folds_than_patches_are_refused_without_offering_a_ratio() -> None:
    with pytest.raises(SettingsError, match="C-21") as refusal:
        check_folds(16, 0.75, 99)
    assert str(refusal.value).endswith("12.")
