"""What is said, as subtitles of a timeline: SubRip, and WebVTT (W3C)."""

from __future__ import annotations

from collections.abc import Iterator

from vfindex.search.export.selection import Excerpt, Selection, one_line
from vfindex.search.export.timecode import Timebase
from vfindex.search.export.timeline import timeline_of
from vfindex.storage.errors import QueryError
from vfindex.storage.records import Segment

Cue = tuple[int, int, str]  # start and end in ms, lines of text


def write_srt(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return the words of a selection as SubRip, UTF-8."""
    cues = (
        f"{number}\n{_clock(start_ms, ',')} --> {_clock(end_ms, ',')}\n{text}\n"
        for number, (start_ms, end_ms, text) in enumerate(_cues(selection, base, start_s), 1)
    )
    return "\n".join(cues).encode()


def write_vtt(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return the words of a selection as WebVTT."""
    cues = (
        f"\n{_clock(start_ms, '.')} --> {_clock(end_ms, '.')}\n{_escaped(text)}\n"
        for start_ms, end_ms, text in _cues(selection, base, start_s)
    )
    return ("WEBVTT\n" + "".join(cues)).encode()


def _cues(selection: Selection, base: Timebase | None, start_s: float) -> list[Cue]:
    """Return the words of all excerpts in order of time. Raises QueryError if there are none."""
    whole = selection.excerpts[0] if len(selection.excerpts) == 1 else None
    if whole is not None and whole.start_s <= whole.source.start_s and whole.end_s >= whole.source.end_s:
        # The times of a whole video are those of its player: a picture that begins late does not move its words.
        cues = list(_moved(whole, start_s - whole.source.clock_s))
    else:
        cues = [cue for excerpt, at_s in _places(selection, base, start_s) for cue in _moved(excerpt, at_s)]
    if not cues:
        raise QueryError(
            "there are no subtitles to write: nothing is said in these moments, as far as the library knows"
        )
    return cues


def _places(selection: Selection, base: Timebase | None, start_s: float) -> Iterator[tuple[Excerpt, float]]:
    """Yield each excerpt with what is added to its times, on the frames of an edit list where rates are known."""
    once = selection.once()
    if base is not None or all(excerpt.source.rate for excerpt in once.excerpts):
        timeline = timeline_of(once, base, start_s)
        for event in timeline.events:
            at_s = float(timeline.base.time_s(event.record_in - timeline.start)) + start_s
            yield event.excerpt, at_s - event.excerpt.start_s
        return
    for excerpt in once.excerpts:
        yield excerpt, start_s - excerpt.start_s
        start_s += excerpt.end_s - excerpt.start_s


def _moved(excerpt: Excerpt, by_s: float) -> Iterator[Cue]:
    for segment in excerpt.segments:
        start_ms = max(0, round(1000 * (segment.start_s + by_s)))
        end_ms = round(1000 * (segment.end_s + by_s))
        text = _lines(segment)
        if end_ms >= 0 and text:
            yield start_ms, max(end_ms, start_ms + 1), text


def _lines(segment: Segment) -> str:
    """Return the text of a segment: no empty line, which would end its cue, and no arrow, which would begin another."""
    lines = (one_line(line).replace("-->", "->") for line in segment.text.splitlines())
    return "\n".join(line for line in lines if line)


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"
