"""The best results of a query: candidates of all libraries that are searched, scored and grouped as those of one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

from vfindex.search.query.ast import Query
from vfindex.search.query.encode import EncodedQuery
from vfindex.search.query.filters import clips_of_speakers, filtered
from vfindex.search.query.like import clip_among, places_of, stored_image
from vfindex.search.rank.candidates import Candidates, best_of, is_exhausted, top_of
from vfindex.search.rank.delta import View
from vfindex.search.rank.group import Group, Result, merge_neighbours, select_results
from vfindex.search.rank.lexical import KeywordMatches, match_keywords
from vfindex.search.rank.prefilter import build_prefilter
from vfindex.search.rank.query_vectors import QueryVectors, add_images, combine_parts
from vfindex.search.rank.score import score_clips
from vfindex.search.rank.temporal import best_pairs
from vfindex.storage.db.units import searchable_prints

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


@dataclass(frozen=True, slots=True, eq=False)
class Source:
    """One library of a search. moments: its candidates for each moment. cut: see `KeywordMatches`."""

    view: View
    moments: tuple[Candidates, ...]
    cut: tuple[str, ...]


def retrieve(
    views: Sequence[View], encoded: EncodedQuery, limits: tuple[int, int]
) -> tuple[list[Result], tuple[str, ...]]:
    """Return the best results of the candidates from index, delta and keywords, best first; and the required words that
    more documents contain than were searched.

    views: of libraries with one JointSpec, in order of their numbers. limits: (top_k, per_video).
    """
    top_k, per_video = limits
    query = encoded.query
    vectors, examples = _query_vectors(views, encoded)
    sources = _sources(views, query, vectors)
    duration_s = cache(lambda video: views[video[0]].snapshot.duration_s(video[1]))
    first = min(max(MIN_CANDIDATES, CANDIDATES_PER_HIT * top_k * per_video), EVERY_CLIP)
    deepest = max(first, MAX_CANDIDATES)
    depth = first if query.order is None else min(DEEPER * first, deepest)

    def merge(results: Sequence[Result], apart: Sequence[Result]) -> None:
        for source in sources:
            own = [each for each in results if each.video[0] == source.view.number]
            merge_neighbours(source.view.snapshot, source.moments[0], own, apart)

    while True:
        groups, bound = _groups(sources, query, (depth, first))
        # With one hit per video all spans grow together at the end, with one statement per round.
        expand = (lambda new, before: merge([new], before)) if per_video > 1 else lambda *_: None
        results = select_results(groups, limits, duration_s, expand, examples)
        complete = len(results) == top_k and results[-1].score >= bound
        moments = zip(*(source.moments for source in sources), strict=True)
        if complete or depth == deepest or all(is_exhausted(each, depth) for each in moments):
            if per_video == 1:
                merge(results, examples)
            return results, tuple(dict.fromkeys(word for source in sources for word in source.cut))
        depth = min(DEEPER * depth, deepest)  # one long video fills the candidates


def _query_vectors(views: Sequence[View], encoded: EncodedQuery) -> tuple[list[QueryVectors], list[Result]]:
    """Return the vectors of each moment, and the clips of the libraries among the images of the query."""
    first = views[0]
    pairs = zip(encoded.query.moments, encoded.words, strict=True)
    vectors = [combine_parts(moment.parts(), words, first.spec) for moment, words in pairs]
    if not encoded.has_images:
        return vectors, []
    snapshots = [view.snapshot for view in views]
    found = [clip_among(snapshots, like) for like in encoded.likes]
    stored = [stored_image(views[number].snapshot, clip) for number, clip in found]
    vectors[0] = add_images(vectors[0], [*encoded.pictures, *stored], first)
    examples, places = [], [place for each in found for place in places_of(snapshots, each)]
    for view in views:
        ids = [clip.id for number, clip in places if number == view.number]
        examples += [Result.of((each,)) for each in score_clips(view, ids, vectors[0], KeywordMatches())]
    return vectors, examples


def _sources(views: Sequence[View], query: Query, vectors: Sequence[QueryVectors]) -> list[Source]:
    """Return the libraries with their candidates. A video of several is searched in the first whose copy passes."""
    sources, seen = [], set[str]()
    for view in views:
        videos, hidden = filtered(view.snapshot, query.filters), list[int]()
        if len(views) > 1:
            prints = searchable_prints(view.snapshot)
            hidden = [prints[each] for each in prints.keys() & seen]
            seen.update(each for each, id_ in prints.items() if videos is None or id_ in videos)
        moments, cut, spoken = [], list[str](), clips_of_speakers(view.snapshot, query.filters)
        for moment, each in zip(query.moments, vectors, strict=True):
            keywords = match_keywords(view.snapshot, moment.keywords(), videos, view.others)
            prefilter = build_prefilter(view.snapshot, moment, keywords, videos, hidden, spoken)
            moments.append(Candidates(view, each, keywords, prefilter))
            cut += keywords.cut
        sources.append(Source(view, tuple(moments), tuple(cut)))
    return sources


def _groups(sources: Sequence[Source], query: Query, depths: tuple[int, int]) -> tuple[list[Group], float]:
    """Return candidate groups, best first, and an upper bound of the score of all others.

    depths: candidates per moment, and pairs that are read of each library.
    """
    depth, pairs_read = depths
    moments = list(zip(*(source.moments for source in sources), strict=True))
    if query.order is None:
        return [(each,) for each in best_of(moments[0], depth)], -math.inf
    when = (query.order, query.within_s)
    tops = [top_of(each, depth) for each in moments]  # by moment, by library
    pairs = []
    for source, *of_source in zip(sources, *tops, strict=True):
        pairs += best_pairs(source.view.snapshot, (source.moments[0], source.moments[1]), of_source, when, pairs_read)
    scores = [[score for top in each for score in top.values()] for each in tops]
    bound = sum(each[0].bound(of_moment, depth) for each, of_moment in zip(moments, scores, strict=True))
    return [(each.first, each.second) for each in sorted(pairs, key=lambda pair: -pair.score)], bound
