"""What people wrote to pictures, as classes: which words were kept, and the classes of each picture."""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from tutelage.tables import Entry


class Word(NamedTuple):
    """A word as it was written, and what became of it."""

    word: str
    pictures: int
    """Training pictures that have it."""
    senses: int
    """Meanings that WordNet has for it."""
    classes: tuple[str, ...]
    """What is learned from it; none where it was dropped."""
    told: str
    """The gloss of its most frequent meaning, or why it was dropped."""
    synsets: tuple[str, ...]
    """The ids of each class's synsets, with bars between."""


@dataclass(frozen=True, eq=False)
class Tags:
    """The classes that each picture of a source is tagged with."""

    classes: tuple[str, ...]
    ends: NDArray[np.int64]
    """Where the numbers of each picture end in `numbers`, [n]."""
    numbers: NDArray[np.int64]
    """Class numbers, of one picture after the other, each once."""
    words: tuple[Word, ...]
    """The most frequent first."""
    wordnet: str
    """SHA-256 of the WordNet that was read."""

    def of(self, i: int) -> NDArray[np.int64]:
        """The class numbers of picture `i` of the source."""
        return self.numbers[self.ends[i - 1] if i else 0 : self.ends[i]]

    @property
    def counts(self) -> NDArray[np.int64]:
        """How many classes each picture is tagged with, [n]."""
        return np.diff(self.ends, prepend=0)

    def digest(self) -> bytes:
        """A hash of classes, numbers and the WordNet that they are of."""
        h = hashlib.sha256("\0".join((self.wordnet, *self.classes)).encode())
        h.update(self.ends.astype("<i8").tobytes() + self.numbers.astype("<i8").tobytes())
        return h.digest()

    def shares(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:
        """The share of the pictures `ids` that show each class, [classes]."""
        shown = np.concatenate([self.of(int(i)) for i in ids]) if len(ids) else self.numbers[:0]
        return np.bincount(shown, minlength=len(self.classes)) / max(1, len(ids))

    def factors(self, ids: NDArray[np.int64], least: float) -> NDArray[np.float64]:
        """How often each of the pictures `ids` is to be shown, so that rare classes are seen: at least 1, [n].

        The largest of sqrt(least / f(c)) over its classes c, where f(c) is the share of the pictures that show c (repeat factor
        sampling: Mahajan et al., ECCV 2018; Gupta et al., CVPR 2019, section 4).
        """
        factors = np.sqrt(least / np.maximum(self.shares(ids), 1e-12)).clip(min=1)
        return np.array([factors[self.of(int(i))].max(initial=1.0) for i in ids])


def table_rows(tags: Tags) -> Iterator[tuple[Entry, ...]]:
    """A row for each word: its training pictures, number of meanings, classes, gloss (or why it was dropped) and synset ids."""
    yield "word", "pictures", "meanings", "classes", "told", "synsets"
    for w in tags.words:
        yield w.word, w.pictures, w.senses, " ".join(w.classes), w.told, " ".join(w.synsets)
