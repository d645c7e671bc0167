"""Cues of subtitles: text shown for a time, with its speakers, without what captions repeat."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import islice
from typing import NamedTuple

MAX_CUE_CHARS = 5000  # a cue is read in seconds; 5,000 characters are two pages
ADJOINING_S = 0.1  # captions that continue one another are at most a few frames apart
# Names of one cue: more are no dialogue. A longer one is a sentence in the wrong field.
MAX_SPEAKERS, MAX_NAME_CHARS = 8, 80
MAX_WORDS = 500  # with times, of one cue
_TO_SPACE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TO_NOTHING = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u2669-\u266c]")
_LETTER = re.compile(r"[^\W_]")


class Line(NamedTuple):
    """A line of a cue without markup. speakers: the names of those who say it, in order."""

    text: str
    speakers: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Cue:
    """Text shown in [start_s, end_s). words: (start_s, text from there on) in order, of a cue that times its words."""

    start_s: float
    end_s: float
    lines: tuple[Line, ...]
    words: tuple[tuple[float, str], ...] = ()

    @property
    def text(self) -> str:
        """The lines as one."""
        return " ".join(line.text for line in self.lines)

    @property
    def speakers(self) -> tuple[str, ...]:
        """The speakers of all lines, each once."""
        return tuple(dict.fromkeys(name for line in self.lines for name in line.speakers))[:MAX_SPEAKERS]


def cue(start_s: float, end_s: float, lines: Iterable[tuple[str, Iterable[str]]]) -> Cue | None:
    """Return a cue of the lines that contain words, or None without any. lines: with the names as in the file."""
    kept = []
    room = MAX_CUE_CHARS
    for line, speakers in lines:
        words = plain(line[: 4 * MAX_CUE_CHARS])[:room].strip()
        if _LETTER.search(words):
            kept.append(Line(words, _names(speakers)))
            room -= len(words)
        if room <= 0:
            break
    return Cue(start_s, end_s, tuple(kept)) if kept and start_s < end_s else None


def _names(speakers: Iterable[str]) -> tuple[str, ...]:
    names = (plain(name[: 4 * MAX_NAME_CHARS]) for name in islice(speakers, MAX_SPEAKERS))
    return tuple(dict.fromkeys(name for name in names if _LETTER.search(name) and len(name) <= MAX_NAME_CHARS))


def timed(shown: Cue, words: Iterable[tuple[float | None, str]]) -> tuple[tuple[float, str], ...]:
    """Return the words with times inside the cue."""
    times = ((shown.start_s if time_s is None else time_s, plain(text)) for time_s, text in islice(words, MAX_WORDS))
    return tuple((time_s, text) for time_s, text in times if text and shown.start_s <= time_s <= shown.end_s)


def plain(text: str) -> str:
    """Return the text without control characters, direction marks and music notes, white space as single spaces."""
    return " ".join(_TO_NOTHING.sub("", _TO_SPACE.sub(" ", text)).split())


def collapse(cues: Iterable[Cue]) -> list[Cue]:
    """Return the cues in order of time, without repetitions.

    Copies of a text that overlap or adjoin (karaoke layers) become one cue that lasts as long as they do together;
    lines that a roll-up caption carries over from the cue before, and the beginning that a growing caption repeats, go.
    """
    kept: list[Cue] = []
    last_with: dict[str, int] = {}  # text as shown -> its place in `kept`
    before: Cue | None = None
    for shown in sorted(cues, key=lambda c: (c.start_s, c.end_s, c.lines)):
        place = last_with.get(shown.text.casefold())
        if place is not None and shown.start_s <= kept[place].end_s + ADJOINING_S:
            *lines, last = kept[place].lines
            lines.append(Line(last.text, tuple(dict.fromkeys([*last.speakers, *shown.speakers]))[:MAX_SPEAKERS]))
            kept[place] = replace(kept[place], end_s=max(kept[place].end_s, shown.end_s), lines=tuple(lines))
        else:
            new = _unrepeated(shown, before)
            if new.lines:
                last_with[shown.text.casefold()] = len(kept)
                kept.append(new)
            elif kept:
                kept[-1] = replace(kept[-1], end_s=max(kept[-1].end_s, shown.end_s))
        before = shown
    return kept


def _unrepeated(shown: Cue, before: Cue | None) -> Cue:
    """Return the cue without the lines repeated from the previous one, and their speakers."""
    if before is None or shown.start_s > before.end_s + ADJOINING_S:
        return shown
    for n in range(min(len(before.lines), len(shown.lines), 4), 0, -1):
        repeated = " ".join(line.text for line in shown.lines[:n])
        if repeated == " ".join(line.text for line in before.lines[-n:]):
            return replace(shown, lines=shown.lines[n:], words=_words_from(len(repeated), shown))
    if shown.text.startswith(before.text + " "):
        cut = len(before.text) + 1
        return replace(shown, lines=tuple(_lines_from(cut, shown)), words=_words_from(cut, shown))
    return shown


def _lines_from(cut: int, shown: Cue) -> Iterator[Line]:
    """Yield the lines of a cue behind a place in its text."""
    for line in shown.lines:
        if cut < len(line.text):
            yield Line(line.text[max(cut, 0) :], line.speakers)
        cut -= len(line.text) + 1


def _words_from(cut: int, shown: Cue) -> tuple[tuple[float, str], ...]:
    """Return the words of a cue that stand behind a place in its text; the last ones are at its end."""
    kept: list[tuple[float, str]] = []
    end = len(shown.text)
    for time_s, word in reversed(shown.words):
        at = shown.text.rfind(word, 0, end)
        if 0 <= at < cut:
            break
        kept.append((time_s, word))
        end = at if at >= 0 else end
    return tuple(reversed(kept))
