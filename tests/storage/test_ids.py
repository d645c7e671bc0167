"""Sorted arrays of row ids."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.storage.ids import union


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [([], [], []), ([1, 5], [], [1, 5]), ([], [2, 3], [2, 3]), ([1, 5, 7], [2, 5, 9], [1, 2, 5, 7, 9])],
)
def test_the_union_has_each_id_once_in_order(one: list[int], other: list[int], both: list[int]) -> None:
    found = union(np.array(one, np.int64), np.array(other, np.int64))
    assert found.dtype == np.int64
    assert found.tolist() == both
