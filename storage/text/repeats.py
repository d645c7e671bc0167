"""Whether text on the picture repeats what is said, as burnt-in subtitles do."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import SequenceMatcher

# A line repeats the transcript if it is a phrase, of three words or more, and this share of its words is said in order.
MIN_REPEATED_WORDS, REPEATED_SHARE = 3, 0.8
_MARKS = ".,;:!?\"'()[]-\u2013\u2014\u2026\u201c\u201d\u2018\u2019\u00ab\u00bb"


def repeats(shown: str, said: Iterable[str]) -> bool:
    """Return whether a line on the picture repeats the transcript around it. said: texts, in order of time."""
    words = _bare(shown)
    if len(words) < MIN_REPEATED_WORDS:
        return False
    spoken = [word for text in said for word in _bare(text)]
    alike = SequenceMatcher(None, words, spoken, autojunk=False).get_matching_blocks()
    return sum(block.size for block in alike) >= REPEATED_SHARE * len(words)


def _bare(text: str) -> list[str]:
    """Return the words of a text in lower case, without the marks around them."""
    return [word for word in (each.strip(_MARKS) for each in text.casefold().split()) if word]
