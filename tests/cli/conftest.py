"""Fixtures that run the command line in this process or in its own, and hand-written libraries without models."""

from __future__ import annotations

import atexit
import gc
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import axis, clip, install, video

from vfindex.cli.app import main
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.records import Location, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

# Names that a terminal, a markup reader or a table could take for something else than a name.
HOSTILE_NAMES = (
    b"[bold red]x[end].mp4",
    b"\x1b[31mred\x1b[0m.mp4",
    b"two\nlines\ttab.mp4",
    "r\u202etl.mp4".encode(),
    b"caf\xe9 \xff.mp4",
    b"-rf.mp4",
    b":smile: [link=x]y.mp4",
    b"a" * 150 + b".mp4",
)
SAID = "\x1b]0;owned\x07 she said [red]hello[end]"


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str


Run = Callable[..., Ran]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Return a function that runs `vfindex ARGUMENTS` in this process; a question's vector is axis 1."""
    monkeypatch.setenv("COLUMNS", "80")
    for name in ("VFINDEX_LIBRARY", "VFINDEX_DEBUG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(QueryEncoder, "encode", axis_one)
    monkeypatch.setattr(QueryEncoder, "encode_passages", lambda _, __, texts: np.stack([axis(2)] * len(texts)))

    def invoke(*arguments: object) -> Ran:
        monkeypatch.setattr(sys, "argv", ["vfindex", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            main()
        atexit.unregister(gc.freeze)  # this process has more to clean up at its exit than a search has
        captured = capsys.readouterr()
        return Ran(int(ended.value.code or 0), captured.out, captured.err)

    return invoke


def axis_one(*_: Any, **__: Any) -> dict[str, Any]:
    return {m: axis(1) for m in ("visual", "speech", "text")}


@dataclass(frozen=True)
class HostileLibrary:
    """A library of videos with hostile names in one folder."""

    folder: Path
    names: tuple[bytes, ...]
    above: bytes = b"/srv/family archive"

    def paths(self) -> list[bytes]:
        return [self.above + b"/" + name for name in self.names]


@pytest.fixture(scope="session")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> HostileLibrary:
    """Return a library whose names and words are hostile; tests read it only."""
    library = HostileLibrary(tmp_path_factory.mktemp("hostile"), HOSTILE_NAMES)
    with writing(library.folder) as writer:
        install(writer)
        for number, path in enumerate(library.paths()):
            add_file(writer, path, f"v{number}")
        writer.publish()
    return library


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of two videos, /videos/a.mp4 and /videos/b.mp4."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add_file(writer, b"/videos/a.mp4", "a")
        add_file(writer, b"/videos/b.mp4", "b")
        writer.publish()
    return folder


def add_file(writer: Writer, path: bytes, fingerprint: str) -> None:
    video_id = writer.catalog.begin_video(video(fingerprint), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    segment = Segment(0, 5, SAID, "asr", "en", confidence=0.5)
    result = UnitResult((clip(visual=axis(1), speech=axis(2)),), (segment,), {"visual": "1 frame"})
    writer.commit_unit(video_id, fingerprint, unit_id, result)
    writer.catalog.finish_video(video_id, Location(path, 100, 1, 1), [])


@pytest.fixture
def python() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Return a function that runs code in a Python of its own."""

    def invoke(code: str, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", code]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, env={**os.environ, **env})

    return invoke
