"""Recall and speed of the joint index and of other vector indexes:

    python tests/bench/ann.py [--preset lite] [--n 1000000] [--questions 100] [--library FOLDER]

At the width and the default weights of a preset and at each modality alone, without a filter and with filters that keep
1 % and 10 % (ann_data.py); with --library the vectors are those of a library of this preset, multiplied. Every engine
(ann_engines.py) runs in its own process, one query at a time, on one thread; vfindex divides a scan that takes long,
which `processor` shows. A peer's search parameter (the knob) is raised until recall@10 is 0.99, and then until it
equals that of vfindex or the values end. --bandwidth compares the joint index without codes with the time of reading
its bytes in the same run.

The peers are not dependencies of vfindex: pip install --target PEERS hnswlib usearch lancedb sqlite-vec apsw, then run
with PYTHONPATH=PEERS. Missing ones are skipped. Vectors and indexes are kept in --work: what was interrupted goes on,
and an existing index is reused with its build time. Memory is that after MEMORY_QUESTIONS questions.
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
from ann_data import KNOWN, PRESETS, Material, material
from ann_engines import ENGINES, MODULES, THREADS, Engine, Ids, batches, timed_build
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

ENOUGH = 0.99
TOP_K = 10
# Scores this close may be in either order: float16 rounds.
TIE = 1e-3
# Warm-up queries before timing, and questions before memory is measured.
WARM_UP, MEMORY_QUESTIONS = 5, 2000
# Above this many clips the slowest peers are skipped.
MOST_FOR_SLOW, SLOW = 200_000, ("lancedb", "sqlite-vec")


@dataclass(frozen=True)
class Case:
    """One weighting, with or without the filter: queries (n, dim) and the score of the tenth best clip of each."""

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
    parser.add_argument("--preset", choices=list(PRESETS), default="lite", help="whose widths and weights")
    parser.add_argument("--library", type=Path, help="whose vectors are multiplied (default: synthetic ones)")
    parser.add_argument("--n", type=int, default=1_000_000, help="clips (default: 1000000)")
    parser.add_argument("--questions", type=int, default=100, help=f"asked, up to {KNOWN} (default: 100)")
    parser.add_argument("--peers", default=",".join(MODULES), help="comma-separated (default: all)")
    parser.add_argument("--work", type=Path, default=Path(tempfile.gettempdir()) / "vfindex-ann", help="kept files")
    parser.add_argument(
        "--bandwidth", action="store_true", help="measure the exact scan too, against reading its bytes"
    )
    parser.add_argument("--engine", choices=ENGINES, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    name = f"{arguments.preset}{'-real' if arguments.library else ''}"
    work = arguments.work / name
    work.mkdir(parents=True, exist_ok=True)
    made = material(work, arguments.preset, arguments.n, min(arguments.questions, KNOWN), arguments.library)
    given = ["--preset", arguments.preset, "--work", str(arguments.work), "--n", str(arguments.n)]
    given += [
        "--questions",
        str(len(made.asked)),
        *(["--library", str(arguments.library)] if arguments.library else []),
    ]
    if arguments.engine:
        print(json.dumps(measure(arguments.engine, work, made)))
        return
    truth(work, made)
    print(
        f"{name}: {arguments.n:,} clips, {made.shape.dim} dimensions, {len(made.asked)} questions; "
        f"{os.cpu_count()} cores"
    )
    results: dict[str, Mapping[str, Any]] = {}
    for name in ("ours", *filter(None, arguments.peers.split(","))):
        if name in MODULES and importlib.util.find_spec(MODULES[name]) is None:
            print(f"{name}: left out, it is not installed (see the head of this file)")
        elif name in SLOW and arguments.n > MOST_FOR_SLOW:
            print(f"{name}: left out above {MOST_FOR_SLOW:,} clips")
        else:
            results[name] = run(name, given)
            if name == "ours":
                found = {case["case"]: case["recall"] for case in results[name].get("cases", [])}
                recalls_at(work, arguments.n).write_text(json.dumps(found))
    print_ratios(results)
    if arguments.bandwidth:
        print_bandwidth(work, made)


def run(name: str, given: Sequence[str]) -> Mapping[str, Any]:
    """Measure an engine in its own process, print and return the figures; none if it failed. given: options."""
    done = subprocess.run(
        [sys.executable, __file__, "--engine", name, *given], capture_output=True, text=True, check=False
    )
    if done.returncode:
        print(f"{name}: failed\n{done.stderr[-2000:]}")
        return {}
    result = json.loads(done.stdout.splitlines()[-1])
    print(
        f"\n{name}: built in {result['build_s']:.0f} s, opened in {result['open_s']:.3f} s; first question "
        f"after {result['first_s']:.3f} s; memory {result['pss_mb']:.0f} MB (PSS), of which anonymous "
        f"{result['own_mb']:.0f} MB; {result['disk_mb']:.0f} MB on the disk; load {os.getloadavg()[0]:.1f}"
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
    engine.search(made.asked[0] * made.shape.weightings()["default"], engine.knobs[0], None)
    first_s = time.perf_counter() - start
    kept_at = recalls_at(work, len(made.clips))
    ours = json.loads(kept_at.read_text()) if name in MODULES and kept_at.exists() else {}
    cases = []
    for case in truth(work, made):
        tried = cache(partial(ask, engine, case, made.clips))
        enough = least(engine.knobs, tried, ENOUGH)
        alike = least(engine.knobs, tried, max(ENOUGH, ours.get(case.name, ENOUGH)))
        cases.append({**asdict(enough), "alike": asdict(alike)})
    case = truth(work, made)[0]
    for number in range(MEMORY_QUESTIONS):
        engine.search(case.questions[number % len(case.questions)], int(cases[0]["knob"]), None)
    pss_mb, own_mb = memory_mb()
    disk_mb = sum(file.stat().st_size for file in _files(engine.path)) / 1e6
    times = {"build_s": build_s, "open_s": open_s, "first_s": first_s}
    return {**times, "cases": cases, "pss_mb": pss_mb, "own_mb": own_mb, "disk_mb": disk_mb}


def _files(path: Path) -> list[Path]:
    return [each for each in path.rglob("*") if each.is_file()] if path.is_dir() else [path]


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


def ask(engine: Engine, case: Case, clips: NDArray[np.float16], knob: int) -> Measured:
    """Run all queries of a case with one knob value."""
    for question in case.questions[:WARM_UP]:
        engine.search(question, knob, case.kept)
    shares, taken, worked = [], [], []
    for question, bar in zip(case.questions, case.bars, strict=True):
        start, began = time.perf_counter(), time.process_time()
        found = engine.search(question, knob, case.kept)
        worked.append(1000 * (time.process_time() - began))
        taken.append(1000 * (time.perf_counter() - start))
        scores = np.asarray(clips[found[:TOP_K]], np.float32) @ question
        shares.append(np.count_nonzero(scores >= bar - TIE * max(1.0, abs(bar))) / TOP_K)
    p50_ms, p99_ms = np.percentile(taken, [50, 99]).tolist()
    error = float(np.std(shares)) / math.sqrt(len(shares))
    return Measured(case.name, knob, float(np.mean(shares)), error, p50_ms, p99_ms, float(np.median(worked)))


def truth(work: Path, made: Material) -> list[Case]:
    """Return the cases; their tenth best scores are stored in `work`."""
    kept_at = work / f"truth{len(made.clips)}-{len(made.asked)}.npz"
    asked = {name: made.asked * factors for name, factors in made.shape.weightings().items()}
    everything, filters = np.concatenate(list(asked.values())), {"": None, **{f", {s:.0%} kept": s for s in made.kept}}
    if not kept_at.exists():
        tenths = {"all": _tenth(everything, made.clips)}
        tenths |= {str(share): _tenth(everything, made.clips[rows]) for share, rows in made.kept.items()}
        np.savez(kept_at, **tenths)
    stored = np.load(kept_at)
    bars = {share: np.split(stored[str(share or "all")], len(asked)) for share in filters.values()}
    return [
        Case(name + filtered, questions, bars[share][number], None if share is None else made.kept[share])
        for filtered, share in filters.items()
        for number, (name, questions) in enumerate(asked.items())
    ]


def _tenth(questions: FloatArray, clips: NDArray[np.float16]) -> FloatArray:
    """Return the score of the tenth best clip of each question."""
    best = np.full((len(questions), TOP_K), -np.inf, np.float32)
    for part in batches(clips):
        scores = questions @ part.T
        scores = np.partition(scores, -TOP_K, axis=1)[:, -TOP_K:]
        best = np.sort(np.concatenate([best, scores], axis=1), axis=1)[:, -TOP_K:]
    return best[:, 0]


def memory_mb() -> tuple[float, float]:
    """Return the proportional memory of this process, mapped files included, and its anonymous part."""
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
