"""WordNet's files are read as they are, words find their nouns, and whoever has none is told every way to get it."""

import hashlib
import tarfile
import zipfile
from pathlib import Path

import pytest

from tutelage.data import wordnet
from tutelage.data.download import NotOurs
from tutelage.data.wordnet import WordNet, open_wordnet, read_wordnet
from tutelage.errors import DataError
from wordnets import write_wordnet

debians = pytest.mark.skipif(not wordnet.DEBIAN_FOLDER.exists(), reason="the package wordnet-base is not installed")


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
        ("shoes", ["place.n.01", "shoe.n.01"]),  # a word itself, and a plural
        ("#Shoes", ["place.n.01", "shoe.n.01"]),
        ("men", ["work_force.n.01", "man.n.01"]),  # and an irregular one
        ("ballgame", ["ballgame.n.01", "ball_game.n.01"]),  # as it is written comes first
        ("ball game", ["ball_game.n.01", "ballgame.n.01"]),
        ("boots.", ["boot.n.01"]),  # a plural with what stands behind it
        ("'boots'", ["boot.n.01"]),
        ("boots/", ["boot.n.01"]),
        ("A.s", []),  # two letters are no plural, with a full stop or without
        ("boot\ufe0f", ["boot.n.01"]),  # an emoji's selector that lost its emoji
        ("deep $ freeze", ["deep_freeze.n.01", "deep-freeze.n.01"]),  # a sign is nothing
        ("ballgames", ["ballgame.n.01", "ball_game.n.01"]),
        ("cat", ["cat.n.01", "computerized_tomography.n.01"]),  # by frequency, not by place
        ("boss", ["boss.n.01"]),  # not of the genus Bos
        ("s", []),
        ("as", []),  # not several A
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


@debians
def test_debians_wordnet_is_the_known_one_and_agrees_with_imagenet() -> None:
    whole = read_wordnet(wordnet.DEBIAN_FOLDER, wordnet._IN_DEBIAN)
    assert whole.synset(2123045)[:2] == ("n02123045", "tabby.n.01")  # class 281 of ImageNet
    assert names(whole, "sneakers")[0] == "gym_shoe.n.01"
    assert len(whole.senses("head")) == 33


RECORDED = {
    "shoes": "place.n.06 shoe.n.01 shoe.n.02 horseshoe.n.02 brake_shoe.n.01",
    "men": (
        "work_force.n.01 man.n.01 serviceman.n.01 man.n.03 homo.n.02 man.n.05 man.n.06 valet.n.01 "
        "man.n.08 man.n.09 man.n.10 world.n.08"
    ),
    "pants": "bloomers.n.01 pant.n.01 trouser.n.01 gasp.n.01",
    "arms": "weaponry.n.01 coat_of_arms.n.01 arm.n.01 arm.n.02 weapon.n.01 arm.n.04 branch.n.01 sleeve.n.01",
    "hands": (
        "hands.n.01 work_force.n.01 hand.n.01 hired_hand.n.01 handwriting.n.01 hand.n.04 hand.n.05 "
        "hand.n.06 hand.n.07 hand.n.08 hand.n.09 hand.n.10 bridge_player.n.01 hand.n.12 hand.n.13 "
        "hand.n.14"
    ),
    "woods": ("forest.n.01 wood.n.01 forest.n.01 wood.n.03 wood.n.04 wood.n.05 wood.n.06 woodwind.n.01 wood.n.08"),
    "glasses": (
        "spectacles.n.01 glass.n.01 glass.n.02 glass.n.03 field_glass.n.01 methamphetamine.n.01 "
        "looking_glass.n.01 glass.n.07"
    ),
    "leaves": "leaf.n.01 leaf.n.02 leaf.n.03 leave.n.01 leave.n.02 farewell.n.02",
    "wolves": "wolf.n.01 wolf.n.02 wolf.n.03 wolf.n.04 beast.n.02",
    "loaves": "loaf_of_bread.n.01 loaf.n.02",
    "clothes": "apparel.n.01",
    "boots": "boot.n.01 boot.n.02 bang.n.04 boot.n.04 boot.n.05 boot.n.06 kick.n.01",
    "mice": "mouse.n.01 shiner.n.01 mouse.n.03 mouse.n.04",
    "news": "news.n.01 news.n.02 news_program.n.01 news.n.04 newsworthiness.n.01",
    "women": "woman.n.01 woman.n.02 charwoman.n.01 womanhood.n.02",
    "teeth": "dentition.n.02 tooth.n.01 tooth.n.02 tooth.n.03 tooth.n.04 tooth.n.05",
    "scissors": "scissors.n.01 scissors.n.02 scissors.n.03",
    "shorts": "short_pants.n.01 drawers.n.01 short.n.01 short_circuit.n.01 shortstop.n.02",
    "trousers": "trouser.n.01 trouser.n.02",
    "boxes": "box.n.01 box.n.02 box.n.03 corner.n.08 box.n.05 box.n.06 box.n.07 box.n.08 box.n.09 box.n.10",
    "gas": "gas.n.01 gas.n.02 gasoline.n.01 flatulence.n.01 accelerator.n.01 natural_gas.n.01",
}
"""Of nltk 3.10.4 on Debian's wordnet-base: the names of `wn.synsets(word, pos="n")`."""


