"""What people wrote to their pictures, hashtags and captions, as classes of WordNet's nouns (Mahajan et al., ECCV 2018).

Tags come from a table (columns `path`, and `tags` or `caption`) or from a JSON file beside each picture. A word counts by its
letters and digits alone, in the singular or plural; what WordNet has no noun for is dropped, and told.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tutelage.config import Count, Settings, read_json, shortened
from tutelage.data.labels import finder
from tutelage.data.listing import is_unicode, read_table
from tutelage.data.sources import FileSource, Pictures, Source
from tutelage.data.tags import Tags, Word
from tutelage.data.wordnet import WordNet, open_wordnet, squeezed
from tutelage.errors import DataError, listed

LARGEST = 1 << 24
"""Bytes of a JSON file beside a picture."""
SHOWN = 10
"""Words in the printed table."""


class TagSettings(Settings):
    """From what people wrote to what is learned."""

    senses: Literal["set", "first", "all"] = "set"
    """Of a word with several meanings: the set of them is its class, shared by words with the same set (Mahajan et al. 2018);
    or the most frequent one; or each is a class."""
    min_pictures: Count = 1
    """Classes that fewer training pictures show are dropped."""
    caption_words: bool = False
    """The nouns of a caption are tags too, not only its hashtags."""


def open_tags(train: Pictures, table: Path | None, settings: TagSettings) -> tuple[Tags, list[str]]:
    """The tags of every picture of the source, with classes that its training pictures show, and notes on them.

    Raises DataError D-13 and D-24 (the table), D-46 (no tags at all), D-47 (none that WordNet knows), D-20 (no WordNet).
    """
    source = train.source
    written, notes = _of_table(source, table, settings) if table else _of_neighbours(source, settings)
    if not any(written):
        raise DataError(
            "D-46",
            f"no picture has a tag: {table} has none." if table else "no picture has a JSON file with tags beside it.",
            "The method learns from what people wrote to pictures.",
            "Use --tags tags.csv with the columns path and tags (or caption), or give photo.json beside photo.jpg, with tags "
            "or a caption in it.",
        )
    wordnet = open_wordnet()
    spelled = [tuple(dict.fromkeys(words)) for words in written]
    counts = Counter(word for i in train.ids for word in spelled[i])
    meanings = {word: _meanings(wordnet, word, settings) for word in {word for words in spelled for word in words}}
    of_pictures = [{meaning for word in words for meaning in meanings[word]} for words in spelled]
    shown = Counter(meaning for i in train.ids for meaning in of_pictures[i])
    names = {m: _name(wordnet, m) for m, count in shown.items() if count >= settings.min_pictures}
    words = [_word(wordnet, word, count, meanings[word], names, settings) for word, count in counts.items()]
    words.sort(key=lambda word: (-word.pictures, word.word))
    if not names:
        raise DataError(
            "D-47",
            f"of {len(words):,} different tags none is left to learn from: {listed([shortened(w.word, 40) for w in words])}.",
            f"They are no nouns of WordNet, or of fewer than {settings.min_pictures} training pictures.",
            "Write tags in English, or use a smaller --tagging.min-pictures.",
        )
    number = {meaning: k for k, meaning in enumerate(sorted(names, key=names.__getitem__))}
    rows = [sorted(number[meaning] for meaning in has if meaning in number) for has in of_pictures]
    ends = np.cumsum([len(row) for row in rows]).astype(np.int64)
    numbers = np.array([k for row in rows for k in row], dtype=np.int64)
    tags = Tags(tuple(names[meaning] for meaning in number), ends, numbers, tuple(words), wordnet.sha256)
    return tags, [*notes, *_told(tags, train)]


# --- what was written -------------------------------------------------------------------------------------------------


def _of_table(source: Source, table: Path, settings: TagSettings) -> tuple[list[list[str]], list[str]]:
    """The words of each picture by a table."""
    names = [source.name(i) for i in range(len(source))]
    find = finder(names, table, source.root if isinstance(source, FileSource) else table.parent)
    written: list[list[str]] = [[] for _ in names]
    num_rows, lost = 0, []
    for number, row in read_table(table, "path, and tags or caption"):
        tags, caption = row.get("tags"), row.get("caption")
        if tags is None and caption is None:
            raise DataError(
                "D-13",
                f"{table}, line 1: there is no column 'tags' or 'caption'; the columns are {', '.join(map(repr, row))}.",
                todo="The first line names the columns: path, and tags or caption, with commas between.",
            )
        if not is_unicode(f"{tags}{caption}"):
            raise DataError("D-13", f"{table}, row {number}: this is not UTF-8.", todo="Save it as UTF-8.")
        num_rows += 1
        if (place := find(row["path"].strip())) is None:
            lost.append(row["path"])
        else:
            written[place] += [*split(tags or ""), *in_caption(caption or "", settings)]
    if num_rows and len(lost) == num_rows:
        raise DataError(
            "D-24", f"none of the {num_rows:,} paths of {table} is a picture of the set: {listed(lost)}.",
            "Paths are below the folder of the table or below DATA.",
        )  # fmt: skip
    notes = [f"{table.name}: {num_rows:,} rows of tags"]
    if lost:
        notes.append(f"{len(lost):,} of them name pictures that are not in the set, e.g. {shortened(lost[0])}")
    return written, notes


def _of_neighbours(source: Source, settings: TagSettings) -> tuple[list[list[str]], list[str]]:
    """The words of each picture by photo.json, or photo.jpg.json, beside photo.jpg."""
    if not isinstance(source, FileSource):
        return [], []
    written, wrong = [], []
    for i in range(len(source)):
        picture = source.root / source.name(i)
        beside = (picture.with_suffix(".json"), picture.with_name(f"{picture.name}.json"))
        told: dict[str, Any] = {}
        if file := next((file for file in beside if file.is_file()), None):
            try:
                told = read_json(file, LARGEST)
            except (OSError, ValueError) as error:
                wrong.append(f"{file.name}: {error}")
        written.append(_in_json(told, settings))
    notes = [f"{sum(map(bool, written)):,} of {len(written):,} pictures have tags in a JSON file beside them"]
    if wrong:
        notes.append(f"{len(wrong):,} JSON files cannot be read, and count as without tags, e.g. {wrong[0]}")
    return written, notes


def _in_json(told: dict[str, Any], settings: TagSettings) -> list[str]:
    """The words of an object with `tags` or `hashtags` (a list or a text) or a `caption`; other values say nothing."""
    words = []
    for tags in (told.get("tags"), told.get("hashtags")):
        if isinstance(tags, str):
            words += split(tags)
        elif isinstance(tags, list):
            words += [bare for tag in tags if isinstance(tag, str) and (bare := _bare(tag))]
    caption = told.get("caption")
    return words + (in_caption(caption, settings) if isinstance(caption, str) else [])


def split(text: str) -> list[str]:
    """The tags in a text: between commas, semicolons, bars or number signs where it has any of the first three, else between
    number signs or blanks.
    """
    parts = re.split(r"[,;|\n#＃]", text) if re.search(r"[,;|\n]", text) else re.split(r"[\s#＃]+", text)
    return [bare for part in parts if (bare := _bare(part))]


def in_caption(text: str, settings: TagSettings) -> list[str]:
    """The hashtags of a text, and by setting its other words, of which two that are a noun together count as one."""
    hashtags = re.findall(r"[#＃](\w+)", text)
    if not settings.caption_words:
        return [tag.lower() for tag in hashtags]
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    wordnet, words, end = open_wordnet(), [], 0
    found = list(_WORD.finditer(re.sub(r"[#＃]\w+", ".", text)))
    for one, after in zip(found, (*found[1:], None), strict=True):
        if one.start() < end or _plain(one) in ENGLISH_STOP_WORDS:
            continue
        word = _plain(one)
        if after and _plain(after) not in ENGLISH_STOP_WORDS and not one.string[one.end() : after.start()].strip(" -"):
            two = f"{word} {_plain(after)}"
            word, end = (two, after.end()) if wordnet.senses(two) else (word, end)
        words += [word] if len(word) > 1 else []
    return [tag.lower() for tag in hashtags] + words


_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""A word with its apostrophes: don't, dog's."""


