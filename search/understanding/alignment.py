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
# Cosines of two videos in memory: 16 MB; what a gap takes from a running sum, more than any run has.
MOST_CELLS, _INTERRUPTED = 1 << 21, 1e6
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
    if len(first.times_s) < LEAST_FRAMES or not len(second.times_s) or not len(offsets_s):
        return None
    found: list[tuple[float, NDArray[np.int64], NDArray[np.int64]]] = []
    size = max(1, MOST_CELLS // len(first.times_s))
    for at in range(0, len(offsets_s), size):
        found += _best_runs(first, second, np.asarray(offsets_s[at : at + size], np.float64), usual)
    best = max((total for total, _, _ in found), default=0.0)
    near = [(rows, places) for total, rows, places in found if total >= NEARLY * best > 0]
    runs = [run for rows, places in near if (run := _run(first, second, rows, places)) is not None]
    found_run = min(runs, key=lambda run: run.left, default=None)
    return found_run if found_run is not None and found_run.evidence >= LEAST_EVIDENCE else None


def _best_runs(
    first: Frames, second: Frames, offsets_s: NDArray[np.float64], usual: float
) -> list[tuple[float, NDArray[np.int64], NDArray[np.int64]]]:
    """Return for each offset with enough frames (sum, rows, places) of the run with the highest sum of gains.

    rows, places: the frames of both videos. A gap of GAP_S interrupts a run. Sums of runs are differences of running
    sums, so that all offsets are tried at once (Kadane's algorithm, as prefix sums).
    """
    places, is_there = _diagonals(first, second, offsets_s)  # (n_offsets, n_frames)
    kept = _distinct(np.where(is_there, places, -1), is_there.sum(axis=1) >= LEAST_FRAMES)
    places, is_there = places[kept], is_there[kept]
    if not len(places):
        return []
    gains = np.where(is_there, _similarities(first, second, places) - usual, 0.0)
    last_s = np.maximum.accumulate(np.where(is_there, first.times_s, -np.inf), axis=1)
    before_s = np.concatenate([np.full((len(places), 1), -np.inf), last_s[:, :-1]], axis=1)
    gaps = np.cumsum(is_there & np.isfinite(before_s) & (first.times_s - before_s > GAP_S), axis=1) * _INTERRUPTED
    sums = np.cumsum(gains, axis=1)
    starts = np.where(is_there, sums - gains - gaps, np.inf)
    totals = np.where(is_there, sums - gaps - np.minimum.accumulate(starts, axis=1), -np.inf)
    stops = totals.argmax(axis=1)
    best = totals[np.arange(len(stops)), stops]
    found = []
    for number in np.flatnonzero(best >= NEARLY * best.max()).tolist() if best.max() > 0 else ():
        stop = int(stops[number]) + 1
        start = int(np.argmin(starts[number, :stop]))
        rows = start + np.flatnonzero(is_there[number, start:stop])
        found.append((float(best[number]), rows, places[number, rows]))
    return found


def _distinct(diagonals: NDArray[np.int64], wanted: NDArray[np.bool_]) -> list[int]:
    """Return the rows that are wanted, the first of equal ones: frames are further apart than offsets."""
    return list({diagonals[row].tobytes(): row for row in reversed(np.flatnonzero(wanted).tolist())}.values())[::-1]


def _diagonals(
    first: Frames, second: Frames, offsets_s: NDArray[np.float64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return (n_offsets, n_frames): the nearest frame of the second video, and whether it is near enough in time."""
    wanted = first.times_s + offsets_s[:, None]
    found = np.searchsorted(second.times_s, wanted)
    before, after = np.maximum(found - 1, 0), np.minimum(found, len(second.times_s) - 1)
    is_nearer = np.abs(second.times_s[before] - wanted) < np.abs(second.times_s[after] - wanted)
    places = np.where(is_nearer, before, after)
    return places, np.abs(second.times_s[places] - wanted) <= TOLERANCE_S


def _similarities(first: Frames, second: Frames, places: NDArray[np.int64]) -> NDArray[np.float64]:
    """Return the cosines (n_offsets, n_frames) of the frames of the first video and those of the second at `places`."""
    if len(first.times_s) * len(second.times_s) <= MOST_CELLS:
        table = first.vectors @ second.vectors.T
        return np.asarray(table[np.arange(len(first.times_s)), places], np.float64)
    return np.stack([np.einsum("ij,ij->i", first.vectors, second.vectors[row]) for row in places]).astype(np.float64)


def _run(first: Frames, second: Frames, rows: NDArray[np.int64], places: NDArray[np.int64]) -> Run | None:
    first_s, second_s = first.times_s[rows], second.times_s[places]
    if len(rows) < LEAST_FRAMES or first_s[-1] - first_s[0] < LEAST_S:
        return None
    some = np.arange(len(rows))
    if len(rows) > MOST_BESIDE:
        some = np.unique(np.linspace(0, len(rows) - 1, MOST_BESIDE).astype(np.int64))
    similar = first.vectors[rows[some]] @ second.vectors[places[some]].T
    similarity = float(np.trace(similar)) / len(some)
    if len(some) < len(rows):
        similarity = float(np.mean(np.einsum("ij,ij->i", first.vectors[rows], second.vectors[places])))
    if -len(rows) * math.log(max((1 - similarity) / max(1 - float(similar.min()), 1e-6), 1e-6)) < LEAST_EVIDENCE:
        return None  # even by the least alike of the frames beside the diagonal
    apart_s = np.abs(first_s[some][:, None] - first_s[some][None])
    beside = (apart_s >= BESIDE_S) & (apart_s <= BEYOND_S)
    if not beside.any():
        return None
    usual = 1.0 - float(np.mean(similar[beside]))
    left = (1.0 - similarity) / usual if usual > 0 else 1.0
    span = (float(first_s[0]), float(first_s[-1])), (float(second_s[0]), float(second_s[-1]))
    return Run(*span, similarity, left, len(rows))
