"""The classes that words make: words of a picture -> `Counts` -> `LabelSpace` -> class numbers of a picture.

None of these knows where pictures lie. Counts of parts of a set add up, and a label space can be a file: tar shards can be
counted one by one and read with the classes of all.
"""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, ValidationError

from tutelage.config import Count, Settings, read_json
from tutelage.data.tags import Word
from tutelage.data.wordnet import WordNet, squeezed
from tutelage.durable import write_whole
from tutelage.errors import DataError

_LARGEST = 1 << 28
"""Bytes of a label space's file: classes are at most as many as WordNet's words."""

Senses = Literal["set", "first", "all"]
SynsetId = Annotated[str, Field(pattern=r"^n\d{8}$")]
Meaning = tuple[int, ...]
"""Places of the synsets that make a class together, in ascending order."""


class Nouns:
    """What words mean, each looked up once."""

    def __init__(self, wordnet: WordNet, senses: Senses) -> None:
        self.wordnet, self.senses = wordnet, senses
        self._known: dict[str, tuple[Meaning, ...]] = {}

    def meanings(self, word: str) -> tuple[Meaning, ...]:
        """One for each class that a word can stand for; none where it is no noun."""
        if (known := self._known.get(word)) is None:
            senses = self.wordnet.senses(word) if squeezed(word) else ()
            whole = (tuple(sorted(senses)),) if senses else ()
            single = senses[:1] if self.senses == "first" else senses
            known = self._known[word] = whole if self.senses == "set" else tuple((place,) for place in single)
        return known

    def shown(self, words: Iterable[str]) -> set[Meaning]:
        """What a picture with these words shows, each once however often it is spelled: the target is multi-hot."""
        return {meaning for word in words for meaning in self.meanings(word)}


@dataclass
class Counts:
    """How many pictures have each word, and how many show each meaning."""

    words: Counter[str] = field(default_factory=Counter)
    meanings: Counter[Meaning] = field(default_factory=Counter)

    def add(self, words: Iterable[str], nouns: Nouns) -> None:
        """Count one picture."""
        self.words.update(once := set(words))
        self.meanings.update(nouns.shown(once))

    def __add__(self, other: "Counts") -> "Counts":
        return Counts(self.words + other.words, self.meanings + other.meanings)


class LabelSpace(Settings):
    """The classes, by names in alphabetical order: a class's number is its place."""

    synsets: dict[str, tuple[SynsetId, ...]]
    """The ids of each class's synsets, by its name."""
    senses: Senses
    min_pictures: Count
    wordnet: str
    """SHA-256 of the WordNet that the ids are of."""

    @property
    def classes(self) -> tuple[str, ...]:
        """Their names."""
        return tuple(self.synsets)

    @cached_property
    def _number(self) -> dict[Meaning, int]:
        ids = self.synsets.values()
        return {tuple(sorted(int(synset[1:]) for synset in of_one)): k for k, of_one in enumerate(ids)}

    def numbers(self, meanings: Iterable[Meaning]) -> list[int]:
        """The class numbers of what a picture shows, ascending; what is no class has none."""
        return sorted(self._number[meaning] for meaning in meanings if meaning in self._number)

    def save(self, path: Path) -> None:
        """Write it as JSON."""
        write_whole(path, self.model_dump_json(indent=1).encode())


def make_label_space(counts: Counts, nouns: Nouns, min_pictures: int) -> LabelSpace:
    """The classes that at least so many of the counted pictures show.

    A class of several synsets is named by them in the order of frequency that its most frequent word gives them.
    """
    synsets: dict[Meaning, tuple[int, ...]] = {}
    for word, _ in by_frequency(counts):
        for meaning in nouns.meanings(word):
            if counts.meanings[meaning] >= min_pictures and meaning not in synsets:
                synsets[meaning] = tuple(place for place in nouns.wordnet.senses(word) if place in meaning)
    found = [[nouns.wordnet.synset(place) for place in places] for places in synsets.values()]
    named = {"|".join(s.name for s in of_one): tuple(s.id for s in of_one) for of_one in found}
    wordnet = nouns.wordnet.sha256
    return LabelSpace(
        synsets=dict(sorted(named.items())), senses=nouns.senses, min_pictures=min_pictures, wordnet=wordnet
    )


def load_label_space(path: Path, wordnet: WordNet) -> LabelSpace:
    """The label space in a file. Raises DataError D-48 where it is none, or of another WordNet."""
    try:
        space = LabelSpace.model_validate(read_json(path, _LARGEST))
    except (OSError, ValueError) as error:
        reason = f"{error.error_count()} of its entries are wrong" if isinstance(error, ValidationError) else str(error)
        raise DataError(
            "D-48", f"{path} is no label space: {reason}.", todo="Make it again from the counts."
        ) from error
    if space.wordnet != wordnet.sha256:
        raise DataError(
            "D-48", f"the label space {path} is of another WordNet than the one that was found.",
            "Its classes are places in that one's files.", "Use the same WordNet, or make it again from the counts.",
        )  # fmt: skip
    return space


def by_frequency(counts: Counts) -> list[tuple[str, int]]:
    """The words and how many pictures have them: the most frequent first, then by the alphabet."""
    return sorted(counts.words.items(), key=lambda item: (-item[1], item[0]))


def became(counts: Counts, nouns: Nouns, space: LabelSpace) -> tuple[Word, ...]:
    """What became of each word, the most frequent first."""
    return tuple(_became(word, count, nouns, space) for word, count in by_frequency(counts))


def _became(word: str, count: int, nouns: Nouns, space: LabelSpace) -> Word:
    meanings = nouns.meanings(word)
    senses = nouns.wordnet.senses(word) if meanings else ()
    classes = tuple(space.classes[k] for meaning in meanings for k in space.numbers([meaning]))
    if not senses:
        told = "dropped: no noun of WordNet"
    elif not classes:
        told = f"dropped: fewer than {space.min_pictures} pictures show it"
    else:
        told = nouns.wordnet.synset(senses[0]).gloss
    return Word(word, count, len(senses), classes, told, tuple("|".join(space.synsets[name]) for name in classes))
