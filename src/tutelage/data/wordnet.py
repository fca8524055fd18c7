"""WordNet's nouns (Princeton WordNet 3.0; Fellbaum 1998): which synsets a word names, and what they mean.

Read from its own files, whose form is wndb(5WN): `index.noun` (words and the places of their synsets, the most frequent first),
`data.noun` (synsets) and `noun.exc` (irregular plurals). They come from the first source that has them: the cache, Debian's
`wordnet-base`, nltk's data, Princeton's archive, or the Debian package unpacked without installing it.
"""

import hashlib
import os
import re
import sys
import tarfile
import tempfile
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from tutelage.data import download
from tutelage.data.named import cache_folder
from tutelage.durable import write_whole

FILES = ("index.noun", "data.noun", "noun.exc")
DEBIAN_FOLDER = Path("/usr/share/wordnet")
_DEBIAN_PACKAGE = "wordnet-base"
_URL = "https://wordnetcode.princeton.edu/3.0/WordNet-3.0.tar.bz2"
_SHA256 = "6c492d0c7b4a40e7674d088191d3aa11f373bb1da60762e098b8ee2dda96ef22"
"""As Homebrew, Arch and Fedora have it."""
_SHARED = tuple(Path(place) for place in ("/usr/share", "/usr/local/share", "/usr/lib", "/usr/local/lib"))
"""Where nltk looks for nltk_data on every machine, after HOME and Python's own folders."""
_WITHOUT_NETWORK = 3
"""As many of the ways to get it, the first ones, ask no network."""
_IN_DEBIAN = {
    "index.noun": "a490d99d93d017bf4822fe2f0ffa51fd73911ce271dc7535fade21f8814b5a04",
    "data.noun": "fea17d2f9656611334eac790e5d69e47645fa180c4aa481fb4cd9b3520754ca2",
    "noun.exc": "2b5d675c380b39ecf595af9fa9d4e7feb1d58c643b0bff08c40ed5bfe41fab7a",
}
_PLURALS = (
    ("s", ""),
    ("ses", "s"),
    ("ves", "f"),
    ("xes", "x"),
    ("zes", "z"),
    ("ches", "ch"),
    ("shes", "sh"),
    ("men", "man"),
    ("ies", "y"),
)
"""Endings of plurals and what they were: WordNet's rules of detachment for nouns (morphy(7WN)), and nltk's for ves."""
_BARE = re.compile("[a-zA-Z0-9_./' -]*")
"""Words without anything of the kind, and without accents: all of WordNet's own."""
_EMOJI = re.compile("[0-9#*]\ufe0f?\u20e3|[^A-Za-z]\ufe0f")
"""A digit on a key, or what is asked to be shown as a picture."""
_SIGNS = {"Sc", "Sk", "Sm", "So", "No"}
"""Unicode's categories of symbols, and of numbers that are no digits."""


class Synset(NamedTuple):
    """One meaning."""

    id: str
    """Its place in data.noun, as ImageNet names it: n04255586."""
    name: str
    """As nltk names it: its first word, n, and the number of that word's meaning; "sneaker.n.02"."""
    words: tuple[str, ...]
    gloss: str


class WordNet:
    """Nouns by their letters and digits alone, so that #brownbear finds brown_bear."""

    def __init__(self, files: dict[str, bytes]) -> None:
        """From the bytes of `FILES`. Raises NotOurs where they are no WordNet."""
        self.sha256 = hashlib.sha256(b"".join(files[name] for name in FILES)).hexdigest()
        self._data = files["data.noun"]
        self._senses: dict[str, tuple[int, ...]] = {}
        """The places of a word's synsets in `data.noun`, by the word as it is written there."""
        self._spelled: dict[str, list[str]] = {}
        """Words by their letters and digits: t-shirt and tshirt are one."""
        self._singulars: dict[str, tuple[str, ...]] = {}
        try:
            for line in _lines(files["index.noun"]):
                word, _, count, *rest = line.split()
                self._senses[word] = tuple(int(place) for place in rest[-int(count) :])
                self._spelled.setdefault(squeezed(word), []).append(word)
            for line in _lines(files["noun.exc"]):
                plural, *singulars = line.split()
                self._singulars[squeezed(plural)] = tuple(singulars)
            self.synset(self._senses["entity"][0])
        except (ValueError, KeyError, IndexError) as error:
            raise download.NotOurs(f"these are no files of WordNet ({error})") from None

    def senses(self, word: str) -> tuple[int, ...]:
        """The places of the synsets that a word names; none where it is no noun of WordNet.

        As nltk's `synsets(word, pos="n")`: those of the word as it is written, the most frequent first, then those of what it
        may be the plural of (shoes are a place to be in, and each is a shoe). Other spellings of the same letters come later.
        """
        return tuple(dict.fromkeys(place for spelled in self._spellings(word) for place in self._senses[spelled]))

    def is_parted(self, words: str) -> bool:
        """Whether several words, or what they may be the plural of, are a noun that is written in parts: ice_cream, t-shirt."""
        return any("_" in spelled or "-" in spelled for spelled in self._spellings(words))

    def _spellings(self, word: str) -> Iterator[str]:
        """The nouns that a word names, and those of what it may be the plural of; of each the one as it is written first."""
        form = _spelling(word)
        for own in (form, *self._singulars_of(form)):
            yield from sorted(self._spelled.get(squeezed(own), ()), key=own.__ne__)

    def _singulars_of(self, form: str) -> Sequence[str]:
        """Of an irregular plural what WordNet says, else what is left without a plural's ending.

        As WordNet's own morph.c, and unlike nltk, never of two letters or of what ends in ss: #boss is no Bos.
        """
        form = form.strip("_-'./")
        if irregular := self._singulars.get(squeezed(form)):
            return irregular
        if len(squeezed(form)) <= 2 or form.endswith("ss"):
            return ()
        return [form[: -len(end)] + was for end, was in _PLURALS if form.endswith(end)]

    @lru_cache(maxsize=100_000)  # noqa: B019 - one WordNet lives as long as the process
    def synset(self, place: int) -> Synset:
        """The synset at a place of `data.noun`."""
        line = self._data[place : self._data.index(b"\n", place)].decode()
        facts, _, gloss = line.partition(" | ")
        fields = facts.split()
        if int(fields[0]) != place:
            raise ValueError(f"there is no synset at {place}")
        words = tuple(fields[4 : 4 + 2 * int(fields[3], 16) : 2])
        number = self._senses[words[0].lower()].index(place) + 1
        return Synset(f"n{place:08d}", f"{words[0].lower()}.n.{number:02d}", words, gloss.strip())


