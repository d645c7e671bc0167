"""Latency of a followed folder: python tests/bench/follow.py VIDEO --segments N --every S [--write S]

Follows an empty folder with `vfindex ingest --follow --no-asr --no-ocr`, or with both by `--all`, as a camera writes N
copies of VIDEO into it, one every S seconds, each in pieces over `--write` seconds. The copies differ in their last
bytes, so each is a content of its own. Prints the seconds from the close of a file to the first snapshot of the library
that has it, asked ten times a second, and whether one was searchable before it was closed.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from vfindex.search.service import SearchService
from vfindex.storage.errors import VfindexError

CODE = "from vfindex.cli.entry import main; main()"


def searchable(library: Path) -> set[str]:
    """Return the names of the videos that a search would find."""
    try:
        with SearchService(library) as service:
            return {os.path.basename(os.fsdecode(each.video or b"")) for each in service.videos().videos}
    except VfindexError:
        return set()


def write(path: Path, data: bytes, over_s: float) -> float:
    """Write a file in ten pieces; return when it was closed."""
    with path.open("wb") as file:
        for start in range(0, len(data), len(data) // 10 + 1):
            file.write(data[start : start + len(data) // 10 + 1])
            file.flush()
            time.sleep(over_s / 10)
    return time.monotonic()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("video", type=Path)
    parser.add_argument("--segments", type=int, default=10)
    parser.add_argument("--every", type=float, default=20.0)
    parser.add_argument("--write", type=float, default=2.0)
    parser.add_argument("--all", action="store_true")
    chosen = parser.parse_args()
    data = chosen.video.read_bytes()
    with tempfile.TemporaryDirectory() as made:
        folder, library = Path(made, "camera"), Path(made, "library")
        folder.mkdir()
        options = [] if chosen.all else ["--no-asr", "--no-ocr"]
        line = [sys.executable, "-c", CODE, "ingest", folder, "--follow", *options, "--library", library]
        with subprocess.Popen([*map(str, line)], stderr=subprocess.PIPE, text=True) as process:
            assert process.stderr is not None
            for said in process.stderr:
                if said.startswith("following"):
                    break
            took = [measure(folder, library, data, number, chosen) for number in range(chosen.segments)]
            process.send_signal(signal.SIGINT)
            process.communicate()
            print(f"exit code after Ctrl-C: {process.returncode}")
    print(f"{len(took)} segments of {len(data) / 1e6:.1f} MB, seconds from closed to searchable:")
    print("median {:.1f}, 90 % within {:.1f}, slowest {:.1f}".format(*np.quantile(took, (0.5, 0.9, 1.0))))


def measure(folder: Path, library: Path, data: bytes, number: int, chosen: argparse.Namespace) -> float:
    """Write a segment; return the seconds from its close until it is searchable."""
    name, begun = f"segment {number}.mp4", time.monotonic()
    # A free box at the end: another content, the same video.
    box = (16).to_bytes(4, "big") + b"free" + number.to_bytes(8, "big")
    closed = write(folder / name, data + box, chosen.write)
    assert name not in searchable(library), "searchable before it was closed"
    while name not in searchable(library):
        time.sleep(0.1)
    took = time.monotonic() - closed
    time.sleep(max(0.0, begun + chosen.every - time.monotonic()))
    return took


if __name__ == "__main__":
    main()
