"""Text with times as subtitles of a timeline: SubRip, and WebVTT (W3C).

WebVTT names the speakers of a cue in voice tags. SubRip has no place for names: as part of the text they would be read
back as spoken.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

from vfindex.search.export.selection import Excerpt, Selection, one_line
from vfindex.search.export.timecode import Timebase
from vfindex.search.export.timeline import timeline_of
from vfindex.storage.errors import QueryError
from vfindex.storage.modalities import get_modality, spoken_modalities
from vfindex.storage.records import Segment


@dataclass(frozen=True, slots=True)
class Cue:
    """A segment at its place on the timeline."""

    start_ms: int
    end_ms: int
    segment: Segment
    lines: tuple[str, ...]


def write_srt(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return the text of a selection as SubRip, UTF-8."""
    cues = (
        f"{number}\n{_clock(cue.start_ms, ',')} --> {_clock(cue.end_ms, ',')}\n{_without_arrows(cue.lines)}\n"
        for number, cue in enumerate(_cues(selection, base, start_s), 1)
    )
    return "\n".join(cues).encode()


def write_vtt(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return the text of a selection as WebVTT; text that is known without decoding as chapters.

    The header says that it is chapters, and the language if all has one, as the files of video platforms do.
    """
    cues = _cues(selection, base, start_s)
    is_chapters = any(get_modality(track).origin == "metadata" for track in selection.tracks)
    languages = {cue.segment.language for cue in cues}
    head = ["WEBVTT", *(["Kind: chapters"] if is_chapters else [])]
    if len(languages) == 1 and (language := languages.pop()):
        head.append(f"Language: {language}")
    blocks = (
        f"\n{_clock(cue.start_ms, '.')} --> {_clock(cue.end_ms, '.')}\n{_payload(cue, is_chapters)}\n" for cue in cues
    )
    return ("\n".join(head) + "\n" + "".join(blocks)).encode()


def _payload(cue: Cue, is_chapter: bool) -> str:
    """Return the text of a cue of WebVTT: a title on one line, or lines within the voices of those who say them."""
    lines = [_escaped(line) for line in cue.lines]
    if is_chapter:
        return " ".join(lines)
    names = [name for each in cue.segment.speakers if (name := _escaped(one_line(each)))]
    # The end of a voice that spans the whole cue may be left out, as readers of subtitles expect.
    ends = "</v>" * len(names) if len(names) > 1 else ""
    return "".join(f"<v {name}>" for name in names) + "\n".join(lines) + ends


def _cues(selection: Selection, base: Timebase | None, start_s: float) -> list[Cue]:
    """Return the text of all excerpts in order of time. Raises QueryError if there is none."""
    whole = selection.excerpts[0] if len(selection.excerpts) == 1 else None
    if whole is not None and whole.start_s <= whole.source.start_s and whole.end_s >= whole.source.end_s:
        # The times of a whole video are those of its player: a picture that begins late does not move its words.
        cues = list(_moved(whole, start_s - whole.source.clock_s))
    else:
        cues = [cue for excerpt, at_s in _places(selection, base, start_s) for cue in _moved(excerpt, at_s)]
    if not cues:
        is_speech = set(selection.tracks) <= set(spoken_modalities())
        lacks = "nothing is said in" if is_speech else f"no text of the track {', '.join(selection.tracks)} is in"
        raise QueryError(f"there are no subtitles to write: {lacks} these moments, as far as the library knows")
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
        lines = tuple(line for part in segment.text.splitlines() if (line := one_line(part)))
        if end_ms >= 0 and lines:  # an empty line would end the cue
            yield Cue(start_ms, max(end_ms, start_ms + 1), segment, lines)


def _without_arrows(lines: tuple[str, ...]) -> str:
    """Return lines as one text of SubRip, in which an arrow would begin another cue."""
    return re.sub("-{2,}>", "->", "\n".join(lines))


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(time_ms: int, point: str) -> str:
    seconds, ms = divmod(time_ms, 1000)
    return f"{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}{point}{ms:03}"
