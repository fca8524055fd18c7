"""A WordNet of a few nouns, in the form of wndb(5WN)."""

from collections.abc import Sequence
from pathlib import Path

SYNSETS: list[tuple[Sequence[str], str]] = [
    (["entity"], "that which is"),
    (["gym_shoe", "sneaker", "tennis_shoe"], "a canvas shoe"),
    (["fink", "sneaker"], "someone who tells"),
    (["brown_bear", "Ursus_arctos"], "a large bear"),
    (["mouse"], "a small rodent"),
    (["mouse", "computer_mouse"], "a device that is moved"),
    (["cafe"], "a small restaurant"),
    (["T-shirt", "jersey", "tee_shirt"], "a close-fitting pullover"),
    (["boot"], "footwear that covers the leg"),
    (["box"], "a container"),
    *[(["head"], f"meaning {k}") for k in range(33)],
    (["place", "shoes"], "a situation"),
    (["shoe"], "footwear without a leg"),
    (["man"], "an adult"),
    (["work_force", "men"], "workers"),
    (["boss"], "who gives orders"),
    (["Bos"], "a genus of cattle"),
    (["ballgame"], "a state of things"),
    (["ball_game", "ballgame"], "a game with a ball"),
    (["computerized_tomography", "CAT"], "a picture of the inside"),
    (["cat"], "a feline"),
    (["dog"], "a canine"),
    (["ampere", "amp", "A"], "a unit of current"),
    (["angstrom", "A"], "a unit of length"),
    (["bromine", "Br"], "an element"),
    (["ten", "10"], "a number"),
    (["web", "WWW"], "sites"),
    (["hypertext_transfer_protocol", "HTTP", "https"], "a protocol"),
    (["toilet", "john"], "a room"),
    (["deep-freeze"], "a freezer of one make"),
    (["deep_freeze"], "storage in the cold"),
]
"""Words of each synset and its gloss; the earlier of two with the same word is the more frequent."""
RARE = {("cat", "a picture of the inside")}
"""But these meanings of a word come last, wherever they lie in the file."""
LICENCE = "  1 This is no WordNet.  \n  2 It has its form.  \n"


def write_wordnet(folder: Path) -> Path:
    """The three files of nouns."""
    folder.mkdir(parents=True)
    data, places, glosses = LICENCE, {}, {}
    for words, gloss in SYNSETS:
        places[len(data)] = [word.lower() for word in words]
        glosses[len(data)] = gloss
        told = " ".join(f"{word} 0" for word in words)
        data += f"{len(data):08d} 06 n {len(words):02x} {told} 000 | {gloss}  \n"
    (folder / "data.noun").write_text(data)
    index = {word: [p for p, words in places.items() if word in words] for words in places.values() for word in words}
    index = {word: sorted(at, key=lambda p: (word, glosses[p]) in RARE) for word, at in index.items()}
    lines = [f"{w} n {len(at)} 0 {len(at)} 0 {' '.join(f'{p:08d}' for p in at)}  \n" for w, at in sorted(index.items())]
    (folder / "index.noun").write_text(LICENCE + "".join(lines))
    (folder / "noun.exc").write_text("mice mouse\n")
    return folder
