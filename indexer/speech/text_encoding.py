"""Character encoding of a subtitle file: byte order mark, UTF-8, UTF-16, else the likeliest legacy encoding.

charset-normalizer decides only where none of the usual encodings fits. Measured on two sentences in each of 25 pairs of
language and encoding, it is wrong in 7 (Shift-JIS and EUC-JP as Korean or Thai, KOI8-R as Japanese, Latin-2 and
Windows-1252 and 1257 as their neighbours). With the language known, this module is wrong in none; without it, in
Hungarian only, and then it reports doubt.
"""

from __future__ import annotations

import codecs
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import islice, pairwise

SAMPLE_BYTES = 200_000  # of a file; the first subtitles suffice
JUDGED_CHARS = 2_000  # beyond ASCII, of each decoding that is tried: some 50 subtitles
CREDIBLE = 0.3  # share of letters that do not fit; right decodings of two sentences have at most 0.15, wrong ones 0.4
CLEAR = 0.1  # by which the best decoding must beat a different one

FEW_BYTES = 4  # beyond ASCII; fewer are not a word in an East Asian encoding
MOJIBAKE_SAMPLE = 200  # texts beyond ASCII that are examined

_MARKS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),  # before UTF-16, because it begins with UTF-16's mark
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_UTF8_SEQUENCE = re.compile(rb"[\xc2-\xdf][\x80-\xbf]|[\xe0-\xef][\x80-\xbf]{2}|[\xf0-\xf4][\x80-\xbf]{3}")
_BEYOND_ASCII = re.compile(rb"[\x80-\xff]")
_WORD = re.compile(r"[^\W\d_]+")
# Quotation marks, dashes, inverted marks, signs of paragraph, degree and currency; East Asian and Arabic marks.
_TYPOGRAPHY = frozenset(
    "\u2018\u2019\u201a\u201c\u201d\u201e\xab\xbb\u2039\u203a\u2026\u2013\u2014\xb7\xbf\xa1\xa7\xb0\xa9\xae\u20ac\xa3\u2116"
    "\u3000\u3001\u3002\u300a\u300b\u3008\u3009\u300c\u300d\u300e\u300f\u30fb\u30fc\uff01\uff08\uff09\uff0c\uff1a\uff1b\uff1f\uff5e"
    "\u060c\u061b\u061f\u05f3\u05f4\u200c\u200d\u200e\u200f\xa0\xad"
)

# Encoding: the letters beyond ASCII that its languages write most. Single scripts: some 70 % of a text's letters.
_LATIN = {
    "cp1252": "äöüßéèêëàâçîïôùûœæøåñáíóúãõÿ",
    "cp1250": "áéíóúýčďěňřšťůžąćęłńśźżőűöüäđăâîșțşţĺľôß",
    "iso8859_2": "áéíóúýčďěňřšťůžąćęłńśźżőűöüäđăâîşţĺľôß",
    "cp1254": "ıüşçöğâîû",
    "cp1257": "ėšųžįčūąęāēīōņļķģõäöüłńśźżćó",
    "cp1258": "ăâêôơưđéèàáíìóòúùýãõũạ",
}
_SCRIPT_LETTERS = {
    "cp1251": "оеаинтсрвлі",
    "koi8_r": "оеаинтсрвл",
    "koi8_u": "оеаинтсрвлі",
    "iso8859_5": "оеаинтсрвлі",
    "cp866": "оеаинтсрвл",
    "cp1253": "αοιετσνηυρςά",
    "iso8859_7": "αοιετσνηυρςά",
    "cp1255": "יוהלארתבשמ",
    "cp1256": "اليمونرتبةد",
    "cp874": "านรอกเงมยล่้ัีิ",
}
_FREQUENT_SHARE = 0.55  # of a text's letters; below it a script is read where there is none
_WIDE = ("cp949", "cp932", "gb18030", "big5", "euc_jp")
_BY_LANGUAGE = {
    **dict.fromkeys(("zh", "yue"), ("gb18030", "big5")),
    "ja": ("cp932", "euc_jp"),
    "ko": ("cp949",),
    **dict.fromkeys(("ru", "bg", "mk", "be", "kk", "mn"), ("cp1251", "koi8_r", "cp866", "iso8859_5")),
    "uk": ("cp1251", "koi8_u", "cp866", "iso8859_5"),
    "sr": ("cp1250", "cp1251", "iso8859_2", "iso8859_5"),
    "el": ("cp1253", "iso8859_7"),
    "he": ("cp1255",),
    **dict.fromkeys(("ar", "fa", "ur"), ("cp1256",)),
    "th": ("cp874",),
    "tr": ("cp1254",),
    "vi": ("cp1258",),
    **dict.fromkeys(("lt", "lv", "et"), ("cp1257",)),
    **dict.fromkeys(("cs", "sk", "pl", "hu", "sl", "hr", "bs", "ro", "sq"), ("cp1250", "iso8859_2")),
}
_USUAL = (*_LATIN, *_SCRIPT_LETTERS, *_WIDE)


