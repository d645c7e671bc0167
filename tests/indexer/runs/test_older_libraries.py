"""Runs on libraries that earlier versions of vfindex made."""

from __future__ import annotations

from pathlib import Path

import pytest
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, FIRST, stored

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.reindex import estimate
from vfindex.storage.errors import LibraryVersion


@pytest.mark.parametrize("version", [FIRST, BEFORE_TRACKS, BEFORE_FRAMES])
def test_an_estimate_does_not_rewrite_an_older_library(version: str, tmp_path: Path) -> None:
    old = stored(version, tmp_path / "old")
    before = (old / "library.db").read_bytes()
    with pytest.raises(LibraryVersion, match="written by an older vfindex"):
        estimate(old, RunSettings(tmp_path))
    assert (old / "library.db").read_bytes() == before
