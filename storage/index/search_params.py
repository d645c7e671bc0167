"""Search parameters of a large index: share of lists to scan (nprobe) and candidates to re-rank, by query weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vfindex.storage.records import FloatArray

# Recall is measured for the first hits shown and for the candidates of re-ranking.
FIRST, MANY = 10, 200


@dataclass(frozen=True, slots=True)
class SearchParams:
    """Candidates to re-rank from this share of the lists; 0 candidates: no number suffices, score all vectors."""

    candidates: int
    share: float

    def covering(self, other: SearchParams) -> SearchParams:
        """Return parameters that find at least what either finds."""
        if not self.candidates or not other.candidates:
            return SearchParams(0, 1.0)
        return SearchParams(max(self.candidates, other.candidates), max(self.share, other.share))

    def doubled(self, most: int) -> SearchParams:
        """Return twice as many candidates of all lists, at most so many."""
        return SearchParams(max(self.candidates, min(2 * self.candidates, most)), 1.0)


@dataclass(frozen=True, slots=True)
class WeightingParams:
    """Parameters for the first FIRST and the first MANY hits at one weighting.

    recall: recall@10 measured with them, for the kind of queries with the lowest.
    """

    first: SearchParams
    many: SearchParams
    recall: float

    def of(self, top_k: int) -> SearchParams:
        """Return the parameters for `top_k`. Above MANY, candidates grow with it; the share of lists hardly changes."""
        if not self.first.candidates or top_k <= FIRST:
            return self.first
        most = max(self.first.candidates, self.many.candidates)
        return SearchParams(max(most, most * top_k // MANY), max(self.first.share, self.many.share))

    def covering(self, other: WeightingParams) -> WeightingParams:
        """Return parameters that find at least what either finds."""
        recall = min(self.recall, other.recall)
        return WeightingParams(self.first.covering(other.first), self.many.covering(other.many), recall)

    def doubled(self, most: int) -> WeightingParams:
        """Return twice as many candidates of all lists, at most so many."""
        return WeightingParams(self.first.doubled(most), self.many.doubled(most), self.recall)


@dataclass(frozen=True, slots=True)
class TunedParams:
    """Parameters tuned at the default weights and for each modality alone, in the order of `JointSpec.corners`.

    slices: of the modalities. shares: of each modality in the lengths of the default queries used for tuning.
    """

    corners: tuple[WeightingParams, ...]
    slices: tuple[slice, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError if the numbers of corners, slices and shares disagree."""
        if len(self.corners) != 1 + len(self.slices) or len(self.shares) != len(self.slices):
            raise ValueError("the search parameters are not those of the slices")

    def choose(self, query: FloatArray) -> WeightingParams:
        """Return the parameters for a query (dim,).

        One modality alone: those tuned for it. Each modality at least half as strong as at the default weights: those
        tuned for these. Else the largest of all, with all lists.
        """
        lengths = np.array([np.linalg.norm(query[where]) for where in self.slices])
        present = np.flatnonzero(lengths)
        if len(present) == 1:
            return self.corners[1 + int(present[0])]
        if np.all(2 * lengths >= np.array(self.shares) * lengths.sum()):
            return self.corners[0]
        return _covering(self.corners)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as JSON."""
        return {**asdict(self), "slices": [[where.start, where.stop] for where in self.slices]}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> TunedParams:
        """Parse the JSON of `to_dict`. Raises KeyError, TypeError or ValueError for anything else."""
        corners = [
            WeightingParams(SearchParams(**each["first"]), SearchParams(**each["many"]), float(each["recall"]))
            for each in data["corners"]
        ]
        slices = tuple(slice(int(start), int(stop)) for start, stop in data["slices"])
        return cls(tuple(corners), slices, tuple(map(float, data["shares"])))


def _covering(corners: Sequence[WeightingParams]) -> WeightingParams:
    """Return parameters that cover all given ones, with all lists; 0 candidates if one of them has 0."""
    if any(not each.first.candidates for each in corners):
        return WeightingParams(SearchParams(0, 1.0), SearchParams(0, 1.0), 0.0)
    first, many = max(each.first.candidates for each in corners), max(each.many.candidates for each in corners)
    return WeightingParams(SearchParams(first, 1.0), SearchParams(many, 1.0), min(each.recall for each in corners))
