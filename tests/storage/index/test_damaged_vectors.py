"""Vectors of a mapped file whose damage no checksum has shown."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from vfindex.storage.index.file_format import writing_index
from vfindex.storage.index.ivf_pq import IvfPq, write_codes
from vfindex.storage.index.search_params import SearchParams, TunedParams, WeightingParams
from vfindex.storage.index.segment import IndexSegment


@pytest.mark.parametrize("is_coded", [False, True])
def test_damaged_vectors_are_not_found(tmp_path: Path, is_coded: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Blocks of a large file are not all checked: damage loses clips, and brings none that a filter leaves out."""
    monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
    rows = np.random.default_rng(0).standard_normal((200, 8)).astype(np.float16)
    part = IndexSegment(np.arange(200), rows)
    if is_coded:
        with writing_index(tmp_path / "codes") as file:
            file.put("rows", "<f2", [rows])
            part.codes = write_codes(file, [slice(0, 8)], np.ones(8, np.float32))
            file.end({})
        params = WeightingParams(SearchParams(64, 1.0), SearchParams(200, 1.0), 1.0)
        part.tuned = TunedParams((params,) * 2, (slice(0, 8),), (1.0,))
    among = np.arange(100)
    rows[:90] = np.nan
    for top_k in (1, 20, 100):
        _, found = part.nearest(np.ones(8, np.float32), top_k, among, None)
        assert len(found) and set(found.tolist()) <= set(range(90, 100)), top_k
        assert len(set(found.tolist())) == len(found), top_k
    rows[:] = np.nan
    assert part.nearest(np.ones(8, np.float32), 5, among, None)[1].tolist() == []
