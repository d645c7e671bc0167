"""Recall and speed of the joint index and of other vector indexes:

    python tests/bench/ann.py [--n 1000000] [--questions 100]

384 dimensions in three modalities (ann_data.py), at the default weights of `lite` and at each modality alone, with and
without a filter that keeps one clip in a hundred. Every engine (ann_engines.py) runs in its own process, one query at a
time on one thread. Its search parameter (the knob) is raised until recall@10 is 0.99, and then until it equals that of
vfindex or the values end. `exact` is the joint index without codes, compared with the time of reading its bytes in the
same run.

The peers are not dependencies of vfindex: pip install --target PEERS hnswlib usearch lancedb sqlite-vec apsw, then run
with PYTHONPATH=PEERS. Missing ones are skipped. Vectors and indexes are kept in --work; an existing index is reused
with its build time.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

import numpy as np
from ann_data import DIM, KNOWN, ORDER, Material, material
from ann_engines import ENGINES, MODULES, THREADS, WEIGHTS, Engine, Ids, timed_build

from vfindex.storage.records import FloatArray

ENOUGH = 0.99
TOP_K = 10
# Scores this close may be in either order: float16 rounds.
TIE = 1e-3
# Warm-up queries before timing.
WARM_UP = 5
# Above this many clips the slowest peers are skipped.
MOST_FOR_SLOW, SLOW = 200_000, ("lancedb", "sqlite-vec")


@dataclass(frozen=True)
class Case:
    """One weighting, with or without the filter: queries (n, 384) and the score of the tenth best clip of each."""

    name: str
    questions: FloatArray
    bars: FloatArray
    kept: Ids | None


@dataclass(frozen=True)
class Measured:
    """The figures of one engine in one case with one knob value.

    error: standard error of the recall. processor_ms: median processor time of all its threads, which other work on the
    machine hardly affects.
    """

    case: str
    knob: int
    recall: float
    error: float
    p50_ms: float
    p99_ms: float
    processor_ms: float


def main() -> None:
    """Run the bench."""
    parser = argparse.ArgumentParser(description="Compare the joint index with others.")
    parser.add_argument("--n", type=int, default=1_000_000, help="clips (default: 1000000)")
    parser.add_argument("--questions", type=int, default=100, help=f"asked, up to {KNOWN} (default: 100)")
    parser.add_argument("--peers", default=",".join(MODULES), help="comma-separated (default: all)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vfindex-ann", help="kept files")
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    made = material(arguments.work, arguments.n, min(arguments.questions, KNOWN))
    if arguments.engine:
        print(json.dumps(measure(arguments.engine, arguments.work, made)))
        return
    truth(arguments.work, made)
    print(
        f"{arguments.n:,} clips, {made.clips.shape[1]} dimensions, {len(made.asked)} questions; {os.cpu_count()} cores"
    )
    results: dict[str, Mapping[str, Any]] = {}
    for name in ("ours", "exact", *filter(None, arguments.peers.split(","))):
        if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
            print(f"{name}: left out, it is not installed (see the head of this file)")
        elif name in SLOW and arguments.n > MOST_FOR_SLOW:
            print(f"{name}: left out above {MOST_FOR_SLOW:,} clips")
        else:
            results[name] = run(name, arguments.work, made)
            if name == "ours":
                found = {case["case"]: case["recall"] for case in results[name].get("cases", [])}
                recalls_at(arguments.work, arguments.n).write_text(json.dumps(found))
    print_ratios(results)
    print_bandwidth(arguments.work, made)


def run(name: str, work: Path, made: Material) -> Mapping[str, Any]:
    """Measure an engine in its own process, print and return the figures; none if it failed."""
    of = ["--work", str(work), "--n", str(len(made.clips)), "--questions", str(len(made.asked))]
    done = subprocess.run(
        [sys.executable, __file__, "--engine", name, *of], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{name}: failed\n{done.stderr[-2000:]}")
        return {}
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\n{name}: built in {result['build_s']:.0f} s, opened in {result['open_s']:.3f} s; memory "
        f"{result['pss_mb']:.0f} MB (PSS), of which its own {result['own_mb']:.0f} MB; load {os.getloadavg()[0]:.1f}"
    )
    heads = f"{'knob':>6}{'recall@10':>11}{'error':>8}{'p50 ms':>10}{'p99 ms':>10}{'processor':>11}"
    print(f"  {'weights, filter':24}{heads}  as much as ours: recall, p50 ms")
    for each in result["cases"]:
        line = (
            f"  {each['case']:24}{each['knob']:>6}{each['recall']:>11.4f}{each['error']:>8.4f}"
            f"{each['p50_ms']:>10.2f}{each['p99_ms']:>10.2f}{each['processor_ms']:>11.2f}"
            f"{each['alike']['recall']:>23.4f}{each['alike']['p50_ms']:>10.2f}"
        )
        print(line, flush=True)
    return dict(result)


def print_ratios(results: Mapping[str, Mapping[str, Any]]) -> None:
    """Print per case the ratio of our p50 to that of the fastest peer with recall 0.99, and with our recall."""
    print(f"\np50 of ours against the fastest peer that finds {ENOUGH}, and that finds as much as ours:")
    for number, ours in enumerate(results["ours"].get("cases", [])):
        peers = {name: each["cases"][number] for name, each in results.items() if name in MODULES and each}
        enough = [(each["p50_ms"], name) for name, each in peers.items() if each["recall"] >= ENOUGH]
        alike = [
            (each["alike"]["p50_ms"], name) for name, each in peers.items() if each["alike"]["recall"] >= ours["recall"]
        ]
        ratios = [f"{ours['p50_ms'] / min(of)[0]:.2f} of {min(of)[1]}" if of else "none does" for of in (enough, alike)]
        print(f"  {ours['case']:24}{ratios[0]:24}{ratios[1]}")


def measure(name: str, work: Path, made: Material) -> dict[str, object]:
    """Build an engine's index if needed, query it, and return the figures."""
    engine = ENGINES[name](work, made)
    build_s = timed_build(engine, work / f"{name}{len(made.clips)}.built")
    start = time.perf_counter()
    engine.open()
    open_s = time.perf_counter() - start
    kept_at = recalls_at(work, len(made.clips))
    ours = json.loads(kept_at.read_text()) if name in MODULES and kept_at.exists() else {}
    cases = []
    for case in truth(work, made):
        tried = cache(partial(ask, engine, case, made.clips))
        enough = least(engine.knobs, tried, ENOUGH)
        alike = least(engine.knobs, tried, max(ENOUGH, ours.get(case.name, ENOUGH)))
        cases.append({**asdict(enough), "alike": asdict(alike)})
    pss_mb, own_mb = memory_mb()
    return {"build_s": build_s, "open_s": open_s, "cases": cases, "pss_mb": pss_mb, "own_mb": own_mb}


