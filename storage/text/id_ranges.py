"""Ranges of document ids that bound a full text search to some videos."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

# Inclusive ranges of ids, (first, last), increasing.
Spans = Sequence[tuple[int, int]]
# Ranges returned for ids with too many gaps; more ranges would mostly hold other ids anyway.
LOOSE_SPANS = 4


def runs(ids: NDArray[np.int64]) -> Spans:
    """Return the contiguous ranges of increasing ids."""
    if not len(ids):
        return []
    cuts = np.flatnonzero(np.diff(ids) > 1)
    starts, stops = ids[np.append(0, cuts + 1)], ids[np.append(cuts, len(ids) - 1)]
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def around(ids: NDArray[np.int64], most: int) -> Spans:
    """Return the contiguous ranges of increasing ids; for more than `most` of them, LOOSE_SPANS ranges that cover
    all ids, split at the widest gaps.
    """
    gaps = np.diff(ids)
    if np.count_nonzero(gaps > 1) < most:
        return runs(ids)
    cuts = np.sort(np.argsort(-gaps, kind="stable")[: LOOSE_SPANS - 1])
    starts, stops = ids[np.append(0, cuts + 1)], ids[np.append(cuts, len(ids) - 1)]
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def outside(ids: NDArray[np.int64], last: int, most: int) -> Spans:
    """Return the ranges from 1 to `last` without the `most` longest contiguous runs of ids."""
    if not len(ids):
        return [(1, last)]
    starts = np.append(0, np.flatnonzero(np.diff(ids) > 1) + 1)
    lengths = np.diff(np.append(starts, len(ids)))
    longest = np.sort(np.argsort(-lengths, kind="stable")[:most])
    holes = [(int(ids[starts[n]]), int(ids[starts[n] + lengths[n] - 1])) for n in longest]
    edges = [0, *(edge for hole in holes for edge in hole), last + 1]
    spans = [(edges[n] + 1, edges[n + 1] - 1) for n in range(0, len(edges), 2)]
    return [span for span in spans if span[0] <= span[1]]


def newest_part(spans: Spans, share: float) -> Spans:
    """Return the newest `share` of the ids of spans; all of them for 1 or more."""
    left = math.ceil(share * sum(last - first + 1 for first, last in spans))
    chosen: list[tuple[int, int]] = []
    for first, last in reversed(spans):
        if left > 0:
            chosen.append((max(first, last - left + 1), last))
        left -= last - first + 1
    return chosen[::-1]
