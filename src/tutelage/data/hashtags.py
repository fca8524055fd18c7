"""What people wrote to their pictures, hashtags and captions, as classes of WordNet's nouns (Mahajan et al., ECCV 2018).

Tags come from a table (columns `path`, and `tags` or `caption`) or from a JSON file beside each picture. A word counts by its
letters and digits alone, in the singular or plural; what WordNet has no noun for is dropped, and told.
"""

import codecs
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tutelage.config import Count, Settings, parse_json, shortened
from tutelage.data.label_space import Counts, Nouns, Senses, became, make_label_space
from tutelage.data.labels import finder
from tutelage.data.listing import is_unicode, read_table
from tutelage.data.sources import FileSource, Pictures, Source
from tutelage.data.tags import Tags, Word
from tutelage.data.wordnet import open_wordnet
from tutelage.data.words import in_caption, in_list, split
from tutelage.errors import DataError, listed

LARGEST = 1 << 24
"""Bytes of a JSON file beside a picture."""
SHOWN = 10
"""Words in the printed table."""


class TagSettings(Settings):
    """From what people wrote to what is learned."""

    senses: Senses = "set"
    """Of a word with several meanings: the set of them is its class, shared by words with the same set (Mahajan et al. 2018);
    or the first one, the most frequent of the word as it is written; or each is a class."""
    min_pictures: Count = 1
    """Classes that fewer training pictures show are dropped."""
    caption_words: bool = False
    """The nouns of a caption are tags too, not only its hashtags."""


def open_tags(train: Pictures, table: Path | None, settings: TagSettings) -> tuple[Tags, list[str]]:
    """The tags of every picture of the source, with classes that its training pictures show, and notes on them.

    Raises DataError D-13 and D-24 (the table), D-46 (no tags at all), D-47 (no class is left), D-20 (no WordNet).
    """
    source = train.source
    written = _of_table(source, table, settings) if table else _of_neighbours(source, settings)
    if not any(written.words):
        raise _none_written(written, settings)
    nouns, counts = Nouns(open_wordnet(), settings.senses), Counts()
    for i in train.ids:
        counts.add(written.words[i], nouns)
    space = make_label_space(counts, nouns, settings.min_pictures)
    words = became(counts, nouns, space)
    if not space.classes:
        raise _none_left(words, sum(bool(written.words[i]) for i in train.ids), settings)
    rows = [space.numbers(nouns.shown(of_one)) for of_one in written.words]
    ends = np.cumsum([len(row) for row in rows]).astype(np.int64)
    numbers = np.array([k for row in rows for k in row], dtype=np.int64)
    tags = Tags(space.classes, ends, numbers, words, space.wordnet)
    return tags, [*written.notes, *_told(tags, train)]


def _none_written(written: "Written", settings: TagSettings) -> DataError:
    if written.captions and not settings.caption_words:
        return DataError(
            "D-46",
            f"no picture has a tag: {_many(written.captions, 'picture has', 'pictures have')} a caption, "
            "but no caption has a hashtag.",
            "Of a caption only its hashtags count unless its words are asked for.",
            "Use --tagging.caption-words to learn from the nouns in captions.",
        )
    return DataError(
        "D-46",
        f"no picture has a tag: {written.read}.",
        "The method learns from what people wrote to pictures.",
        "Use --tags tags.csv with the columns path and tags (or caption), or give photo.json beside photo.jpg, with tags "
        "or a caption in it.",
    )


def _none_left(words: Sequence[Word], num_tagged: int, settings: TagSettings) -> DataError:
    nouns = [word for word in words if word.senses]
    some = _some([(word.word, word.pictures) for word in nouns or words])
    if not words:
        what, means, todo = (
            "no training picture has a tag: only pictures that are not trained on have one.",
            "What training pictures do not show cannot be learned.",
            "Tag training pictures.",
        )
    elif not nouns:
        what, means, todo = (
            f"WordNet knows none of the {_many(len(words), 'word')} on {_many(num_tagged, 'training picture')}: {some}.",
            "What is no noun of WordNet cannot be learned.",
            "Write tags in English.",
        )
    else:
        what, means, todo = (
            f"WordNet knows {len(nouns):,} of the {_many(len(words), 'word')} on {_many(num_tagged, 'training picture')}, "
            f"but fewer than {settings.min_pictures:,} pictures show each class: {some}.",
            "All classes are dropped by --tagging.min-pictures.",
            "Use a smaller --tagging.min-pictures.",
        )
    return DataError("D-47", what, means, todo)


# --- what was written -------------------------------------------------------------------------------------------------


class Written(NamedTuple):
    """What people wrote to the pictures of a source."""

    words: list[list[str]]
    """Of each picture."""
    captions: int
    """Pictures with a caption."""
    read: str
    """What was read, for people."""
    notes: list[str]


