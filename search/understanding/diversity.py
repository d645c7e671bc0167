"""Maximal marginal relevance: a list that is relevant, and in which no two entries say the same."""

from __future__ import annotations

import numpy as np

from vfindex.storage.errors import QueryError
from vfindex.storage.records import FloatArray

# Carbonell and Goldstein 1998 take 0.3 to look around and 0.7 to stay with what was asked.
BALANCE = 0.7


def marginal_relevance(relevance: FloatArray, vectors: FloatArray, top_k: int, balance: float = BALANCE) -> list[int]:
    """Return the rows of up to `top_k` candidates, the best first.

    Each next one maximises balance * relevance - (1 - balance) * (highest similarity to one already chosen), Carbonell
    and Goldstein 1998 (SIGIR). relevance: (n,), on the scale of the similarities. vectors: (n, dim), whose inner
    products are the similarities. balance: 1 is the plain order of relevance. Ties go to the earlier row. Takes
    O(top_k * n * dim). Raises QueryError for a balance outside 0 to 1.
    """
    if not 0.0 <= balance <= 1.0:
        raise QueryError(f"the share of relevance must lie between 0 and 1, not {balance:g}")
    left, nearest = np.ones(len(relevance), np.bool_), np.zeros(len(relevance), np.float64)
    chosen: list[int] = []
    while len(chosen) < min(top_k, len(relevance)):
        gains = np.where(left, balance * relevance - (1.0 - balance) * nearest, -np.inf)
        best = int(np.argmax(gains))
        similar = vectors @ vectors[best]
        nearest = similar if not chosen else np.maximum(nearest, similar)
        left[best] = False
        chosen.append(best)
    return chosen
