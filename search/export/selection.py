"""What is exported: spans of videos, with what a library knows of their files."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from fractions import Fraction

from vfindex.search.export.timecode import DROP_RATES, Timebase, is_drop, nearest_standard, timeline_rate
from vfindex.search.results import Hits, MarkList, Record
from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FileFacts, Segment, Video

# Files whose frames last alike differ from this by rounding alone; beyond it the rate varies.
_STEADY = 0.005
# Cameras are slower; a container of a thousandth of a second states 1000 where it does not know better.
_MAX_RATE = 120
# Characters that end a line somewhere, or that XML cannot have (1.0, 2.2); of its others, surrogates become escapes.
_BREAKS = {code: " " for code in (*range(32), 0x7F, *range(0x80, 0xA0), 0x2028, 0x2029, 0xFFFE, 0xFFFF)}


@dataclass(frozen=True, slots=True)
class Source:
    """A video's file as other programs see it. path: absolute, of a copy that exists where there is one.

    start_s, end_s: of its picture, as in hits. clock_s: what players call 0. rate: frames a second, None where unknown.
    varies: its frames last differently; then `rate` is that of the timeline on which to edit it.
    """

    fingerprint: str
    path: bytes
    title: str
    tags: tuple[tuple[str, str], ...]
    start_s: float
    end_s: float
    clock_s: float
    rate: Fraction | None
    varies: bool
    start_timecode: str | None
    width_px: int
    height_px: int
    has_audio: bool

    @property
    def name(self) -> str:
        """The file's name as text on one line."""
        return one_line(os.fsdecode(os.path.basename(self.path)))

    @property
    def timebase(self) -> Timebase:
        """The rate of its file, and how its time code counts. Raises UsageError where the rate is unknown."""
        if self.rate is None:
            raise UsageError(
                f"the frame rate of {self.name} is not known: its file cannot be read, and it was indexed before rates "
                "were recorded; give one with --rate"
            )
        return Timebase(self.rate, self.rate in DROP_RATES and is_drop(self.start_timecode or ""))

    def first_frame(self, base: Timebase) -> int:
        """Return the number of its first frame at a rate; 0 without a start time code, or one that cannot be.

        At another rate than its own, the code keeps hours, minutes and seconds.
        """
        stated = self.start_timecode or ""
        own = base if self.rate is None else self.timebase
        try:
            own.frame(stated)
        except ValueError:
            return 0
        return base.frame(f"{stated[:8]}:{int(stated[9:]) * base.per_second // own.per_second:02}")


@dataclass(frozen=True, slots=True)
class Excerpt:
    """[start_s, end_s) of a video. number: from 1. text: what is said in it, or why it was found. segments: its words.

    score, confidence: of a hit. note, list, by: of a mark.
    """

    source: Source
    number: int
    start_s: float
    end_s: float
    text: str = ""
    note: str = ""
    score: float | None = None
    confidence: str | None = None
    list: str = ""
    by: str = ""
    segments: tuple[Segment, ...] = ()


@dataclass(frozen=True, slots=True)
class Selection:
    """Excerpts in order, and the record that they come from. notes: sentences on what was left out.

    tracks: the modalities whose text is in the segments of the excerpts.
    """

    title: str
    excerpts: tuple[Excerpt, ...]
    record: Hits | MarkList | Record
    notes: tuple[str, ...] = ()
    tracks: tuple[ModalityName, ...] = ()

    def once(self) -> Selection:
        """Return the selection with each span once: two people may mark the same clip."""
        found: dict[tuple[str, float, float], Excerpt] = {}
        for each in self.excerpts:
            key = each.source.fingerprint, each.start_s, each.end_s
            before = found.get(key)
            notes = dict.fromkeys(note for note in (before.note if before else "", each.note) if note)
            found[key] = replace(before or each, note="; ".join(notes))
        return replace(self, excerpts=tuple(found.values()))


def source_of(video: Video, path: bytes, facts: FileFacts | None) -> Source:
    """Return a video as a source. facts: read from its file, where the library does not know them."""
    stated = video.fps or (facts.fps if facts else None)
    fps = Fraction(stated) if stated else None
    varies = fps is not None and _varies(video, fps)
    rate = None if fps is None else timeline_rate(fps) if varies else nearest_standard(fps) or fps
    return Source(
        fingerprint=video.fingerprint,
        path=path,
        title=one_line(video.title),
        tags=tuple(video.tags.items()),
        start_s=video.start_s,
        end_s=video.end_s,
        clock_s=facts.clock_s if facts else 0.0,
        rate=rate,
        varies=varies,
        start_timecode=video.start_timecode or (facts.start_timecode if facts else None),
        width_px=video.width_px,
        height_px=video.height_px,
        has_audio=video.has_audio,
    )


def _varies(video: Video, fps: Fraction) -> bool:
    """Return whether a video has another number of frames than its rate makes.

    Where that is not known: whether its rate is one of a clock, not of a camera.
    """
    due = (video.end_s - video.start_s) * float(fps)
    if video.frames is None:
        return fps > _MAX_RATE
    return abs(video.frames - due) > max(1.5, _STEADY * due)


def words_in(segments: Iterable[Segment], tracks: Sequence[str], start_s: float, end_s: float) -> tuple[Segment, ...]:
    """Return the segments of some tracks within a span, cut at its edges."""
    return tuple(
        replace(each, start_s=max(each.start_s, start_s), end_s=min(each.end_s, end_s))
        for each in segments
        if each.track in tracks and each.start_s < end_s and each.end_s > start_s
    )


def one_line(text: str) -> str:
    """Return text on one line, without control characters, with escapes for stray bytes."""
    known = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return " ".join(known.translate(_BREAKS).split())


def file_url(path: bytes) -> str:
    """Return the URL of a file (RFC 8089); its bytes are percent-encoded, so that every name has one."""
    from urllib.parse import quote_from_bytes

    return "file://" + quote_from_bytes(path)
