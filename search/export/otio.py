"""OpenTimelineIO (Academy Software Foundation): its JSON, in the schemas that every version of the library reads.

The library itself is not used: with version 0.18 a process can abort at its end, when a static object of its extension
gives a function back to a Python that is gone. Tests read the files with it.
"""

from __future__ import annotations

import json
import os
from typing import Any

from vfindex.search.export.selection import Selection, file_url, one_line
from vfindex.search.export.timecode import Timebase
from vfindex.search.export.timeline import Event, frame_count, timeline_of


def write_otio(selection: Selection, base: Timebase | None, start_s: float) -> bytes:
    """Return a selection as a timeline with a track of pictures and one of sound, times at each file's own rate."""
    timeline = timeline_of(selection, base, start_s)
    has_audio = [event.excerpt.source.has_audio for event in timeline.events]
    tracks = [_track("V1", "Video", [_clip(event) for event in timeline.events])]
    if any(has_audio):
        parts = [_clip(e) if has else _gap(e) for e, has in zip(timeline.events, has_audio, strict=True)]
        tracks.append(_track("A1", "Audio", parts))
    document = {
        "OTIO_SCHEMA": "Timeline.1",
        "name": one_line(selection.title) or "vfindex",
        "global_start_time": _time(timeline.start, timeline.base),
        "metadata": {},
        "tracks": _item("Stack.1", "tracks", None, children=tracks),
    }
    return (json.dumps(document, indent=2, allow_nan=False) + "\n").encode()


def _track(name: str, kind: str, parts: list[dict[str, Any]]) -> dict[str, Any]:
    return _item("Track.1", name, None, kind=kind, children=parts)


def _clip(event: Event) -> dict[str, Any]:
    excerpt, source = event.excerpt, event.excerpt.source
    known = {
        "fingerprint": source.fingerprint,
        "start_s": excerpt.start_s,
        "end_s": excerpt.end_s,
        "frame_rate_varies": source.varies,
        "start_timecode": source.start_timecode,
        "path": one_line(os.fsdecode(source.path)),
        "text": one_line(excerpt.text),
        "note": one_line(excerpt.note),
        "list": one_line(excerpt.list),
        "by": one_line(excerpt.by),
        "score": excerpt.score,
        "confidence": excerpt.confidence,
    }
    media = {
        "OTIO_SCHEMA": "ExternalReference.1",
        "name": source.name,
        "target_url": file_url(source.path),
        "available_range": _range(source.first_frame(event.base), frame_count(source, event.base), event.base),
        "metadata": {},
    }
    span = _range(event.source_in, event.source_out - event.source_in, event.base)
    clip = _item("Clip.1", source.name, span, media_reference=media)
    clip["metadata"]["vfindex"] = {name: value for name, value in known.items() if value not in (None, "")}
    return clip


def _gap(event: Event) -> dict[str, Any]:
    return _item("Gap.1", "", _range(0, event.source_out - event.source_in, event.base))


def _item(schema: str, name: str, source_range: dict[str, Any] | None, **more: Any) -> dict[str, Any]:
    """Return an item of a timeline, with the fields that each has."""
    common = {"OTIO_SCHEMA": schema, "name": name, "source_range": source_range}
    return {**common, "effects": [], "markers": [], "metadata": {}, **more}


def _range(start: int, length: int, base: Timebase) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "TimeRange.1", "start_time": _time(start, base), "duration": _time(length, base)}


def _time(frame: int, base: Timebase) -> dict[str, Any]:
    return {"OTIO_SCHEMA": "RationalTime.1", "rate": float(base.rate), "value": float(frame)}
