"""The transcript of a unit's audio, and the time that subtitles cover, which is not recognised."""

from __future__ import annotations

import bisect
import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from vfindex.storage.records import Segment, WordTimes

COMPLETE_SHARE = 1 / 3  # subtitles cover 60 to 90 % of speech; a few translated signs cover 5 %
COVERED_SHARE = 0.5  # a segment is covered if subtitles overlap this much of it


@dataclass(frozen=True, slots=True)
class Transcript:
    """The recognised segments, in order of time.

    voiced_s: seconds of possible speech without subtitles.
    recognised_s, dropped_s: of these, the seconds in the segments kept, and in those with too little confidence.
    problems: sentences. assumed: language -> windows that are taken for it, as they do not show theirs clearly.
    """

    segments: list[Segment]
    voiced_s: float
    recognised_s: float
    dropped_s: float
    problems: list[str]
    assumed: Mapping[str, int] = field(default_factory=dict)


def placed(text: str, words: Iterable[tuple[float, str]]) -> WordTimes:
    """Return the positions and starts of words in a text, as `Segment` has them; those without letters are left out.

    words: in order, (seconds after the start of the segment, word as in the text).
    """
    found: list[tuple[int, float]] = []
    place, before_s = 0, 0.0
    for time_s, word in words:
        at = text.find(word, place)
        if at >= 0 and any(map(str.isalnum, word)):
            before_s = max(before_s, round(time_s, 2))
            found.append((at, before_s))
            place = at + len(word)
    return tuple(found)


def covered_spans(spans: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Return the time covered by subtitles as disjoint spans in order.

    If they are a full transcript (at least COMPLETE_SHARE of the time from the first to the last), all of that time
    counts: the gaps are pauses and music. Otherwise (signs, foreign passages) only the spans do.
    """
    merged: list[tuple[float, float]] = []
    for start_s, end_s in sorted(spans):
        if merged and start_s <= merged[-1][1]:
            merged[-1] = (merged[-1][0], max(merged[-1][1], end_s))
        else:
            merged.append((start_s, end_s))
    if merged and sum(end - start for start, end in merged) >= COMPLETE_SHARE * (merged[-1][1] - merged[0][0]):
        return [(merged[0][0], merged[-1][1])]
    return merged


def overlap_s(spans: Sequence[tuple[float, float]], start_s: float, end_s: float) -> float:
    """Return how many seconds of [start_s, end_s) the spans cover; they are disjoint and in order."""
    first = bisect.bisect_right(spans, start_s, key=lambda span: span[1])
    inside = itertools.takewhile(lambda span: span[0] < end_s, (spans[at] for at in range(first, len(spans))))
    return sum(min(end, end_s) - max(start, start_s) for start, end in inside)
