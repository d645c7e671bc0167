"""Milliseconds of bookkeeping per file in libraries of several sizes; must not grow with the library.

    python tests/bench/bookkeeping.py --videos 1000 100000

One table: a row per outcome of a file (`many_videos.BOOKKEEPING`), a column per size, and the ratio of the last to the
first. The sizes are measured alternately, so other work on the machine affects them alike. Every figure is the median
of --rounds; a commit waits for the disk, as in a run. Exits with 1 if a ratio is above --most.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from many_videos import BOOKKEEPING, fill

from vfindex.storage.writer import Writer, writing


def measure(writers: list[Writer], rounds: int) -> dict[str, list[float]]:
    """Return name -> median seconds in each library."""
    taken: dict[str, list[list[float]]] = {name: [[] for _ in writers] for name in BOOKKEEPING}
    for number in range(rounds):
        for name, work in BOOKKEEPING.items():
            for at, writer in enumerate(writers):
                began = time.perf_counter()
                work(writer, number)
                taken[name][at].append(time.perf_counter() - began)
    return {name: [statistics.median(each) for each in sizes] for name, sizes in taken.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--videos", type=int, nargs="+", default=[1000, 100_000])
    parser.add_argument("--rounds", type=int, default=50, help="at most a tenth of the smallest library")
    parser.add_argument("--most", type=float, default=1.5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        writers = [stack.enter_context(writing(Path(folder) / str(size))) for size in options.videos]
        for writer, size in zip(writers, options.videos, strict=True):
            fill(writer, size)
        found = measure(writers, options.rounds)
    print("| ms a file | " + " | ".join(f"{size:,} videos" for size in options.videos) + " | ratio |")
    print("|---" * (2 + len(options.videos)) + "|")
    worst = 0.0
    for name, medians in found.items():
        ratio = medians[-1] / medians[0]
        worst = max(worst, ratio)
        print(f"| {name} | " + " | ".join(f"{1000 * each:.2f}" for each in medians) + f" | {ratio:.2f} |")
    sys.exit(worst > options.most)


if __name__ == "__main__":
    main()
