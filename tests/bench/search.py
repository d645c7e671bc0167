"""How long a cold `vfindex search` takes, whole process, against the imports that it cannot do without.

    python tests/bench/search.py LIBRARY [--runs N]

The yardstick, a search and `vfindex --help` are run in turn, so that other work on the machine falls on all three
alike; what is compared are the ratios. Processor time is printed too: it hardly feels other work. Every question is
another one. Afterwards an open engine is asked the same questions.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from vfindex.search.engine import SearchEngine

YARDSTICK = "import numpy, faiss, onnxruntime, sqlalchemy, typer, tokenizers"
VFINDEX = "from vfindex.cli.app import main; main()"
QUESTIONS = (
    "dog running in park",
    "a man plays the guitar",
    "waves at the beach",
    "somebody explains how a rocket engine works",
    "train",
    "people dancing in the street at night",
    "a cat on a sofa",
)


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a cold search.")
    parser.add_argument("library", type=Path)
    parser.add_argument("--runs", type=int, default=15, help="rounds of the three commands (default: 15)")
    arguments = parser.parse_args()
    commands = {
        "yardstick": ["-c", YARDSTICK],
        "search": ["-c", VFINDEX, "search", "--json", "--library", str(arguments.library)],
        "help": ["-c", VFINDEX, "--help"],
    }
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for turn in range(arguments.runs + 1):  # the first round warms the page cache and is not counted
        for name, command in commands.items():
            cost = _run([*command, QUESTIONS[turn % len(QUESTIONS)]] if name == "search" else command)
            if turn:
                taken[name].append(cost)
    _print_cold("wall", {name: [cost.wall_s for cost in costs] for name, costs in taken.items()})
    _print_cold("processor", {name: [cost.processor_s for cost in costs] for name, costs in taken.items()})
    _print_warm(arguments.library)


@dataclass(frozen=True)
class Taken:
    """What one process took, in seconds; processor_s: of all its threads, in user and in system mode."""

    wall_s: float
    processor_s: float


def _run(arguments: Sequence[str]) -> Taken:
    """Run a Python process and return what it took; its failure is ours."""
    # An installed package has its bytecode; in a checkout the first round writes it, if it may.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run([sys.executable, *arguments], stdout=subprocess.DEVNULL, env=env, check=True)
    wall_s, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Taken(wall_s, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _print_cold(clock: str, seconds: dict[str, list[float]]) -> None:
    base = seconds["yardstick"]
    heads = f"{'median s':>10}{'lowest s':>10}{'ratio of medians':>18}{'ratio in turn (10% to 90%)':>30}"
    print(f"{clock + ' time':16}{heads}")
    for name, taken in seconds.items():
        ratios = [value / yard for value, yard in zip(taken, base, strict=True)]
        low, high = _spread(ratios)
        median = statistics.median(taken)
        in_turn = f"{statistics.median(ratios):.2f} ({low:.2f} to {high:.2f})"
        print(f"{name:16}{median:10.3f}{min(taken):10.3f}{median / statistics.median(base):18.2f}{in_turn:>30}")


def _spread(values: Sequence[float]) -> tuple[float, float]:
    """Return the 10th and the 90th percentile."""
    if len(values) < 2:
        return values[0], values[0]
    tenths = statistics.quantiles(values, n=10, method="inclusive")
    return tenths[0], tenths[-1]


def _print_warm(library: Path) -> None:
    engine = SearchEngine.open(library)
    engine.search("warm up")
    taken = []
    for turn in range(10 * len(QUESTIONS)):
        start = time.perf_counter()
        engine.search(QUESTIONS[turn % len(QUESTIONS)])
        taken.append(time.perf_counter() - start)
    low, high = _spread(taken)
    median = statistics.median(taken)
    print(f"open engine: {1000 * median:.1f} ms a question, 10% to 90%: {1000 * low:.1f} to {1000 * high:.1f} ms")
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {len(taken)} questions, {library}")


if __name__ == "__main__":
    main()
