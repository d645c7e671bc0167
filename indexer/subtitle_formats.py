"""The text formats of subtitles, read leniently: SubRip, WebVTT, Advanced and plain SubStation Alpha.

Why not pysubs2: measured on 1.8.1, 40 kB of "<a<a<a" take 1.8 s (quadratic), one bad style line loses the whole file,
the `Format:` line is ignored, and NOTE and STYLE blocks of WebVTT come out as speech. Everything here is linear in its
input: each pattern's repeated class excludes the character that the pattern starts with, or is bounded.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

MAX_TIME_S = 100 * 3600.0  # what two digits of hours can say; later times are slips or overflow
MAX_CUE_S = 600.0  # a cue shown for longer is a watermark or a broken end time
MAX_CUE_CHARS = 5000  # a cue is read in seconds; 5,000 characters are two pages
ASSUMED_CUE_S = 5.0  # shown for how long, where a container does not say
ADJOINING_S = 0.1  # captions that continue one another are at most a few frames apart

_TIME = re.compile(r"(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,:](\d{1,6}))?")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>")
_BLOCK = re.compile(r"\{([^{}]*)\}")
_SRT_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_DRAWING = re.compile(r"\\p(\d)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")
_TO_SPACE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_TO_NOTHING = re.compile("[\u200b\u200e\u200f\u202a-\u202e\u2060\u2066-\u2069\ufeff\u2669-\u266c]")
_LETTER = re.compile(r"[^\W_]")


@dataclass(frozen=True, slots=True)
class Cue:
    """Text shown in [start_s, end_s), line by line, without markup."""

    start_s: float
    end_s: float
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        """The lines as one."""
        return " ".join(self.lines)


def parse_cues(text: str) -> list[Cue]:
    """Return the cues of a subtitle file in order of time; the format is told by the content.

    Malformed cues are left out; a text of no known format has none.
    """
    head = text[:4096].lstrip("\ufeff \t\r\n")
    if head.startswith("WEBVTT"):
        cues: Iterable[Cue] = _webvtt(text)
    elif "-->" not in text or "[script info]" in head.lower():
        cues = _substation(text)
    else:
        cues = _subrip(text)
    return collapse(cues)


def parse_packets(packets: Iterable[tuple[float, float, str]], codec: str) -> list[Cue]:
    """Return the cues of an embedded track, in order of time.

    packets: (start_s, end_s, raw text); an end that is not after the start means unknown, and the cue is then taken to
    last until the next one, at most ASSUMED_CUE_S. codec: FFmpeg's name of the codec.
    """
    events = sorted((p for p in packets if 0 <= p[0] <= MAX_TIME_S), key=lambda p: p[:2])
    cues = []
    for n, (start_s, end_s, raw) in enumerate(events):
        next_s = events[n + 1][0] if n + 1 < len(events) else math.inf
        end = (
            end_s
            if end_s > start_s
            else start_s + ASSUMED_CUE_S
            if next_s <= start_s
            else min(next_s, start_s + ASSUMED_CUE_S)
        )
        cues.append(cue(start_s, end, _packet_lines(raw, codec)))
    return collapse(c for c in cues if c is not None)


def cue(start_s: float, end_s: float, lines: Iterable[str]) -> Cue | None:
    """Return a cue of the lines that say something, or None where the times are absurd or there is nothing said."""
    if not (0 <= start_s < end_s <= MAX_TIME_S and end_s - start_s <= MAX_CUE_S):
        return None
    kept = []
    room = MAX_CUE_CHARS
    for line in lines:
        words = plain(line[: 4 * MAX_CUE_CHARS])[:room].strip()
        if _LETTER.search(words):
            kept.append(words)
            room -= len(words)
        if room <= 0:
            break
    return Cue(start_s, end_s, tuple(kept)) if kept else None


def plain(text: str) -> str:
    """Return the text without control characters, direction marks and music notes, white space as single spaces."""
    return " ".join(_TO_NOTHING.sub("", _TO_SPACE.sub(" ", text)).split())


def collapse(cues: Iterable[Cue]) -> list[Cue]:
    """Return the cues in order of time, what several of them repeat kept once.

    Copies of a text that overlap or adjoin (karaoke layers) become one cue that lasts as long as they do together;
    lines that a roll-up caption carries over from the cue before, and the beginning that a growing caption repeats, go.
    """
    kept: list[Cue] = []
    last_with: dict[str, int] = {}  # text as shown -> its place in `kept`
    before: Cue | None = None
    for shown in sorted(cues, key=lambda c: (c.start_s, c.end_s, c.lines)):
        place = last_with.get(shown.text.casefold())
        if place is not None and shown.start_s <= kept[place].end_s + ADJOINING_S:
            kept[place] = replace(kept[place], end_s=max(kept[place].end_s, shown.end_s))
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
    """Return the cue without what it carries over from the cue before it."""
    if before is None or shown.start_s > before.end_s + ADJOINING_S:
        return shown
    for n in range(min(len(before.lines), len(shown.lines), 4), 0, -1):
        if before.lines[-n:] == shown.lines[:n]:
            return replace(shown, lines=shown.lines[n:])
    if shown.text.startswith(before.text + " "):
        return replace(shown, lines=(shown.text[len(before.text) + 1 :],))
    return shown


def parse_time(text: str) -> float | None:
    """Return the seconds of `[hours:]minutes:seconds[.,fraction]`, None if it is not one."""
    match = _TIME.fullmatch(text.strip()[:32])
    if match is None:
        return None
    hours, minutes, seconds, fraction = match.groups()
    whole = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds)
    return whole + (int(fraction) / 10 ** len(fraction) if fraction else 0.0)


def _timing(line: str) -> tuple[float, float] | None:
    """Return (start_s, end_s) of a `start --> end settings` line; (-1, -1) where it is one but cannot be read."""
    if "-->" not in line:
        return None
    left, _, right = line.partition("-->")
    start_s, end_s = parse_time(left), parse_time((right[:64].split() or [""])[0])
    return (-1.0, -1.0) if start_s is None or end_s is None else (start_s, end_s)


def _subrip(text: str) -> Iterator[Cue]:
    """As FFmpeg reads it: a cue's text goes on to the next timing line, less the number that stands before that."""
    times: tuple[float, float] | None = None
    lines: list[str] = []
    for line in [*text.splitlines(), "0", "0 --> 0"]:
        found = _timing(line)
        if found is None:
            if line.strip():
                lines.append(line)
            continue
        if lines and lines[-1].strip().isdecimal():
            lines.pop()
        if times and (made := cue(*times, (_markup_free(line) for line in lines))):
            yield made
        times, lines = found, []


