"""Randomness as a function: which picture comes where, and every number drawn for it, from (seed, epoch, position).

Nothing here has a state that a checkpoint would have to keep, and nothing depends on the version of a library: the
numbers come from integer arithmetic modulo 2^64 (the finaliser of splitmix64; Steele, Lea, Flood, OOPSLA 2014).
"""

import hashlib
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

_MASK = (1 << 64) - 1
_GOLDEN = 0x9E3779B97F4A7C15
_MULTIPLIERS = (0xBF58476D1CE4E5B9, 0x94D049BB133111EB)
_NUMPY_MULTIPLIERS = (np.uint64(_MULTIPLIERS[0]), np.uint64(_MULTIPLIERS[1]))
_SHIFTS = (np.uint64(30), np.uint64(27), np.uint64(31))
_BLOCK = 1 << 18
_ROUNDS = 8  # more than a cipher of this shape needs on large sets; small sets have halves of one or two bits


def permute(positions: NDArray[np.int64], num_pictures: int, seed: int, epoch: int) -> NDArray[np.int64]:
    """The pictures at `positions` of an epoch: for each (seed, epoch) a permutation of `range(num_pictures)`.

    Random access: a Feistel network over the next power of four, walked until it lands inside the set (on average
    fewer than four times). Raises ValueError for positions outside the set.
    """
    if positions.size and not (positions.min() >= 0 and positions.max() < num_pictures):
        raise ValueError(f"positions must lie in 0..{num_pictures - 1}")
    half_bits = max(1, ((num_pictures - 1).bit_length() + 1) // 2)
    keys = np.array([mix(seed, "order", epoch, k) for k in range(_ROUNDS)], dtype=np.uint64)
    x = _feistel(positions.astype(np.uint64), half_bits, keys)
    while (outside := x >= num_pictures).any():
        x[outside] = _feistel(x[outside], half_bits, keys)
    return x.astype(np.int64)


def _feistel(x: NDArray[np.uint64], half_bits: int, keys: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits, mask = np.uint64(half_bits), np.uint64((1 << half_bits) - 1)
    left, right = x >> bits, x & mask
    for key in keys:
        left, right = right, left ^ (scramble(right + key) & mask)
    return (left << bits) | right


def links(positions: NDArray[np.int64], pictures: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A 64-bit hash of each place in a run together with the picture that is due there."""
    return scramble(scramble(positions.astype(np.uint64) + np.uint64(_GOLDEN)) ^ pictures.astype(np.uint64))


def chain(first: int, last: int, num_pictures: int, seed: int) -> int:
    """The sum of the links of the positions `first` up to, not including, `last` of a run, modulo 2^64."""
    total = 0
    while first < last:
        epoch, place = divmod(first, num_pictures)
        count = min(last - first, num_pictures - place, _BLOCK)
        places = np.arange(place, place + count, dtype=np.int64)
        pictures = permute(places, num_pictures, seed, epoch)
        total += int(links(np.arange(first, first + count, dtype=np.int64), pictures).sum())
        first += count
    return total % 2**64


def mix(*parts: int | str) -> int:
    """A 64-bit hash of the parts in their order, e.g. (seed, purpose, epoch, place)."""
    h = _GOLDEN
    for part in parts:
        h = _scramble(((h ^ (text_hash(part) if isinstance(part, str) else part)) + _GOLDEN) & _MASK)
    return h


@lru_cache(maxsize=1024)
def text_hash(text: str) -> int:
    """A 64-bit hash of a text, the same on every machine."""
    return int.from_bytes(hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


class Draws:
    """Numbers drawn one after the other for one purpose; the k-th is a hash of (seed, k) and of nothing else."""

    def __init__(self, seed: int) -> None:
        self._next = seed & _MASK

    def uniform(self, low: float = 0.0, high: float = 1.0) -> float:
        """One number, uniform in [low, high)."""
        return low + (high - low) * ((self._draw() >> 11) * 2.0**-53)

    def integer(self, n: int) -> int:
        """One of 0..n-1, each as likely (to within n / 2^64)."""
        return (self._draw() * n) >> 64

    def uniforms(self, n: int) -> NDArray[np.float32]:
        """`n` numbers, uniform in [0, 1), of 24 bits each."""
        steps = np.arange(1, n + 1, dtype=np.uint64) * np.uint64(_GOLDEN)
        x = scramble(steps + np.uint64(self._next))
        self._next = (self._next + n * _GOLDEN) & _MASK
        return (x >> np.uint64(40)).astype(np.float32) * np.float32(2.0**-24)

    def _draw(self) -> int:
        self._next = (self._next + _GOLDEN) & _MASK
        return _scramble(self._next)


def scramble(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Every 64-bit integer hashed to another one, one to one."""
    x = (x ^ (x >> _SHIFTS[0])) * _NUMPY_MULTIPLIERS[0]
    x = (x ^ (x >> _SHIFTS[1])) * _NUMPY_MULTIPLIERS[1]
    return x ^ (x >> _SHIFTS[2])


def _scramble(x: int) -> int:
    """`scramble` of one Python integer, which for single numbers is several times faster than NumPy."""
    x = ((x ^ (x >> 30)) * _MULTIPLIERS[0]) & _MASK
    x = ((x ^ (x >> 27)) * _MULTIPLIERS[1]) & _MASK
    return x ^ (x >> 31)
