"""Speech windows: the stretches of transcript that are embedded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from vfindex.storage.records import Segment


@dataclass(frozen=True, slots=True)
class Window:
    """Consecutive words of a transcript, said in [start_s, end_s)."""

    start_s: float
    end_s: float
    text: str


def windows(segments: Iterable[Segment], words: int = 25) -> list[Window]:
    """Return the windows of `words` words over the segments, in order of time."""
    raise NotImplementedError


def clip_windows(clips: Sequence[tuple[float, float]], spans: Sequence[Window]) -> list[list[int]]:
    """Return for each clip (start_s, end_s) the positions of the windows that describe it; empty where none does."""
    raise NotImplementedError
