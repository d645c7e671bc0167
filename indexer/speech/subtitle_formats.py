"""The text formats of subtitles, read leniently: SubRip, WebVTT, Advanced and plain SubStation Alpha.

Why not pysubs2: measured on 1.8.1, 40 kB of "<a<a<a" take 1.8 s (quadratic), one bad style line loses the whole file,
the `Format:` line is ignored, and NOTE and STYLE blocks of WebVTT come out as speech. Everything here is linear in its
input: each pattern's repeated class excludes the character that the pattern starts with, or is bounded.
"""

from __future__ import annotations

import html
import math
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

from vfindex.indexer.speech.cues import MAX_SPEAKERS, Cue, Line, collapse, cue, timed

MAX_TIME_S = 100 * 3600.0  # the largest two-digit hour; later times are typing errors or overflow
MAX_CUE_S = 600.0  # a cue shown for longer is a watermark or a broken end time
ASSUMED_CUE_S = 5.0  # duration of a cue whose end is missing, not after its start, or absurdly late
# The fastest speaker on record says 655 words a minute (Sean Shannon, Guinness World Records, 1995); at 6 characters a
# word and its space that is 65.5 characters a second, four times what subtitles are written for (Netflix: 17 to 20).
CHARS_PER_S = 66.0
BURST_S = 10.0  # of text at that rate may be on screen at once: signs and two languages
MAX_EVENTS = 1 << 17  # read of a file: three times what karaoke of 5 MB has
EVENTS_PER_S, EVENT_BURST = 200.0, 5000.0  # cleaned of markup: layers of typesetting repeat a line up to 100 times

_TIME = re.compile(r"([-\u2212]?)(?:(\d{1,4}):)?(\d{1,2}):(\d{1,2})(?:[.,:](\d{1,6}))?")
_TIMING = re.compile(
    r"\s{0,20}([-\u2212]?\d[\d:.,]{2,20})\s{0,20}(?:-{1,3}\s?>|[\u2013\u2014=]>|\u2192)\s{0,20}(\S{0,24})"
)
_SPACED = re.compile(r"(?<=\d)\s{0,3}([:.,])\s{0,3}(?=\d)")  # translation programmes write "00: 00: 05, 000"
_SENTENCE = re.compile(r">\s{0,20}[\d:.,]{2,20}\s.{0,40}?(?<!\S)[^\W\d_]+[.,;!?]?(?!\S)")  # settings after the times
_ARROW = re.compile(r"\d\s{0,4}(?:-{1,3}\s?>|[\u2013\u2014=]>|\u2192)")
_TAG = re.compile(r"</?[A-Za-z0-9][^<>]*>")
# WebVTT's voice tag, <v Name> or <v.class Name>, and its end; a name may hold "<" and entities, and ends at ">".
_VOICE = re.compile(r"<v(?:\.[^\s<>]*)?\s([^>]{0,320}+)>|</v>")
_STAMP = re.compile(r"<(\d[\d:.]{2,20})>")
_BLOCK = re.compile(r"\{([^{}]*)\}")
_SRT_OVERRIDE = re.compile(r"\{\\[^{}]*\}")
_DRAWING = re.compile(r"\\p(\d)")
_ENTITY = re.compile(r"&(?:#\d{1,7}|#[xX][0-9a-fA-F]{1,6}|[A-Za-z]{2,8});")


# Start, end (None if unreadable) and the lines with their markup; of SubStation, the text and the name of who says it.
Event = tuple[float, float | None, Sequence[str]]
# Lines without markup, each with its speakers, and (time, None: the cue's start; text from there on).
Said = tuple[Iterable[tuple[str, Iterable[str]]], Iterable[tuple[float | None, str]]]
UNREADABLE: Event = (math.nan, None, ())  # unreadable times


@dataclass(frozen=True, slots=True)
class Cues:
    """The cues of a file or track in order of time, and the numbers of its other events.

    late, early: events from the end of the video on, and before its beginning. first_late_s: the start of the first of
    these. unreadable: without a time. crowded: with more text than can be spoken in the time.
    """

    cues: tuple[Cue, ...]
    late: int = 0
    early: int = 0
    first_late_s: float = 0.0
    unreadable: int = 0
    crowded: int = 0


def read_cues(text: str, end_s: float = MAX_TIME_S) -> Cues:
    """Return the cues of a subtitle file of any format that begin before `end_s`, the video's end.

    A cue whose end is missing, not after its start or more than MAX_CUE_S later is kept for ASSUMED_CUE_S at most; one
    that begins before 0 or reaches beyond the video is cut. Text in no known format has no cues.
    """
    head = text[:4096].lstrip("\ufeff \t\r\n")
    if head.startswith("WEBVTT"):
        return _settle(_webvtt(text), _markup_free_lines, end_s)
    if _ARROW.search(text) and "[script info]" not in head.lower():
        return _settle(_subrip(text), _markup_free_lines, end_s)
    return _settle(_substation(text), lambda raw: (_substation_lines(raw[0], raw[1:]), ()), end_s)


