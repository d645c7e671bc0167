"""Recall of a joint index against an exact scan at every weighting, and the tuning of its search parameters.

The queries are clips' own joint vectors (near many clips), background queries of the models' priors (near none),
midpoints of the latter, and mixtures of both, which are about a clip as questions are. Recall is measured by score, so
equal vectors are interchangeable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import evenly_spaced, positions_in, spread
from vfindex.storage.index.flat import HalfVectors, joint_batches, used_span
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.reader import VectorIndex
from vfindex.storage.index.search_params import FIRST, MANY, SearchParams, TunedParams, WeightingParams
from vfindex.storage.joint.codecs import as_float32
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, fuse_query
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

# Required recall for either kind of query, else all vectors are scored; and the margin in standard errors: with 1.645,
# other queries reach the recall for 19 of 20 samples. Clips of one video share a title and are found or missed
# together: with a fixed margin of 0.002, enough for visual, other titles had 0.965. Of the first 200 come the ten that
# are shown, one of each video: for all ten in 99 of 100 searches, one in a thousand may be missing.
LEAST = 0.99
REQUIRED = ((LEAST, 1.645), (0.999, 1.645))
# Required recall of a published index on a few queries: 32 of them vary by about 0.02 for titles, whose ten best clips
# are often found or missed together.
FLOOR = 0.95
# Queries of either kind per weighting, at most: for tuning, and for checking a published index. With 96, some samples
# had 0.994 where all 250 had 0.984.
QUESTIONS, FEW_QUESTIONS = 512, 16
# Of how many queries one is asked to see whether known parameters suffice.
EVERY = 4
# Cosine of a question to the clip that it is about.
LIKENESS = 0.5
# Clips read per query: those that lack a modality are no queries for it alone.
CLIPS_A_QUESTION = 3
# Scores this close may be in either order: float32 sums depend on the order of addition, and float16 rounds.
TIE = 1e-3
# Best clips that are known of a query: as many more than MANY as share its last score, in most videos with one title.
KNOWN = 256
# The grid: shares of the lists, and numbers of candidates.
SHARES = (1 / 8, 3 / 16, 1 / 4, 5 / 16, 3 / 8, 7 / 16, 1 / 2, 9 / 16, 5 / 8, 11 / 16, 3 / 4, 7 / 8, 1.0)
CANDIDATES = tuple(round(2 ** (power / 2)) for power in range(10, 33))  # 32, 45, 64, ... 65536
# At most one of so many vectors is a candidate, but up to LEAST_MOST in any index: codes confuse a share of all vectors
# with the best, and re-ranking stays the same share of a search.
VECTORS_A_CANDIDATE, LEAST_MOST = 244, 8192


def most_candidates(count: int) -> int:
    """Return the largest number of candidates that is tried for an index of so many vectors."""
    return max(each for each in CANDIDATES if each <= max(LEAST_MOST, count // VECTORS_A_CANDIDATE))


def questions(
    spec: JointSpec, priors: Mapping[ModalityName, ModalityPrior], clips: FloatArray, most: int | None = None
) -> list[tuple[FloatArray, FloatArray]]:
    """Return (clips' own, background) queries, each (n, dim), for each of `spec.corners()`.

    clips: joint vectors (n, dim) of some clips; those with all queried modalities come first. most: of either kind;
    None: QUESTIONS.
    """
    most = most or QUESTIONS
    asked: dict[ModalityName, FloatArray] = {m: priors[m].background for m in spec.order}
    count = min((len(rows) for rows in asked.values()), default=0)
    chosen = range(count)[evenly_spaced(count, most)]
    plain = spec if spec.adds_up else spec.with_weights(dict.fromkeys(spec.order, 1.0))
    background = [fuse_query({m: rows[at] for m, rows in asked.items()}, plain) for at in chosen]
    result = []
    for factors in spec.corners():
        own = np.asarray(clips * factors, np.float32)
        unlike = np.asarray(np.reshape(background, (-1, spec.dim)) * factors, np.float32)
        result.append((_most_complete(own, spec, most), unlike))
    return result


def _most_complete(own: FloatArray, spec: JointSpec, most: int) -> FloatArray:
    """Return at most `most` clips' vectors as queries, those with most modalities first; of equals, evenly spaced ones.

    A query has all modalities; a vector without one is a query at other weights, see `TunedParams.choose`.
    """
    own = own[np.any(own, axis=1)]
    present = np.zeros(len(own))  # modalities of each
    for where in spec.slices().values():
        present += np.any(own[:, where], axis=1)
    order = np.argsort(-present, kind="stable")
    if len(own) > most:  # the oldest clips alone are not the library
        last = present[order[most - 1]]
        sure, equal = order[present[order] > last], order[present[order] == last]
        order = np.concatenate([sure, equal[_spread(len(equal), most - len(sure))]])
    return own[order]


def _spread(count: int, size: int) -> NDArray[np.int64]:
    """Return `size` of the numbers 0..count-1, the middles of equal parts."""
    return np.array(spread(range(count), size), np.int64)


def tuned_params(
    codes: IvfPq, rows: NDArray[np.float16], asked: Sequence[tuple[FloatArray, FloatArray]], slices: Sequence[slice]
) -> TunedParams:
    """Return the search parameters that the queries of each weighting need, see `TunedParams`.

    rows: (n, dim), the vectors that the codes were made of. asked: as `questions` returns them.
    """
    trials = _trials(codes, rows, _kinds(asked))
    corners = tuple(_weighting_params(trial) for trial in trials)
    queries = asked[0][1] if len(asked[0][1]) else asked[0][0]
    lengths = np.array([np.linalg.norm(queries[:, where], axis=1) for where in slices]).reshape(len(slices), -1)
    shares = np.mean(lengths / np.maximum(lengths.sum(axis=0), 1e-9), axis=1)
    return TunedParams(corners, tuple(slices), tuple(shares.tolist()))


def is_enough(
    tuned: TunedParams, codes: IvfPq, rows: NDArray[np.float16], asked: Sequence[tuple[FloatArray, FloatArray]]
) -> bool:
    """Return whether parameters tuned for other vectors have the required recall here, for each kind of query.

    By one of EVERY queries, so without the margin: it was in them when they were tuned. See `tuned_params`.
    """
    trials = _trials(codes, rows, [[queries[::EVERY] for queries in each] for each in _kinds(asked)])
    not_found = most_candidates(len(rows))  # the rank of such a clip
    for corner, trial in zip(tuned.corners, trials, strict=True):
        for which, params in enumerate((corner.first, corner.many)):
            ranks = [of_kind[which] for of_kind in trial.ranks(params.share)]
            if any(np.mean(each < min(params.candidates, not_found)) < REQUIRED[which][0] for each in ranks):
                return False
    return True


def raised_params(
    tuned: TunedParams, codes: IvfPq, rows: NDArray[np.float16], asked: Sequence[FloatArray]
) -> TunedParams:
    """Return parameters with the required recall for more queries, too: (n, dim) for each weighting.

    Where they have it already, so that other vectors than these were missed, or a filter was in the way, twice as many
    candidates of all lists are taken, up to `most_candidates`.
    """
    corners = list(tuned.corners)
    for at, queries in enumerate(asked):
        if not len(queries) or not corners[at].first.candidates:
            continue
        trial = next(_trials(codes, rows, [[queries]]))
        wanted = corners[at].covering(_weighting_params(trial))
        is_new = (wanted.first, wanted.many) != (corners[at].first, corners[at].many)
        corners[at] = wanted if is_new else wanted.doubled(most_candidates(len(rows)))
    return replace(tuned, corners=tuple(corners))


def _kinds(asked: Sequence[tuple[FloatArray, FloatArray]]) -> list[tuple[FloatArray, FloatArray, FloatArray]]:
    """Return the queries of each kind, for each weighting: clips' own, background queries, mixtures of both."""
    kinds = [(own, _between(unlike)) for own, unlike in asked]
    return [(own, unlike, _partly(own, unlike)) for own, unlike in kinds]


def _partly(own: FloatArray, unlike: FloatArray) -> FloatArray:
    """Return queries (n, dim) that are like a clip by a cosine of LIKENESS, and otherwise like a background query."""
    count = min(len(own), len(unlike))
    if not count:
        return own[:0]
    own, unlike = own[_spread(len(own), count)], unlike[:count]
    lengths = [np.maximum(np.linalg.norm(each, axis=1, keepdims=True), 1e-9) for each in (own, unlike)]
    mixed = LIKENESS * own / lengths[0] + math.sqrt(1 - LIKENESS**2) * unlike / lengths[1]
    return np.asarray(mixed * lengths[1], np.float32)


def _between(queries: FloatArray) -> FloatArray:
    """Return the queries (n, dim), and as many sums of two of them, up to QUESTIONS in all."""
    pairs = queries + np.roll(queries, len(queries) // 3, axis=0)
    return np.concatenate([queries, pairs[: max(0, QUESTIONS - len(queries))]])


def recall_at_10(
    snapshot: Snapshot, index: VectorIndex, spec: JointSpec, priors: Mapping[ModalityName, ModalityPrior]
) -> list[float]:
    """Return recall@10 of an index against a scan of its clips in library.db, for each of `spec.corners()`.

    An empty index gives nothing.
    """
    ids = index.ids()
    count = CLIPS_A_QUESTION * FEW_QUESTIONS
    chosen = ids[evenly_spaced(len(ids), count)].tolist()
    clips = [rows for _, rows in joint_batches(snapshot, spec, chosen)]
    own = np.concatenate([np.zeros((0, spec.dim), np.float32), *clips])
    asked = [np.concatenate(kinds) for kinds in questions(spec, priors, own, FEW_QUESTIONS)]
    queries, top_k = np.concatenate(asked), min(FIRST, len(ids))
    if not len(queries) or not top_k:
        return [1.0] * len(asked)
    found = index.nearest(queries, top_k)[1]  # (n_queries, <= top_k)
    best = np.full((len(queries), top_k), -np.inf, np.float32)
    scores = np.full(found.shape, -np.inf, np.float32)  # of the hits, from library.db
    for part, rows in joint_batches(snapshot, spec, ids.tolist()):
        every = queries @ rows.T
        best = np.partition(np.concatenate([best, every], axis=1), -top_k, axis=1)[:, -top_k:]
        at, known = positions_in(found, part)
        scores = np.where(known, np.take_along_axis(every, at, axis=1), scores)
    shares = np.array([found_share(*each) for each in zip(scores, best, strict=True)])
    parts = np.split(shares, np.cumsum([len(each) for each in asked])[:-1])
    return [float(each.mean()) if len(each) else 1.0 for each in parts]


class KnownBest:
    """The best clips for questions among the vectors that it has seen: all of an index, or those that are new."""

    def __init__(self, asked: Sequence[FloatArray]) -> None:
        """asked: the questions (n, dim) of each weighting."""
        self._asked, self._queries = asked, np.concatenate(asked)
        self._scores = np.zeros((len(self._queries), 0), np.float32)
        self._ids = np.zeros((len(self._queries), 0), np.int64)

    def see(self, ids: NDArray[np.int64], rows: FloatArray) -> None:
        """Take vectors (n, dim) of clips into account."""
        scores = np.concatenate([self._scores, self._queries @ rows.T], axis=1)
        known = np.concatenate([self._ids, np.broadcast_to(ids, (len(self._queries), len(ids)))], axis=1)
        best = np.argsort(-scores, axis=1, kind="stable")[:, :FIRST]
        self._scores, self._ids = np.take_along_axis(scores, best, 1), np.take_along_axis(known, best, 1)

    def recall(self, index: VectorIndex) -> list[float]:
        """Return recall@10 of an index for each weighting, against what it and this know to be best."""
        scores, ids = index.nearest(self._queries, FIRST)
        shares = []
        for row, (found, known) in enumerate(zip(scores, ids, strict=True)):
            missed = self._scores[row][~np.isin(self._ids[row], known)]
            best = np.sort(np.concatenate([found, missed]))[-FIRST:]
            shares.append(found_share(found, best) if len(best) else 1.0)
        parts = np.split(np.array(shares), np.cumsum([len(each) for each in self._asked])[:-1])
        return [float(each.mean()) if len(each) else 1.0 for each in parts]


@dataclass(frozen=True, slots=True, eq=False)
class _Kind:
    """The candidates of queries of one kind, from all lists, best first: (n, <= `most_candidates`).

    depth: how many lists are nearer than that of a candidate. is_best: which are among the best FIRST and MANY clips,
    or as good as these.
    """

    depth: NDArray[np.int32]
    is_best: tuple[NDArray[np.bool_], NDArray[np.bool_]]

    @classmethod
    def of(
        cls, codes: IvfPq, rows: NDArray[np.float16], queries: FloatArray, best: tuple[FloatArray, NDArray[np.int64]]
    ) -> _Kind:
        """queries: (n, dim). best: scores and places of the best clips of each, best first, some more than MANY."""
        places, depth = codes.nearest_with_depth(queries, most_candidates(len(rows)))
        span = used_span(queries)
        bars = [best[0][:, min(top_k, len(rows)) - 1] for top_k in (FIRST, MANY)]
        bars = [bar - _tie(bar) for bar in bars]
        scores = np.full(places.shape, -np.inf, np.float32)
        for row, known in enumerate(best[1]):
            order = np.argsort(known)
            at, is_known = positions_in(places[row], known[order])
            scores[row, is_known] = best[0][row][order][at[is_known]]
            if best[0][row, -1] >= bars[1][row]:  # more are as good as these
                scores[row] = as_float32(rows[places[row], span]) @ queries[row, span]
        return cls(depth, (scores >= bars[0][:, None], scores >= bars[1][:, None]))

    def ranks(self, lists: int, clips: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the ranks of the best FIRST and MANY of all clips among the candidates of this many lists.

        `most_candidates` for those not found.
        """
        inside = self.depth < lists
        rank = np.cumsum(inside, axis=1) - 1
        result = []
        for top_k, is_best in zip((FIRST, MANY), self.is_best, strict=True):
            ranks = np.full((len(rank), min(top_k, clips)), most_candidates(clips))
            for row, found in enumerate(is_best & inside):
                some = rank[row, found][: ranks.shape[1]]
                ranks[row, : len(some)] = some
            result.append(ranks)
        return result[0], result[1]


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """The candidates of queries of one weighting, for each kind.

    They come from one scan of all lists, whose first candidates hold those of fewer lists and of smaller numbers. A
    clip that is not among them counts as not found, also in a share of the lists that has fewer candidates before it.
    """

    codes: IvfPq
    kinds: Sequence[_Kind]

    def ranks(self, share: float) -> list[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Return for each kind the ranks (n, FIRST) and (n, MANY) among the candidates of a share of the lists."""
        lists = self.codes.number_of_lists(share)
        return [kind.ranks(lists, len(self.codes)) for kind in self.kinds]


def _trials(codes: IvfPq, rows: NDArray[np.float16], asked: Sequence[Sequence[FloatArray]]) -> Iterator[_Trial]:
    """Yield a trial for each weighting. rows: (n, dim), what the codes were made of. asked: queries of each kind."""
    groups = [queries for kinds in asked for queries in kinds]
    found = iter(HalfVectors(rows).best_of(groups, min(KNOWN, len(rows))))
    for kinds in asked:
        pairs = [(queries, next(found)) for queries in kinds]
        yield _Trial(codes, [_Kind.of(codes, rows, *pair) for pair in pairs if len(pair[0])])


@dataclass(frozen=True, slots=True)
class _Found:
    """Search parameters with the lowest recall of all kinds of queries, whether it suffices, and their cost."""

    params: SearchParams
    recall: float
    is_enough: bool
    cost: float

    @property
    def order(self) -> tuple[bool, float]:
        """Sort key, best first: the cheapest that suffices, else the highest recall."""
        return not self.is_enough, self.cost if self.is_enough else -self.recall


def _weighting_params(trial: _Trial) -> WeightingParams:
    """Return the cheapest parameters with the required recall."""
    best: list[_Found] = []  # for the first FIRST and the first MANY
    for share in SHARES:
        kinds = trial.ranks(share)
        found = [_least(trial, share, [kind[which] for kind in kinds], REQUIRED[which]) for which in (0, 1)]
        best = [min(pair, key=lambda each: each.order) for pair in zip(best or found, found, strict=True)]
    first, many = best
    return WeightingParams(first.params if first.recall >= LEAST else SearchParams(0, 1.0), many.params, first.recall)


def _least(trial: _Trial, share: float, kinds: Sequence[NDArray[np.int64]], required: tuple[float, float]) -> _Found:
    """Return the lowest sufficient number of candidates, or the largest.

    kinds: ranks of each, as `_Trial.ranks` returns them. required: recall, and the margin in standard errors, for every
    kind.
    """
    target, errors = required
    largest = most_candidates(len(trial.codes))
    for most in CANDIDATES[: CANDIDATES.index(largest) + 1]:
        found = [np.mean(ranks < most, axis=1) for ranks in kinds]  # each (n,), the recall of each query
        is_enough = all(each.mean() - errors * each.std() / math.sqrt(len(each)) >= target for each in found)
        if is_enough:
            break
    recall = min((float(each.mean()) for each in found), default=1.0)
    return _Found(SearchParams(most, share), recall, is_enough, trial.codes.cost(most, share))


def found_share(scores: FloatArray, best: FloatArray) -> float:
    """Return the share of the best scores that was found. best: (k,), in any order."""
    bar = best.min()
    return float(np.count_nonzero(scores >= bar - _tie(bar))) / len(best)


def _tie(score: Any) -> Any:
    """Return the tolerance below a score within which another counts as equal."""
    return TIE * np.maximum(1.0, np.abs(score))
