"""Detection of hallucinated text: Whisper writes fluent words over music and silence, and repeats itself."""

from __future__ import annotations

import itertools
import math
import re
import unicodedata
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

# Whisper's own thresholds for a silent window and a failed text (Radford et al. 2022, arXiv
# 2212.04356, section 4.5).
MAX_NO_SPEECH = 0.6
MIN_LOGPROB = -1.0
MAX_COMPRESSION = 2.4
# A loop: a phrase of up to LOOP_UNITS words (letters in scripts without spaces), repeated at least LOOP_TIMES in a row,
# that makes up at least half of the text.
LOOP_UNITS, LOOP_TIMES, LOOP_SHARE = 10, 4, 0.5
SAME_TEXTS = 3  # equal text in this many consecutive segments is a loop, too; the first is kept
# People say 5 to 8 syllables a second, in every language (Pellegrino, Coupé and Marsico 2011, Language 87, 539), of
# some 3 letters each: 15 to 24 letters. Twice as many is not speech, and a tenth is a word stretched over music.
MAX_LETTERS_PER_S, MIN_LETTERS_PER_S = 48.0, 1.5
SLOW_FROM_S = 5.0  # a shorter segment may be a single word
LONG_FROM_LETTERS = 24  # some eight tokens; Whisper's times are rounded: shorter texts may get no time at all
VOICED_SHARE = 0.1  # a segment with less voice is text over silence

# What Whisper is known to write over sound without speech: a "bag of hallucinations" (Barański et al. 2025, arXiv
# 2501.11378) in several languages. People say most of it as well, so it counts unless a window contains nothing else.
STOCK = frozenset(
    {
        *("thank you", "thank you very much", "thank you so much", "thanks", "thank you for watching", "you", "bye"),
        *("thanks for watching", "thank you for your attention", "please subscribe", "like and subscribe", "bye bye"),
        *("okay", "oh", "so", "hmm", "mm", "the end", "i'm sorry", "see you next time", "see you in the next video"),
        *("vielen dank", "danke", "vielen dank für die aufmerksamkeit", "bis zum nächsten mal", "tschüss"),
        *("merci", "merci d'avoir regardé", "merci d'avoir regardé cette vidéo", "gracias", "gracias por ver el video"),
        *("obrigado", "obrigada", "grazie", "grazie per la visione", "dank u", "dank je wel", "teşekkürler"),
        *("izlediğiniz için teşekkür ederim", "спасибо", "спасибо за просмотр", "продолжение следует", "dziękuję"),
        *("ご視聴ありがとうございました", "ご視聴ありがとうございます", "ありがとうございました", "おやすみなさい"),
        *("今までご視聴ありがとうございました", "最後までご視聴ありがとうございました"),
        *(
            "谢谢",
            "謝謝",
            "谢谢大家",
            "謝謝大家",
            "谢谢观看",
            "謝謝觀看",
            "谢谢收看",
            "감사합니다",
            "시청해주셔서 감사합니다",
        ),
    }
)
LONGEST_STOCK = max(len(text.split()) for text in STOCK)  # in words
# A line that credits a maker of subtitles is of the training data; nobody says it.
CREDIT = re.compile(
    r"amara\.org|^(subtitles|captions|transcription|untertitel\w*|sous-titr\w*|sottotitoli|subtítulos|legendas?|napisy|"
    r"ondertitel\w*|altyaz\u0131|субтитры)\s"
    r"(\w+\s)?(by|von|des|der|im auftrag|par|por|pela|di|door|m\.k|сделал|создавал)\b|"
    r"^(字幕|中文字幕)\s?(by|由|:|製作|志愿者|志願者|提供)",
    re.IGNORECASE,
)
# Text that describes a sound: [Music], (applause), *laughs*, ♪ la la ♪.
DESCRIPTION = re.compile(r"\[[^\]]*\]|\([^)]*\)|\*[^*]*\*|♪[^♪]*♪?")
# Scripts by the first word of Unicode's names, of the languages that Whisper writes in others than Latin.
_SCRIPTS = {
    "ARABIC": "ar fa ur ps sd",
    "CYRILLIC": "ru uk be bg mk sr kk tg tt ba mn uz az bs hr",
    "CJK": "zh yue ja",
    "HIRAGANA": "ja",
    "KATAKANA": "ja",
    "KATAKANA-HIRAGANA": "ja",
    "HANGUL": "ko",
    "GREEK": "el",
    "HEBREW": "he yi",
    "ARMENIAN": "hy",
    "GEORGIAN": "ka",
    "DEVANAGARI": "hi mr ne sa",
    "BENGALI": "bn as",
    "TAMIL": "ta",
    "TELUGU": "te",
    "KANNADA": "kn",
    "MALAYALAM": "ml",
    "GUJARATI": "gu",
    "GURMUKHI": "pa",
    "SINHALA": "si",
    "THAI": "th",
    "LAO": "lo",
    "KHMER": "km",
    "MYANMAR": "my",
    "TIBETAN": "bo",
    "ETHIOPIC": "am",
}
SCRIPTS = {script: frozenset(languages.split()) for script, languages in _SCRIPTS.items()}

