"""Encodings of subtitle files: decoded correctly, or reported as doubtful."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfindex.indexer.speech.subtitles import read_sidecar
from vfindex.indexer.speech.text_encoding import decode_text, is_mojibake

SENTENCES = {
    "zh": "\u8001\u7684\u706f\u5854\u770b\u5b88\u4eba\u5728\u66b4\u98ce\u96e8\u4e2d\u5212\u8239\u51fa\u6d77\u3002",
    "zh-tw": "\u9ece\u660e\u6642\u5206\u5168\u6751\u4eba\u90fd\u5728\u78bc\u982d\u7b49\u5f85\u3002",
    "ja": "\u591c\u660e\u3051\u306b\u306f\u6751\u4e2d\u306e\u4eba"
    "\u304c\u685f\u6a4b\u3067\u5f85\u3063\u3066\u3044\u305f\u3002",
    "ko": "\uc0c8\ubcbd\uc5d0 \uc628 \ub9c8\uc744\uc774 \ubd80\ub450\uc5d0\uc11c \uae30\ub2e4\ub838\ub2e4.",
    "ru": "\u041d\u0430 \u0440\u0430\u0441\u0441\u0432\u0435\u0442\u0435 \u0432\u0441\u044f \u0434\u0435\u0440\u0435"
    "\u0432\u043d\u044f \u0436\u0434\u0430\u043b\u0430 \u043d\u0430 \u043f\u0440\u0438\u0447\u0430\u043b\u0435.",
    "el": "\u03a4\u03b7\u03bd \u03b1\u03c5\u03b3\u03ae \u03cc\u03bb\u03bf \u03c4\u03bf \u03c7\u03c9\u03c1\u03b9\u03cc"
    " \u03c0\u03b5\u03c1\u03af\u03bc\u03b5\u03bd\u03b5 \u03c3\u03c4"
    "\u03b7\u03bd \u03c0\u03c1\u03bf\u03b2\u03bb\u03ae\u03c4\u03b1.",
    "pl": "O \u015bwicie ca\u0142a wie\u015b czeka\u0142a "
    "na pomo\u015bcie, \u015blad \u017ad\u017ab\u0142a \u0105\u0119.",
    "cs": "Za \u00fasvitu \u010dekala na molu cel\u00e1 "
    "vesnice a p\u0159\u00edli\u0161 \u017elu\u0165ou\u010dk\u00fd k\u016f\u0148.",
    "hu": "Hajnalban az eg\u00e9sz falu a m\u00f3l\u00f3n v\u00e1rt, \u0151r\u00fclt f\u0171szer.",
    "tr": "\u015eafakta b\u00fct\u00fcn k\u00f6y iskelede bekliyordu, \u0131\u015f\u0131k ya\u011fd\u0131.",
    "he": "\u05e2\u05dd \u05e9\u05d7\u05e8 \u05db\u05dc \u05d4\u05db\u05e4\u05e8 \u05d7\u05d9\u05db\u05d4.",
    "ar": "\u0643\u0627\u0646\u062a \u0627\u0644\u0642\u0631\u064a\u0629"
    " \u0643\u0644\u0647\u0627 \u062a\u0646\u062a\u0638\u0631.",
    "fr": "\u00c0 l\u2019aube tout le village attendait sur la jet\u00e9e, d\u00e9\u00e7u.",
}
LEGACY = [
    *(("zh", "gb18030"), ("zh-tw", "big5"), ("ja", "shift_jis"), ("ja", "euc_jp"), ("ja", "iso2022_jp")),
    *(("ko", "euc_kr"), ("ru", "cp1251"), ("ru", "koi8_r"), ("ru", "iso8859_5"), ("ru", "cp866")),
    *(("el", "cp1253"), ("el", "iso8859_7"), ("pl", "cp1250"), ("pl", "iso8859_2"), ("cs", "cp1250")),
    *(("cs", "iso8859_2"), ("hu", "cp1250"), ("tr", "cp1254"), ("he", "cp1255"), ("ar", "cp1256"), ("fr", "cp1252")),
]


def file_of(sentence: str) -> str:
    return f"1\n00:00:01,000 --> 00:00:02,000\n{sentence}\n"


@pytest.mark.parametrize(("language", "encoding"), LEGACY)
def test_a_legacy_encoding_reads_as_written_or_in_doubt(language: str, encoding: str) -> None:
    text = file_of(SENTENCES[language])
    data = text.encode(encoding)
    assert decode_text(data, language).text == text, "with the language of the name"
    guessed = decode_text(data)
    assert guessed.text == text or guessed.doubt, "never silently otherwise"
    if language not in ("hu", "cs", "tr"):
        assert guessed.text == text


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-16", "utf-32", "utf-8-sig"])
@pytest.mark.parametrize("language", ["fr", "zh", "ru"])
def test_unicode_with_and_without_a_mark(language: str, encoding: str) -> None:
    text = file_of(SENTENCES[language])
    found = decode_text(text.encode(encoding))
    assert (found.text, found.doubt) == (text, "")


@pytest.mark.parametrize("language", sorted(SENTENCES))
def test_a_damaged_byte_is_still_read_as_utf_8(language: str) -> None:
    data = file_of(SENTENCES[language]).encode()
    found = decode_text(data + b"caf\xe9\n")
    assert (found.encoding, found.doubt) == ("utf-8", "one character is damaged")
    assert SENTENCES[language] in found.text


def test_short_texts() -> None:
    assert decode_text("d\u00e9j\u00e0 vu".encode("cp1252")).text == "d\u00e9j\u00e0 vu"
    assert decode_text("\u4f60\u597d\u5417".encode("gb18030"), "zh").text == "\u4f60\u597d\u5417"
    assert decode_text(b"").text == ""


def test_mojibake_is_reported(tmp_path: Path) -> None:
    garbled = "Le caf\u00e9 \u00e9tait ferm\u00e9".encode().decode("cp1252")
    assert is_mojibake([garbled, garbled + " \u00c3\u00a9"])
    assert not is_mojibake(list(SENTENCES.values()))
    path = tmp_path / "a.srt"
    path.write_text(file_of(garbled), encoding="utf-8")
    assert [code for code, _ in read_sidecar(os.fsencode(path)).oddities] == ["mojibake"]
