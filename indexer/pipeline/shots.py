"""Shot boundaries from sampled frames, and the clips cut inside the shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# A boundary exceeds its neighbourhood by this many robust standard deviations, and is at least this distance. Over
# 1,178 pairs of neighbouring frames of real video half are nearer than 0.06 and cuts further than 0.25; embeddings
# alone rank a ball in the air (0.37) above a cut between two cartoon scenes (0.12). See docs/decisions/shots.md.
OUTLIER_SIGMAS = 4.0
MIN_DISTANCE = 0.25
# Neighbouring distances on either side that determine the local threshold.
NEIGHBOURS = 8
# Normal distribution: standard deviation = 1.4826 x median absolute deviation.
MAD_TO_SIGMA = 1.4826
MIN_CLIP_S = 2.0
MAX_CLIP_S = 12.0


@dataclass(frozen=True, slots=True)
class Span:
    """The span of a clip: [start_s, end_s), its frames first..last (exclusive), and the uncertainty of its start."""

    start_s: float
    end_s: float
    first: int
    last: int
    start_uncertainty_s: float


def frame_distances(vectors: FloatArray, histograms: FloatArray) -> NDArray[np.float64]:
    """Return the distance from each frame to the next, (n - 1,), 0 to about 1.

    vectors: (n, dim) unit rows. histograms: (n, 512) of `colour_histogram`. The geometric mean of 1 - cosine of the
    embeddings and of 1 - intersection of the histograms (Swain and Ballard 1991): a cut changes both content and
    colours, a gesture only the content, a lamp only the colours. Rounded to 1e-3, so that machines whose sums differ in
    the last bits find the same shots.
    """
    meaning = np.clip(1.0 - np.einsum("ij,ij->i", vectors[1:], vectors[:-1]), 0.0, 1.0)
    colour = np.clip(1.0 - np.minimum(histograms[1:], histograms[:-1]).sum(axis=1), 0.0, 1.0)
    return np.asarray(np.sqrt(meaning * colour), dtype=np.float64).round(3)


def detect_shots(distances: NDArray[np.float64]) -> list[int]:
    """Return the positions of the frames that begin a shot, always including the first frame.

    distances: (n - 1,) between neighbours of n frames. There is a boundary where the distance exceeds MIN_DISTANCE and
    the median of its neighbourhood by OUTLIER_SIGMAS robust deviations: adaptive thresholding of frame differences,
    Yusoff, Christmas and Kittler 2000 (BMVC), with the median and its deviation in place of mean and variance, so that
    a cut does not raise its own threshold.
    """
    starts = [0]
    for i, distance in enumerate(distances):
        around = np.concatenate([distances[max(0, i - NEIGHBOURS) : i], distances[i + 1 : i + 1 + NEIGHBOURS]])
        median = float(np.median(around)) if len(around) else 0.0
        spread = float(np.median(np.abs(around - median))) * MAD_TO_SIGMA if len(around) else 0.0
        if distance >= max(MIN_DISTANCE, median + OUTLIER_SIGMAS * spread):
            starts.append(i + 1)
    return starts


def cut_clips(
    vectors: FloatArray, histograms: FloatArray, times_s: NDArray[np.float64], *, start_s: float, end_s: float
) -> list[Span]:
    """Return the clips of [start_s, end_s) in order, covering it without gaps or overlaps.

    vectors: (n, dim) unit rows, histograms: (n, 512), times_s: (n,) increasing, of its frames.
    Clips last MIN_CLIP_S to MAX_CLIP_S and lie inside shots: a shorter shot joins the neighbour whose frames resemble
    its own more, a longer one is cut at frames into as few parts as possible, nearly equal. A boundary is the time of
    the later frame; the gap before it is its uncertainty. Every clip has a frame, so where frames are further apart
    than MAX_CLIP_S, clips are as long as the gaps. A span shorter than MIN_CLIP_S is one clip.
    """
    if not len(times_s):
        return []
    found = detect_shots(frame_distances(vectors, histograms))
    starts = _join_short(vectors, times_s, without_flashes(found, vectors, histograms, times_s), end_s)
    bounds = [*starts, len(times_s)]
    # Start of the clip that begins with frame i; after the last frame, the end.
    edges_s = np.array([start_s, *times_s[1:], max(end_s, float(times_s[-1]) + 1e-3)])
    spans: list[Span] = []
    for first, last in pairwise(bounds):
        for a, b in pairwise(_split(edges_s, first, last)):
            gap = 0.0 if a == 0 else float(times_s[a] - times_s[a - 1])
            spans.append(Span(float(edges_s[a]), float(edges_s[b]), a, b, gap))
    return spans


def without_flashes(
    starts: Sequence[int], vectors: FloatArray, histograms: FloatArray, times_s: NDArray[np.float64]
) -> list[int]:
    """Return the starts of shots without those of flashes and of the shots that continue after them.

    A flash (camera, lightning, strobe) is too short for a clip, and the frames before and after it are more similar
    than at a cut.
    """
    kept = list(starts[:1])
    rest = list(starts[1:])
    while rest:
        start = rest.pop(0)
        if rest and times_s[rest[0]] - times_s[start] < MIN_CLIP_S:
            around = [start - 1, rest[0]]
            if frame_distances(vectors[around], histograms[around])[0] < MIN_DISTANCE:
                rest.pop(0)
                continue
        kept.append(start)
    return kept


def _join_short(vectors: FloatArray, times_s: NDArray[np.float64], starts: Sequence[int], end_s: float) -> list[int]:
    """Return the starts left when every shot shorter than MIN_CLIP_S has joined its more similar neighbour."""
    kept = list(starts)
    while len(kept) > 1:
        bounds = [*kept, len(times_s)]
        edges_s = [*(float(times_s[i]) for i in kept), max(end_s, float(times_s[-1]))]
        lengths = np.diff(edges_s)
        shortest = int(np.argmin(lengths))
        if lengths[shortest] >= MIN_CLIP_S:
            break
        if shortest == 0:
            del kept[1]
            continue
        own = _mean(vectors[bounds[shortest] : bounds[shortest + 1]])
        before = _mean(vectors[bounds[shortest - 1] : bounds[shortest]])
        after = None if shortest + 1 == len(kept) else _mean(vectors[bounds[shortest + 1] : bounds[shortest + 2]])
        joins_before = after is None or own @ before >= own @ after
        del kept[shortest if joins_before else shortest + 1]
    return kept


def _split(edges_s: NDArray[np.float64], first: int, last: int) -> list[int]:
    """Return positions first..last that cut a shot into parts of at most MAX_CLIP_S where the frames allow it.

    As few parts as possible, nearly equal: each cut is at the frame nearest to an equal division of the rest, among the
    frames from which the remaining parts can reach the end.
    """
    count = len(_reached(edges_s[first : last + 1]))
    back = _reached(-edges_s[first : last + 1][::-1])  # n parts reach the end from position last - back[n - 1] on
    cuts = [first]
    for left in range(count, 1, -1):
        here = cuts[-1]
        wanted_s = edges_s[here] + (edges_s[last] - edges_s[here]) / left
        high = _reach(edges_s, here)
        low = min(high, max(last - back[left - 2], _after(edges_s, here)))
        cuts.append(high - int(np.argmin(np.abs(edges_s[low : high + 1] - wanted_s)[::-1])))
    return [*cuts, last]


def _reached(edges_s: NDArray[np.float64]) -> list[int]:
    """Return the ends of consecutive parts of maximum length, up to the last edge."""
    found = [0]
    while found[-1] < len(edges_s) - 1:
        found.append(_reach(edges_s, found[-1]))
    return found[1:]


def _reach(edges_s: NDArray[np.float64], at: int) -> int:
    """Return the last edge at which a clip that begins at edge `at` may end; the next one if all are too far."""
    within = int(np.searchsorted(edges_s[at:] - edges_s[at], MAX_CLIP_S, side="right")) - 1
    return max(at + within, _after(edges_s, at))


def _after(edges_s: NDArray[np.float64], at: int) -> int:
    """Return the first edge later than edge `at`, or the last edge."""
    later = at + int(np.searchsorted(edges_s[at:], edges_s[at], side="right"))
    return min(later, len(edges_s) - 1)


def _mean(vectors: FloatArray) -> FloatArray:
    return unit(vectors.mean(axis=0))


def unit(vector: FloatArray) -> FloatArray:
    """Return a vector scaled to length 1; a zero vector is unchanged."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, dtype=np.float32)
