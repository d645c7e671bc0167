"""Two moments of one video whose times fit: `A then B within 20s`, `A near B within 20s`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vfindex.search.query import Order
from vfindex.search.ranking import Ranking, Scored
from vfindex.storage.snapshot import Snapshot, StoredClip


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


def fits(first: StoredClip, second: StoredClip, order: Order, within_s: float) -> bool:
    """Return whether the gap between two clips is at most `within_s`, from the end of one to the start of the other.

    then: the second begins when the first has ended. near: either may be first, and one clip may answer both moments.
    """
    if first.video_id != second.video_id:
        return False
    gap_s = second.start_s - first.end_s
    if order == "then":
        return 0 <= gap_s <= within_s
    return max(gap_s, first.start_s - second.end_s) <= within_s


def best_pairs(
    snapshot: Snapshot, rankings: tuple[Ranking, Ranking], order: Order, within_s: float, depth: int
) -> tuple[list[Pair], float]:
    """Return the pairs of which at least one clip is among the best `depth` for its moment, best first, and a bound.

    No other pair scores more than the bound: the worst of the two lists together (Fagin et al. 2003, section 4).
    """
    firsts, seconds = (ranking.best(depth) for ranking in rankings)
    found = list(_partners(snapshot, firsts, rankings[1], within_s))
    found += [(first, second) for second, first in _partners(snapshot, seconds, rankings[0], within_s)]
    pairs = {
        (first.clip.id, second.clip.id): Pair(first, second)
        for first, second in found
        if fits(first.clip, second.clip, order, within_s)
    }
    bound = rankings[0].bound(firsts, depth) + rankings[1].bound(seconds, depth)
    ordered = sorted(pairs.values(), key=lambda pair: (-pair.score, pair.first.clip.id, pair.second.clip.id))
    return ordered, bound


def _partners(
    snapshot: Snapshot, known: Sequence[Scored], other: Ranking, within_s: float
) -> Iterator[tuple[Scored, Scored]]:
    """Yield each known clip with every clip near it in time, scored for the other moment."""
    spans = [(each.clip.video_id, each.clip.start_s - within_s, each.clip.end_s + within_s) for each in known]
    around = snapshot.clips_around(spans)
    scored = {each.clip.id: each for each in other.scored(id_ for _, id_ in around)}
    for number, id_ in around:
        if id_ in scored:
            yield known[number], scored[id_]