Flaw = Literal[
    "",
    "empty",
    "unvoiced",
    "no speech",
    "compressible",
    "loop",
    "too fast",
    "too slow",
    "improbable",
    "stock",
    "credit",
    "script",
]


@dataclass(frozen=True, slots=True)
class RawSegment:
    """A segment as Whisper returns it; times from the beginning of the input.

    no_speech_prob: of no speech in the window. avg_logprob: mean log probability of the tokens around it.
    compression_ratio: bytes of the window's text over bytes when compressed by zlib. words: (start_s, word) of each, in
    order; empty where unknown.
    """

    start_s: float
    end_s: float
    text: str
    no_speech_prob: float
    avg_logprob: float
    compression_ratio: float
    words: tuple[tuple[float, str], ...] = ()


def flaw(raw: RawSegment, voiced_s: float) -> Flaw:
    """Return why a segment is rejected, "" if it is accepted.

    voiced_s: seconds of voice in it.
    """
    text = cleaned(raw.text)
    if not any(character.isalnum() for character in DESCRIPTION.sub("", text)):
        return "empty"
    if CREDIT.search(text):
        return "credit"
    if voiced_s <= VOICED_SHARE * (raw.end_s - raw.start_s):
        return "unvoiced"
    if raw.no_speech_prob > MAX_NO_SPEECH and raw.avg_logprob < MIN_LOGPROB:
        return "no speech"
    if raw.compression_ratio > MAX_COMPRESSION:
        return "compressible"
    if is_loop(text):
        return "loop"
    return _pace(text, raw.end_s - raw.start_s, voiced_s)


def improbable(window: Sequence[RawSegment]) -> list[bool]:
    """Return which segments of a window have failed by Whisper's threshold, although there may be speech.

    None has if their text is short: the mean over its few tokens says little.
    """
    failed = [raw.avg_logprob < MIN_LOGPROB for raw in window]
    letters = sum(
        count_letters(cleaned(raw.text)) for raw, has_failed in zip(window, failed, strict=True) if has_failed
    )
    return failed if letters >= LONG_FROM_LETTERS else [False] * len(window)


def is_stock(texts: Sequence[str]) -> bool:
    """Return whether the texts of a window are nothing but STOCK: there is no sign of anybody speaking.

    Descriptions of sounds and credits are no sign of it either.
    """
    bare = [DESCRIPTION.sub("", text).casefold() for text in texts if not CREDIT.search(text)]
    said = [" ".join("".join(c if c.isalnum() or c in "' " else " " for c in text).split()) for text in bare]
    return any(said) and all(map(_is_of_stock, said))


