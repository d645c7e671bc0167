"""Change points of a timeline: where what is shown, said and written becomes something else.

Kernel change-point detection (Harchaoui and Cappé 2007; for video Potapov et al. 2014, "Category-Specific Video
Summarization", ECCV): of all segmentations, that of least scatter within its segments plus a penalty for each. The
least is found exactly, by optimal partitioning (Jackson et al. 2005). The penalty is twice the noise of a step
(Mallows 1973): a change at random explains that noise once. It is at least HALF_UNRELATED, and no more in a video of
few clips, where noise and changes cannot be told apart.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from math import exp, lgamma

import numpy as np
from numpy.typing import NDArray

from vfindex.search.outline.timeline import Timeline

Matrix = NDArray[np.float64]
# Unrelated clips have cosines near 0, so splitting two of them explains 1; a change that explains less than half of it
# lies nearer to the same than to the unrelated.
HALF_UNRELATED = 0.5
# Orders that the test of chance draws: the least p-value is 1 / 100.
SHUFFLES = 99
# Above this, the order of the steps tells no more than chance.
MOST_P = 0.05
# Steps of a segment on average, below which a random order differs too little from the given one: a segment of one step
# stays together in all orders.
_LEAST_SIZE = 2
# Steps from which on the noise is estimated: of fewer differences of neighbours a handful of changes makes most.
LEAST_FOR_NOISE = 20
# Estimates of the noise, each from the segments before; it settles after three or four.
_ROUNDS = 10
_TINY = 1e-9


@dataclass(frozen=True, slots=True)
class Changes:
    """The steps that begin a segment, without the first, and how sure it is that the order of the steps has segments.

    p_value: share of random orders of the same steps, the given one among them, whose best segmentation explains as
    much; 1 without changes, None for segments of so few steps that many orders have them, see `_LEAST_SIZE`.
    """

    steps: tuple[int, ...]
    p_value: float | None

    @property
    def better_than_chance(self) -> bool | None:
        """Whether there are segments; None where there are too few steps to tell."""
        return None if self.p_value is None else self.p_value <= MOST_P


def find_changes(timeline: Timeline, least_s: float, progress: Callable[[int, int], None] | None = None) -> Changes:
    """Return the changes of a timeline whose segments last `least_s` at least.

    progress: called with (orders tried, all of them). Deterministic. Of n steps, takes O(n^2) time and memory.
    """
    n = len(timeline)
    if n < 2:
        return Changes((), 1.0)
    grams, masses, lengths_s = _grams(timeline), _masses(timeline), timeline.lengths_s
    scatter = _scatter(grams, masses, np.arange(n))
    noise = _noise(timeline) if n >= LEAST_FOR_NOISE else 0.0
    steps = _settled(scatter, lengths_s, noise, least_s)
    if not steps:
        return Changes((), 1.0)
    sizes = np.diff([0, *steps, n])
    if n < _LEAST_SIZE * len(sizes) or _share_of_orders(sizes) > MOST_P:
        return Changes(tuple(steps), None)
    # One penalty for all orders, which does not depend on the given one.
    gain = _best(scatter, lengths_s, HALF_UNRELATED, least_s)[1]
    generator, as_good = np.random.default_rng(0), 1
    for number in range(SHUFFLES):
        order = generator.permutation(n)
        as_good += _best(_scatter(grams, masses, order), lengths_s[order], HALF_UNRELATED, least_s)[1] >= gain - _TINY
        if progress is not None:
            progress(number + 1, SHUFFLES)
    return Changes(tuple(steps), as_good / (SHUFFLES + 1))


def partitions(timeline: Timeline) -> Iterator[tuple[int, ...]]:
    """Yield for 1, 2 ... n segments the edges (k + 1) of those that scatter least about their means.

    Exact, by dynamic programming (Fisher 1958, JASA 53): one more segment takes O(n^2) time and O(n) memory.
    """
    n = len(timeline)
    scatter = _scatter(_grams(timeline), _masses(timeline), np.arange(n))
    scatter[np.tri(n + 1, dtype=np.bool_)] = np.inf  # a segment has at least one step
    costs, before = scatter[0].copy(), list[NDArray[np.intp]]()
    for _ in range(n):
        edges = [n]
        for of_end in reversed(before):
            edges.append(int(of_end[edges[-1]]))
        yield (0, *reversed(edges))
        totals = costs[:, None] + scatter
        before.append(totals.argmin(axis=0))
        costs = totals.min(axis=0)


def _settled(scatter: Matrix, lengths_s: Matrix, noise: float, least_s: float) -> list[int]:
    """Return the starts of segments but the first. The noise is estimated anew within them until they stay.

    noise: of neighbours, which includes what changes between segments, so it only falls.
    """
    n, steps = len(lengths_s), list[int]()
    for _ in range(_ROUNDS):
        found, _ = _best(scatter, lengths_s, max(HALF_UNRELATED, 2 * noise), least_s)
        if found == steps:
            break
        steps = found
        within = sum(scatter[a, b] for a, b in pairwise((0, *steps, n)))
        noise = min(noise, float(within) / max(1, n - len(steps) - 1))
    return steps


def _share_of_orders(sizes: NDArray[np.int64]) -> float:
    """Return the share of all orders of the steps in which each segment stays together."""
    logs = lgamma(len(sizes) + 1) + sum(lgamma(int(size) + 1) for size in sizes) - lgamma(int(sizes.sum()) + 1)
    return exp(logs)


def _masses(timeline: Timeline) -> list[Matrix]:
    """Return for each modality the masses (n,) of steps: its weight times length in mean lengths; 0 if absent."""
    shares = timeline.lengths_s / timeline.lengths_s.mean()
    return [timeline.weights[m] * shares * np.any(rows, axis=1) for m, rows in timeline.vectors.items()]


def _grams(timeline: Timeline) -> list[Matrix]:
    """Return for each modality the inner products (n, n) of its rows."""
    return [(rows @ rows.T).astype(np.float64) for rows in timeline.vectors.values()]


def _scatter(grams: list[Matrix], masses: list[Matrix], order: NDArray[np.int64]) -> Matrix:
    """Return the scatter (n + 1, n + 1) of steps i to j - 1 in this order about their mean, summed over modalities.

    Rows have length 1, so that of masses w and rows x it is sum w - |sum w x|^2 / sum w. What lacks a modality counts
    nothing in it.
    """
    size = len(order) + 1
    total = np.zeros((size, size))
    for gram, mass in zip(grams, masses, strict=True):
        weighted = mass[:, None] * gram * mass
        sums = np.zeros((size, size))
        sums[1:, 1:] = weighted[np.ix_(order, order)].cumsum(0).cumsum(1)
        upto = np.concatenate([[0.0], np.cumsum(mass[order])])
        corner = np.diag(sums)
        squares = corner[None, :] - sums - sums.T + corner[:, None]
        within = upto[None, :] - upto[:, None]
        total += np.where(within > _TINY, within - squares / np.maximum(within, _TINY), 0.0)
    return total


def _noise(timeline: Timeline) -> float:
    """Return the scatter of one step about its segment's mean, as half the mean squared difference of neighbours.

    It needs no segments (von Neumann 1941; Rice 1984).
    """
    noise = 0.0
    for name, rows in timeline.vectors.items():
        present = np.any(rows, axis=1)
        both = present[1:] & present[:-1]
        if both.any():
            cosines = np.einsum("ij,ij->i", rows[1:], rows[:-1])[both]
            noise += timeline.weights[name] * float(np.mean(1.0 - cosines))
    return noise


def _best(scatter: Matrix, lengths_s: Matrix, penalty: float, least_s: float) -> tuple[list[int], float]:
    """Return the starts of the best segments but the first, and what they gain over one segment."""
    n = len(lengths_s)
    edges_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    costs = np.full(n + 1, np.inf)
    costs[0] = -penalty  # one segment has no change
    before = np.zeros(n + 1, np.int64)
    for end in range(1, n + 1):
        last = int(
            np.searchsorted(edges_s, edges_s[end] - least_s + _TINY, side="right")
        )  # starts before it are far enough
        if not last:
            continue
        candidates = costs[:last] + scatter[:last, end]
        before[end] = int(np.argmin(candidates))
        costs[end] = candidates[before[end]] + penalty
    if not np.isfinite(costs[n]):
        return [], 0.0
    steps, at = [], int(before[n])
    while at:
        steps.append(at)
        at = int(before[at])
    return steps[::-1], float(scatter[0, n] - costs[n])