@dataclass(frozen=True, slots=True)
class Decoded:
    """A text, its encoding, and why the encoding is in doubt, "" if it is certain."""

    text: str
    encoding: str
    doubt: str = ""


def decode_text(data: bytes, language: str = "") -> Decoded:
    """Return the text of a file in any encoding. language: the tag in its name, a hint among legacy encodings.

    In order: a byte order mark; UTF-16 if every other byte is zero; ISO-2022-JP by its escapes; UTF-8, even with some
    damaged bytes; else the legacy encoding whose letters fit best. Apart from decoding, the cost is bounded by
    SAMPLE_BYTES.
    """
    for mark, encoding in _MARKS:
        if data.startswith(mark):
            return _replaced(data[len(mark) :], encoding)
    head = data[:4096]
    if wide := _utf16_order(head):
        return _replaced(data, wide)
    if b"\x1b$B" in head or b"\x1b$@" in head:
        return _replaced(data, "iso2022_jp")
    try:
        return Decoded(data.decode("utf-8"), "utf-8")
    except UnicodeDecodeError:
        pass
    sample = data[:SAMPLE_BYTES]
    bare, sequences = _UTF8_SEQUENCE.subn(b"", sample)
    if sequences >= len(_BEYOND_ASCII.findall(bare)):
        return _replaced(data, "utf-8")
    encoding, doubt = _legacy(sample, language)
    found = _replaced(data, encoding)
    return Decoded(found.text, encoding, "; ".join(filter(None, [doubt, found.doubt])))


def is_mojibake(texts: Sequence[str]) -> bool:
    """Return whether texts show the marks of a wrong decoding that was saved ("cafÃ©"): two, or the only one."""
    from ftfy.badness import is_bad

    odd = [text[:500] for text in islice((text for text in texts if not text.isascii()), MOJIBAKE_SAMPLE)]
    hits = sum(map(is_bad, odd))
    return hits >= 2 or hits == len(odd) == 1


def _replaced(data: bytes, encoding: str) -> Decoded:
    text = data.decode(encoding, errors="replace")
    lost = text.count("\ufffd")
    words = f"{lost} characters are damaged" if lost > 1 else "one character is damaged"
    return Decoded(text, encoding, words if lost else "")


