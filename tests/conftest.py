"""Fixtures shared by the tests of several packages."""

from __future__ import annotations

import os
import signal
import tempfile
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from vfindex.indexer.models.lite import ensure_lite
from vfindex.storage.encoders import text
from vfindex.storage.machine import usable_cores

# Searches keep their hits in the user's state folder: a test has one of its own, and so do the processes it starts.
_STATE = tempfile.TemporaryDirectory(prefix="vfindex-state-")
os.environ["XDG_STATE_HOME"] = _STATE.name

# A shell's background command ignores Ctrl-C, and so would the commands that tests interrupt.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# The time of an example depends more on the machine than on the code.
settings.register_profile("vfindex", deadline=None)
settings.load_profile("vfindex")


@pytest.hookimpl(optionalhook=True)  # without xdist, too
def pytest_xdist_auto_num_workers() -> int:
    """Return one worker more than there are cores: half of the time a worker waits for the processes of its tests."""
    return usable_cores() + 1


@pytest.fixture(scope="session")
def models_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a cache with the lite models, exported once per session, or reused if VFINDEX_CACHE is set."""
    chosen = os.environ.get("VFINDEX_CACHE")
    base = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        base = base.parent  # the workers of one session share it
    folder = Path(chosen) if chosen else base / "cache"
    ensure_lite(folder)
    return folder


@pytest.fixture(scope="session", autouse=True)
def _models_stay_open() -> Iterator[None]:
    """Open a model once for all runs of a process, as long as no file beside it changes: each time takes 0.3 s."""
    opened = text.open_graph

    @lru_cache(maxsize=8)
    def kept(path: Path, _files: Any, **options: Any) -> Any:
        return opened(path, **options)

    def open_graph(path: Path, **options: Any) -> Any:
        states = {each.name: each.stat() for each in sorted(path.parent.glob("*")) if each.is_file()}
        files = tuple((name, state.st_ino, state.st_size, state.st_mtime_ns) for name, state in states.items())
        return kept(path, files, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text, "open_graph", open_graph)
        yield
