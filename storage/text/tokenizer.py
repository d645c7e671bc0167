"""Tokenizer for all scripts: one form of text for the full text index and for queries."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from functools import cache

from vfindex.storage.text.folding import FOLD, folded

# Porter's stemmer lets "dogs" find "dog". Marks belong to their letter: without the last option the vowel signs of
# Hindi part its words.
INDEX_TOKENIZER = "porter unicode61 remove_diacritics 2 categories 'L* N* Co M*'"
# Scripts that are written without spaces between words, and Hangul, whose particles stick to their words (UAX 24).
_HIRAGANA = "\u3041-\u309f"
_KATAKANA = "\u30a0-\u30ff\u31f0-\u31ff"
_HAN = "\u3005-\u3007\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"
_HANGUL = "\uac00-\ud7af"
_SOUTH_EAST = "\u0e01-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
_UNSPACED = re.compile(f"[{_HIRAGANA}{_KATAKANA}{_HAN}{_HANGUL}{_SOUTH_EAST}]+")
_RUN = re.compile(
    f"(?P<whole>[{_KATAKANA}]+)|(?P<pairs>[{_HAN}]+|[{_HANGUL}]+)|(?P<triples>[{_SOUTH_EAST}]+)|(?P<little>[{_HIRAGANA}]+)"
)
# Of libraries that are folded as FOLD 0: vowel signs of Arabic and Hebrew, and the stretching stroke.
_OPTIONAL = re.compile("[\u0591-\u05c7\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06ed]")
_WORD = re.compile(r"\w+")
_BARE_WORD = re.compile(r"[^\W_]+")
# Where marks of letters stand in Unicode, combining half marks aside.
_WITH_MARKS = range(0x300, 0x3100)


def index_form(text: str, fold: int = FOLD) -> str:
    """Return a text as it is indexed, and as a question asks for it: folded, in words that a tokenizer can tell apart.

    Every character of a script without spaces is a word of its own, its marks with it, so that a word of such a script
    is found as a phrase of characters wherever it stands. fold: that of the library, see `folding.FOLD`.
    """
    if text.isascii():
        return text
    text = (
        folded(text) if fold else unicodedata.normalize("NFC", _OPTIONAL.sub("", unicodedata.normalize("NFKD", text)))
    )
    return _UNSPACED.sub(lambda run: " " + " ".join(_letters(run[0])) + " ", text)


def plain_words(text: str) -> list[str]:
    """Return the words of a text, their letters in the form of `folding.folded`."""
    form = index_form(text.lower())
    if not form.isascii():
        form = "".join(c for c in unicodedata.normalize("NFKD", form) if unicodedata.category(c) != "Mn")
    return _BARE_WORD.findall(form)


def words_of(text: str) -> Iterator[str]:
    """Yield the words of a text, each as it stands there; in scripts without spaces what comes nearest to words.

    Katakana as it stands, Han and Hangul as pairs of characters (Nie et al. 2000: as good as a dictionary), Thai, Lao,
    Myanmar and Khmer as triples; Hiragana, which mostly inflects, only in a text of nothing else.
    """
    if text.isascii():
        yield from _WORD.findall(text)
        return
    text = unicodedata.normalize("NFC", text)
    words = [word for part in _parts(text) for word in part]
    yield from words or _UNSPACED.findall(text)


def _parts(text: str) -> Iterator[list[str]]:
    """Yield the words of each stretch of one script."""
    start, word = 0, _word_with_marks()
    for run in _RUN.finditer(text):
        yield word.findall(text[start : run.start()])
        yield _grams(run)
        start = run.end()
    yield word.findall(text[start:])


@cache
def _word_with_marks() -> re.Pattern[str]:
    """Return what a word is: letters and digits, each with its marks, which `\\w` leaves out."""
    marks = "".join(chr(code) for code in _WITH_MARKS if unicodedata.category(chr(code)).startswith("M"))
    return re.compile(rf"\w[\w{marks}]*")


def _grams(run: re.Match[str]) -> list[str]:
    if run["whole"]:
        return [run[0]]
    length = 2 if run["pairs"] else 3 if run["triples"] else 0
    letters = _letters(run[0])
    return ["".join(letters[i : i + length]) for i in range(max(1, len(letters) - length + 1))] if length else []


def _letters(run: str) -> list[str]:
    """Return the characters of a run, each with its marks."""
    letters: list[str] = []
    for char in run:
        if letters and unicodedata.category(char).startswith("M"):
            letters[-1] += char
        else:
            letters.append(char)
    return letters
