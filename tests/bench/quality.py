"""Retrieval quality on real videos: python tests/bench/quality.py [--library DIR] [--media DIR] [--config CONFIG]

Ingests the public collection (unless a library is given), asks every question of queries.jsonl with one hit a video,
and prints what `vfindex eval` measures at video level, each with a bootstrap 95 % interval over the questions: all, by
modality and by scope. An unanswered question counts 0. Further configurations are compared with the first.
"""

from __future__ import annotations

import argparse
import os
import tempfile
from pathlib import Path

from vfindex.indexer.ingest import IngestSettings, ingest
from vfindex.search.collections import read_questions
from vfindex.search.evaluate import Level, ask, differences, judge, parse_configuration

MEASURES = ("nDCG@10", "success@1", "success@5", "success@10", "MRR")


def report(level: Level) -> None:
    """Print one row a group of questions."""
    print(f"{'questions':>14} {'n':>4}  " + "  ".join(f"{m:^21}" for m in MEASURES))
    for name, figures in level.figures().items():
        cells = [f"{f.value:.3f} [{f.low:.3f}, {f.high:.3f}]" for f in (figures[m] for m in MEASURES)]
        print(f"{name:>14} {len(level.groups[name]):>4}  " + "  ".join(f"{cell:^21}" for cell in cells))


def compare(first: Level, second: Level) -> None:
    """Print what the second has more than the first, with its interval and P(gain)."""
    for name, d in differences(first, second).items():
        if name in MEASURES:
            print(f"{name:>14}  {d.value:+.3f} [{d.low:+.3f}, {d.high:+.3f}]  P(gain) {d.p_gain:.3f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--media", type=Path, default=os.environ.get("VFINDEX_TEST_MEDIA"), help="folder with public/")
    parser.add_argument("--library", type=Path, help="an ingested library of public/videos")
    parser.add_argument("--cache", type=Path, default=os.environ.get("VFINDEX_CACHE"), help="exported models")
    parser.add_argument("--config", action="append", help="as in vfindex eval; again to compare")
    arguments = parser.parse_args()
    if arguments.media is None:
        parser.error("set VFINDEX_TEST_MEDIA, or give --media")
    public = Path(arguments.media) / "public"
    questions = read_questions(public / "queries.jsonl")
    with tempfile.TemporaryDirectory() as temporary:
        library = arguments.library
        if library is None:
            library = Path(temporary) / "library"
            cache = Path(arguments.cache or Path(temporary) / "cache")
            done = ingest(library, [os.fsencode(public / "videos")], IngestSettings(cache=cache))
            print(f"{done.found} files: {done.indexed} indexed, {len(done.failed)} failed, {done.clips} clips")
        chosen = [parse_configuration(text, library) for text in arguments.config or ["default"]]
        levels = [judge(questions, answers, "video") for answers in ask(chosen, questions)]
        first, *others = [level for level in levels if level is not None]
        report(first)
        for configuration, level in zip(chosen[1:], others, strict=True):
            print(f"\n{configuration.name}")
            report(level)
            print(f"{configuration.name} against {chosen[0].name}")
            compare(first, level)


if __name__ == "__main__":
    main()
