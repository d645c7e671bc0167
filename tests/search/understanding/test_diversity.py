"""Maximal marginal relevance."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.search.understanding.diversity import marginal_relevance
from vfindex.storage.errors import QueryError

# Two of the same, and one that is less relevant and different.
VECTORS = np.array([[1, 0], [1, 0], [0, 1]], np.float32)
RELEVANCE = np.array([0.9, 0.8, 0.3], np.float32)


def test_the_second_is_not_the_first_s_copy() -> None:
    assert marginal_relevance(RELEVANCE, VECTORS, 3, 0.5) == [0, 2, 1]


def test_a_balance_of_one_is_the_order_of_relevance() -> None:
    assert marginal_relevance(RELEVANCE, VECTORS, 2, 1.0) == [0, 1]


def test_more_than_there_are_is_all_and_none_is_none() -> None:
    assert sorted(marginal_relevance(RELEVANCE, VECTORS, 9)) == [0, 1, 2]
    assert marginal_relevance(RELEVANCE[:0], VECTORS[:0], 3) == []


@pytest.mark.parametrize("balance", [-0.1, 1.1, float("nan")])
def test_a_balance_outside_0_to_1_is_refused(balance: float) -> None:
    with pytest.raises(QueryError, match="between 0 and 1"):
        marginal_relevance(RELEVANCE, VECTORS, 2, balance)
