"""Hand-written excerpts, for the tests of exports."""

from __future__ import annotations

from fractions import Fraction
from typing import Any

from vfindex.search.export.selection import Excerpt, Selection, Source
from vfindex.search.results import MarkList
from vfindex.storage.records import Segment


def source(name: str = "beach.mp4", rate: Fraction | int | None = 25, **facts: Any) -> Source:
    """Return a video of 100 s below /videos."""
    values: dict[str, Any] = {
        "fingerprint": name,
        "path": f"/videos/{name}".encode("utf-8", "surrogateescape"),
        "title": name,
        "tags": (),
        "start_s": 0.0,
        "end_s": 100.0,
        "clock_s": 0.0,
        "rate": None if rate is None else Fraction(rate),
        "varies": False,
        "start_timecode": None,
        "width_px": 1920,
        "height_px": 1080,
        "has_audio": True,
    }
    return Source(**values | facts)


def selection(*spans: tuple[Source, float, float], title: str = "dogs", words: tuple[Segment, ...] = ()) -> Selection:
    """Return excerpts of (source, start_s, end_s), each with all the words."""
    excerpts = tuple(
        Excerpt(of, number, start_s, end_s, segments=words) for number, (of, start_s, end_s) in enumerate(spans, 1)
    )
    return Selection(title, excerpts, MarkList(()))
