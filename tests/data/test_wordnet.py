"""WordNet's files are read as they are, words find their nouns, and whoever has none is told every way to get it."""

import zipfile
from pathlib import Path

import pytest

from tutelage.data import wordnet
from tutelage.data.download import NotOurs
from tutelage.data.wordnet import WordNet, open_wordnet, read_wordnet
from tutelage.errors import DataError
from wordnets import write_wordnet


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_wordnet(tmp_path_factory.mktemp("sources") / "wordnet")


@pytest.fixture(scope="module")
def nouns(folder: Path) -> WordNet:
    return read_wordnet(folder)


@pytest.fixture
def nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine without WordNet and network; its cache."""
    monkeypatch.setenv("TUTELAGE_CACHE", str(tmp_path))
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("NLTK_DATA", str(tmp_path / "nltk"))
    monkeypatch.setattr(wordnet, "DEBIAN_FOLDER", tmp_path / "debian")
    monkeypatch.setattr("sys.prefix", str(tmp_path / "prefix"))
    open_wordnet.cache_clear()
    yield tmp_path
    open_wordnet.cache_clear()


def names(nouns: WordNet, word: str) -> list[str]:
    return [nouns.synset(place).name for place in nouns.senses(word)]


@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("sneaker", ["gym_shoe.n.01", "fink.n.01"]),  # the more frequent meaning first
        ("Sneakers", ["gym_shoe.n.01", "fink.n.01"]),
        ("#brownbear", ["brown_bear.n.01"]),  # a hashtag has no blanks
        ("ursus arctos", ["brown_bear.n.01"]),
        ("ＵＲＳＵＳ_arctos", ["brown_bear.n.01"]),  # letters of full width
        ("tshirts", ["t-shirt.n.01"]),
        ("T-Shirt", ["t-shirt.n.01"]),
        ("Café", ["cafe.n.01"]),
        ("mice", ["mouse.n.01", "mouse.n.02"]),  # irregular
        ("boxes", ["box.n.01"]),
        ("s", []),
        ("instagood", []),
        ("猫", []),
        ("😀", []),
        ("", []),
    ],
)
def test_a_word_finds_its_nouns(nouns: WordNet, word: str, wanted: list[str]) -> None:
    assert names(nouns, word) == wanted


def test_a_synset_has_imagenets_number_words_and_a_gloss(nouns: WordNet) -> None:
    (place,) = nouns.senses("tennis shoe")
    assert nouns.synset(place) == (
        f"n{place:08d}",
        "gym_shoe.n.01",
        ("gym_shoe", "sneaker", "tennis_shoe"),
        "a canvas shoe",
    )
    assert len(nouns.senses("head")) == 33
    assert nouns.synset(nouns.senses("head")[32]).name == "head.n.33"


@pytest.mark.skipif(not wordnet.DEBIAN_FOLDER.exists(), reason="wordnet-base is not installed")
def test_debians_wordnet_is_the_known_one_and_agrees_with_imagenet() -> None:
    whole = read_wordnet(wordnet.DEBIAN_FOLDER, wordnet._IN_DEBIAN)
    assert whole.synset(2123045)[:2] == ("n02123045", "tabby.n.01")  # class 281 of ImageNet
    assert names(whole, "sneakers")[0] == "gym_shoe.n.01"
    assert len(whole.senses("head")) == 33


def test_it_is_read_from_the_cache(nowhere: Path) -> None:
    write_wordnet(nowhere / "wordnet")
    assert open_wordnet().senses("boot")


@pytest.mark.parametrize("packed", [False, True])
def test_it_is_read_as_nltk_leaves_it(nowhere: Path, packed: bool) -> None:
    folder = write_wordnet(nowhere / "nltk" / "corpora" / "wordnet")
    if packed:
        with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
            for file in folder.iterdir():
                archive.write(file, f"wordnet/{file.name}")
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    assert open_wordnet().senses("boot")


def test_without_it_every_way_to_get_it_is_named(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_wordnet()
    said = str(caught.value)
    assert said.startswith("D-20: no source of 'wordnet' answered. TUTELAGE_OFFLINE is set")
    for way in (str(nowhere / "wordnet"), "the Debian package wordnet-base", "python -m nltk.downloader wordnet"):
        assert way in said


@pytest.mark.parametrize("file", wordnet.FILES[:2])
@pytest.mark.parametrize("content", [b"", b"no WordNet at all", b"\xff\xfe", b"entity n 1\n", b"00000000 03 n 01\n"])
def test_other_files_are_no_wordnet(folder: Path, file: str, content: bytes) -> None:
    files = {name: (folder / name).read_bytes() for name in wordnet.FILES} | {file: content}
    with pytest.raises(NotOurs):
        WordNet(files)


def test_a_file_with_another_hash_is_refused(folder: Path) -> None:
    with pytest.raises(NotOurs, match=r"index.noun has another SHA-256"):
        read_wordnet(folder, wordnet._IN_DEBIAN)
