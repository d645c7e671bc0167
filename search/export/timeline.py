"""Excerpts one after the other on a timeline, in whole frames."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

from vfindex.search.export.selection import Excerpt, Selection, Source
from vfindex.search.export.timecode import DROP_RATES, Timebase, timeline_rate


@dataclass(frozen=True, slots=True)
class Event:
    """An excerpt on a timeline. Frames: of its file, counted from its start time code in `base`; and of the timeline.

    Ends are exclusive. base: the rate of the file.
    """

    excerpt: Excerpt
    base: Timebase
    source_in: int
    source_out: int
    record_in: int
    record_out: int


@dataclass(frozen=True, slots=True)
class Timeline:
    """Events without gaps. start: the number of its first frame."""

    base: Timebase
    start: int
    events: tuple[Event, ...]

    @property
    def end(self) -> int:
        """The frame after its last."""
        return self.events[-1].record_out if self.events else self.start


def timeline_of(selection: Selection, base: Timebase | None, start_s: float, source_rate: bool = True) -> Timeline:
    """Return the excerpts on a timeline. base: its rate; None: that of most of the material, see `common_base`.

    start_s: what the time code of its first frame reads. source_rate: count the frames of a file at its own rate, not
    at that of the timeline. Raises UsageError for a video of unknown rate where `base` is None or `source_rate` is set.
    """
    excerpts = selection.once().excerpts
    base = common_base(excerpts) if base is None else base
    start = at = base.frame_named(start_s)
    events = []
    for excerpt in excerpts:
        of = excerpt.source.timebase if source_rate and excerpt.source.rate else base
        first, last = frames_of(excerpt, of)
        length = last - first if of.rate == base.rate else max(1, base.frame_at(of.time_s(last - first)))
        shift = excerpt.source.first_frame(of)
        events.append(Event(excerpt, of, shift + first, shift + last, at, at + length))
        at += length
    return Timeline(base, start, tuple(events))


def frames_of(excerpt: Excerpt, base: Timebase) -> tuple[int, int]:
    """Return the first frame of an excerpt and the one after its last, from 0 at the first frame of its file.

    At least one frame, within the file.
    """
    source = excerpt.source
    count = frame_count(source, base)
    first = min(max(0, base.frame_at(excerpt.start_s - source.start_s)), count - 1)
    last = min(base.frame_at(excerpt.end_s - source.start_s), count)
    return first, max(last, first + 1)


def frame_count(source: Source, base: Timebase) -> int:
    """Return how many frames of a rate the picture of a file lasts, at least 1."""
    return max(1, base.frame_at(source.end_s - source.start_s))


def common_base(excerpts: Sequence[Excerpt]) -> Timebase:
    """Return the rate of the timeline that most of the material has; drop-frame if a file of it counts so."""
    lengths: dict[Fraction, float] = {}
    for excerpt in excerpts:
        rate = timeline_rate(excerpt.source.timebase.rate)
        lengths[rate] = lengths.get(rate, 0.0) + excerpt.end_s - excerpt.start_s
    if not lengths:
        return Timebase(Fraction(25))
    rate = max(lengths, key=lambda each: lengths[each])
    drops = any(excerpt.source.timebase.drop for excerpt in excerpts if excerpt.source.timebase.rate == rate)
    return Timebase(rate, drops and rate in DROP_RATES)
