"""From what people wrote to classes: what is kept, what is dropped, and what bad input is answered with."""

import json
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from small_runs import TINY
from tutelage.api import settings_for
from tutelage.cli import main
from tutelage.data.hashtags import LARGEST, TagSettings
from tutelage.data.index import Data, open_data
from tutelage.data.label_space import Counts, LabelSpace, Nouns, load_label_space, make_label_space
from tutelage.data.tags import table_rows
from tutelage.data.wordnet import open_wordnet
from tutelage.data.words import in_caption, plain, split
from tutelage.engine.checkpoint import read_checkpoint
from tutelage.engine.feeds import repeated
from tutelage.engine.pretrain import pretrain
from tutelage.errors import DataError
from wordnets import write_wordnet


@pytest.fixture(autouse=True)
def nouns(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path / "cache"))
    write_wordnet(tmp_path / "cache" / "wordnet")
    open_wordnet.cache_clear()
    yield
    open_wordnet.cache_clear()


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for k in range(12):
        Image.fromarray(np.full((8, 8), 20 * k, dtype=np.uint8)).save(folder / f"{k:02d}.png")
    return folder


def table(folder: Path, cells: list[str], column: str = "tags") -> str:
    """A table that tags the first pictures."""
    rows = [f'{k:02d}.png,"{cell}"' for k, cell in enumerate(cells)]
    (folder / "tags.csv").write_text("\n".join([f"path,{column}", *rows]) + "\n", encoding="utf-8")
    return str(folder / "tags.csv")


def opened(photos: Path, tags: str | None, **settings: object) -> Data:
    return open_data(str(photos), holdout=0.0, annotation="tags", tags=tags, tagging=TagSettings(**settings))


def named(data: Data, i: int) -> set[str]:
    assert data.train.tags is not None
    numbers = data.train.tag_numbers(i)
    assert numbers is not None
    return {data.train.tags.classes[k] for k in numbers}


# --- words ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("#cat #dog", ["cat", "dog"]),
        ("#cat#dog", ["cat", "dog"]),
        ("cat dog", ["cat", "dog"]),
        ("tennis shoe, Dog", ["tennis shoe", "dog"]),
        ("tennis shoe;dog|box", ["tennis shoe", "dog", "box"]),
        ("#cat #dog, #fox", ["cat", "dog", "fox"]),
        ("#tennis shoe\n#dog", ["tennis shoe", "dog"]),
        (" , ,", []),
        ("", []),
        ("＃猫", ["猫"]),
        ("cat dog\n", ["cat", "dog"]),  # as a quoted cell ends, or a text in JSON
        ("cat\r\ntennis shoe\r\n", ["cat", "tennis shoe"]),
        ("tennis shoe,", ["tennis shoe"]),
        ("NaN", []),  # pandas' word for nothing
        ("none", []),
        ("none, cat", ["none", "cat"]),
    ],
)
def test_tags_are_split_at_commas_else_at_blanks(text: str, tags: list[str]) -> None:
    assert split(text) == tags


def test_of_a_caption_only_hashtags_count_unless_its_words_are_asked_for() -> None:
    text = "A mouse in my Tennis Shoes! <b>#boots</b> #brownbear, and a café"
    assert in_caption(text, nouns=False) == ["boots", "brownbear"]
    words = in_caption(text, nouns=True)
    assert words[:2] == ["boots", "brownbear"]
    assert {"mouse", "tennis shoes", "café"} <= set(words)
    assert not {"a", "in", "my", "and", "tennis"} & set(words)


@pytest.mark.parametrize(
    ("text", "hashtags"),
    [
        ("#bo\u0308x #fox", ["b\u00f6x", "fox"]),  # a letter and its accent, apart
        ("#bo\u200box #bo\u00adot", ["boox", "boot"]),  # a blank of no width, and a soft hyphen
    ],
)
def test_a_hashtag_is_not_cut_where_a_reader_sees_nothing(text: str, hashtags: list[str]) -> None:
    assert in_caption(text, nouns=False) == hashtags


