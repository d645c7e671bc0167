"""Runs that clients of a server start: one at a time, how they end, and that they end with the server."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from serving import eventually

from vfindex.cli import started_run
from vfindex.cli.started_run import RunStarter
from vfindex.storage.errors import LibraryLocked

SLEEPS = "import time; print('begun', flush=True); time.sleep(600)"


def test_a_run_is_the_command(library: Path) -> None:
    with RunStarter(library) as starter:
        assert starter.state() is None
        begun = starter.start("reindex")
        assert (begun.command, begun.exit_code) == ("reindex", None)
        assert eventually(lambda: ended(starter))
        found = starter.state()
        assert found is not None
        assert found.exit_code == 1
        assert found.message.startswith(f"vfindex: the library {library} does not know which folders it was made of")


def ended(starter: RunStarter) -> bool:
    found = starter.state()
    return found is not None and found.exit_code is not None


def test_one_run_at_a_time_which_ends_with_the_server(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(started_run, "_CODE", SLEEPS)
    monkeypatch.setenv("VFINDEX_TOKEN", "secret" * 10)
    with RunStarter(library) as starter:
        starter.start("reindex")
        assert starter._child is not None
        pid = starter._child.pid
        environment = Path(f"/proc/{pid}/environ")
        if environment.exists():
            assert b"secret" not in environment.read_bytes()
        with pytest.raises(LibraryLocked):
            starter.start("retry")
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    assert ended(starter)
