"""Which pictures are kept for testing and for monitoring: a function of names and labels, never of a seed."""

import numpy as np
from numpy.typing import NDArray

from tutelage.data.order import mix, scramble, text_hash

HOLDOUT = 0.1
"""The share of the training pictures that is held out of training where nobody asks for another."""


def name_hashes(names: list[str]) -> NDArray[np.uint64]:
    """One 64-bit hash a name."""
    return np.array([text_hash.__wrapped__(name) for name in names], dtype=np.uint64)


def take(hashes: NDArray[np.uint64], labels: NDArray[np.int64], share: float, purpose: str) -> NDArray[np.bool_]:
    """A mask that takes `share` (0 to 1) of the pictures, and as nearly as possible of every class.

    Within a class those with the smallest hash of (purpose, name) are taken. The classes' counts are rounded so that
    they add up to the rounded total: of 100 classes with 4 pictures each, a tenth is 40 pictures of 40 classes, not
    none. Unlabelled pictures (-1) count as one more class.
    """
    ranks = scramble(hashes ^ np.uint64(mix("split", purpose)))
    by_class = np.lexsort((ranks, labels))
    _, sizes = np.unique(labels, return_counts=True)
    ends = np.floor(np.cumsum(sizes) * share + 0.5 + 1e-9).astype(np.int64)
    quotas = np.diff(ends, prepend=0)
    place = np.arange(len(labels)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    taken = np.zeros(len(labels), dtype=np.bool_)
    taken[by_class[place < np.repeat(quotas, sizes)]] = True
    return taken
