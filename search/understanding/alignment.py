"""The same footage in two videos: a run of frames that are alike at one offset in time, and less so at any other.

Copies keep their speed, so that matching frames lie on a diagonal of the matrix of similarities: candidates vote for
its offset, and its best run is found (temporal Hough voting: Douze, Jégou and Schmid 2010, IEEE Transactions on
Multimedia). Similarity alone is no proof: shots of one fixed camera are alike at every offset. So the frames of a run
must be nearer to each other on the diagonal than beside it.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# Offsets are tried in these steps; frames match within half of what usual sampling leaves between them.
STEP_S, TOLERANCE_S = 0.25, 0.5
# A run ends at a longer gap. A shorter run, or one of fewer frames, is none: any two shots share a moment.
GAP_S, LEAST_S, LEAST_FRAMES = 3.0, 3.0, 5
# Frames that are compared beside the diagonal: between so many seconds from it, because slow change, as of a terminal
# that fills with text, makes all that is far away differ; and at most so many of a run.
BESIDE_S, BEYOND_S, MOST_BESIDE = 2.0, 5.0, 200
# Where little moves, many offsets are nearly the best; of these, the one whose run stands out most is taken.
NEARLY = 0.8
# Least evidence of a run. On the half of the planted copies that it was chosen on, unrelated videos had at most 3.0 and
# copies in which something moves at least 8.0; docs/duplicates.md has the other half.
LEAST_EVIDENCE = 5.0


def least_evidence(tried: int) -> float:
    """Return the evidence from which on a run counts if so many pairs were tried.

    The highest of many chance scores grows with the logarithm of their number (Karlin and Altschul 1990, PNAS).
    """
    return max(LEAST_EVIDENCE, math.log(max(tried, 1)))


@dataclass(frozen=True, slots=True, eq=False)
class Frames:
    """A video's frames. times_s: (n,), increasing. vectors: (n, dim), centred, of length 1."""

    times_s: NDArray[np.float64]
    vectors: FloatArray


@dataclass(frozen=True, slots=True)
class Run:
    """Spans of two videos with the same footage.

    similarity: mean cosine of the matching frames. left: their distance by that of frames beside the diagonal; below 1
    the same moments are alike, not only the same place. frames: how many match.
    """

    first_s: tuple[float, float]
    second_s: tuple[float, float]
    similarity: float
    left: float
    frames: int

    @property
    def evidence(self) -> float:
        """Frames times the logarithm of how much nearer they are than those beside the diagonal."""
        return -self.frames * math.log(max(self.left, 1e-6))


def align(first: Frames, second: Frames, offsets_s: Sequence[float], usual: float) -> Run | None:
    """Return the best run of the same footage, None if no run has LEAST_EVIDENCE.

    offsets_s: differences of the times in the second video to those in the first to try. usual: a similarity that
    frames of unrelated videos rarely reach; the sum of what matching frames have beyond it makes a run the best.
    """
    found: list[tuple[float, NDArray[np.int64], NDArray[np.int64]]] = []
    for offset_s in offsets_s if len(second.times_s) else ():
        rows, places = _diagonal(first, second, offset_s)
        if len(rows) >= LEAST_FRAMES:
            gains = np.einsum("ij,ij->i", first.vectors[rows], second.vectors[places]) - usual
            total, start, stop = _best_run(gains, first.times_s[rows])
            found.append((total, rows[start:stop], places[start:stop]))
    best = max((total for total, _, _ in found), default=0.0)
    near = [(rows, places) for total, rows, places in found if total >= NEARLY * best > 0]
    runs = [run for rows, places in near if (run := _run(first, second, rows, places)) is not None]
    found_run = min(runs, key=lambda run: run.left, default=None)
    return found_run if found_run is not None and found_run.evidence >= LEAST_EVIDENCE else None


def _diagonal(first: Frames, second: Frames, offset_s: float) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return the frames of the first video that the second has at this offset, and which of its frames these are."""
    wanted = first.times_s + offset_s
    found = np.searchsorted(second.times_s, wanted)
    before, after = np.maximum(found - 1, 0), np.minimum(found, len(second.times_s) - 1)
    is_nearer = np.abs(second.times_s[before] - wanted) < np.abs(second.times_s[after] - wanted)
    places = np.where(is_nearer, before, after)
    rows = np.flatnonzero(np.abs(second.times_s[places] - wanted) <= TOLERANCE_S)
    return rows, places[rows]


def _best_run(gains: FloatArray, times_s: NDArray[np.float64]) -> tuple[float, int, int]:
    """Return (sum, start, stop) of the run with the highest sum of gains that no gap interrupts."""
    best, total, start = (-np.inf, 0, 0), 0.0, 0
    for at, gain in enumerate(gains.tolist()):
        if total <= 0 or (at and times_s[at] - times_s[at - 1] > GAP_S):
            total, start = 0.0, at
        total += gain
        if total > best[0]:
            best = (total, start, at + 1)
    return best


def _run(first: Frames, second: Frames, rows: NDArray[np.int64], places: NDArray[np.int64]) -> Run | None:
    first_s, second_s = first.times_s[rows], second.times_s[places]
    if len(rows) < LEAST_FRAMES or first_s[-1] - first_s[0] < LEAST_S:
        return None
    similarity = float(np.mean(np.einsum("ij,ij->i", first.vectors[rows], second.vectors[places])))
    some = np.unique(np.linspace(0, len(rows) - 1, min(len(rows), MOST_BESIDE)).astype(np.int64))
    similar = first.vectors[rows[some]] @ second.vectors[places[some]].T
    apart_s = np.abs(first_s[some][:, None] - first_s[some][None])
    beside = (apart_s >= BESIDE_S) & (apart_s <= BEYOND_S)
    if not beside.any():
        return None
    usual = 1.0 - float(np.mean(similar[beside]))
    left = (1.0 - similarity) / usual if usual > 0 else 1.0
    span = (float(first_s[0]), float(first_s[-1])), (float(second_s[0]), float(second_s[-1]))
    return Run(*span, similarity, left, len(rows))