def recalls_at(work: Path, count: int) -> Path:
    """Return the file that stores the recall of vfindex in each case."""
    return work / f"recalls{count}.json"


def least(knobs: Sequence[int], tried: Callable[[int], Measured], wanted: float) -> Measured:
    """Return the trial with the lowest knob of at least this recall, else the best.

    The knob is raised to the next of `knobs`, then refined in quarters of the last step: with full steps alone an
    engine would look up to twice as slow.
    """
    for below, knob in zip((None, *knobs), knobs, strict=False):
        if tried(knob).recall >= wanted:
            between = [] if below is None else [round(below * (knob / below) ** (part / 4)) for part in (1, 2, 3)]
            return next(trial for trial in map(tried, (*between, knob)) if trial.recall >= wanted)
    return max(map(tried, knobs), key=lambda trial: trial.recall)


def ask(engine: Engine, case: Case, clips: FloatArray, knob: int) -> Measured:
    """Run all queries of a case with one knob value."""
    for question in case.questions[:WARM_UP]:
        engine.search(question, knob, case.kept)
    shares, taken, worked = [], [], []
    for question, bar in zip(case.questions, case.bars, strict=True):
        start, began = time.perf_counter(), time.process_time()
        found = engine.search(question, knob, case.kept)
        worked.append(1000 * (time.process_time() - began))
        taken.append(1000 * (time.perf_counter() - start))
        scores = clips[found[:TOP_K]] @ question
        shares.append(np.count_nonzero(scores >= bar - TIE * max(1.0, abs(bar))) / TOP_K)
    p50_ms, p99_ms = np.percentile(taken, [50, 99]).tolist()
    error = float(np.std(shares)) / math.sqrt(len(shares))
    return Measured(case.name, knob, float(np.mean(shares)), error, p50_ms, p99_ms, float(np.median(worked)))