def _plain(word: re.Match[str]) -> str:
    return re.sub(r"['’]s$", "", word[0].lower())


def _bare(tag: str) -> str:
    """A tag without number signs and blanks around it, in lower case."""
    return tag.strip().lstrip("#＃").strip().lower()


# --- what it means ----------------------------------------------------------------------------------------------------

Meaning = tuple[int, ...]
"""Places of the synsets that make a class together."""


def _meanings(wordnet: WordNet, word: str, settings: TagSettings) -> tuple[Meaning, ...]:
    senses = wordnet.senses(word) if squeezed(word) else ()
    if settings.senses == "set":
        return (tuple(sorted(senses)),) if senses else ()
    return tuple((place,) for place in (senses[:1] if settings.senses == "first" else senses))


def _name(wordnet: WordNet, meaning: Meaning) -> str:
    return "|".join(wordnet.synset(place).name for place in meaning)


def _word(
    wordnet: WordNet,
    word: str,
    count: int,
    meanings: tuple[Meaning, ...],
    names: dict[Meaning, str],
    settings: TagSettings,
) -> Word:
    senses = wordnet.senses(word) if meanings else ()
    classes = tuple(names[meaning] for meaning in meanings if meaning in names)
    if not senses:
        told = "dropped: no noun of WordNet"
    elif not classes:
        told = f"dropped: fewer than {settings.min_pictures} pictures show it"
    else:
        told = wordnet.synset(senses[0]).gloss
    return Word(word, count, len(senses), classes, told)


def _told(tags: Tags, train: Pictures) -> list[str]:
    """For people: how much is left to learn from, what is ambiguous, what was dropped, and the most frequent words."""
    tagged = int((tags.counts[train.ids] > 0).sum())
    kept, dropped = [[w for w in tags.words if bool(w.classes) == k] for k in (True, False)]
    several = sorted((w for w in kept if w.senses > 1), key=lambda w: -w.senses)
    notes = [
        f"{tagged:,} of {len(train):,} training pictures ({tagged / len(train):.1%}) have a tag to learn from: "
        f"{len(tags.classes):,} classes of {len(kept):,} words; the others are not used"
    ]
    if several:
        notes.append(f"{len(several):,} words have several meanings: {_some([(w.word, w.senses) for w in several])}")
    if dropped:
        notes.append(f"{len(dropped):,} words are dropped: {_some([(w.word, w.pictures) for w in dropped])}")
    width = max(len(shortened(w.word, 20)) for w in kept[:SHOWN])
    return [
        *notes,
        "the most frequent words, their training pictures and meanings (all are in tags.csv of the run folder):",
        *(
            f"{shortened(w.word, 20):<{width}}  {w.pictures:>7,}  {w.senses:>2}  {shortened(w.told, 60)}"
            for w in kept[:SHOWN]
        ),
    ]


def _some(words: Sequence[tuple[str, int]]) -> str:
    shown = [f"{shortened(word, 30)} {count:,}" for word, count in words[:5]]
    return ", ".join(shown) + (", ..." if len(words) > 5 else "")
