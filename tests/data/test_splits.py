import numpy as np

from tutelage.data.splits import name_hashes, take


def hashes(n: int, prefix: str = "p") -> np.ndarray:
    return name_hashes([f"{prefix}/{k}" for k in range(n)])


def test_every_class_gives_its_share():
    labels = np.repeat([0, 1, 2, -1], [100, 50, 10, 40])
    taken = take(hashes(200), labels, 0.2, "test")
    assert [int(taken[labels == k].sum()) for k in (0, 1, 2, -1)] == [20, 10, 2, 8]


def test_small_classes_add_up_to_the_whole_share():
    labels = np.repeat(np.arange(100), 4)
    taken = take(hashes(400), labels, 0.1, "test")
    counts = np.bincount(labels[taken], minlength=100)
    assert taken.sum() == 40
    assert counts.max() == 1


def test_the_split_follows_names_and_not_places():
    labels = np.repeat([0, 1], 50)
    names = hashes(100)
    order = np.random.default_rng(0).permutation(100)
    assert np.array_equal(take(names, labels, 0.3, "test")[order], take(names[order], labels[order], 0.3, "test"))


def test_two_purposes_take_different_pictures():
    labels = np.zeros(1000, dtype=np.int64)
    both = take(hashes(1000), labels, 0.5, "test") & take(hashes(1000), labels, 0.5, "held out")
    assert 200 < both.sum() < 300


def test_nothing_and_everything_can_be_taken():
    labels = np.zeros(7, dtype=np.int64)
    assert take(hashes(7), labels, 0.0, "x").sum() == 0
    assert take(hashes(7), labels, 1.0, "x").sum() == 7
    assert take(hashes(0), labels[:0], 0.5, "x").shape == (0,)
