"""Which segments of a joint index are merged, so that they stay few and little of them is deleted.

Segments have levels by size; four of one level become one of the next, so a clip is rewritten once a level. A segment
of which a tenth is deleted is rewritten, and so are all flat ones together once a search would scan too many. A merge
takes all smaller segments along: that costs little beside the larger one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Sequence

from vfindex.storage.index import segment
from vfindex.storage.index.segment import IndexSegment

# Segments of one level that are merged, and the ratio of one level to the next.
FACTOR = 4
# Share of a segment's clips that may be deleted. With it and the flat segments, the index of a library that changes by
# 1 % a night stays within 1.3 times a fresh one.
MOST_DEAD = 0.1
# Seconds a clip, if no segment of the index says how long its building took.
_SECONDS_A_CLIP = 1e-3


def due_merges(segments: Sequence[IndexSegment]) -> list[tuple[IndexSegment, ...]]:
    """Return the merges that are due, the largest first; each contains those after it.

    None of an index that is small enough for one flat segment: its publication builds it anew.
    """
    if sum(map(len, segments)) <= segment.EXACT_CLIPS:
        return []
    ordered = sorted(segments, key=len, reverse=True)
    at_level = Counter(level(len(each)) for each in segments)
    flat = [each for each in ordered if each.codes is None]
    crowded = flat[:1] if sum(map(len, flat)) > segment.flat_clips() else []
    crowded += [next(e for e in ordered if level(len(e)) == at) for at, count in at_level.items() if count >= FACTOR]
    return [
        tuple(ordered[at:])
        for at, each in enumerate(ordered)
        if each in crowded or len(each.dead) > MOST_DEAD * len(each.ids)
    ]


def level(clips: int) -> int:
    """Return the level of a segment: 0 for the largest flat segment, then one more for each FACTOR."""
    return 0 if clips <= segment.flat_clips() else 1 + int(math.log(clips / segment.flat_clips(), FACTOR))


def expected_s(segments: Sequence[IndexSegment], clips: int) -> float:
    """Return how many seconds the merge of so many clips will take, by those of the index before."""
    rates = [each.seconds / len(each.ids) for each in segments if each.codes is not None and each.seconds]
    return clips * max(rates, default=_SECONDS_A_CLIP)