def _of_table(source: Source, table: Path, settings: TagSettings) -> Written:
    """By a table."""
    names = [source.name(i) for i in range(len(source))]
    find = finder(names, table, source.root if isinstance(source, FileSource) else table.parent)
    written: list[list[str]] = [[] for _ in names]
    num_rows, lost, captioned = 0, [], set()
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
            continue
        written[place] += [*split(tags or ""), *in_caption(caption or "", settings.caption_words)]
        captioned |= {place} if caption and not caption.isspace() else set()
    if num_rows and len(lost) == num_rows:
        raise DataError(
            "D-24", f"none of the {num_rows:,} paths of {table} is a picture of the set: {listed(lost)}.",
            "Paths are below the folder of the table or below DATA.",
        )  # fmt: skip
    notes = [f"{table.name}: {_many(num_rows, 'row')} of tags"]
    if lost:
        who = _many(len(lost), "of them names a picture that is", "of them name pictures that are")
        notes.append(f"{who} not in the set, e.g. {shortened(lost[0])}")
    return Written(written, len(captioned), f"{table} has none in {_many(num_rows, 'row')}", notes)


def _of_neighbours(source: Source, settings: TagSettings) -> Written:
    """By photo.json, or photo.jpg.json, beside photo.jpg."""
    if not isinstance(source, FileSource):
        return Written([], 0, "a set without files has no JSON file with tags beside a picture", [])
    written, wrong, num_files, num_captions = [], [], 0, 0
    for i in range(len(source)):
        picture = source.root / source.name(i)
        beside = (picture.with_suffix(".json"), picture.with_name(f"{picture.name}.json"))
        told: dict[str, Any] = {}
        if file := next((file for file in beside if file.is_file()), None):
            num_files += 1
            try:
                told = _read(file)
            except (OSError, ValueError) as error:
                wrong.append(f"{file.name}: {error}")
        written.append(_in_json(told, settings))
        num_captions += isinstance(caption := told.get("caption"), str) and bool(caption.strip())
    files = f"{_many(num_files, 'JSON file')}, {sum(map(bool, written)):,} with tags"
    notes = [f"beside {_many(len(written), 'picture')}: {files}"]
    if wrong:
        what = _many(len(wrong), "JSON file cannot be read, and counts", "JSON files cannot be read, and count")
        notes.append(f"{what} as without tags, e.g. {wrong[0]}")
    return Written(written, num_captions, f"beside the pictures are {files}", notes)


def _read(file: Path) -> dict[str, Any]:
    """The object in a JSON file, which may begin with the mark that some editors put before UTF-8."""
    with file.open("rb") as opened:
        data = opened.read(LARGEST + 1)
    if len(data) > LARGEST:
        raise ValueError(f"it is larger than {LARGEST / 1e6:g} MB")
    return parse_json(data.removeprefix(codecs.BOM_UTF8))


def _in_json(told: dict[str, Any], settings: TagSettings) -> list[str]:
    """The words of an object with `tags` or `hashtags` (a list or a text) or a `caption`; other values say nothing."""
    words = []
    for tags in (told.get("tags"), told.get("hashtags")):
        if isinstance(tags, str):
            words += split(tags)
        elif isinstance(tags, list):
            words += [word for item in tags if isinstance(item, str) for word in in_list(item)]
    caption = told.get("caption")
    return words + (in_caption(caption, settings.caption_words) if isinstance(caption, str) else [])


# --- what became of it ------------------------------------------------------------------------------------------------


def _told(tags: Tags, train: Pictures) -> list[str]:
    """For people: how much is left to learn from, what is ambiguous, what was dropped, and the most frequent words."""
    tagged = int((tags.counts[train.ids] > 0).sum())
    kept, dropped = [[w for w in tags.words if bool(w.classes) == k] for k in (True, False)]
    several = sorted((w for w in kept if w.senses > 1), key=lambda w: -w.senses)
    left = f"{_many(len(tags.classes), 'class', 'classes')} of {_many(len(kept), 'word')}"
    notes = [
        f"{tagged:,} of {_many(len(train), 'training picture')} ({tagged / len(train):.1%}) have a tag to learn from: {left}"
        + ("; the others are not used" if tagged < len(train) else "")
    ]
    if several:
        what = _many(len(several), "word has several meanings", "words have several meanings")
        notes.append(f"{what}: {_some([(w.word, w.senses) for w in several])}")
    if dropped:
        what = _many(len(dropped), "word is dropped", "words are dropped")
        notes.append(f"{what}: {_some([(w.word, w.pictures) for w in dropped])}")
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


def _many(count: int, one: str, several: str = "") -> str:
    return f"{count:,} {one if count == 1 else several or f'{one}s'}"
