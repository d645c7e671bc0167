"""SIGKILL at any instant loses nothing that was committed, and the next run ends where an undisturbed one would."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from equality import assert_equal_libraries
from media import Shot, make_video

from vfindex.storage.errors import LibraryNotFound
from vfindex.storage.library import Library
from vfindex.storage.verify import verify

KILLS = 6
COMMAND = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]


@pytest.fixture(scope="module")
def videos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    make_video(folder / "red door.mp4", shots=[Shot("red", 3), Shot("green", 3)])
    make_video(folder / "blue hall.mp4", shots=[Shot("blue", 3), Shot("white", 3)])
    make_video(folder / "third.mp4", shots=[Shot("yellow", 4, to="black")])
    for path in sorted(folder.glob("*.mp4")):
        path.with_suffix(".srt").write_text(f"1\n00:00:01,000 --> 00:00:03,000\nThis is the {path.stem}.\n")
    return folder


def start(library: Path, videos: Path, cache: Path) -> subprocess.Popen[bytes]:
    environment = os.environ | {"VFINDEX_CACHE": str(cache)}
    arguments = ["ingest", str(videos), "--library", str(library), "--json", "--workers", "2"]
    return subprocess.Popen([*COMMAND, *arguments], env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def finish(library: Path, videos: Path, cache: Path) -> dict[str, int]:
    process = start(library, videos, cache)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err.decode()
    report: dict[str, int] = json.loads(out)
    return report


def test_killed_at_random_instants(tmp_path: Path, videos: Path, models_cache: Path) -> None:
    began = time.monotonic()
    assert finish(tmp_path / "undisturbed", videos, models_cache)["indexed"] == 3
    length_s = time.monotonic() - began
    instants = random.Random(8)
    for kill in range(KILLS):
        library = tmp_path / f"killed {kill}"
        process = start(library, videos, models_cache)
        time.sleep(length_s * (0.15 + 0.85 * (kill + instants.random()) / KILLS))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        done = committed(library)
        report = finish(library, videos, models_cache)
        assert (report["unchanged"], report["indexed"]) == (done, 3 - done)
        assert_equal_libraries(library, tmp_path / "undisturbed")
        assert verify(Library.open(library)).problems == []


def committed(folder: Path) -> int:
    """Return how many videos a killed run has left complete; what it has left must be sound."""
    try:
        with Library.open(folder).snapshot() as snapshot:
            done = snapshot.counts().get("indexed", 0)
    except LibraryNotFound:
        return 0  # killed before the library was made
    assert verify(Library.open(folder)).problems == []
    return done
