"""Edit decision lists in the form of CMX 3600, as every editing program reads them.

One event an excerpt: number, reel, channels, cut, and in and out of the file and of the timeline as time codes, ends
exclusive. What the form has no field for is in comments, which begin with `*`.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator

from vfindex.search.export.selection import Selection, Source, one_line
from vfindex.search.export.timecode import Timebase, timeline_rate
from vfindex.search.export.timeline import Event, timeline_of
from vfindex.storage.errors import UsageError

MAX_EVENTS = 999
REEL_CHARS = 8
_MAX_TITLE_CHARS = 70
_MAX_COMMENT_CHARS = 200
# Names with a meaning of their own: black, and an auxiliary source.
_RESERVED = ("BL", "AX")
_MODES = {True: "FCM: DROP FRAME", False: "FCM: NON-DROP FRAME"}


def write_edl(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return a selection as an edit list. base: None if all files have one rate; else it must be given.

    Raises UsageError for more than MAX_EVENTS, and for files of several rates without `base`.
    """
    once = selection.once()
    if len(once.excerpts) > MAX_EVENTS:
        raise UsageError(
            f"an edl has at most {MAX_EVENTS} events, and these are {len(once.excerpts):,}; use fcpxml or otio"
        )
    if base is None:
        _check_one_rate(once)
    timeline = timeline_of(once, base, start_s, source_rate=False)
    reels = _reels([event.excerpt.source for event in timeline.events])
    lines = [f"TITLE: {(one_line(selection.title) or 'vfindex')[:_MAX_TITLE_CHARS]}", _MODES[timeline.base.drop], ""]
    mode = timeline.base.drop
    for number, event in enumerate(timeline.events, 1):
        source = _source_base(event.excerpt.source, timeline.base)
        if source.drop != mode:  # it holds for the events after it
            mode = source.drop
            lines.append(_MODES[mode])
        reel = reels[event.excerpt.source.fingerprint]
        channels = "AA/V" if event.excerpt.source.has_audio else "V"
        codes = (
            *(source.timecode(frame) for frame in _source_frames(event, source)),
            *(timeline.base.timecode(frame) for frame in (event.record_in, event.record_out)),
        )
        lines.append(f"{number:03}  {reel:<{REEL_CHARS}} {channels:<5} C        {' '.join(codes)}")
        lines += [f"* {comment}" for comment in _comments(event, timeline.base)]
    return ("\r\n".join(lines) + "\r\n").encode()


def _check_one_rate(selection: Selection) -> None:
    bases = {timeline_rate(excerpt.source.timebase.rate) for excerpt in selection.excerpts}
    if len(bases) > 1:
        names = ", ".join(Timebase(rate).name for rate in sorted(bases))
        raise UsageError(
            f"an edl has one frame rate, and these videos have several ({names}); choose the one of your timeline with "
            "--rate, or use fcpxml or otio, which keep each file's own"
        )


def _source_base(source: Source, base: Timebase) -> Timebase:
    """Return how the time code of a file counts, at the rate of the list: as stated, else as the timeline."""
    if source.rate is None or source.start_timecode is None or source.timebase.rate != base.rate:
        return base
    return source.timebase


def _source_frames(event: Event, base: Timebase) -> tuple[int, int]:
    """Return first frame and end of an event, counted from the start time code of its file."""
    source = event.excerpt.source
    shift = source.first_frame(base) - source.first_frame(event.base)
    return event.source_in + shift, event.source_out + shift


def _comments(event: Event, base: Timebase) -> Iterator[str]:
    excerpt, source = event.excerpt, event.excerpt.source
    yield f"FROM CLIP NAME: {source.name}"
    yield f"SOURCE FILE: {one_line(os.fsdecode(source.path))}"
    exact = f"{excerpt.start_s:.3f} S TO {excerpt.end_s:.3f} S OF THE FILE, COUNTED AS {base.name}"
    if source.varies:
        yield f"VARIABLE FRAME RATE: {exact}"
    elif source.rate is not None and source.rate != base.rate:
        own = Timebase(source.rate).name
        yield f"FRAME RATE {own}: {exact}"
    for words in (excerpt.note, excerpt.text):
        if shown := one_line(words)[:_MAX_COMMENT_CHARS]:
            yield f"COMMENT: {shown}"


def _reels(sources: list[Source]) -> dict[str, str]:
    """Return fingerprint -> reel: at most 8 letters and digits of the file's name, each another one."""
    reels: dict[str, str] = {}
    for source in sources:
        if source.fingerprint in reels:
            continue
        stem = os.path.splitext(source.name)[0]
        plain = re.sub(r"[^A-Z0-9_]", "", stem.upper().replace(" ", "_").replace("-", "_"))[:REEL_CHARS] or "FILE"
        reel, number = plain, 1
        while reel in reels.values() or reel in _RESERVED:
            number += 1
            reel = f"{plain[: REEL_CHARS - 1 - len(str(number))]}_{number}"
        reels[source.fingerprint] = reel
    return reels
