"""Sorted arrays of row ids."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from vfindex.storage.ids import positions_in, positions_in_runs, runs_of, union

SOME_IDS = st.sets(st.integers(1, 40)).map(lambda ids: np.array(sorted(ids), np.int64))


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [([], [], []), ([1, 5], [], [1, 5]), ([], [2, 3], [2, 3]), ([1, 5, 7], [2, 5, 9], [1, 2, 5, 7, 9])],
)
def test_the_union_has_each_id_once_in_order(one: list[int], other: list[int], both: list[int]) -> None:
    found = union(np.array(one, np.int64), np.array(other, np.int64))
    assert found.dtype == np.int64
    assert found.tolist() == both


@given(ids=SOME_IDS, among=SOME_IDS.filter(len))
def test_ids_looked_up_by_runs_are_where_each_alone_is(ids: NDArray[np.int64], among: NDArray[np.int64]) -> None:
    positions, known = positions_in(ids, among)
    runs = runs_of(among)
    assert positions_in_runs(ids, among, runs).tolist() == positions[known].tolist()
    assert len(runs) == 1 + sum(id_ - 1 not in among for id_ in among.tolist()) and runs[-1] == len(among)
