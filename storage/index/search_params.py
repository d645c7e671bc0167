"""How much of a large library's codes a question reads, and how many candidates it takes, by its weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from vfindex.storage.records import FloatArray

# Of how many that are shown, and of how many that are candidates for these, it is measured what a reach finds.
FIRST, MANY = 10, 200


@dataclass(frozen=True, slots=True)
class SearchParams:
    """So many candidates, from this share of the lists; 0 candidates: none are enough, all vectors are scored."""

    candidates: int
    share: float

    def covers(self, other: SearchParams) -> bool:
        """Return whether it finds all that another finds."""
        return self.candidates >= other.candidates and self.share >= other.share


@dataclass(frozen=True, slots=True)
class WeightingParams:
    """What the first FIRST and the first MANY need.

    recall: recall@10 measured with it, of the kind of questions that found the least.
    """

    first: SearchParams
    many: SearchParams
    recall: float

    def of(self, top_k: int) -> SearchParams:
        """Return what `top_k` need. More than MANY need more candidates of as many lists: that share hardly changes."""
        if not self.first.candidates or top_k <= FIRST:
            return self.first
        most = max(self.first.candidates, self.many.candidates)
        return SearchParams(max(most, most * top_k // MANY), max(self.first.share, self.many.share))


@dataclass(frozen=True, slots=True)
class TunedParams:
    """What was measured at the default weights and at each modality alone, as `JointSpec.corners` orders them.

    slices: of the modalities. shares: of each, in the lengths of the default questions it was measured with.
    """

    corners: tuple[WeightingParams, ...]
    slices: tuple[slice, ...]
    shares: tuple[float, ...]

    def __post_init__(self) -> None:
        """Raise ValueError for efforts of other slices."""
        if len(self.corners) != 1 + len(self.slices) or len(self.shares) != len(self.slices):
            raise ValueError("the efforts are not those of the slices")

    def choose(self, query: FloatArray) -> WeightingParams:
        """Return the effort for a question (dim,).

        One modality alone: what was measured for it. Every modality at least half as much in it as at the default
        weights: what was measured for these. Between them: the most careful of all, with all lists.
        """
        lengths = np.array([np.linalg.norm(query[where]) for where in self.slices])
        asked = np.flatnonzero(lengths)
        if len(asked) == 1:
            return self.corners[1 + int(asked[0])]
        if np.all(2 * lengths >= np.array(self.shares) * lengths.sum()):
            return self.corners[0]
        return _careful(self.corners)

    def told(self) -> dict[str, Any]:
        """Return the same for a file."""
        return {**asdict(self), "slices": [[where.start, where.stop] for where in self.slices]}

    @classmethod
    def of(cls, told: Mapping[str, Any]) -> TunedParams:
        """Return what `told` has returned. Raises KeyError, TypeError or ValueError for something else."""
        corners = [
            WeightingParams(SearchParams(**each["first"]), SearchParams(**each["many"]), float(each["recall"]))
            for each in told["corners"]
        ]
        slices = tuple(slice(int(start), int(stop)) for start, stop in told["slices"])
        return cls(tuple(corners), slices, tuple(map(float, told["shares"])))


def _careful(efforts: Sequence[WeightingParams]) -> WeightingParams:
    """Return an effort that is at least each of some, with all lists; none if one of them is none."""
    if any(not each.first.candidates for each in efforts):
        return WeightingParams(SearchParams(0, 1.0), SearchParams(0, 1.0), 0.0)
    first, many = max(each.first.candidates for each in efforts), max(each.many.candidates for each in efforts)
    return WeightingParams(SearchParams(first, 1.0), SearchParams(many, 1.0), min(each.recall for each in efforts))
