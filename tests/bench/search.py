"""Time of a search: a cold `vfindex search`, as a whole process, and warm queries of an open library.

    python tests/bench/search.py LIBRARY [--runs N] [--synthetic]

Cold: the imports that a search needs, a search and `vfindex --help` run alternately, so other work on the machine
affects them alike; the ratios are compared. Processor time, which other work hardly affects, is printed too. Every
query is different.

Warm: every query of every kind runs on an open engine, followed by its baseline: the encoding of the query and the
first call to the joint index for each of its moments. A row has the median and the 99th percentile, the median ratio to
the baseline, also by processor time, and the times of the parts; `first` is the same query after a commit, with empty
caches. `--synthetic` adds queries whose filters keep about 1 % of a library of synthetic.py.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import wraps
from itertools import pairwise
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sqlalchemy import event

from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.parser import parse
from vfindex.search.rank import candidates as ranking_module
from vfindex.search.rank import retrieve as retrieve_module
from vfindex.search.rank import source as source_module
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.index.reader import JointIndex

YARDSTICK = "import numpy, faiss, onnxruntime, sqlalchemy, typer, tokenizers"
VFINDEX = "from vfindex.cli.entry import main; main()"
QUESTIONS = (
    "dog running in park",
    "a man plays the guitar",
    "waves at the beach",
    "somebody explains how a rocket engine works",
    "train",
    "people dancing in the street at night",
    "a cat on a sofa",
)
WORDS = (
    "house",
    "river",
    "music",
    "school",
    "game",
    "fire",
    "city",
    "water",
    "church",
    "king",
    "door",
    "night",
    "horse",
)
# What an engine caches for queries until the next commit.
CACHED = ("filtered", "globs", "clips of videos", "documents of videos", "postings", "document frequencies")
# The parts of a query's time. Vectors are read within scoring.
PARTS: Mapping[str, tuple[tuple[Any, str], ...]] = {
    "encode": ((QueryEncoder, "encode"),),
    "index": ((JointIndex, "nearest"),),
    "filters": ((source_module, "filtered"), (source_module, "build_prefilter")),
    "words": ((source_module, "match_keywords"),),
    "scoring": ((ranking_module, "score_clips"),),
    "vectors": ((Snapshot, "with_vectors"),),
    "grouping": ((retrieve_module, "select_results"), (source_module, "merge_neighbours")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description="Time a cold search.")
    parser.add_argument("library", type=Path)
    parser.add_argument("--runs", type=int, default=15, help="rounds of the three commands (default: 15)")
    parser.add_argument("--synthetic", action="store_true", help="ask with filters made for synthetic.py too")
    parser.add_argument("--rounds", type=int, default=5, help="times that every warm question is asked (default: 5)")
    arguments = parser.parse_args()
    if arguments.runs:
        _cold(arguments.library, arguments.runs)
    if arguments.rounds:
        _warm(arguments.library, questions(arguments.synthetic), arguments.rounds)
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}; {arguments.library}")


def questions(synthetic: bool) -> dict[str, list[str]]:
    """Return questions by kind."""
    pairs = list(pairwise(WORDS))
    kinds = {
        "plain": [*QUESTIONS, *(f"a {one} and a {other}" for one, other in pairs)],
        "weighted": [f"2:{one} {other}" for one, other in pairs],
        "unlike": [f"{one} -{other}" for one, other in pairs],
        "said": [f"said:{word}" for word in WORDS],
        "quoted": [f'"{one} {other}"' for one, other in pairs],
        "then": [f"{one} then {other} within 20s" for one, other in pairs[:5]],
    }
    if synthetic:
        kinds["in, 1 %"] = [f"{word} in:shelf-{number:02d}" for number, word in enumerate(WORDS)]
        kinds["after, 1 %"] = [f"{word} after:2024-11-{20 + number % 9}" for number, word in enumerate(WORDS)]
        kinds["lang, 1 %"] = [f"{word} lang:fi" for word in WORDS]
        kinds["longer, half"] = [f"{word} longer:{140 + number / 100}s" for number, word in enumerate(WORDS)]
    return kinds


def _cold(library: Path, runs: int) -> None:
    commands = {
        "yardstick": ["-c", YARDSTICK],
        "search": ["-c", VFINDEX, "search", "--json", "--library", str(library)],
        "help": ["-c", VFINDEX, "--help"],
    }
    taken: dict[str, list[Taken]] = {name: [] for name in commands}
    for turn in range(runs + 1):  # the first round warms the page cache and does not count
        for name, command in commands.items():
            cost = _run([*command, QUESTIONS[turn % len(QUESTIONS)]] if name == "search" else command)
            if turn:
                taken[name].append(cost)
    _print_cold("wall", {name: [cost.wall_s for cost in costs] for name, costs in taken.items()})
    _print_cold("processor", {name: [cost.processor_s for cost in costs] for name, costs in taken.items()})


@dataclass(frozen=True)
class Taken:
    """The time of one process, in seconds; processor_s: of all its threads, user and system."""

    wall_s: float
    processor_s: float


def _run(arguments: Sequence[str]) -> Taken:
    """Run a Python process and return its time. Raises if it fails."""
    # An installed package has bytecode; in a checkout the first round writes it if permitted.
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


@dataclass
class Spent:
    """Seconds of one query by part."""

    seconds: dict[str, float] = field(default_factory=dict)
    statements: int = 0


@contextmanager
def measured(spent: Spent) -> Iterator[None]:
    """Measure the parts of a search."""

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return function(*args, **kwargs)
            finally:
                spent.seconds[name] = spent.seconds.get(name, 0.0) + time.perf_counter() - start

        return run

    with ExitStack() as patched:
        for name, places in PARTS.items():
            for owner, attribute in places:
                patched.enter_context(patch.object(owner, attribute, timed(name, getattr(owner, attribute))))
        yield


def _warm(library: Path, kinds: Mapping[str, Sequence[str]], rounds: int) -> None:
    """Run all queries alternately, and print a line per kind: percentiles, ratio to the baseline, parts."""
    engine = SearchEngine.open(library)
    spent = Spent()

    def count(*_: object) -> None:
        spent.statements += 1

    event.listen(engine._library._engine, "before_cursor_execute", count)
    heads = "".join(f"{name:>10}" for name in PARTS)
    columns = f"{'p50':>8}{'p99':>9}{'yardstick':>11}{'ratio':>7}{'processor':>11}{'first':>8}"
    print(f"{'ms':14}{columns}{heads}{'statements':>12}")
    with measured(spent):
        for kind, asked in kinds.items():
            for question in asked:  # for the pages of the library
                engine.search(question)
            first_s = [_first_s(engine, question) for question in asked]
            for question in asked:  # for the caches of each
                engine.search(question)
            taken = [_asked(engine, question, spent) for _ in range(rounds) for question in asked]
            _print_kind(kind, taken, statistics.median(first_s))
    _print_memory()


@dataclass(frozen=True)
class Timing:
    """One query: seconds of wall time and of processor time."""

    whole_s: float
    yardstick_s: float
    whole_cpu_s: float
    yardstick_cpu_s: float
    spent: Spent


def _first_s(engine: SearchEngine, question: str) -> float:
    """Return the time of a query with empty caches, except for the data that all filters share."""
    with engine._library.snapshot() as snapshot:
        for key in CACHED:
            snapshot.remembered(key, dict).clear()
    start = time.perf_counter()
    engine.search(question)
    return time.perf_counter() - start


def _asked(engine: SearchEngine, question: str, spent: Spent) -> Timing:
    """Run a query, then its baseline: its calls to the encoder, and one to the index per moment."""
    calls: list[tuple[Any, ...]] = []
    spent.seconds, spent.statements = {}, 0
    encode, search = QueryEncoder.encode, JointIndex.nearest
    with (
        patch.object(QueryEncoder, "encode", lambda *a, **k: calls.append((encode, a, k)) or encode(*a, **k)),
        patch.object(JointIndex, "nearest", lambda *a, **k: calls.append((search, a, k)) or search(*a, **k)),
    ):
        whole_s, whole_cpu_s = _timed(lambda: engine.search(question))
    known = Spent(dict(spent.seconds), spent.statements)
    encoded = [call for call in calls if call[0] is encode]
    looked = [call for call in calls if call[0] is search][: len(parse(question).moments)]
    yardstick_s, yardstick_cpu_s = _timed(lambda: [function(*a, **k) for function, a, k in encoded + looked])
    return Timing(whole_s, yardstick_s, whole_cpu_s, yardstick_cpu_s, known)


def _timed(function: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of a call, of wall time and of processor time."""
    start, cpu_start = time.perf_counter(), time.process_time()
    function()
    return time.perf_counter() - start, time.process_time() - cpu_start


