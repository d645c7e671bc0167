"""An upgrade in its own process, killed at any instant: the library as a reader finds it, and after the next call.

The library has three short videos, two with subtitles; the upgrade changes the sampling to SAMPLING.
"""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from command_line import start
from media import Shot, make_video

from vfindex.search.engine import SearchEngine
from vfindex.storage.index.model_versions import history
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify

SAMPLING = "1"
QUESTION = "the xylophone museum behind the red door"
ANSWER = b"red door.mp4"


@dataclass(frozen=True)
class Killed:
    """The outcome of a kill. ended: the upgrade had ended. swapped: the new version is in use. clean: undamaged."""

    ended: bool
    swapped: bool
    answers: bool
    clean: bool


def make_videos(folder: Path) -> Path:
    """Make the three videos in a new folder."""
    folder.mkdir(parents=True)
    make_video(folder / "red door.mp4", shots=[Shot("red", 3), Shot("green", 3)])
    make_video(folder / "blue hall.mp4", shots=[Shot("blue", 3), Shot("white", 3)])
    make_video(folder / "third.mp4", shots=[Shot("yellow", 4, to="black")], tone_hz=440)
    for name in ("red door", "blue hall"):
        text = f"1\n00:00:01,000 --> 00:00:03,000\nThis is the {name} of our xylophone museum.\n"
        (folder / f"{name}.srt").write_text(text)
    return folder


def kill_upgrade(library: Path, cache: Path, after_s: float) -> Killed:
    """Start or continue an upgrade, kill it after this many seconds, and check the library."""
    process = start(cache, "upgrade", "--sampling", SAMPLING, "--library", library, "--workers", "2")
    time.sleep(after_s)
    ended = process.poll() is not None
    process.send_signal(signal.SIGKILL)
    process.communicate()
    hits = SearchEngine.open(library).search(QUESTION)
    return Killed(
        ended=ended,
        swapped=history(library)[0] != 0,
        answers=len(hits) == 3 and os.path.basename(hits[0].video or b"") == ANSWER,
        clean=verify(Library.open(library)).clean,
    )


def end_upgrade(library: Path, cache: Path) -> float:
    """Run the upgrade to its end and return its duration in seconds. Raises RuntimeError if it fails."""
    began = time.monotonic()
    process = start(cache, "upgrade", "--sampling", SAMPLING, "--library", library, "--workers", "2")
    _, err = process.communicate()
    if process.returncode:
        raise RuntimeError(err.decode())
    return time.monotonic() - began