def test_two_words_of_a_caption_are_one_noun_only_where_it_is_written_in_two() -> None:
    words = in_caption("a brown bear, tee shirts and a ball game near the mo use", nouns=True)
    assert words == ["brown bear", "tee shirts", "ball game", "near", "mo", "use"]


@pytest.mark.parametrize("text", ["", " ", "#box", "...", "<br>"])
def test_a_caption_may_have_no_words(text: str) -> None:
    assert in_caption(text, nouns=True) == ["box"] * (text == "#box")


def test_an_apostrophe_makes_no_word() -> None:
    words = in_caption("My dog's bed, it's great and I don't care. Tennis. Shoes", nouns=True)
    assert words[:2] == ["dog", "bed"] and words[-2:] == ["tennis", "shoes"]
    assert not {"s", "t", "don", "it", "dog s", "tennis shoes"} & set(words)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ('<a href="x">cat</a>', ["cat"]),
        ("cat<br>dog", ["cat", "dog"]),
        ("cat<br/> <i>tennis shoe</i>, dog", ["cat tennis shoe", "dog"]),
        ("<!-- boot --><p class='a'>cat</p>", ["cat"]),
        ("<style>p {}</style>cat<script>alert(1)</script>", ["cat"]),
        ("cat &amp; dog", ["cat", "&", "dog"]),
        ("tennis&nbsp;shoe, dog", ["tennis shoe", "dog"]),
        ("&lt;dog&gt;", ["<dog>"]),
        ("caf&eacute; &#99;at &#x64;og", ["café", "cat", "dog"]),
        ("#cat&#10;#dog&#10", ["cat", "dog"]),
        ("http://cats.com", []),
        ("cat,https://dogs.com/a?b=1&amp;c=#boot,dog", ["cat", "dog"]),
        ("#cat www.dogs.com/boot #box", ["cat", "box"]),
        ("cat @john.doe dog", ["cat", "dog"]),
        ("@john, cat", ["cat"]),
        ("cat,john@doe.com,&#64;john", ["cat"]),
        ("#cat@john", ["cat"]),
        ("i <3 cats", ["i", "<3", "cats"]),
        ("t&shirt;boot", ["t&shirt", "boot"]),
    ],
)
def test_markup_addresses_and_names_are_no_tags(text: str, tags: list[str]) -> None:
    assert split(text) == tags


def test_a_number_that_is_no_character_breaks_nothing() -> None:
    assert split("&#" + "1" * 5000 + "; cat")[-1] == "cat"


def test_markup_in_a_table_or_json_leaves_the_word_within(photos: Path) -> None:
    cells = ["<a href='x'>cat</a>", "&lt;dog&gt;", "cat<br>dog &amp; @john", "http://cats.com/dog"]
    data = opened(photos, table(photos, cells))
    cat = "cat.n.01|computerized_tomography.n.01"
    assert [named(data, i) for i in range(4)] == [{cat}, {"dog.n.01"}, {cat, "dog.n.01"}, set()]
    for k, cell in enumerate(cells):
        (photos / f"{k:02d}.json").write_text(json.dumps({"tags": [cell.replace("<br>dog", "")]}))
    data = opened(photos, None)
    assert [named(data, i) for i in range(4)] == [{cat}, {"dog.n.01"}, {cat}, set()]


def test_of_a_captions_markup_addresses_and_names_nothing_is_read() -> None:
    text = 'My <b class="boot">cat</b>&#10;&amp; @john.doe&#39;s dog <br> https://box.com/head www.box.com #br<i>x</i>'
    assert in_caption(text, nouns=False) == ["br"]
    assert in_caption(text, nouns=True) == ["br", "cat", "dog"]


