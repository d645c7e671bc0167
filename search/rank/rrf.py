"""Ranks fused instead of scores: what counts is a clip's place among the candidates, list by list.

Reciprocal rank fusion (Cormack, Clarke and Büttcher 2009): a clip's score is the sum over lists of 1 / (RANK_CONSTANT +
rank). The lists: each modality's similarities, and the words of the question by their rarity, weighted as modalities.
A modality that a clip lacks must be neutral, as it is where scores are fused: such a clip gets what a clip of that list
gets on average. The score is written without that average, so that it adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vfindex.search.rank.score import Scored
from vfindex.storage.records import Modality

# As published, and as search engines have it; the first rank is worth 1/61, the hundredth 1/160.
RANK_CONSTANT = 60


class ReciprocalRanks:
    """The lists of one question over its candidates. Equal values share a rank."""

    def __init__(self, candidates: Sequence[Scored], weights: Mapping[Modality, float]) -> None:
        """weights: of each modality; words count as the one that they stand in."""
        self._weights = weights
        self._similar = {m: _ordered(v for s in candidates if (v := s.similarity(m)) is not None) for m in weights}
        self._average = {m: _average(values) for m, values in self._similar.items()}
        self._words = _ordered(sum(each.bonus.values()) for each in candidates if each.bonus)

    def contributions(self, scored: Scored) -> dict[Modality, float]:
        """Return what each modality adds to a clip's score, whether it is among the candidates or not."""
        added: dict[Modality, float] = {}
        for modality, values in self._similar.items():
            value = scored.similarity(modality)
            if value is not None:
                added[modality] = self._weights[modality] * (_worth(values, value) - self._average[modality])
        total = sum(scored.bonus.values())
        for place, bonus in scored.bonus.items() if total > 0 else ():
            share = bonus / total * _worth(self._words, total)
            added[place] = added.get(place, 0.0) + self._weights[place] * share
        return added

    def bound(self, depth: int) -> float:
        """Return what a clip without words scores at most that is in no list among the first `depth`."""
        worth = 1.0 / (RANK_CONSTANT + depth + 1)
        return sum(weight * max(worth - self._average[m], 0.0) for m, weight in self._weights.items())


def _ordered(values: Iterable[float]) -> NDArray[np.float64]:
    return np.sort(np.fromiter(values, np.float64))


def _reciprocal(values: NDArray[np.float64], asked: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the reciprocal ranks of values in an increasing list."""
    better = len(values) - np.searchsorted(values, asked, side="right")
    return np.asarray(1.0 / (RANK_CONSTANT + better + 1))


def _worth(values: NDArray[np.float64], value: float) -> float:
    return float(_reciprocal(values, np.array([value]))[0])


def _average(values: NDArray[np.float64]) -> float:
    """Return the mean reciprocal rank of a list's own values."""
    return float(_reciprocal(values, values).mean()) if len(values) else 0.0
