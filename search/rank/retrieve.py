"""The best results of a query: candidates of all libraries that are searched, scored and grouped as those of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache
from itertools import chain

from vfindex.search.query.ast import Query
from vfindex.search.rank.candidates import RESCORED_SHARE, first_of
from vfindex.search.rank.group import Group, Result, select_results
from vfindex.search.rank.score import ScoredClip
from vfindex.search.rank.source import Source

# Candidates of the joint index per hit: re-ranking by best frame and keywords moves clips by some ranks, and a long
# video may own many of the first ones.
CANDIDATES_PER_HIT = 20
MIN_CANDIDATES = 200
# The deepest look, if many candidates belong to one video, or are far from their other moment. Scoring so many takes
# some 0.1 s. A pair with neither clip among the first of its moment is not found.
MAX_CANDIDATES = 3200
# More than a library can have.
EVERY_CLIP = 2**40
# Factor of the depth from one round to the next. Pairs start one step deeper: in a large library the first 200 of two
# moments hardly ever share a video, and looking at 200 in vain takes as long as looking at 800 once.
DEEPER = 4


def retrieve(
    sources: Sequence[Source], query: Query, limits: tuple[int, int], examples: Sequence[Result] = ()
) -> list[Result]:
    """Return the best results of the candidates from index, delta and keywords, best first. limits: (top_k, per_video).

    sources: libraries with one JointSpec, in order of their numbers. examples: clips among the images of the query.
    """
    top_k, per_video = limits
    duration_s = cache(lambda video: sources[video[0]].duration_s(video[1]))
    first, deepest = depths(limits)
    depth = first if query.order is None else min(DEEPER * first, deepest)

    def merge(results: Sequence[Result], apart: Sequence[Result]) -> None:
        for source in sources:
            own = [each for each in results if each.video[0] == source.number]
            source.merge(own, apart, is_last=per_video == 1)

    while True:
        for source in sources:
            source.look(depth)
        groups, bound = _groups(sources, query, (depth, first))
        # With one hit per video all spans grow together at the end, with one statement per round.
        expand = (lambda new, before: merge([new], before)) if per_video > 1 else lambda *_: None
        results = select_results(groups, limits, duration_s, expand, examples)
        complete = len(results) == top_k and results[-1].score >= bound
        if complete or depth == deepest or _is_exhausted(sources, query, depth):
            if per_video == 1:
                merge(results, examples)
            return results
        depth = min(DEEPER * depth, deepest)  # one long video fills the candidates


def depths(limits: tuple[int, int]) -> tuple[int, int]:
    """Return the first depth of a search without moments, and the deepest of any. limits: (top_k, per_video)."""
    first = min(max(MIN_CANDIDATES, CANDIDATES_PER_HIT * math.prod(limits)), EVERY_CLIP)
    return first, max(first, MAX_CANDIDATES)


def _is_exhausted(sources: Sequence[Source], query: Query, depth: int) -> bool:
    """Return whether a larger depth gives no further clip of any library."""
    moments = range(len(query.moments))
    return all(RESCORED_SHARE * depth >= sum(each.size(moment) for each in sources) for moment in moments)


def _groups(sources: Sequence[Source], query: Query, depths: tuple[int, int]) -> tuple[list[Group], float]:
    """Return candidate groups, best first, and an upper bound of the score of all others.

    depths: candidates per moment, and pairs that are read of each library.
    """
    depth, pairs_read = depths
    if query.order is None:
        return [(each,) for each in _best(sources, depth)], -math.inf
    when = (query.order, query.within_s)
    tops = [first_of([each.top_scores(n, depth) for each in sources], depth) for n in range(2)]  # by moment, by library
    pairs = list(chain.from_iterable(s.pairs(of, when, pairs_read) for s, *of in zip(sources, *tops, strict=True)))
    scores = [[score for top in each for score in top.values()] for each in tops]
    bound = sum(sources[0].bound(moment, of_moment, depth) for moment, of_moment in enumerate(scores))
    return [(each.first, each.second) for each in sorted(pairs, key=lambda pair: -pair.score)], bound


def _best(sources: Sequence[Source], depth: int) -> list[ScoredClip]:
    """Return the clips that `Candidates.best` reads in one library of all; ties in order of the libraries."""
    if len(sources) == 1:
        return sources[0].best(depth)
    tops = first_of([each.top_scores(0, depth) for each in sources], depth)
    scored = [each.score(top) for each, top in zip(sources, tops, strict=True)]
    return sorted(chain.from_iterable(scored), key=lambda each: -each.score)
