"""Reciprocal rank fusion: a clip's score by its ranks among the candidates, one list per modality.

The score is the sum over lists of 1 / (RANK_CONSTANT + rank) (Cormack, Clarke and Büttcher 2009). The lists are each
modality's similarities, and the keyword bonus, weighted as the modalities. A modality that a clip lacks must be
neutral, as with summed scores: the clip gets the average of that list. Averages are subtracted from all scores, so that
the missing modality adds nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from vfindex.search.rank.score import ScoredClip
from vfindex.storage.modalities import ModalityName

# As published, and as search engines use it: rank 1 is worth 1/61, rank 100 1/160.
RANK_CONSTANT = 60


class ReciprocalRanks:
    """The lists of one query over its candidates. Equal values share a rank."""

    def __init__(self, candidates: Sequence[ScoredClip], weights: Mapping[ModalityName, float]) -> None:
        """weights: of each modality; a keyword has that of the modality it was found in."""
        self._weights = weights
        self._similarities = {m: _ordered(v for s in candidates if (v := s.similarity(m)) is not None) for m in weights}
        self._averages = {m: _average(values) for m, values in self._similarities.items()}
        self._bonuses = _ordered(sum(each.bonus.values()) for each in candidates if each.bonus)

    def contributions(self, scored: ScoredClip) -> dict[ModalityName, float]:
        """Return what each modality adds to a clip's score; the clip need not be a candidate."""
        added: dict[ModalityName, float] = {}
        for modality, values in self._similarities.items():
            value = scored.similarity(modality)
            if value is not None:
                added[modality] = self._weights[modality] * (_reciprocal_rank(values, value) - self._averages[modality])
        total = sum(scored.bonus.values())
        for field, bonus in scored.bonus.items() if total > 0 else ():
            share = bonus / total * _reciprocal_rank(self._bonuses, total)
            added[field] = added.get(field, 0.0) + self._weights[field] * share
        return added

    def bound(self, depth: int) -> float:
        """Return an upper bound of the score of a clip without keywords that is in no list's first `depth`."""
        value = 1.0 / (RANK_CONSTANT + depth + 1)
        return sum(weight * max(value - self._averages[m], 0.0) for m, weight in self._weights.items())


def _ordered(values: Iterable[float]) -> NDArray[np.float64]:
    return np.sort(np.fromiter(values, np.float64))


def _reciprocal_ranks(ordered: NDArray[np.float64], values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the reciprocal ranks of values in an increasing list."""
    better = len(ordered) - np.searchsorted(ordered, values, side="right")
    return np.asarray(1.0 / (RANK_CONSTANT + better + 1))


def _reciprocal_rank(ordered: NDArray[np.float64], value: float) -> float:
    return float(_reciprocal_ranks(ordered, np.array([value]))[0])


def _average(ordered: NDArray[np.float64]) -> float:
    """Return the mean reciprocal rank of a list's own values."""
    return float(_reciprocal_ranks(ordered, ordered).mean()) if len(ordered) else 0.0