def squeezed(word: str) -> str:
    """A word's letters and digits, in lower case and without accents."""
    plain = _plain(word)
    return plain if plain.isalnum() else "".join(c for c in plain if c.isalnum())


def _spelling(word: str) -> str:
    """As `index.noun` spells words: in lower case, without accents, with underscores for blanks."""
    plain = "_".join(_plain(word).split())
    return "".join(c for c in plain if c.isalnum() or c in "_-'./").strip("_")


def _plain(word: str) -> str:
    """In lower case, accents apart from their letters, without what only looks like letters: emoji, signs, fractions."""
    if _BARE.fullmatch(word):
        return word.casefold()
    kept = [c for c in _EMOJI.sub("", word) if unicodedata.category(c) not in _SIGNS]
    return unicodedata.normalize("NFKD", "".join(kept)).casefold()


def _lines(data: bytes) -> list[str]:
    """Without the licence, whose lines begin with blanks."""
    return [line for line in data.decode().splitlines() if line and line[0] != " "]


@lru_cache(maxsize=1)
def open_wordnet() -> WordNet:
    """WordNet from the first of its sources that is whole. Raises DataError D-20, which names every way to get it."""
    cache = cache_folder() / "wordnet"
    ways: list[tuple[str, Callable[[], WordNet]]] = [
        (f"index.noun, data.noun and noun.exc in {cache}", lambda: read_wordnet(cache)),
        (f"the Debian package {_DEBIAN_PACKAGE}, installed (in {DEBIAN_FOLDER})", lambda: read_wordnet(DEBIAN_FOLDER)),
        ("nltk's data (python -m nltk.downloader wordnet)", _of_nltk),
        (f"a download of {_URL}", lambda: _of_princeton(cache)),
        (
            f"apt-get download {_DEBIAN_PACKAGE}, unpacked into the cache",
            lambda: read_wordnet(download.debian_package(_DEBIAN_PACKAGE, DEBIAN_FOLDER, cache), _IN_DEBIAN),
        ),
    ]
    near = len(ways) if download.allowed() else _WITHOUT_NETWORK
    tried = []
    for way, get in ways[:near]:
        try:
            return get()
        except (OSError, EOFError, KeyError, zipfile.BadZipFile, tarfile.TarError, download.NotOurs) as error:
            tried.append(f"{way}: {download.why(error)}")
    tried += [f"{way}: not asked" for way, _ in ways[near:]]
    raise download.none_answered("wordnet", tried)


def read_wordnet(folder: Path, sha256: dict[str, str] | None = None) -> WordNet:
    """The WordNet in a folder. Raises OSError, or NotOurs where its files are not those of these hashes, or no WordNet."""
    files = {name: (folder / name).read_bytes() for name in FILES}
    for name, wanted in (sha256 or {}).items():
        if hashlib.sha256(files[name]).hexdigest() != wanted:
            raise download.NotOurs(f"{name} has another SHA-256 than the published file")
    return WordNet(files)


def _of_nltk() -> WordNet:
    """As nltk's downloader leaves it, as a folder or an archive."""
    named = [Path(place) for place in os.environ.get("NLTK_DATA", "").split(os.pathsep) if place]
    prefix = Path(sys.prefix)
    usual = [place / "nltk_data" for place in (Path.home(), prefix, prefix / "share", prefix / "lib", *_SHARED)]
    for corpora in (place / "corpora" for place in (*named, *usual)):
        if (folder := corpora / "wordnet").is_dir():
            return read_wordnet(folder)
        if (archive := corpora / "wordnet.zip").is_file():
            with zipfile.ZipFile(archive) as opened:
                return WordNet({name: opened.read(f"wordnet/{name}") for name in FILES})
    raise FileNotFoundError(2, f"no corpora/wordnet in {', '.join(map(str, (*named, *usual)))}")


def _of_princeton(cache: Path) -> WordNet:
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=cache) as folder:
        archive = download.file(_URL, _SHA256, Path(folder, Path(_URL).name))
        with tarfile.open(archive) as tar:
            for name in FILES:
                member = tar.extractfile(f"WordNet-3.0/dict/{name}")
                write_whole(cache / name, member.read() if member else b"")
    return read_wordnet(cache)
