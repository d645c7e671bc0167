"""Retrieval quality on real videos: python tests/bench/quality.py [--library DIR] [--media DIR]

Ingests the public collection (unless a library is given), asks every question of queries.jsonl with one hit a video,
and prints nDCG@10 (graded), success@1/5/10 and MRR through ir_measures, each with a bootstrap 95 % interval over the
questions: all, by modality and by scope. An unanswered question counts 0.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import ir_measures
import numpy as np
from ir_measures import RR, Success, nDCG

from vfindex.indexer.ingest import IngestSettings, ingest
from vfindex.search.engine import SearchEngine

MEASURES = (nDCG @ 10, Success @ 1, Success @ 5, Success @ 10, RR @ 10)
TOP_K = 10
RESAMPLES = 10_000


def ask(library: Path, queries: Sequence[dict[str, Any]]) -> list[ir_measures.ScoredDoc]:
    """Return the run: the best hit of every video, ten a question."""
    engine = SearchEngine.open(library)
    return [
        ir_measures.ScoredDoc(query["query_id"], os.path.basename(os.fsdecode(hit.video or b"")), hit.score)
        for query in queries
        for hit in engine.search(query["query"], top_k=TOP_K)
    ]


def judge(queries: Sequence[dict[str, Any]], run: Sequence[ir_measures.ScoredDoc]) -> dict[str, dict[str, float]]:
    """Return measure -> question -> value."""
    qrels = [ir_measures.Qrel(q["query_id"], r["video"], r["grade"]) for q in queries for r in q["relevant"]]
    values: dict[str, dict[str, float]] = {str(m): {q["query_id"]: 0.0 for q in queries} for m in MEASURES}
    for metric in ir_measures.iter_calc(MEASURES, qrels, run):
        values[str(metric.measure)][metric.query_id] = metric.value
    return values


def interval(values: Sequence[float]) -> tuple[float, float, float]:
    """Return mean and 95 % percentile bootstrap interval (Efron and Tibshirani 1993, chapter 13)."""
    sample = np.asarray(values)
    draws = np.random.default_rng(0).integers(0, len(sample), (RESAMPLES, len(sample)))
    low, high = np.percentile(sample[draws].mean(axis=1), [2.5, 97.5])
    return float(sample.mean()), float(low), float(high)


def report(queries: Sequence[dict[str, Any]], values: dict[str, dict[str, float]]) -> None:
    """Print one row a group of questions."""
    groups: list[tuple[str, Callable[[dict[str, Any]], bool]]] = [("all", lambda _: True)]
    groups += [(m, lambda q, m=m: q["modality"] == m) for m in sorted({q["modality"] for q in queries})]
    groups += [(s, lambda q, s=s: q["scope"] == s) for s in sorted({q["scope"] for q in queries})]
    print(f"{'questions':>14} {'n':>4}  " + "  ".join(f"{m!s:^21}" for m in MEASURES))
    for name, belongs in groups:
        ids = [q["query_id"] for q in queries if belongs(q)]
        cells = ["{:.3f} [{:.3f}, {:.3f}]".format(*interval([values[str(m)][i] for i in ids])) for m in MEASURES]
        print(f"{name:>14} {len(ids):>4}  " + "  ".join(f"{cell:^21}" for cell in cells))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("VFINDEX_TEST_MEDIA"), help="folder with public/")
    parser.add_argument("--library", type=Path, help="an ingested library of public/videos")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    arguments = parser.parse_args()
    if arguments.media is None:
        parser.error("set VFINDEX_TEST_MEDIA, or give --media")
    public = Path(arguments.media) / "public"
    queries = [json.loads(line) for line in (public / "queries.jsonl").read_text(encoding="utf-8").splitlines()]
    with tempfile.TemporaryDirectory() as temporary:
        library = arguments.library
        if library is None:
            library = Path(temporary) / "library"
            cache = Path(arguments.cache or Path(temporary) / "cache")
            done = ingest(library, [os.fsencode(public / "videos")], IngestSettings(cache=cache))
            print(f"{done.found} files: {done.indexed} indexed, {len(done.failed)} failed, {done.clips} clips")
        report(queries, judge(queries, ask(library, queries)))


if __name__ == "__main__":
    main()