def _is_of_stock(text: str) -> bool:
    """Return whether a text is a row of STOCK, as "mm hmm mm hmm". An empty one is."""
    words, ends = text.split(), {0}
    for end in range(1, len(words) + 1):
        starts = range(max(0, end - LONGEST_STOCK), end)
        if any(start in ends and " ".join(words[start:end]) in STOCK for start in starts):
            ends.add(end)
    return len(words) in ends


def is_foreign(text: str, language: str) -> bool:
    """Return whether most letters are of a script in which the language is not written.

    Latin letters are allowed everywhere: names, brands and code. language: BCP 47 tag.
    """
    names = [unicodedata.name(c, "").partition(" ")[0] for c in text if c.isalpha()]
    foreign = sum(language not in SCRIPTS[name] for name in names if name in SCRIPTS)
    return foreign > len(names) / 2


def _pace(text: str, length_s: float, voiced_s: float) -> Flaw:
    letters = count_letters(text)
    if letters >= LONG_FROM_LETTERS and letters > MAX_LETTERS_PER_S * length_s:
        return "too fast"
    if voiced_s >= SLOW_FROM_S and letters < MIN_LETTERS_PER_S * voiced_s:
        return "too slow"
    return ""


def confidence(raw: RawSegment) -> float:
    """Return the confidence of a segment, 0 to 1.

    It is the geometric mean of the probabilities of the tokens, exp(avg_logprob), times the probability that there is
    speech at all, 1 - no_speech_prob: both are Whisper's values for the whole window.
    """
    likely = math.exp(min(raw.avg_logprob, 0.0)) * (1.0 - raw.no_speech_prob)
    return min(max(likely, 0.0), 1.0) if math.isfinite(likely) else 0.0


def cleaned(text: str) -> str:
    """Return a text on one line, without control characters and fragments of broken characters."""
    kept = (
        " " if c.isspace() else c for c in text if c.isspace() or (c != "\ufffd" and unicodedata.category(c) != "Cc")
    )
    return " ".join("".join(kept).split())


def is_loop(text: str) -> bool:
    """Return whether at least half of a text is one short phrase, repeated LOOP_TIMES or more in a row."""
    words = _letters(text).split()
    letters = [c for word in words for c in word]
    # In scripts without spaces a "word" is a sentence, and the units are letters.
    units = letters if len(letters) > 2 * LOOP_UNITS * len(words) or _is_dense(letters) else words
    for size in range(1, min(LOOP_UNITS, len(units) // LOOP_TIMES) + 1):
        same = [a == b for a, b in zip(units, units[size:], strict=False)]
        longest = max((sum(1 for _ in run) for equal, run in itertools.groupby(same) if equal), default=0)
        said = longest + size if longest else 0
        if said >= LOOP_TIMES * size and said >= LOOP_SHARE * len(units):
            return True
    return False


def repeated(texts: Sequence[str]) -> list[bool]:
    """Return for each text, in order of time, whether it only repeats the previous one.

    True from the second of SAME_TEXTS or more consecutive texts with the same letters.
    """
    again: list[bool] = []
    for _, group in itertools.groupby(_letters(text) for text in texts):
        size = sum(1 for _ in group)
        again += [False, *[size >= SAME_TEXTS] * (size - 1)]
    return again


def count_letters(text: str) -> int:
    """Return the number of letters and digits; a character that is a syllable or more counts as three."""
    return sum(3 if _is_syllable(c) else 1 for c in text if c.isalnum())


def _letters(text: str) -> str:
    """Return a text in lower case, with anything but letters, digits and marks replaced by spaces."""
    return "".join(c if unicodedata.category(c)[0] in "LNM" else " " for c in text.casefold()).strip()


def _is_dense(letters: Sequence[str]) -> bool:
    return sum(map(_is_syllable, letters)) > len(letters) / 2


def _is_syllable(character: str) -> bool:
    """Return whether it is an ideograph, kana or hangul, by its block in Unicode."""
    return "\u3040" <= character <= "\u30ff" or "\u3400" <= character <= "\u9fff" or "\uac00" <= character <= "\ud7a3"