@debians
def test_plurals_have_the_meanings_that_nltk_gives_them() -> None:
    whole = read_wordnet(wordnet.DEBIAN_FOLDER)
    once = {word: list(dict.fromkeys(found.split())) for word, found in RECORDED.items()}  # nltk tells some twice
    assert {word: names(whole, word) for word in RECORDED} == once
    assert names(whole, "shoes") == ["place.n.06", *names(whole, "shoe")]
    assert names(whole, "ballgame")[0] == "ballgame.n.01" and names(whole, "ball game")[0] == "ball_game.n.01"


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


@pytest.mark.parametrize("place", ["home", "prefix", "prefix/share", "prefix/lib"])
def test_it_is_read_from_every_place_of_nltk(nowhere: Path, place: str) -> None:
    write_wordnet(nowhere / place / "nltk_data" / "corpora" / "wordnet")
    assert open_wordnet().senses("boot")


def test_the_places_of_all_machines_are_searched_too(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for place in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"):
        assert Path(place) in wordnet._SHARED
    monkeypatch.setattr(wordnet, "_SHARED", (nowhere / "shared",))
    write_wordnet(nowhere / "shared" / "nltk_data" / "corpora" / "wordnet")
    assert open_wordnet().senses("boot")


def archive(folder: Path, prefix: str = "WordNet-3.0/dict") -> tuple[str, str]:
    """The address of an archive like Princeton's, and its SHA-256."""
    path = folder / "WordNet-3.0.tar.bz2"
    with tarfile.open(path, "w:bz2") as tar:
        for file in write_wordnet(folder / "dict").iterdir():
            tar.add(file, f"{prefix}/{file.name}")
    return path.as_uri(), hashlib.sha256(path.read_bytes()).hexdigest()


def test_it_is_downloaded_from_princeton_into_the_cache(nowhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    url, sha256 = archive(nowhere)
    monkeypatch.setattr(wordnet, "_URL", url)
    monkeypatch.setattr(wordnet, "_SHA256", sha256)
    monkeypatch.delenv("TUTELAGE_OFFLINE")
    downloaded = open_wordnet()
    assert downloaded.senses("boot")
    assert sorted(file.name for file in (nowhere / "wordnet").iterdir()) == sorted(wordnet.FILES)
    monkeypatch.setenv("TUTELAGE_OFFLINE", "1")
    open_wordnet.cache_clear()
    assert open_wordnet().sha256 == downloaded.sha256


@pytest.mark.parametrize("wrong", ["hash", "content"])
def test_another_archive_than_princetons_is_refused(nowhere: Path, monkeypatch, wrong: str) -> None:
    url, sha256 = archive(nowhere, "dict" if wrong == "content" else "WordNet-3.0/dict")
    monkeypatch.setattr(wordnet, "_URL", url)
    monkeypatch.setattr(wordnet, "_SHA256", sha256 if wrong == "content" else "0" * 64)
    with pytest.raises(KeyError if wrong == "content" else NotOurs):
        wordnet._of_princeton(nowhere / "wordnet")
    assert not list((nowhere / "wordnet").iterdir())


def test_without_it_every_way_to_get_it_is_named(nowhere: Path) -> None:
    with pytest.raises(DataError) as caught:
        open_wordnet()
    said = str(caught.value)
    assert said.startswith("D-20: no source of 'wordnet' answered. TUTELAGE_OFFLINE is set")
    places = [
        nowhere / "nltk",
        *(nowhere / at / "nltk_data" for at in ("home", "prefix", "prefix/share", "prefix/lib")),
    ]
    for way in (
        str(nowhere / "wordnet"),
        "the Debian package wordnet-base",
        "python -m nltk.downloader wordnet",
        ", ".join(map(str, places)),
        "/usr/share/nltk_data, /usr/local/share/nltk_data, /usr/lib/nltk_data, /usr/local/lib/nltk_data",
        "https://wordnetcode.princeton.edu/3.0/WordNet-3.0.tar.bz2: not asked",
        "apt-get download wordnet-base, unpacked into the cache: not asked",
    ):
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
