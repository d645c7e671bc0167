"""Time of a `vfindex reindex` without changes, as a whole process, compared with a lower bound.

    python tests/bench/rescan.py [--files N] [--runs N]

The lower bound is a walk by os.scandir with a stat of every file, plus the imports of the command. Both run
alternately, so other work on the machine affects them alike; the ratios are compared. The files have a few bytes each,
100 per folder, and the library's rows are inserted directly.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

from sqlalchemy import insert

from vfindex.storage.db import schema
from vfindex.storage.db.sources import Root, remember
from vfindex.storage.writer import writing

sys.path.insert(0, os.fspath(Path(__file__).resolve().parents[1]))

from library_maker import install

PER_FOLDER = 100
YARDSTICK = """
import filelock, numpy, os, sqlalchemy, sys, typer
pending = [os.fsencode(sys.argv[1])]
while pending:
    with os.scandir(pending.pop()) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                pending.append(entry.path)
            else:
                entry.stat(follow_symlinks=False)
"""
VFINDEX = "from vfindex.cli.app import main; main()"


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a reindex of unchanged files.")
    parser.add_argument("--files", type=int, default=100_000, help="default: 100000")
    parser.add_argument("--runs", type=int, default=7, help="rounds of the two commands (default: 7)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        videos, library = Path(name, "videos"), Path(name, "library")
        _make(videos, library, arguments.files)
        commands = {
            "yardstick": ["-c", YARDSTICK, os.fspath(videos)],
            "reindex": ["-P", "-c", VFINDEX, "reindex", "--json", "--library", os.fspath(library)],
        }
        taken: dict[str, list[tuple[float, float]]] = {name: [] for name in commands}
        for turn in range(arguments.runs + 1):  # the first round warms the page cache and does not count
            for name, command in commands.items():
                cost = _run(command)
                if turn:
                    taken[name].append(cost)
    for number, clock in enumerate(("wall", "processor")):
        _print(clock, {name: [cost[number] for cost in costs] for name, costs in taken.items()})
    print(f"{arguments.files} files, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")


def _make(videos: Path, library: Path, files: int) -> None:
    rows, places = [], []
    for number in range(files):
        path = videos / f"{number // PER_FOLDER:05d}" / f"clip {number % PER_FOLDER:03d}.mp4"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"%d" % number)
        found = path.stat()
        rows.append(_video(number + 1, found.st_size))
        place = {"path": os.fsencode(path), "video_id": number + 1, "size_bytes": found.st_size}
        places.append(place | {"mtime_ns": found.st_mtime_ns, "inode": found.st_ino})
    with writing(library) as writer:
        install(writer)
        with writer.catalog.transaction() as connection:
            connection.execute(insert(schema.video), rows)
            connection.execute(insert(schema.location), places)
        remember(writer.catalog, [Root(os.fsencode(videos))])


def _video(number: int, size_bytes: int) -> dict[str, object]:
    shape = {"width_px": 1920, "height_px": 1080, "rotation_deg": 0, "has_audio": 1, "recognised": 1}
    times = {"start_s": 0.0, "last_s": 59.96, "end_s": 60.0, "frames": 1500}
    words = {"title": "a title of some length", "tags": '{"major_brand": "isom"}', "chapters": "[]", "problem": None}
    what = {"id": number, "fingerprint": f"a{number:064x}", "state": "indexed", "size_bytes": size_bytes}
    return what | {"container": "mov,mp4,m4a,3gp,3g2,mj2", "codec": "h264"} | shape | times | words


def _run(arguments: Sequence[str]) -> tuple[float, float]:
    """Run a Python process; return its seconds of wall time and of processor time."""
    # An installed package has bytecode; in a checkout the first round writes it if permitted.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=env, check=True)
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def _print(clock: str, seconds: dict[str, list[float]]) -> None:
    base, ours = seconds["yardstick"], seconds["reindex"]
    ratios = sorted(value / yard for value, yard in zip(ours, base, strict=True))
    print(
        f"{clock:9} yardstick {statistics.median(base):.2f} s, reindex {statistics.median(ours):.2f} s, "
        f"ratio in turn {statistics.median(ratios):.2f} ({ratios[0]:.2f} to {ratios[-1]:.2f})"
    )


if __name__ == "__main__":
    main()
