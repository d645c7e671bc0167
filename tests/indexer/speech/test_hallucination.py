"""Which of Whisper's segments are dropped, and that real speech is kept."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from vfindex.indexer.speech.hallucination import (
    RawSegment,
    cleaned,
    confidence,
    count_letters,
    flaw,
    improbable,
    is_foreign,
    is_loop,
    is_stock,
    repeated,
)

SAID = RawSegment(
    2.0, 6.0, " My fellow Americans: ask not what your country can do for you.", 0.02, -0.2, compression_ratio=0.95
)


def test_plain_talk_has_no_flaw() -> None:
    assert flaw(SAID, voiced_s=4.0) == ""
    assert flaw(replace(SAID, no_speech_prob=0.99), 4.0) == ""  # the words are sure
    assert flaw(replace(SAID, avg_logprob=-1.5), 4.0) == ""  # there is speech
    assert flaw(replace(SAID, no_speech_prob=0.6, avg_logprob=-1.5), 4.0) == ""
    assert flaw(replace(SAID, compression_ratio=2.4), 4.0) == ""
    assert flaw(replace(SAID, text="Yes.", end_s=3.0), 0.5) == ""
    assert flaw(replace(SAID, text="Bananas", start_s=2.0, end_s=2.02), 0.02) == ""  # times are rounded
    assert flaw(replace(SAID, text="数百年来、この部屋は世界最大の部屋の一つです"), 4.0) == ""


@pytest.mark.parametrize(
    ("raw", "voiced_s", "why"),
    [
        (replace(SAID, text=" ... ♪ ♪ "), 4.0, "empty"),
        (replace(SAID, text=" [Music]"), 4.0, "empty"),
        (replace(SAID, text="(applause) *laughs*"), 4.0, "empty"),
        (replace(SAID, text="♪ la la la ♪"), 4.0, "empty"),
        (replace(SAID, text="Subtitles by the Amara.org community"), 4.0, "credit"),
        (replace(SAID, text="Untertitelung des ZDF, 2020"), 4.0, "credit"),
        (replace(SAID, text="Sous-titres réalisés par la communauté"), 4.0, "credit"),
        (replace(SAID, text="Субтитры сделал DimaTorzok"), 4.0, "credit"),
        (replace(SAID, text="字幕由志愿者提供"), 4.0, "credit"),
        (replace(SAID, text="\ufffd\ufffd\x00"), 4.0, "empty"),
        (SAID, 0.0, "unvoiced"),
        (SAID, 0.4, "unvoiced"),
        (replace(SAID, no_speech_prob=0.61, avg_logprob=-1.01), 4.0, "no speech"),
        (replace(SAID, compression_ratio=2.41), 4.0, "compressible"),
        (replace(SAID, text=" Thank you. Thank you. Thank you. Thank you."), 4.0, "loop"),
        (replace(SAID, end_s=3.0), 1.0, "too fast"),  # 51 letters in a second
        (replace(SAID, text=" Thank you.", end_s=30.0), 20.0, "too slow"),
        (replace(SAID, text="ご視聴ありがとう", end_s=30.0), 20.0, "too slow"),
    ],
)
def test_implausible_text(raw: RawSegment, voiced_s: float, why: str) -> None:
    assert flaw(raw, voiced_s) == why


@pytest.mark.parametrize("text", ["Subtitles are read first.", "We drew legends on the map.", "She [laughs] said so."])
def test_talk_about_subtitles_is_talk(text: str) -> None:
    assert flaw(replace(SAID, text=text), 4.0) == ""


def test_a_long_text_below_whisper_s_threshold_has_failed() -> None:
    unsure = replace(SAID, avg_logprob=-1.01)
    short = replace(unsure, text=" A banana.")
    assert improbable([unsure]) == [True]
    assert improbable([replace(SAID, avg_logprob=-1.0)]) == improbable([short]) == [False]
    assert improbable([]) == []
    assert improbable([short, SAID]) == [False, False]  # the sure text is not counted
    assert improbable([short, short, SAID, replace(short, text=" One more banana.")]) == [True, True, False, True]
    assert improbable([replace(unsure, text="病院のパスタを受け")]) == [True]


def test_stock_phrases_count_beside_others_alone() -> None:
    assert is_stock([" Thank you.", "Thank you!", "Thanks for watching."])
    assert is_stock(["ご視聴ありがとうございました。"]) and is_stock(["Merci d'avoir regardé."])
    assert is_stock(["Mm-hmm, mm-hmm."]) and is_stock(["今までご視聴ありがとうございました。"])
    assert not is_stock(["Thank you.", "Thank you, Mister President."])
    assert not is_stock([]) and not is_stock(["..."])
    assert is_stock(["[Music]", "Thank you.", "Untertitelung des ZDF, 2020", "♪ la la ♪"])
    assert not is_stock(["[Music]", "(applause)"]) and not is_stock(["Thank you.", "She [laughs] said so."])


@pytest.mark.parametrize(
    ("text", "language", "foreign"),
    [
        ("ストーリーの終わり", "en", True),
        ("ストーリーの終わり", "ja", False),
        ("今日は東京です", "ja", False),
        ("ありがとう世界", "zh", True),
        ("Это мир", "en", True),
        ("Это мир", "uk", False),
        ("Open the API of Windows", "ja", False),
        ("El Niño, übrigens", "de", False),
        ("the word мир means peace", "en", False),
        ("한국어", "ko", False),
        ("123 - 45", "th", False),
    ],
)
def test_letters_are_of_the_language(text: str, language: str, foreign: bool) -> None:
    assert is_foreign(text, language) == foreign


def test_a_slow_word_may_have_a_short_voice() -> None:
    drawn = replace(SAID, text="No!", end_s=32.0)
    assert flaw(drawn, voiced_s=4.9) == ""
    assert flaw(drawn, voiced_s=5.0) == "too slow"


@pytest.mark.parametrize(
    "text",
    [
        "no no no no",
        "I'm going to, I'm going to, I'm going to, I'm going to.",
        "And then we said: the end, THE END, the end - the end",
        "はいはいはいはい",
        "谢谢大家谢谢大家谢谢大家谢谢大家",
        "ha" * 30,
    ],
)
def test_loops(text: str) -> None:
    assert is_loop(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no no no",
        "Workers of the world, unite!",
        "a rose is a rose is a rose",
        "one two one two one two three four five six one two seven",
        "very very very very good reasons to think of this one as something that was really said",
        "我们去了公园 然后回家了 天气很好",
        "aaa bbb ccc ddd",
        "Donaudampfschifffahrtsgesellschaft",
    ],
)
def test_no_loops(text: str) -> None:
    assert not is_loop(text)


def test_the_same_text_again_and_again_is_kept_once() -> None:
    texts = ["Thank you.", "thank you", " Thank you!", "Okay.", "Okay", "Bye.", "...", "Bye."]
    assert repeated(texts) == [False, True, True, False, False, False, False, False]
    assert repeated([]) == []


def test_confidence_is_the_words_probability_times_that_of_speech() -> None:
    assert confidence(SAID) == pytest.approx(math.exp(-0.2) * 0.98)
    assert confidence(replace(SAID, avg_logprob=0.0, no_speech_prob=0.0)) == 1.0
    assert confidence(replace(SAID, avg_logprob=-math.inf)) == 0.0
    assert confidence(replace(SAID, avg_logprob=math.nan)) == 0.0
    assert confidence(replace(SAID, avg_logprob=0.5, no_speech_prob=-0.1)) == 1.0


def test_a_syllable_s_character_counts_as_three_letters() -> None:
    assert count_letters("A b, 7!") == 3
    assert count_letters("部屋 ハ 한") == 12
    assert count_letters("Ключ") == 4


def test_texts_become_one_clean_line() -> None:
    assert cleaned(" one\ntwo\t \x1b[31mthree\ufffd ") == "one two [31mthree"
    assert cleaned("\x00\ufffd") == ""