def _print_kind(kind: str, taken: Sequence[Timing], first_s: float) -> None:
    whole, yard = ([1000 * getattr(each, name) for each in taken] for name in ("whole_s", "yardstick_s"))
    p50, p99 = statistics.median(whole), statistics.quantiles(whole, n=100, method="inclusive")[-1]
    ratio = statistics.median(one / other for one, other in zip(whole, yard, strict=True))
    cpu = statistics.median(each.whole_cpu_s / each.yardstick_cpu_s for each in taken)
    parts = [1000 * statistics.median(each.spent.seconds.get(name, 0.0) for each in taken) for name in PARTS]
    columns = "".join(f"{part:10.2f}" for part in parts)
    statements = statistics.median(each.spent.statements for each in taken)
    print(
        f"{kind:14}{p50:8.1f}{p99:9.1f}{statistics.median(yard):11.1f}{ratio:7.2f}{cpu:11.2f}{1000 * first_s:8.1f}"
        f"{columns}{statements:12.0f}",
        flush=True,
    )


def _print_memory() -> None:
    """Print the memory of this process, on Linux: private, and with its share of mapped files."""
    rollup = Path("/proc/self/smaps_rollup")
    if rollup.exists():
        lines = (line.split() for line in rollup.read_text(encoding="ascii").splitlines()[1:])
        known = {words[0]: int(words[1]) / 1024 for words in lines}
        print(f"memory: {known['Anonymous:']:.0f} MiB of its own, {known['Pss:']:.0f} MiB with mapped files")


if __name__ == "__main__":
    main()
