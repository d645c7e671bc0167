"""Shot boundaries from sampled frames, and the clips cut inside the shots."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# A boundary stands out from its neighbourhood by this many robust standard deviations, and by this much at least:
# between two frames of one take the distance of `lite` embeddings was measured at 0.02 to 0.15, across a cut at 0.3 up.
OUTLIER_SIGMAS = 4.0
MIN_DISTANCE = 0.2
# Neighbouring distances on either side that make the local threshold.
NEIGHBOURS = 8
# Normal distribution: standard deviation = 1.4826 x median absolute deviation.
MAD_TO_SIGMA = 1.4826
MIN_CLIP_S = 2.0
MAX_CLIP_S = 12.0


@dataclass(frozen=True, slots=True)
class Span:
    """A clip's place: [start_s, end_s), the frames first..last (exclusive) that it holds, how sure its start is."""

    start_s: float
    end_s: float
    first: int
    last: int
    start_uncertainty_s: float


def detect_shots(vectors: FloatArray, times_s: NDArray[np.float64]) -> list[int]:
    """Return the positions of the frames that begin a shot, the first frame always among them.

    vectors: (n, dim) float32 unit rows. times_s: (n,) increasing. A boundary stands where the distance 1 - cosine of
    neighbouring frames is the largest nearby and exceeds the median of its neighbourhood by OUTLIER_SIGMAS robust
    deviations: adaptive thresholding of frame differences, Yusoff, Christmas and Kittler 2000 (BMVC), with the median
    and its deviation in place of mean and variance, so that a cut does not raise its own threshold. Distances are
    rounded to 1e-3, so that machines whose sums differ in the last bits find the same shots.
    """
    if len(vectors) != len(times_s):
        raise ValueError("one time per vector")
    if len(vectors) < 2:
        return [0] if len(vectors) else []
    distances = np.round(1.0 - np.einsum("ij,ij->i", vectors[1:], vectors[:-1]), 3)
    starts = [0]
    for i, distance in enumerate(distances):
        around = np.concatenate([distances[max(0, i - NEIGHBOURS) : i], distances[i + 1 : i + 1 + NEIGHBOURS]])
        median = float(np.median(around)) if len(around) else 0.0
        spread = float(np.median(np.abs(around - median))) * MAD_TO_SIGMA if len(around) else 0.0
        if distance >= max(MIN_DISTANCE, median + OUTLIER_SIGMAS * spread):
            starts.append(i + 1)
    return starts


def cut_clips(vectors: FloatArray, times_s: NDArray[np.float64], *, start_s: float, end_s: float) -> list[Span]:
    """Return the clips of a stretch [start_s, end_s) in order, covering it without gaps or overlaps.

    Clips last MIN_CLIP_S to MAX_CLIP_S and lie inside shots: a shorter shot joins the neighbour whose frames resemble
    its own more, a longer one is cut into equal parts at the frames nearest. A boundary is the time of the later frame;
    the gap before it is its uncertainty. Every clip holds a frame, so where frames are further apart than MAX_CLIP_S,
    clips are as long as their gaps. A stretch under MIN_CLIP_S is one clip.
    """
    if not len(times_s):
        return []
    starts = _join_short(vectors, times_s, detect_shots(vectors, times_s), end_s)
    bounds = [*starts, len(times_s)]
    spans: list[Span] = []
    for first, last in pairwise(bounds):
        shot_end = float(times_s[last]) if last < len(times_s) else end_s
        edges = _split(times_s, first, last, shot_end)
        for a, b in pairwise(edges):
            begin = start_s if a == 0 else float(times_s[a])
            end = float(times_s[b]) if b < len(times_s) else max(end_s, float(times_s[-1]) + 1e-3)
            gap = 0.0 if a == 0 else float(times_s[a] - times_s[a - 1])
            spans.append(Span(begin, end, a, b, gap))
    return spans


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


def _split(times_s: NDArray[np.float64], first: int, last: int, shot_end: float) -> list[int]:
    """Return frame positions that cut the shot first..last into parts of at most MAX_CLIP_S, where frames allow."""
    length = shot_end - float(times_s[first])
    parts = max(1, int(np.ceil(length / MAX_CLIP_S)))
    wanted = times_s[first] + length * np.arange(1, parts) / parts
    cuts = first + np.searchsorted(times_s[first:last], wanted)
    inner = sorted({int(cut) for cut in cuts if first < cut < last})
    return [first, *inner, last]


def _mean(vectors: FloatArray) -> FloatArray:
    return unit(vectors.mean(axis=0))


def unit(vector: FloatArray) -> FloatArray:
    """Return a vector scaled to length 1; a zero vector stays."""
    length = float(np.linalg.norm(vector))
    return np.asarray(vector / length if length > 0 else vector, dtype=np.float32)
