"""Limits on open files and memory: every command names the limit in a sentence."""

from __future__ import annotations

import errno
import os
import resource
from pathlib import Path

import pytest
from command_line import vfindex
from media import Shot, make_video

from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.storage.files.resources import lack


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory, models_cache: Path) -> Path:
    folder = tmp_path_factory.mktemp("made")
    make_video(folder / "one.mp4", shots=[Shot("red", 1)])
    settings = RunSettings(cache=models_cache, workers=1, asr=False)
    ingest(folder / "lib", [os.fsencode(folder / "one.mp4")], settings)
    return folder / "lib"


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("RLIMIT_NOFILE", 12),
        ("RLIMIT_NOFILE", 24),
        ("RLIMIT_AS", 200 << 20),
        ("RLIMIT_AS", 350 << 20),
        ("RLIMIT_AS", 400 << 20),
    ],
)
def test_no_command_prints_a_traceback_at_a_limit(library: Path, models_cache: Path, limit: str, value: int) -> None:
    def bounded() -> None:
        resource.setrlimit(getattr(resource, limit), (value, value))

    video = make_video(library.parent / f"{limit}-{value}.mp4", shots=[Shot("blue", 1)])
    for command in (("status",), ("search", "red"), ("ingest", video, "--no-asr"), ("verify",)):
        ran = vfindex(models_cache, *command, "--library", library, prepare=bounded)
        assert ran.code in (0, 1) and "Traceback" not in ran.err, (command, ran.err)
        if command[0] != "verify":
            assert "rebuilds it" not in ran.err and "vfindex repair" not in ran.err, "nothing is damaged"


def test_a_limit_is_named() -> None:
    assert "ulimit -n" in (lack(OSError(errno.EMFILE, "too many")) or "")
    assert "ulimit -v" in (lack(MemoryError()) or "")
    assert "memory" in (lack(ImportError("x.so: failed to map segment from shared object")) or "")
    assert "memory" in (lack(ImportError("Exception caught: std::bad_alloc")) or "")
    wrapped = ValueError("no")
    wrapped.__cause__ = RuntimeError("std::bad_alloc")
    assert "memory" in (lack(wrapped) or "")
    assert lack(ImportError("no module named x")) is None
    assert lack(OSError(errno.ENOENT, "none")) is None