def read_packets(packets: Iterable[tuple[float, float, str]], codec: str, end_s: float = MAX_TIME_S) -> Cues:
    """Return the cues of an embedded track, see `read_cues`.

    packets: (start_s, end_s, raw text); an end that is not after the start is unknown. codec: FFmpeg's name.
    """
    return _settle(((a, b, (raw,)) for a, b, raw in packets), lambda raw: _packet_said(raw[0], codec), end_s)


def _settle(events: Iterable[Event], said_in: Callable[[Sequence[str]], Said], end_s: float) -> Cues:
    """Return the cues of events within the video, with plausible times and no more text than can be spoken."""
    inside: list[tuple[float, float | None, Sequence[str]]] = []
    late = early = unreadable = crowded = 0
    first_late_s = math.inf
    for start_s, stop_s, raw in events:
        if not abs(start_s) <= MAX_TIME_S:
            unreadable += 1
        elif start_s >= end_s:
            late += 1
            first_late_s = min(first_late_s, start_s)
        elif start_s < 0 and (stop_s is None or stop_s <= 0):
            early += 1
        elif len(inside) >= MAX_EVENTS:
            crowded += 1
        else:
            inside.append((max(start_s, 0.0), stop_s, raw))
    inside.sort(key=lambda event: event[0])
    cues, dropped = _paced(inside, said_in, end_s)
    spoken, unsaid = _sayable(collapse(cues))
    return Cues(tuple(spoken), late, early, first_late_s if late else 0.0, unreadable, crowded + dropped + unsaid)


def _paced(events: Sequence[Event], said_in: Callable[[Sequence[str]], Said], end_s: float) -> tuple[list[Cue], int]:
    """Return the cues of events in order of time, and how many are dropped beyond EVENTS_PER_S."""
    ends = _ends(events, end_s)
    cues: list[Cue] = []
    dropped, backlog, before_s = 0, 0.0, 0.0
    for (start_s, _, raw), stop_s in zip(events, ends, strict=True):
        backlog = max(0.0, backlog - (start_s - before_s) * EVENTS_PER_S)
        before_s = start_s
        if backlog >= EVENT_BURST:
            dropped += 1
            continue
        backlog += 1
        lines, words = said_in(raw)
        made = cue(start_s, stop_s, lines)
        if made is not None:
            cues.append(replace(made, words=timed(made, words)))
    return cues, dropped


def _ends(events: Sequence[Event], end_s: float) -> list[float]:
    """Return the end of each of the sorted events: its own if plausible, else derived from the next start."""
    ends: list[float] = []
    next_s, later_s = math.inf, math.inf  # the next start after this one, and the last start seen
    for start_s, stop_s, _ in reversed(events):
        if start_s < later_s:
            next_s, later_s = later_s, start_s
        if stop_s is None or not start_s < stop_s <= start_s + MAX_CUE_S:
            stop_s = min(next_s, start_s + ASSUMED_CUE_S)
        ends.append(min(stop_s, end_s))
    return ends[::-1]


def _sayable(cues: Iterable[Cue]) -> tuple[list[Cue], int]:
    """Return the cues, and how many are dropped or cut for exceeding CHARS_PER_S with its burst."""
    kept: list[Cue] = []
    over, backlog, before_s = 0, 0.0, 0.0
    for each in cues:
        backlog = max(0.0, backlog - (each.start_s - before_s) * CHARS_PER_S)
        before_s = each.start_s
        room = int((each.end_s - each.start_s + BURST_S) * CHARS_PER_S)
        if backlog >= BURST_S * CHARS_PER_S:
            over += 1
            continue
        if len(each.text) > room:
            over += 1
            each = replace(each, lines=(Line(each.text[:room].strip(), each.speakers),))
        backlog += len(each.text)
        kept.append(each)
    return kept, over


def parse_time(text: str) -> float | None:
    """Return the seconds of `[-][hours:]minutes:seconds[.,fraction]`, None if it is not one."""
    match = _TIME.fullmatch(text.strip()[:32])
    if match is None:
        return None
    sign, hours, minutes, seconds, fraction = match.groups()
    time_s = 3600 * int(hours or 0) + 60 * int(minutes) + int(seconds) + float(f"0.{fraction or 0}")
    return -time_s if sign else time_s


def _timing(line: str) -> tuple[float, float | None] | None:
    """Return (start_s, end_s) of a `start --> end settings` line; None for others, as an arrow in spoken text."""
    match = None
    if ">" in line or "\u2192" in line:
        match = _TIMING.match(line) or _TIMING.match(_SPACED.sub(r"\1", line[:80]))
    start_s = parse_time(match[1]) if match else None
    return None if match is None or start_s is None else (start_s, parse_time(match[2]))


def _is_broken_timing(line: str) -> bool:
    """Return whether a line has an arrow and an end like a timing line, but no readable start."""
    _, arrow, right = line.partition("-->")
    return bool(arrow) and parse_time((right[:64].split() or [""])[0]) is not None