def _utf16_order(head: bytes) -> str:
    """Return the UTF-16 byte order of a text without a mark, from the zero bytes of its digits and line ends."""
    even, odd = head[::2].count(0), head[1::2].count(0)
    if even + odd < max(2, len(head) // 16) or min(even, odd) * 8 > max(even, odd):
        return ""
    return "utf-16-le" if odd > even else "utf-16-be"


def _legacy(sample: bytes, language: str) -> tuple[str, str]:
    """Return the likeliest legacy encoding and the doubt about it; those of the language are tried first."""
    hinted = _BY_LANGUAGE.get(language.split("-")[0], ("cp1252",) if language else ())
    lines = b"\n".join(line for line in sample.splitlines() if not line.isascii())
    usual = _USUAL if len(_BEYOND_ASCII.findall(lines)) >= FEW_BYTES else (*_LATIN, *_SCRIPT_LETTERS)
    for names in filter(None, (hinted, usual)):
        ranked = sorted((_misfit(lines, name), n, name) for n, name in enumerate(names))
        best, _, chosen = ranked[0]
        if best <= CREDIBLE:
            return chosen, _rival(lines, ranked)
    return _detected(lines, hinted[0] if hinted else "cp1252")


def _rival(lines: bytes, ranked: Sequence[tuple[float, int, str]]) -> str:
    """Return a doubt if another encoding fits as well and gives another text."""
    best, _, chosen = ranked[0]
    text = lines.decode(chosen, "replace")
    for misfit, _, name in ranked[1:]:
        if misfit > best + CLEAR:
            break
        if lines.decode(name, "replace") != text:
            return f"read as {chosen}, which may be wrong: {name} fits as well"
    return ""


def _detected(lines: bytes, fallback: str) -> tuple[str, str]:
    from charset_normalizer import from_bytes

    is_enough = len(_BEYOND_ASCII.findall(lines)) >= FEW_BYTES
    found = from_bytes(lines[: 4 * JUDGED_CHARS]).best() if is_enough else None
    encoding = found.encoding if found is not None else fallback
    return encoding, f"read as {encoding}, which may be wrong: no encoding fits well"


def _misfit(lines: bytes, encoding: str) -> float:
    """Return how badly a decoding fits, as a share of its characters beyond ASCII; 0 is a perfect fit.

    Counted are controls, symbols, unassigned codes, rare letters, words of two scripts, capitals inside words and words
    without one plain letter in Latin script.
    """
    text = lines[: 4 * JUDGED_CHARS].decode(encoding, "replace")
    beyond = [c for c in text if ord(c) > 127][:JUDGED_CHARS]
    if not beyond:
        return 0.0
    faults = sum(_fault(c, encoding) for c in beyond)
    letters = [c.lower() for c in beyond if c.isalpha()]
    if encoding in _SCRIPT_LETTERS and letters:
        share = sum(c in _SCRIPT_LETTERS[encoding] for c in letters) / len(letters)
        faults += len(letters) * 2 * max(0.0, _FREQUENT_SHARE - share)
    elif encoding in ("cp932", "euc_jp") and not any("\u3040" <= c <= "\u30ff" for c in beyond):
        faults += len(beyond) / 2  # text without kana is not Japanese
    faults += sum(_word_faults(word) for word in _WORD.findall(text[: 4 * JUDGED_CHARS]))
    return faults / len(beyond)


@cache
def _fault(char: str, encoding: str) -> float:
    category = unicodedata.category(char)
    if category in ("Cc", "Cn", "Co", "Cs") or char == "\ufffd":
        return 3.0
    if char in _TYPOGRAPHY:
        return 0.1
    if category[0] not in "LM":
        return 1.0
    if encoding in _LATIN:
        return 0.0 if char.lower() in _LATIN[encoding] else 0.7
    return _wide_fault(char, encoding) if encoding in _WIDE else 0.0


def _wide_fault(char: str, encoding: str) -> float:
    """Return how rare an East Asian character is: encodings order characters by frequency of use."""
    if "\uff61" <= char <= "\uffdc" or char < "\u2e80":
        return 1.0
    if "\u3040" <= char <= "\u30ff":
        return 0.0 if encoding in ("cp932", "euc_jp") else 1.0
    if encoding == "cp949":
        code = char.encode("cp949")
        return 0.0 if "\uac00" <= char <= "\ud7a3" and 0xB0 <= code[0] <= 0xC8 and code[1] >= 0xA1 else 1.0
    first, usual = {"gb18030": ("gb2312", 0xD7), "big5": ("big5", 0xC6)}.get(encoding, ("euc_jp", 0xCF))
    try:
        code = char.encode(first)
    except UnicodeEncodeError:
        return 1.0
    return 0.0 if code[0] <= usual else 0.4


def _word_faults(word: str) -> float:
    plain = sum(c.isascii() for c in word)
    if plain == len(word):
        return 0.0
    turns = sum(a.islower() and b.isupper() for a, b in pairwise(word))
    is_latin = [_is_latin(c) for c in word]
    if not all(is_latin):
        return turns + (len(word) - plain if any(is_latin) else 0)
    return turns + (len(word) if not plain and len(word) > 1 else 0)


@cache
def _is_latin(char: str) -> bool:
    return unicodedata.name(char, "").startswith("LATIN")
