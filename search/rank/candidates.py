"""The candidates for one moment of a query: from the index, the delta and keyword matches, scored on demand."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from functools import partial

import numpy as np

from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import KeywordMatches
from vfindex.search.rank.prefilter import Prefilter
from vfindex.search.rank.query_vectors import QueryVectors
from vfindex.search.rank.rrf import ReciprocalRanks
from vfindex.search.rank.score import ScoredClip, absent_score, joint_scores, score_clips
from vfindex.storage.joint.vector import fuse_query
from vfindex.storage.records import FloatArray

# Share of the candidates whose clips are read and scored with their best frames: the first hundred of two hundred from
# the index and one hundred from keywords. Reading a clip with its frames takes 25 us at 1,000,000 clips, ten times as
# long as its joint score. Lost are clips that only the best frame would lift over so many others
# (docs/decisions/lite.md).
RESCORED_SHARE = 0.5
# How many times the depth is fetched at most if the prefilter rejects candidates.
MAX_OVERFETCH = 8


def first_of(libraries: Sequence[Mapping[int, float]], depth: int) -> list[Mapping[int, float]]:
    """Return for each library clip id -> preliminary score: of the clips of all, those that one library would read.

    libraries: their `Candidates.top_scores`. Each gives as many candidates as one library of all, so none of that
    library's is missing; others that join them have better preliminary scores than those that they displace.
    """
    limit = int(RESCORED_SHARE * depth)
    if sum(map(len, libraries)) <= limit:
        return list(libraries)
    ordered = sorted(
        ((score, number, id_) for number, top in enumerate(libraries) for id_, score in top.items()),
        key=lambda each: -each[0],
    )
    chosen: list[dict[int, float]] = [{} for _ in libraries]
    for score, number, id_ in ordered[:limit]:
        chosen[number][id_] = score
    return [*chosen]


class Candidates:
    """The candidates for one moment, to any depth. No clip is scored twice.

    size: how many clips an unlimited depth gives at most.
    """

    def __init__(self, view: View, query: QueryVectors, keywords: KeywordMatches, prefilter: Prefilter | None) -> None:
        self._view = view
        self._query = query
        self._keywords = keywords
        self._prefilter = prefilter
        single = [{m: vector} for m, vector in query.vectors.items() if m in (view.rank_weights or ())]
        lists = [query.vectors] if view.rank_weights is None else single
        self._joint = np.stack([fuse_query(each, view.spec) for each in lists or [{}]])  # (n_lists, dim)
        self._clips = None if prefilter is None else prefilter.clips
        delta = view.delta
        self._outdated = delta.outdated
        self._delta_lists = [delta.nearest(joint, self._clips) for joint in self._joint]
        self._keyword_clips = self._accepted(keywords.clip_ids)
        self._scored: dict[int, ScoredClip | None] = {}
        self._ranks = ReciprocalRanks((), {})
        indexed = len(view.index) if view.index is not None else 0
        self.size = indexed + len(delta.ids)
        if self._clips is not None:
            self.size = min(self.size, len(self._clips))

    def best(self, depth: int) -> list[ScoredClip]:
        """Return the better half of `depth` candidates each of index and delta and all of keywords, best first.

        If ranks are fused: all of `depth` candidates per modality of index and delta.
        """
        ids = self._ids(depth)
        if self._view.rank_weights is not None:
            self._ranks = ReciprocalRanks(self._similar(ids), self._view.rank_weights)
            return self.score(ids)
        return self.score(self._top(ids, depth))

    def top_scores(self, depth: int) -> dict[int, float]:
        """Return clip id -> preliminary score of the clips that `best` reads."""
        if self._view.rank_weights is not None:
            return {each.clip.id: each.score for each in self.best(depth)}
        return self._top(self._ids(depth), depth)

    def preliminary_scores(self, ids: Sequence[int]) -> dict[int, float]:
        """Return the scores of accepted clips without best frames if joint vectors give them, else the full scores.

        Only joint vectors of `concat` keep the modalities apart.
        """
        accepted = self._accepted(ids)
        if self._view.rank_weights is not None or self._view.spec.fusion != "concat":
            return {each.clip.id: each.score for each in self.score(accepted)}
        absent = absent_score(self._view, self._keywords)
        scores = joint_scores(self._view, np.array(accepted, np.int64), self._query, absent)
        read = {each.clip.id: each.score for each in self.score(np.array(accepted)[np.isinf(scores)].tolist())}
        shares = np.array([self._keywords.clip_shares.get(id_, 0.0) for id_ in accepted])
        values = scores + self._view.setup.word_weight * shares
        return {id_: read.get(id_, value) for id_, value in zip(accepted, values.tolist(), strict=True)}

    def bound(self, scores: Sequence[float], depth: int) -> float:
        """Return an upper bound of the score of clips outside `top_scores(depth)`, whose scores are `scores`."""
        if self._view.rank_weights is not None:
            return self._ranks.bound(depth)
        return min(scores, default=0.0)

    def score(self, ids: Iterable[int]) -> list[ScoredClip]:
        """Return the accepted clips of `ids`, scored, best first; ties in order of clip id.

        If ranks are fused, ranks are those among the candidates of the last `best`.
        """
        scored = self._similar(ids)
        if self._view.rank_weights is not None:
            scored = [replace(each, rank_scores=self._ranks.contributions(each)) for each in scored]
        return sorted(scored, key=lambda each: (-each.score, each.clip.id))

    def _ids(self, depth: int) -> list[int]:
        ids = list(self._keyword_clips)
        for joint, delta_ids in zip(self._joint, self._delta_lists, strict=True):
            ids += self._first(delta_ids.__getitem__, depth) + self._first(partial(self._indexed, joint), depth)
        return list(dict.fromkeys(ids))

    def _top(self, ids: Sequence[int], depth: int) -> dict[int, float]:
        limit = int(RESCORED_SHARE * depth)
        scores = self.preliminary_scores(ids)
        chosen = sorted(scores, key=lambda id_: -scores[id_])[:limit] if len(scores) > limit else scores
        return {id_: scores[id_] for id_ in chosen}

    def _indexed(self, joint: FloatArray, first: slice) -> list[int]:
        """Return the nearest clips of the index."""
        index = self._view.index
        if index is None:
            return []
        _, ids = index.nearest(joint[None], first.stop, self._clips, self._outdated)
        if self._view.questions is not None and not index.is_exact:
            self._view.questions.keep(joint, first.stop, self._clips)
        nearest: list[int] = ids[0].tolist()
        return nearest

    def _first(self, ordered: Callable[[slice], list[int]], depth: int) -> list[int]:
        """Return the first `depth` accepted clips; over-fetch and double while the prefilter rejects too many."""
        prefilter = self._prefilter
        if prefilter is None or not prefilter.rejects:
            return ordered(slice(depth))
        fetched = depth + depth // 8
        while True:
            ids = ordered(slice(fetched))
            accepted = prefilter.accepted(ids)
            if len(accepted) >= depth or len(ids) < fetched or fetched >= MAX_OVERFETCH * depth:
                return accepted[:depth]
            fetched *= 2

    def _similar(self, ids: Iterable[int]) -> list[ScoredClip]:
        accepted = self._accepted(list(dict.fromkeys(ids)))
        new = [id_ for id_ in accepted if id_ not in self._scored]
        self._scored |= dict.fromkeys(new)
        for each in score_clips(self._view, new, self._query, self._keywords) if new else ():
            self._scored[each.clip.id] = each
        return [scored for id_ in accepted if (scored := self._scored[id_]) is not None]

    def _accepted(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self._prefilter is None else self._prefilter.accepted(ids)
