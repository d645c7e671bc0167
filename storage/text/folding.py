"""Folding: one form for letters that readers take for the same (case, accents, widths, ligatures).

Full text search folds documents and queries; a quoted phrase is compared in this form, too.
"""
# ruff: noqa: RUF001  letters of other scripts are the matter of this file

from __future__ import annotations

import re
import unicodedata

# Kept in every library's setting `fold`; a library of a lower one is indexed again by its next writer. To be raised
# whenever `folded`, or `tokenizer.index_form`, gives another text for any input. 0: libraries from before the setting.
FOLD = 1
FOLD_KEY = "fold"
# Latin letters that Unicode does not decompose, and what they are searched as: those of Lucene's ASCIIFoldingFilter
# that are letters of a living orthography.
_LETTERS = {
    **{"ß": "ss", "æ": "ae", "œ": "oe", "ð": "d", "þ": "th", "ĳ": "ij", "ƕ": "hv", "ȣ": "ou"},
    **{"ø": "o", "đ": "d", "ħ": "h", "ı": "i", "ȷ": "j", "ł": "l", "ŋ": "n", "ŧ": "t", "ƀ": "b", "ƃ": "b", "ƈ": "c"},
    **{"ƌ": "d", "ƒ": "f", "ƙ": "k", "ƚ": "l", "ƞ": "n", "ƥ": "p", "ƭ": "t", "ƴ": "y", "ƶ": "z", "ǥ": "g", "ȼ": "c"},
    **{"ȥ": "z", "ɇ": "e", "ɉ": "j", "ɋ": "q", "ɍ": "r", "ɏ": "y", "ɑ": "a", "ɓ": "b", "ɖ": "d", "ɗ": "d", "ɠ": "g"},
    **{"ɡ": "g", "ɦ": "h", "ɨ": "i", "ɫ": "l", "ɲ": "n", "ɵ": "o", "ʈ": "t", "ʉ": "u", "ʋ": "v", "ⱥ": "a", "ⱦ": "t"},
    # Apostrophes that are letters to Unicode, as in Hawaiian and Ukrainian: most people type the plain one.
    **{"ʹ": "'", "ʻ": "'", "ʼ": "'", "ʽ": "'", "ʾ": "'", "ʿ": "'", "ˈ": "'"},
}
_TABLE = str.maketrans(_LETTERS)
# Marks of Latin, Greek and Cyrillic letters. Those of other scripts stand in other blocks: vowel signs and dakuten are
# letters and stay, the optional vowels of Arabic and Hebrew are `_OPTIONAL`.
_MARKS = "\u0300-\u036f\u0483-\u0487\u1ab0-\u1aff\u1dc0-\u1dff\u20d0-\u20ff\ufe20-\ufe2f"
# Letters of Cyrillic alphabets of their own, which Unicode's collation, too, sorts apart from their base: й ў ї ѓ ќ.
_CYRILLIC = "[ИиУу]\u0306|[Іі]\u0308|[ГгКк]\u0301"
_ACCENT = re.compile(f"({_CYRILLIC})|[{_MARKS}]")
# Vowel signs of Arabic and Hebrew, which most texts leave out, and the stretching stroke; not the maqaf, a hyphen.
_OPTIONAL = (
    "\u0591-\u05bd\u05bf\u05c1\u05c2\u05c4\u05c5\u05c7"
    "\u0610-\u061a\u0640\u064b-\u065f\u0670\u06d6-\u06dc\u06df-\u06e4\u06e7\u06e8\u06ea-\u06ed"
)
# Characters without a width or a meaning of their own, as in Unicode's NFKC_Casefold: soft hyphens, joiners, marks of
# direction, variation selectors. Not U+200B, which parts words.
_IGNORED = "\u00ad\u061c\u180b-\u180f\u200c-\u200f\u202a-\u202e\u2060-\u206f\ufe00-\ufe0f\ufeff\U000e0100-\U000e01ef"
_DROPPED = re.compile(f"[{_OPTIONAL}{_IGNORED}]")
# Of these, what no model was trained on; joiners shape letters and emoji.
_INVISIBLE = re.compile("[\u00ad\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff]")
_PLAIN = re.compile(r"[\w\uff01-\uff5e\uffe0-\uffe6]+")


def folded(text: str) -> str:
    """Return a text in which letters that are the same to a reader are the same: compatibility forms and case (NFKC,
    casefold), accents of Latin, Greek and Cyrillic, optional vowel signs, and the letters of a stated table.

    Folding it again changes nothing. What is displayed or stored is never this.
    """
    if text.isascii():
        return text.lower()
    bare = _ACCENT.sub(r"\1", unicodedata.normalize("NFKD", _DROPPED.sub("", text)))
    return unicodedata.normalize("NFC", _DROPPED.sub("", bare).casefold().translate(_TABLE))


def fold_of(stored: str | None) -> int:
    """Return the fold that the setting of a library tells; 0 where it tells none."""
    return int(stored) if isinstance(stored, str) and stored.isdecimal() else 0


def readable_form(text: str) -> str:
    """Return a text as models read it: words in their plain form (NFKC, as full-width letters and ligatures are not),
    without invisible characters.

    Case and accents stay, for they mean something to models that tell them apart; so do other signs, such as an
    ellipsis, whose vectors are stored in libraries.
    """
    if text.isascii():
        return text
    visible = unicodedata.normalize("NFC", _INVISIBLE.sub("", text))
    return _PLAIN.sub(lambda run: unicodedata.normalize("NFKC", run[0]), visible)
