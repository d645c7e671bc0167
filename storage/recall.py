"""How much of what an exact scan finds a joint index finds, for every weighting that it must be good at.

The questions are clips' own joint vectors, near to much, and the background queries of the models' priors, near to
nothing: those are the harder half. Recall is by score, so that equal vectors may stand for each other.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.graph import Graph, HalfVectors
from vfindex.storage.joint import JointSpec, ModalityPrior, fuse_query
from vfindex.storage.library import joint_batches
from vfindex.storage.records import FloatArray, Modality
from vfindex.storage.snapshot import Snapshot
from vfindex.storage.vectors import Effort, JointIndex, rescored

# What efforts are chosen for, of the harder kind of questions, so that others find 0.99; and the least that a walk must
# find, or all vectors are scored.
TARGET, LEAST = 0.995, 0.99
# What a few questions to an index published must still find: 32 of them stray by some 0.02 at titles, whose ten best
# are often found or missed together.
FLOOR = 0.95
# Of the first 200, which are only candidates for the ten that are shown.
TARGET_OF_MANY = 0.97
FIRST, MANY = 10, 200
# Questions of either kind at each weighting, so many or all there are: to choose efforts by, and to look whether an
# index keeps its word. Of 96 some samples found 0.994 where all 250 found 0.984.
QUESTIONS, FEW_QUESTIONS = 256, 16
# Clips taken for their vectors for each question, of which those that lack a modality are no questions to it alone.
CLIPS_A_QUESTION = 3
# Scores this close may stand in either order: float32 sums differ with the order of addition, and float16 rounds.
TIE = 1e-3
_EFFORTS = tuple(round(2 ** (power / 4)) for power in range(20, 49))  # 32, 38, 45, ... MAX_EFFORT


def questions(
    spec: JointSpec, priors: Mapping[Modality, ModalityPrior], clips: FloatArray, most: int | None = None
) -> list[tuple[FloatArray, FloatArray]]:
    """Return (clips' own, background) questions, each (n, dim), for each of `spec.corners()`.

    clips: joint vectors (n, dim) of some clips. most: of either kind; None: QUESTIONS.
    """
    most = most or QUESTIONS
    asked: dict[Modality, FloatArray] = {m: priors[m].background for m in spec.order}
    count = min((len(rows) for rows in asked.values()), default=0)
    chosen = range(0, count, max(1, count // most))[:most]
    plain = spec if spec.adds_up else spec.with_weights(dict.fromkeys(spec.order, 1.0))
    background = [fuse_query({m: rows[at] for m, rows in asked.items()}, plain) for at in chosen]
    result = []
    for factors in spec.corners():
        own = np.asarray(clips * factors, np.float32)
        unlike = np.asarray(np.reshape(background, (-1, spec.dim)) * factors, np.float32)
        result.append((own[np.any(own, axis=1)][:most], unlike))
    return result


def efforts(
    graph: Graph,
    rows: NDArray[np.float16],
    asked: Sequence[tuple[FloatArray, FloatArray]],
    slices: Sequence[slice],
) -> list[Effort]:
    """Return how far a walk of the graph must go for the questions of each weighting, see `Effort`.

    rows: (n, dim), the vectors that the graph was made of. asked: as `questions` returns them.
    """
    result = []
    for kinds in asked:
        best = [HalfVectors(rows).best(queries, MANY)[0] for queries in kinds]
        first, recall = _least(_Trial(graph, rows, kinds, [each[:, :FIRST] for each in best]), TARGET)
        many, _ = _least(_Trial(graph, rows, kinds, best), TARGET_OF_MANY)
        queries = kinds[1] if len(kinds[1]) else kinds[0]
        lengths = np.array([np.linalg.norm(queries[:, where], axis=1) for where in slices]).reshape(len(slices), -1)
        shares = np.mean(lengths / np.maximum(lengths.sum(axis=0), 1e-9), axis=1)
        result.append(Effort(first if recall >= LEAST else 0, many, recall, tuple(shares.tolist())))
    return result


def recall_at_10(
    snapshot: Snapshot, index: JointIndex, spec: JointSpec, priors: Mapping[Modality, ModalityPrior]
) -> list[float]:
    """Return recall@10 of an index against a scan of what library.db has of its clips, for each of `spec.corners()`.

    An empty index gives nothing.
    """
    ids = index.ids()
    wanted = CLIPS_A_QUESTION * FEW_QUESTIONS
    chosen = ids[:: max(1, len(ids) // wanted)][:wanted].tolist()
    clips = [rows for _, rows in joint_batches(snapshot, spec, chosen)]
    own = np.concatenate([np.zeros((0, spec.dim), np.float32), *clips])
    asked = [np.concatenate(kinds) for kinds in questions(spec, priors, own, FEW_QUESTIONS)]
    queries, top_k = np.concatenate(asked), min(FIRST, len(ids))
    if not len(queries) or not top_k:
        return [1.0] * len(asked)
    found = index.search(queries, top_k)[1]  # (n_queries, <= top_k)
    best = np.full((len(queries), top_k), -np.inf, np.float32)
    scores = np.full(found.shape, -np.inf, np.float32)  # of what was found, as library.db has it
    for part, rows in joint_batches(snapshot, spec, ids.tolist()):
        every = queries @ rows.T
        best = np.sort(np.concatenate([best, every], axis=1), axis=1)[:, -top_k:]
        at = np.minimum(np.searchsorted(part, found), len(part) - 1)
        scores = np.where(part[at] == found, np.take_along_axis(every, at, axis=1), scores)
    shares = np.array([_share(*each) for each in zip(scores, best, strict=True)])
    parts = np.split(shares, np.cumsum([len(each) for each in asked])[:-1])
    return [float(each.mean()) if len(each) else 1.0 for each in parts]


@dataclass(frozen=True, slots=True, eq=False)
class _Trial:
    """Walks to be tried. kinds: of questions, each (n, dim). best: of each kind (n, k) the best scores there are."""

    graph: Graph
    rows: NDArray[np.float16]
    kinds: Sequence[FloatArray]
    best: Sequence[FloatArray]

    @property
    def top_k(self) -> int:
        return max(int(each.shape[1]) for each in self.best)

    def recall(self, effort: int) -> float:
        """Return the share of the best that walks with this effort find, of the kind that finds less."""
        parts = [
            [self._found(query, bars, effort) for query, bars in zip(queries, best, strict=True)]
            for queries, best in zip(self.kinds, self.best, strict=True)
        ]
        return min((float(np.mean(shares)) for shares in parts if shares), default=1.0)

    def _found(self, query: FloatArray, bars: FloatArray, effort: int) -> float:
        places = self.graph.nearest(query, effort)[: rescored(len(bars))]
        return _share(HalfVectors(self.rows[places]).best(query[None], len(bars))[0][0], bars)


def _least(trial: _Trial, target: float) -> tuple[int, float]:
    """Return the least effort that reaches the target, or the greatest; and the recall with it."""
    tried: dict[int, float] = {}

    def recall(effort: int) -> float:
        tried[effort] = trial.recall(effort)
        return tried[effort]

    useful = [effort for effort in _EFFORTS if effort >= trial.top_k]
    at = min(bisect_left(useful, target, key=recall), len(useful) - 1)
    return useful[at], tried[useful[at]]


def _share(scores: FloatArray, best: FloatArray) -> float:
    """Return which share of the best scores was found, by score. best: (k,), in any order."""
    bar = float(best.min())
    return float(np.count_nonzero(scores >= bar - TIE * max(1.0, abs(bar)))) / len(best)
