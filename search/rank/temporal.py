"""Two moments of one video whose times fit: `A then B within 20s`, `A near B within 20s`."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Order
from vfindex.search.rank.candidates import Ranking
from vfindex.search.rank.score import Scored
from vfindex.storage.db.reader import Snapshot


@dataclass(frozen=True, slots=True)
class Pair:
    """Clips of one video, the first answering the first moment; score: the sum of both."""

    first: Scored
    second: Scored

    @property
    def score(self) -> float:
        return self.first.score + self.second.score

    @property
    def start_s(self) -> float:
        return min(self.first.clip.start_s, self.second.clip.start_s)

    @property
    def end_s(self) -> float:
        return max(self.first.clip.end_s, self.second.clip.end_s)


def fitting(near: NDArray[np.float64], order: Order, within_s: float) -> NDArray[np.bool_]:
    """Return which clips, the first three rows, have a clip that answers the second moment in the last three, (n,).

    near: as `Snapshot.clips_near` has it. The gap from the end of one to the start of the other is at most `within_s`.
    then: the second begins when the first has ended. near: either may be first, and one clip may answer both moments.
    """
    _, first_start_s, first_end_s, _, second_start_s, second_end_s = near
    gap_s = second_start_s - first_end_s
    if order == "then":
        return np.asarray((gap_s >= 0) & (gap_s <= within_s))
    return np.asarray(np.maximum(gap_s, first_start_s - second_end_s) <= within_s)


def best_pairs(
    snapshot: Snapshot, rankings: tuple[Ranking, Ranking], when: tuple[Order, float], depth: int, wanted: int
) -> tuple[list[Pair], float]:
    """Return the best pairs of which at least one clip is among the first for its moment, best first, and a bound.

    when: order and the gap allowed. depth: clips looked at for each moment. Clips are compared by joint vectors and
    words; those of the best `wanted` pairs are read. No pair left out by `depth` scores more than the bound, best
    frames aside: the worst of the two lists together (Fagin et al. 2003, section 4).
    """
    (order, within_s), leading = when, [ranking.leading(depth) for ranking in rankings]
    firsts, seconds = (snapshot.clips_near(list(known), within_s) for known in leading)
    near = np.concatenate([firsts, seconds[[3, 4, 5, 0, 1, 2]]], axis=1)
    ids = np.unique(near[:, fitting(near, order, within_s)][[0, 3]].astype(np.int64), axis=1)  # (2, n)
    foreseen = [ranking.foreseen(np.unique(row).tolist()) for ranking, row in zip(rankings, ids, strict=True)]
    sums = {
        (first, second): foreseen[0][first] + foreseen[1][second]
        for first, second in ids.T.tolist()
        if first in foreseen[0] and second in foreseen[1]
    }
    best = sorted(sums, key=lambda pair: (-sums[pair], pair))[:wanted]
    scored = [
        {each.clip.id: each for each in ranking.scored(pair[at] for pair in best)}
        for at, ranking in enumerate(rankings)
    ]
    pairs = [Pair(scored[0][a], scored[1][b]) for a, b in best if a in scored[0] and b in scored[1]]
    bound = sum(ranking.bound(list(known.values()), depth) for ranking, known in zip(rankings, leading, strict=True))
    return sorted(pairs, key=lambda pair: (-pair.score, pair.first.clip.id, pair.second.clip.id)), bound
