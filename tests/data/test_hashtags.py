"""From what people wrote to classes: what is kept, what is dropped, and what bad input is answered with."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tutelage.data.hashtags import TagSettings, in_caption, split
from tutelage.data.index import Data, open_data
from tutelage.data.wordnet import open_wordnet
from tutelage.engine.feeds import repeated
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
    ],
)
def test_tags_are_split_at_commas_else_at_blanks(text: str, tags: list[str]) -> None:
    assert split(text) == tags


def test_of_a_caption_only_hashtags_count_unless_its_words_are_asked_for() -> None:
    text = "A mouse in my Tennis Shoes! <b>#boots</b> #brownbear, and a café"
    assert in_caption(text, TagSettings()) == ["boots", "brownbear"]
    words = in_caption(text, TagSettings(caption_words=True))
    assert words[:2] == ["boots", "brownbear"]
    assert {"mouse", "tennis shoes", "café"} <= set(words)
    assert not {"a", "in", "my", "and", "tennis"} & set(words)


def test_an_apostrophe_makes_no_word() -> None:
    words = in_caption("My dog's bed, it's great and I don't care. Tennis. Shoes", TagSettings(caption_words=True))
    assert words[:2] == ["dog", "bed"] and words[-2:] == ["tennis", "shoes"]
    assert not {"s", "t", "don", "it", "dog s", "tennis shoes"} & set(words)


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
    assert "1 words have several meanings: head 33" in said
    assert "1 words are dropped: love 3" in said
    assert "footwear that covers the leg" in said


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
            {"tags": ["boot", "tennis shoe"]},
            {"hashtags": "#box #mice"},
            {"caption": "my #boots"},
            {"tags": [1, None], "x": 2},
            {},
        ]
    ):
        (photos / f"{k:02d}.json").write_text(json.dumps(told))
    (photos / "05.png.json").write_text(json.dumps({"tags": ["box"]}))
    data = opened(photos, None)
    assert named(data, 0) == {"boot.n.01", "gym_shoe.n.01"}
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
        "1 JSON files cannot be read, and count as without tags, e.g. 01.json" in note for note in data.found.notes
    )


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
        "<script>alert(1)</script>",
        "=cmd()",
        "boot" * 2000,
        "\u202etoob",
        "\u200b\u0000\ufeff",
    ],
    ids=["empty", "blanks", "sign", "signs", "scripts", "emoji", "markup", "formula", "long", "mirrored", "unseen"],
)
def test_what_means_nothing_is_dropped_and_the_rest_is_learned(photos: Path, cell: str) -> None:
    data = opened(photos, table(photos, ["box", "boot", cell]))
    assert named(data, 2) == set()
    assert data.train.learned == ("boot.n.01", "box.n.01")


@pytest.mark.parametrize(
    "cell",
    [
        "bo\u200bot",
        "bo\u200cot",
        "b\u2060oots",
        "bo\u00adot",
        "\ufeffboot",
        "\u202eboot\u202c",
        "boot\u0000",
        "bo\u0000ot",
    ],
    ids=["space", "non-joiner", "joiner", "hyphen", "mark", "right to left", "zero byte", "zero byte within"],
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
        "1 of them name pictures that are not in the set, e.g. gone.png" in n
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
    with pytest.raises(DataError, match="D-46: no picture has a JSON file with tags beside it"):
        opened(photos, None)


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
