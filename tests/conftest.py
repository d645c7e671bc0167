"""Fixtures that several packages' tests share."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

from vfindex.indexer.models.lite import ensure_lite

# How long an example takes says more of the machine than of the code.
settings.register_profile("vfindex", deadline=None)
settings.load_profile("vfindex")


@pytest.fixture(scope="session")
def models_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache that holds the lite models, exported once a session, or once for all if VFINDEX_CACHE is set."""
    chosen = os.environ.get("VFINDEX_CACHE")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers of one session share it
    folder = Path(chosen) if chosen else base / "cache"
    ensure_lite(folder)
    return folder