@pytest.mark.parametrize(
    "piece",
    [
        "<",
        "<a ",
        "<!--",
        "<script>",
        "</",
        "<a href='",
        "&#1",
        "&amp",
        "&amp;",
        "http://",
        "www.",
        "a@",
        "a.",
        "@a",
        "#",
    ],
)
def test_a_megabyte_of_any_markup_takes_linear_time(piece: str) -> None:
    """In time of the processor; what takes the square of the time takes minutes."""
    begin = time.process_time()
    plain(piece * (1_000_000 // len(piece)))
    assert time.process_time() - begin < 5


# --- meanings ---------------------------------------------------------------------------------------------------------


def test_words_with_the_same_meanings_are_one_class_by_default(photos: Path) -> None:
    data = opened(
        photos, table(photos, ["sneaker", "sneakers", "gym shoe,boot", "brownbear", "ursusarctos", "instagood"])
    )
    assert named(data, 0) == named(data, 1) == {"gym_shoe.n.01|fink.n.01"}
    assert named(data, 2) == {"gym_shoe.n.01", "boot.n.01"}
    assert named(data, 3) == named(data, 4) == {"brown_bear.n.01"}
    assert named(data, 5) == named(data, 11) == set()
    assert len(data.train.tagged()) == 5
    assert data.train.learned == tuple(sorted(data.train.learned))
    assert data.train.num_shown == 4


def test_a_class_is_named_by_its_meanings_in_the_order_of_their_frequency(photos: Path) -> None:
    """Cat's picture of the inside lies before its feline in WordNet's file, but is rarer."""
    data = opened(photos, table(photos, ["cat", "CAT"]))
    assert data.train.learned == ("cat.n.01|computerized_tomography.n.01",)
    cat, other = (open_wordnet().synset(place).id for place in open_wordnet().senses("cat"))
    assert cat > other
    header, first, *_ = table_rows(data.train.tags)
    assert dict(zip(header, first, strict=True))["synsets"] == f"{cat}|{other}"


def test_the_table_of_words_has_the_synsets_of_each_class(photos: Path) -> None:
    data = opened(photos, table(photos, ["head sneaker", "love"]), senses="all")
    by_word = {row[0]: row for row in table_rows(data.train.tags)}
    shoe, fink = (open_wordnet().synset(place).id for place in open_wordnet().senses("sneaker"))
    assert by_word["sneaker"][3:] == ("gym_shoe.n.01 fink.n.01", "a canvas shoe", f"{shoe} {fink}")
    assert by_word["love"][3:] == ("", "dropped: no noun of WordNet", "")
    assert len(by_word["head"][5].split()) == 33


def test_two_spellings_of_a_class_on_a_picture_count_once(photos: Path) -> None:
    tags = table(photos, ["boot boots #Boot box", "box"])
    data = opened(photos, tags)
    assert data.train.tag_numbers(0).tolist() == [0, 1] and data.train.tags.counts.tolist()[:3] == [2, 1, 0]
    assert opened(photos, tags, min_pictures=2).train.learned == ("box.n.01",)


def test_by_setting_the_most_frequent_meaning_is_taken_or_each(photos: Path) -> None:
    tags = table(photos, ["sneaker", "gym shoe,", "head"])
    first = opened(photos, tags, senses="first")
    assert named(first, 0) == named(first, 1) == {"gym_shoe.n.01"} and named(first, 2) == {"head.n.01"}
    every = opened(photos, tags, senses="all")
    assert named(every, 0) == {"gym_shoe.n.01", "fink.n.01"} and len(named(every, 2)) == 33


def test_rare_classes_are_dropped_and_told(photos: Path) -> None:
    data = opened(photos, table(photos, ["boot", "boots box", "box mice"]), min_pictures=2)
    assert data.train.learned == ("boot.n.01", "box.n.01")
    rare = next(word for word in data.train.tags.words if word.word == "mice")
    assert rare.classes == () and rare.told == "dropped: fewer than 2 pictures show it"


def test_only_training_pictures_make_classes(tmp_path: Path, photos: Path) -> None:
    for part, names in {"train": range(8), "test": range(8, 12)}.items():
        (photos / part).mkdir()
        for k in names:
            (photos / f"{k:02d}.png").rename(photos / part / f"{k:02d}.png")
    rows = [f"train/{k:02d}.png,boot" for k in range(4)] + ["test/08.png,boot mouse"]
    (photos / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    data = opened(photos, str(photos / "tags.csv"))
    assert data.train.learned == ("boot.n.01",)
    assert data.test.tags is not None and data.test.tag_numbers(0).tolist() == [0]
    assert [word.word for word in data.train.tags.words] == ["boot"]


def test_what_was_found_is_told(photos: Path) -> None:
    data = opened(photos, table(photos, ["boot", "boots #love", "head love", "love"]))
    said = "\n".join(data.found.notes)
    assert "3 of 12 training pictures (25.0%) have a tag to learn from: 2 classes of 3 words" in said
    assert "1 word has several meanings: head 33" in said
    assert "1 word is dropped: love 3" in said
    assert "2 classes of 3 words; the others are not used" in said
    assert "footwear that covers the leg" in said


def test_where_all_pictures_have_tags_there_are_no_others(photos: Path) -> None:
    said = "\n".join(opened(photos, table(photos, ["boot"] * 12)).found.notes)
    assert "12 of 12 training pictures (100.0%) have a tag to learn from: 1 class of 1 word" in said
    assert "not used" not in said and "12 rows of tags" in said


def test_a_named_sets_pictures_have_tags_by_their_names(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("path,tags\ndigits/00000,boot\ndigits/00001,box\n")
    data = open_data("digits", annotation="tags", tags=str(tmp_path / "tags.csv"))
    assert sum(len(part.tagged()) for part in (data.train, data.held_out, data.test)) == 2
    assert data.train.has_labels and len(data.train.classes) == 10  # its own labels stay, to watch it by


def test_other_tags_are_another_set(photos: Path) -> None:
    one = opened(photos, table(photos, ["boot", "box"])).fingerprint
    assert opened(photos, table(photos, ["boot", "box"])).fingerprint == one
    assert opened(photos, table(photos, ["box", "boot"])).fingerprint != one


# --- JSON beside the pictures -----------------------------------------------------------------------------------------


def test_tags_come_from_json_beside_the_pictures(photos: Path) -> None:
    for k, told in enumerate(
        [
            {"tags": ["boot", "#tennis shoe #box"]},
            {"hashtags": "#box #mice"},
            {"caption": "my #boots"},
            {"tags": [1, None], "x": 2},
            {},
        ]
    ):
        (photos / f"{k:02d}.json").write_text(json.dumps(told))
    (photos / "05.png.json").write_text(json.dumps({"tags": ["box"]}))
    data = opened(photos, None)
    assert named(data, 0) == {"boot.n.01", "gym_shoe.n.01", "box.n.01"}
    assert named(data, 1) == {"box.n.01", "mouse.n.01|mouse.n.02"}
    assert named(data, 2) == {"boot.n.01"} and named(data, 5) == {"box.n.01"}
    assert named(data, 3) == named(data, 4) == set()


@pytest.mark.parametrize("broken", ["{", "[]", '{"tags": ' + "[" * 100_000, '{"a": NaN}', '{"tags": 1, "tags": 2}', ""])
def test_broken_json_counts_as_no_tags_and_is_told(photos: Path, broken: str) -> None:
    (photos / "00.json").write_text(json.dumps({"tags": ["box"]}))
    (photos / "01.json").write_text(broken)
    data = opened(photos, None)
    assert named(data, 1) == set()
    assert any(
        "1 JSON file cannot be read, and counts as without tags, e.g. 01.json" in note for note in data.found.notes
    )


def test_json_files_without_tags_are_told_from_those_with(photos: Path) -> None:
    for k in range(5):
        (photos / f"{k:02d}.json").write_text(json.dumps({"tags": ["box"]} if k < 2 else {"title": "x"}))
    assert "beside 12 pictures: 5 JSON files, 2 with tags" in opened(photos, None).found.notes
    for k in range(2):
        (photos / f"{k:02d}.json").unlink()
    with pytest.raises(
        DataError, match="D-46: no picture has a tag: beside the pictures are 3 JSON files, 0 with tags"
    ):
        opened(photos, None)


def test_json_may_begin_with_a_byte_order_mark(photos: Path) -> None:
    (photos / "00.json").write_bytes(b"\xef\xbb\xbf" + json.dumps({"tags": ["box"]}).encode())
    assert named(opened(photos, None), 0) == {"box.n.01"}


def test_json_that_is_too_large_counts_as_no_tags(photos: Path) -> None:
    (photos / "00.json").write_text(json.dumps({"tags": ["box"]}))
    (photos / "01.json").write_text(json.dumps({"tags": ["box"]}) + " " * LARGEST)
    data = opened(photos, None)
    assert named(data, 1) == set()
    assert any("01.json: it is larger than 16.7772 MB" in note for note in data.found.notes)


@pytest.mark.parametrize("value", [3, True, None, {"a": 1}, [["box"]], [{"b": 2}]])
def test_values_that_are_no_tags_say_nothing(photos: Path, value: object) -> None:
    (photos / "00.json").write_text(json.dumps({"tags": ["box"]}))
    (photos / "01.json").write_text(json.dumps({"tags": value, "hashtags": value, "caption": value}))
    assert named(opened(photos, None), 1) == set()


# --- bad input --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "cell",
    [
        "",
        "   ",
        "#",
        "##",
        "猫 собака كلب",
        "😀😀 🐈",
        "1️⃣ ™️ ℹ️ Ⓜ️",
        "½ ²",
        "<script>alert(1)</script>",
        "=cmd()",
        "boot" * 2000,
        "\u202etoob",
        "\u200b\u0000\ufeff",
    ],
    ids=[
        "empty",
        "blanks",
        "sign",
        "signs",
        "scripts",
        "emoji",
        "signs of letters",
        "numbers",
        "markup",
        "formula",
        "long",
        "mirrored",
        "unseen",
    ],
)
def test_what_means_nothing_is_dropped_and_the_rest_is_learned(photos: Path, cell: str) -> None:
    data = opened(photos, table(photos, ["box", "boot", cell]))
    assert named(data, 2) == set()
    assert data.train.learned == ("boot.n.01", "box.n.01")


@pytest.mark.parametrize(
    "cell",
    [
        "boot™",
        "boot❤️",
        "ｂｏｏｔ",
        "bo\u200bot",
        "bo\u200cot",
        "b\u2060oots",
        "bo\u00adot",
        "\ufeffboot",
        "\u202eboot\u202c",
        "boot\u0000",
        "bo\u0000ot",
    ],
    ids=[
        "trade mark",
        "heart",
        "full width",
        "space",
        "non-joiner",
        "joiner",
        "hyphen",
        "mark",
        "right to left",
        "zero byte",
        "zero byte within",
    ],
)
def test_characters_that_are_not_seen_leave_a_tag_what_it_is(photos: Path, cell: str) -> None:
    data = opened(photos, table(photos, ["box", "boot", cell]))
    assert named(data, 2) == {"boot.n.01"}
    assert data.train.learned == ("boot.n.01", "box.n.01")


def test_a_megabyte_of_text_is_read(photos: Path) -> None:
    data = opened(photos, table(photos, ["#box", "word " * 200_000 + "#boots"], "caption"))
    assert named(data, 1) == {"boot.n.01"}


def test_rows_of_pictures_that_are_not_there_are_told(photos: Path) -> None:
    (photos / "tags.csv").write_text("path,tags\n00.png,boot\n01.png,box\ngone.png,box\n")
    assert any(
        "1 of them names a picture that is not in the set, e.g. gone.png" in n
        for n in opened(photos, str(photos / "tags.csv")).found.notes
    )


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("path,label\n00.png,boot\n", "D-13"),
        ("file,tags\n00.png,boot\n", "D-13"),
        ("path,tags\n00.png\n", "D-13"),
        ("path,tags\n,boot\n", "D-13"),
        ("path,tags\n00.png,\n", "D-46"),
        ("path,tags\ngone.png,boot\n", "D-24: none of the 1 paths"),
        ("path,tags\n", "D-46"),
        ("path,tags\n00.png,instagood 猫\n", "D-47"),
    ],
)
def test_tables_without_tags_are_refused(photos: Path, text: str, code: str) -> None:
    (photos / "tags.csv").write_text(text, encoding="utf-8")
    with pytest.raises(DataError, match=code):
        opened(photos, str(photos / "tags.csv"))


def test_paths_may_begin_with_a_dot_and_lie_below_the_tables_folder(photos: Path) -> None:
    (photos.parent / "tags.csv").write_text(
        "path,tags\n./photos/00.png,boot\nphotos/../photos/01.png,box\n./02.png,box\n"
    )
    data = opened(photos, str(photos.parent / "tags.csv"))
    assert [named(data, i) for i in range(3)] == [{"boot.n.01"}, {"box.n.01"}, {"box.n.01"}]


def test_a_table_in_another_encoding_is_refused(photos: Path) -> None:
    (photos / "tags.csv").write_bytes("path,tags\n00.png,boot\n01.png,cañon\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"D-13: .*row 3: this is not UTF-8"):
        opened(photos, str(photos / "tags.csv"))


def test_no_tags_at_all_are_refused(photos: Path) -> None:
    with pytest.raises(DataError, match="D-46: no picture has a tag: beside the pictures are 0 JSON files"):
        opened(photos, None)


@pytest.mark.parametrize("beside", [False, True])
def test_captions_without_hashtags_are_told_how_their_words_are_read(photos: Path, beside: bool) -> None:
    tags = None if beside else table(photos, ["A cat on a box", "", "Two dogs"], "caption")
    for k, caption in enumerate(["A cat on a box", " ", "Two dogs"] if beside else []):
        (photos / f"{k:02d}.json").write_text(json.dumps({"caption": caption}))
    with pytest.raises(DataError) as caught:
        opened(photos, tags)
    assert str(caught.value) == (
        "D-46: no picture has a tag: 2 pictures have a caption, but no caption has a hashtag. Of a caption only its hashtags "
        "count unless its words are asked for. Use --tagging.caption-words to learn from the nouns in captions."
    )
    assert "box.n.01" in opened(photos, tags, caption_words=True).train.learned


def test_the_flag_that_is_named_is_one(photos: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["pretrain", "weakly-supervised-quickstart", f"--data={photos}", f"--out={tmp_path / 'run'}"]
    words.append(f"--tags={table(photos, ['Two cats'], 'caption')}")
    assert main(words) == 3 and "Use --tagging.caption-words to learn" in capsys.readouterr().err
    assert main([*words, "--tagging.caption-words"]) == 3 and "D-46" not in capsys.readouterr().err


@pytest.mark.parametrize(
    ("cells", "least", "said"),
    [
        (["love 猫", "love"], 1, "D-47: WordNet knows none of the 2 words on 2 training pictures: love 2, 猫 1."),
        (["love"], 1, "D-47: WordNet knows none of the 1 word on 1 training picture: love 1."),
        (
            ["boot love", "box", "box"],
            3,
            "D-47: WordNet knows 2 of the 3 words on 3 training pictures, but fewer than 3 pictures show each class: "
            "box 2, boot 1. All classes are dropped by --tagging.min-pictures. Use a smaller --tagging.min-pictures.",
        ),
    ],
)
def test_why_no_class_is_left_is_told(photos: Path, cells: list[str], least: int, said: str) -> None:
    with pytest.raises(DataError) as caught:
        opened(photos, table(photos, cells), min_pictures=least)
    assert str(caught.value).startswith(said)


def test_tags_of_test_pictures_alone_are_refused(photos: Path) -> None:
    for part, names in {"train": range(8), "test": range(8, 12)}.items():
        (photos / part).mkdir()
        for k in names:
            (photos / f"{k:02d}.png").rename(photos / part / f"{k:02d}.png")
    (photos / "tags.csv").write_text("path,tags\ntest/08.png,boot\n")
    with pytest.raises(
        DataError, match="D-47: no training picture has a tag: only pictures that are not trained on have"
    ):
        opened(photos, str(photos / "tags.csv"))


# --- the label space --------------------------------------------------------------------------------------------------

SHARDS = [[["boot", "boots", "cat"], ["box", "love"]], [["cat"], [], ["boot", "sneaker"]]]
"""The words of the pictures of two shards."""


@pytest.mark.parametrize("senses", ["set", "first", "all"])
def test_counts_of_shards_add_up_to_the_label_space_of_the_whole(senses: str) -> None:
    nouns = Nouns(open_wordnet(), senses)
    parts = [Counts(), Counts()]
    whole = Counts()
    for part, pictures in zip(parts, SHARDS, strict=True):
        for words in pictures:
            part.add(words, nouns)
            whole.add(words, nouns)
    assert parts[0] + parts[1] == whole and whole.words["boot"] == 2
    space = make_label_space(parts[0] + parts[1], nouns, 2)
    cat = {"set": ["cat.n.01|computerized_tomography.n.01"], "first": ["cat.n.01"]}
    assert space.classes == ("boot.n.01", *cat.get(senses, ["cat.n.01", "computerized_tomography.n.01"]))
    assert space.numbers(nouns.shown(["boots", "cat", "Boot", "love", "box"])) == list(range(len(space.classes)))


def test_a_label_space_is_read_back_as_it_was_saved(tmp_path: Path) -> None:
    nouns, counts = Nouns(open_wordnet(), "set"), Counts()
    counts.add(["cat", "boot", "head"], nouns)
    space = make_label_space(counts, nouns, 1)
    space.save(tmp_path / "classes.json")
    read = load_label_space(tmp_path / "classes.json", open_wordnet())
    assert read == space and read.classes == space.classes
    assert read.numbers(nouns.shown(["boots", "CAT"])) == space.numbers(nouns.shown(["boot", "cat"])) == [0, 1]


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", '{"synsets": {"a": ["x"]}, "senses": "set", "min_pictures": 1, "wordnet": ""}']
)
def test_a_file_that_is_no_label_space_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "classes.json").write_text(text)
    with pytest.raises(DataError, match="D-48: .*classes.json is no label space"):
        load_label_space(tmp_path / "classes.json", open_wordnet())


def test_a_label_space_of_another_wordnet_is_refused(tmp_path: Path) -> None:
    LabelSpace(synsets={}, senses="set", min_pictures=1, wordnet="0" * 64).save(tmp_path / "classes.json")
    with pytest.raises(DataError, match="D-48: the label space .* is of another WordNet"):
        load_label_space(tmp_path / "classes.json", open_wordnet())


# --- rare tags --------------------------------------------------------------------------------------------------------


def test_pictures_with_rare_tags_come_several_times(photos: Path) -> None:
    """By hand: of 10 tagged pictures boot is on 9 and box on 1, so with a threshold of 0.9 box has sqrt(0.9 / 0.1) = 3."""
    data = opened(photos, table(photos, ["boot"] * 9 + ["box"]))
    tagged = data.train.tagged()
    assert tagged.tags.factors(tagged.ids, 0.9).tolist() == pytest.approx([1.0] * 9 + [3.0])
    assert np.bincount(repeated(tagged, 0.9).ids).tolist() == [1] * 9 + [3]


def test_the_part_of_a_factor_beyond_a_whole_number_is_a_chance(tmp_path: Path) -> None:
    """Of 1,797 digits a third has box: sqrt(0.5 / (1 / 3)) = 1.22, so a fifth of those comes twice."""
    rows = [f"digits/{k:05d},{'box' if k % 3 == 0 else 'boot'}" for k in range(1797)]
    (tmp_path / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    train = open_data("digits", annotation="tags", tags=str(tmp_path / "tags.csv")).train
    tags, (boot, box) = train.tags, train.tags.shares(train.ids)
    many = repeated(train, 0.5)
    times = np.bincount(many.ids, minlength=1797)[train.ids]
    boxes = np.array([tags.of(int(i))[0] == 1 for i in train.ids])
    assert boot == pytest.approx(2 / 3, abs=0.02) and box == pytest.approx(1 / 3, abs=0.02)
    assert set(times[~boxes]) == {1} and set(times[boxes]) == {1, 2}
    assert times[boxes].mean() == pytest.approx(np.sqrt(0.5 / box), abs=0.05)
    assert np.array_equal(repeated(train, 0.5).ids, many.ids)


def test_of_several_classes_the_rarest_says_how_often_a_picture_comes(photos: Path) -> None:
    """Of 10 pictures all have boot and one has box too: sqrt(0.9 / 0.1) = 3, not the mean of 3 and 1."""
    tagged = opened(photos, table(photos, ["boot"] * 9 + ["boot box"])).train.tagged()
    assert tagged.tags.factors(tagged.ids, 0.9).tolist() == pytest.approx([1.0] * 9 + [3.0])


def test_which_pictures_come_again_is_the_same_in_every_process(tmp_path: Path) -> None:
    """Recorded: a chance that hung on Python's hash of a name would differ from process to process."""
    rows = [f"digits/{k:05d},{'box' if k % 3 == 0 else 'boot'}" for k in range(1797)]
    (tmp_path / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    train = open_data("digits", annotation="tags", tags=str(tmp_path / "tags.csv")).train
    times = np.bincount(repeated(train, 0.5).ids)
    assert np.flatnonzero(times == 2)[:6].tolist() == [6, 9, 12, 18, 33, 42]


def test_a_run_oversamples_rare_tags_and_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    rows = [f"digits/{k:05d},{'box' if k % 10 == 0 else 'boot'}" for k in range(1797)]
    (tmp_path / "tags.csv").write_text("\n".join(["path,tags", *rows]))
    small = {name: value for name, value in TINY.items() if name not in ("method", "epochs")}
    small |= {"tags": str(tmp_path / "tags.csv"), "steps": 4, "save_steps": 2, "workers": 0}

    def run(name: str, **method: float) -> tuple[bytes, int]:
        out = tmp_path / name
        pretrain(settings_for("weakly-supervised-quickstart", **small, method=method), out, quiet=True)
        return (out / LAST / "model.safetensors").read_bytes(), (out / "metrics.jsonl").read_text().count("\n")

    often, plainly = run("often", oversample=0.9), run("plainly")
    assert often != plainly
    assert shown(tmp_path / "often") != shown(tmp_path / "plainly"), "the data chain: which pictures were drawn"
    shutil.rmtree(tmp_path / "often" / LAST)
    shutil.rmtree(tmp_path / "often" / "encoder")
    assert run("often", oversample=0.9) == often


LAST = Path("checkpoints", "step-00000004")


def shown(out: Path) -> str:
    last = read_checkpoint(out / LAST)
    assert last.links is not None
    return last.links.digest
