"""Pairs of clips of one video whose times fit: `A then B within 20s`, `A near B within 20s`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Order
from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.score import ScoredClip
from vfindex.storage.db.reader import Snapshot


@dataclass(frozen=True, slots=True)
class Pair:
    """A clip for each of two moments, of one video. score: the sum of both."""

    first: ScoredClip
    second: ScoredClip

    @property
    def score(self) -> float:
        return self.first.score + self.second.score


def fitting(near: NDArray[np.float64], order: Order, within_s: float) -> NDArray[np.bool_]:
    """Return (n,) whether two clips fit in time; near: (6, n), rows as `Snapshot.clips_near` returns them.

    The gap from the end of one to the start of the other is at most `within_s`. then: the second starts when or after
    the first ends. near: either order; one clip may be both.
    """
    _, first_start_s, first_end_s, _, second_start_s, second_end_s = near
    gap_s = second_start_s - first_end_s
    if order == "then":
        return np.asarray((gap_s >= 0) & (gap_s <= within_s))
    return np.asarray(np.maximum(gap_s, first_start_s - second_end_s) <= within_s)


def best_pairs(
    snapshot: Snapshot,
    moments: tuple[Candidates, Candidates],
    tops: Sequence[Mapping[int, float]],
    when: tuple[Order, float],
    limit: int,
) -> list[Pair]:
    """Return the best pairs with at least one clip among the first of its moment, best first.

    tops: those first clips of each moment, clip id -> preliminary score. when: order and the largest gap. Pairs are
    ranked by preliminary scores; the clips of the best `limit` pairs are read. Best frames aside, no other pair scores
    more than the sum of the lowest scores of the two lists (Fagin et al. 2003, section 4).
    """
    order, within_s = when
    firsts, seconds = (snapshot.clips_near(list(top), within_s) for top in tops)
    near = np.concatenate([firsts, seconds[[3, 4, 5, 0, 1, 2]]], axis=1)
    ids = np.unique(near[:, fitting(near, order, within_s)][[0, 3]].astype(np.int64), axis=1)  # (2, n)
    scores = [each.preliminary_scores(np.unique(row).tolist()) for each, row in zip(moments, ids, strict=True)]
    sums = {
        (first, second): scores[0][first] + scores[1][second]
        for first, second in ids.T.tolist()
        if first in scores[0] and second in scores[1]
    }
    best = sorted(sums, key=lambda pair: (-sums[pair], pair))[:limit]
    scored = [{each.clip.id: each for each in side.score(pair[i] for pair in best)} for i, side in enumerate(moments)]
    pairs = [Pair(scored[0][a], scored[1][b]) for a, b in best if a in scored[0] and b in scored[1]]
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first.clip.id, pair.second.clip.id))
