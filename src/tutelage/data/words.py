"""The words in what people write: tags in a list, hashtags and nouns of a caption. Markup, addresses and names are no words."""

import html
import re
import unicodedata

from tutelage.data.wordnet import open_wordnet

_MARKUP = re.compile(r"<(?:script|style)\b[^<>]*>[^<]*|</?[a-z!?][^<>]*>", re.IGNORECASE)
"""A tag, or a script with its text. Nothing is read twice, for none goes beyond the next `<`.

NOTE html.parser would read more of HTML, but before Python 3.13.6 it takes the square of the time where tags are not closed.
"""
_ENTITY = re.compile(r"&(?:#x?[0-9a-f]{1,100};?|\w{1,31};)", re.IGNORECASE)
"""NOTE of longer numbers html.unescape makes a ValueError."""
_ADDRESS = re.compile(
    r"(?:https?|ftp)://[^\s,;|]*|\bwww\.[^\s,;|]*|(?<![\w.+#-])[\w.+-]+@[\w.-]+|[@＠][\w.-]+", re.IGNORECASE
)
"""Of a page, of a mailbox, or of a person: @name."""
_UNSEEN = re.compile(
    "[\u00ad\u0600-\u0605\u061c\u06dd\u070f\u180e\u200b-\u200f\u202a-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]"
    "|[\U000e0001-\U000e007f]"
)
"""Characters of format, as blanks of no width and soft hyphens: a reader sees nothing there."""
_NOTHING = {"nan", "none", "null"}
"""What pandas and others write where nothing is known."""
_WORD = re.compile(r"[^\W_]+(?:['’][^\W_]+)*")
"""A word with its apostrophes: don't, dog's."""


def plain(text: str) -> str:
    """What a reader sees of a text: no markup, entities as the characters they stand for; and no addresses and @names.

    Letters and their accents are one character where there is one (NFC).
    """
    seen = _ENTITY.sub(lambda entity: html.unescape(entity[0]), _MARKUP.sub(" ", text))
    if not seen.isascii():
        seen = unicodedata.normalize("NFC", _UNSEEN.sub("", seen))
    return _ADDRESS.sub(" ", seen)


def split(text: str) -> list[str]:
    """The tags in a text: between commas, semicolons, bars, ends of lines or number signs where it has any of the first four,
    else between number signs or blanks. A text that is nan, none or null has none.
    """
    text = plain(text).strip()
    if text.lower() in _NOTHING:
        return []
    parts = re.split(r"[,;|\n#＃]", text) if re.search(r"[,;|\n]", text) else re.split(r"[\s#＃]+", text)
    return [bare for part in parts if (bare := _bare(part))]


def in_list(text: str) -> list[str]:
    """The tag in an item of a list, blanks and commas and all, or those in one with several number signs."""
    return [bare for part in re.split(r"[#＃]", plain(text)) if (bare := _bare(part))]


def in_caption(text: str, nouns: bool) -> list[str]:
    """The hashtags of a text, and on demand its other words, of which two that are written as one noun of two count as one."""
    text = plain(text)
    hashtags = [found.lower() for found in re.findall(r"[#＃](\w+)", text)]
    return hashtags + (_other_words(text) if nouns else [])


def _other_words(text: str) -> list[str]:
    from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS

    wordnet, words, end = open_wordnet(), [], 0
    found = list(_WORD.finditer(re.sub(r"[#＃]\w+", ".", text)))
    for one, after in zip(found, (*found[1:], None), strict=False):
        if one.start() < end or _own(one) in ENGLISH_STOP_WORDS:
            continue
        word = _own(one)
        if after and _own(after) not in ENGLISH_STOP_WORDS and not one.string[one.end() : after.start()].strip(" -"):
            two = f"{word} {_own(after)}"
            word, end = (two, after.end()) if wordnet.is_parted(two) else (word, end)
        words += [word] if len(word) > 1 else []
    return words


def _own(word: re.Match[str]) -> str:
    """In lower case, without the s of what is its own."""
    return re.sub(r"['’]s$", "", word[0].lower())


def _bare(tag: str) -> str:
    """A tag without number signs and blanks around it, in lower case, with one blank between its words."""
    return " ".join(tag.split()).lstrip("#＃").strip().lower()