def _webvtt(text: str) -> Iterator[Cue]:
    """As the standard reads it: a cue ends at an empty line, so that NOTE, STYLE and REGION blocks fall away."""
    times: tuple[float, float] | None = None
    lines: list[str] = []
    for line in [*text.splitlines(), ""]:
        found = _timing(line)
        if line.strip() and found is None:
            lines.append(line)
            continue
        if times and (made := cue(*times, (_markup_free(line) for line in lines))):
            yield made
        times, lines = found, []


def _markup_free(line: str) -> str:
    """Return the line of SubRip or WebVTT without tags and override blocks, entities resolved."""
    bare = _TAG.sub("", _SRT_OVERRIDE.sub("", line)).replace("\\N", " ").replace("\\h", " ")
    return _ENTITY.sub(lambda match: html.unescape(match.group()), bare)


_COLUMNS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]


def _substation(text: str) -> Iterator[Cue]:
    """The `Format:` line of the events says which column is which; the text is the last, and may hold commas."""
    columns: Sequence[str] = _COLUMNS
    in_events = False
    for line in text.splitlines():
        kind, colon, rest = line.partition(":")
        word = kind.strip().lower()
        if word.startswith("["):
            in_events = word.startswith("[events")
        elif word == "format" and colon and in_events:
            named = [name.strip().lower() for name in rest.split(",")]
            columns = named if {"start", "end"} <= set(named) and named[-1] == "text" else _COLUMNS
        elif word == "dialogue" and colon:
            fields = rest.split(",", len(columns) - 1)
            if len(fields) < len(columns):
                continue
            start_s, end_s = parse_time(fields[columns.index("start")]), parse_time(fields[columns.index("end")])
            if start_s is None or end_s is None:
                continue
            if made := cue(start_s, end_s, _substation_lines(fields[-1])):
                yield made


def _substation_lines(text: str) -> list[str]:
    r"""Return the lines of a dialogue text without override blocks and drawings (`{\p1}m 0 0 l 9 9{\p0}`)."""
    said: list[str] = []
    drawing = False
    at = 0
    for block in _BLOCK.finditer(text):
        if not drawing:
            said.append(text[at : block.start()])
        for mode in _DRAWING.findall(block.group(1)):
            drawing = mode != "0"
        at = block.end()
    if not drawing:
        said.append(text[at:])
    return "".join(said).replace("\\h", " ").replace("\\n", "\\N").split("\\N")


def _packet_lines(raw: str, codec: str) -> list[str]:
    """Return the lines of a packet of an embedded track."""
    if codec in ("ass", "ssa"):
        fields = raw.split(",", 9) if raw.startswith("Dialogue:") else raw.split(",", 8)
        return _substation_lines(fields[-1])
    if codec == "mov_text" and raw[:1] < " " and len(raw) >= 2:
        # 3GPP timed text: two bytes of length, the text, then boxes of style, whose length begins with zero bytes
        raw = raw[2:].partition("\x00")[0]
    return [_markup_free(line) for line in raw.splitlines()]