def _subrip(text: str) -> Iterator[Event]:
    """As FFmpeg reads it: a cue's text goes on to the next timing line, less the number that stands before that.

    A line of times and words ("10:30 --> 11:45 we train") is text where neither a number nor an empty line precedes it.
    """
    times: tuple[float, float | None] | None = None
    lines: list[str] = []
    before = ""
    for line in text.splitlines():
        begins = not before or before.isdecimal()
        before = line.strip()
        found = _timing(line)
        if found and not begins and _SENTENCE.search(line[:200]):
            found = None
        is_next = begins and (not lines or lines[-1].strip().isdecimal())
        broken = found is None and is_next and _is_broken_timing(line)
        if found is None and not broken:
            if line.strip():
                lines.append(line)
            continue
        if lines and lines[-1].strip().isdecimal():
            lines.pop()
        if times:
            yield *times, lines
        if broken:
            yield UNREADABLE
        times, lines = found, []
    if times:
        yield *times, lines


def _webvtt(text: str) -> Iterator[Event]:
    """As the standard reads it: a cue ends at an empty line, so that NOTE, STYLE and REGION blocks fall away.

    A line of blanks is no empty line: downloaded captions that roll up begin with one. The identifier of the next cue
    after such a line is not part of this cue.
    """
    times: tuple[float, float | None] | None = None
    lines: list[str] = []
    for line in text.splitlines():
        found = _timing(line)
        if line and found is None:
            lines.append(line)
            continue
        if found and len(lines) > 1 and not lines[-2].strip():
            lines.pop()
        if times:
            yield *times, lines
        times, lines = found, []
    if times:
        yield *times, lines


def _markup_free_lines(lines: Sequence[str]) -> Said:
    voiced = list(_voiced(lines))
    said = ((_markup_free(line), map(_resolved, names)) for line, names in voiced)
    return said, (word for line, _ in voiced for word in _words(line))


def _voiced(lines: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """Yield each line without voice tags, and who says it: a voice lasts to the next tag, over ends of lines."""
    voices: tuple[str, ...] = ()
    is_silent = False  # nothing said yet by the last one
    for line in lines:
        names: list[str] = []
        at = 0
        for tag in _VOICE.finditer(line):
            if line[at : tag.start()].strip():
                names += voices
                is_silent = False
            before = voices if is_silent else ()
            voices = () if tag[1] is None else (*before, tag[1])[:MAX_SPEAKERS]
            is_silent, at = bool(voices), tag.end()
        if line[at:].strip():
            names += voices
            is_silent = False
        yield _VOICE.sub(" ", line), names


def _words(line: str) -> Iterator[tuple[float | None, str]]:
    """Yield the parts of a line with WebVTT's times of words, `one <00:01.500>two`."""
    first, *rest = _STAMP.split(line)
    if rest:
        yield None, _markup_free(first)
    for stamp, text in zip(rest[::2], rest[1::2], strict=True):
        yield parse_time(stamp), _markup_free(text)


def _markup_free(line: str) -> str:
    """Return the line of SubRip or WebVTT without tags and override blocks, entities resolved."""
    bare = _TAG.sub("", _SRT_OVERRIDE.sub("", line)).replace("\\N", " ").replace("\\h", " ")
    return _resolved(bare)


def _resolved(text: str) -> str:
    return _ENTITY.sub(lambda match: html.unescape(match.group()), text)


_COLUMNS = ["layer", "start", "end", "style", "name", "marginl", "marginr", "marginv", "effect", "text"]


def _substation(text: str) -> Iterator[Event]:
    """The `Format:` line of the events names the columns; the text is the last and may contain commas."""
    columns: Sequence[str] = _COLUMNS
    in_events = False
    for line in text.splitlines():
        kind, colon, rest = line.partition(":")
        word = kind.strip().lower()
        if word.startswith("["):
            in_events = word.startswith("[events")
        elif word == "format" and colon and in_events:
            named = [name.strip().lower() for name in rest[:1000].split(",")]
            columns = named if {"start", "end"} <= set(named) and named[-1] == "text" else _COLUMNS
        elif word == "dialogue" and colon:
            fields = rest.split(",", len(columns) - 1)
            if len(fields) < len(columns):
                yield UNREADABLE
                continue
            start_s, end_s = parse_time(fields[columns.index("start")]), parse_time(fields[columns.index("end")])
            name = fields[columns.index("name")] if "name" in columns else ""
            yield UNREADABLE if start_s is None else (start_s, end_s, (fields[-1], name))


def _substation_lines(text: str, speakers: Sequence[str]) -> list[tuple[str, Sequence[str]]]:
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
    lines = "".join(said).replace("\\h", " ").replace("\\n", "\\N").split("\\N")
    return [(line, speakers) for line in lines]


def _packet_said(raw: str, codec: str) -> Said:
    """Return the lines of a packet of an embedded track, and who says them."""
    if codec in ("ass", "ssa"):
        fields = raw.split(",", 9)[1:] if raw.startswith("Dialogue:") else raw.split(",", 8)
        return _substation_lines(fields[-1], fields[3:4] if len(fields) == 9 else ()), ()
    if codec == "mov_text" and raw[:1] < " " and len(raw) >= 2:
        # 3GPP timed text: two bytes of length, the text, then boxes of style, whose length begins with zero bytes
        raw = raw[2:].partition("\x00")[0]
    return _markup_free_lines(raw.splitlines())