def truth(work: Path, made: Material) -> list[Case]:
    """Return the cases; their tenth best scores are stored in `work`."""
    kept_at = work / f"truth{len(made.clips)}-{len(made.asked)}.npz"
    weightings = {"default": [WEIGHTS[m] for m in ORDER]} | {m: [float(m == each) for each in ORDER] for m in ORDER}
    asked = {name: made.asked * np.repeat(np.float32(factors), DIM) for name, factors in weightings.items()}
    if not kept_at.exists():
        everything = np.concatenate(list(asked.values()))
        among_kept = everything @ np.asarray(made.clips[made.kept]).T
        np.savez(kept_at, all=_tenth(everything, made.clips), kept=np.sort(among_kept, axis=1)[:, -TOP_K])
    stored = np.load(kept_at)
    return [
        Case(name + filtered, questions, np.split(stored[which], len(asked))[number], kept)
        for filtered, which, kept in (("", "all", None), (", 1 % kept", "kept", made.kept))
        for number, (name, questions) in enumerate(asked.items())
    ]


def _tenth(questions: FloatArray, clips: FloatArray) -> FloatArray:
    """Return the score of the tenth best clip of each question."""
    best = np.full((len(questions), TOP_K), -np.inf, np.float32)
    for first in range(0, len(clips), 50_000):
        scores = questions @ np.asarray(clips[first : first + 50_000]).T
        scores = np.partition(scores, -TOP_K, axis=1)[:, -TOP_K:]
        best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, -TOP_K:]
    return best[:, 0]


def memory_mb() -> tuple[float, float]:
    """Return the proportional memory of this process, mapped files included, and its peak of private memory."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    kb = {line.split(":")[0]: int(line.split()[1]) for line in lines[1:]}
    return kb["Pss"] / 1024, kb["Pss_Anon"] / 1024


def print_bandwidth(work: Path, made: Material) -> None:
    """Print the ratio of the exact path's time to that of reading as many bytes, measured alternately."""
    engine = ENGINES["exact"](work, made)
    timed_build(engine, work / f"exact{len(made.clips)}.built")
    engine.open()
    rows = np.ones(made.clips.shape, np.float32)  # zeros would share one page of memory
    ratios, rates = [], []
    for question in made.asked[:20]:
        read_s = min(_reading_s(rows) for _ in range(3))
        start = time.perf_counter()
        engine.search(question, 0, None)
        ratios.append((time.perf_counter() - start) / read_s)
        rates.append(rows.nbytes / read_s / 1e9)
    low, middle, high = np.percentile(ratios, [10, 50, 90])
    print(
        f"\nexact path: {middle:.2f} ({low:.2f} to {high:.2f}) of the time of reading {rows.nbytes / 1e6:.0f} MB at "
        f"{np.median(rates):.1f} GB/s"
    )


def _reading_s(rows: FloatArray) -> float:
    """Return the time in which all cores together read the rows once."""
    parts = np.array_split(rows.reshape(-1).view(np.uint64), THREADS)
    with ThreadPoolExecutor(THREADS) as pool:
        start = time.perf_counter()
        list(pool.map(np.bitwise_or.reduce, parts))
        return time.perf_counter() - start


if __name__ == "__main__":
    main()
