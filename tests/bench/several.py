"""Several libraries against one: a library is cut into two halves with one spec, and both are asked the same.

    python tests/bench/several.py LIBRARY QUERIES.jsonl WORK [--top-k N]

LIBRARY is copied into WORK: whole, and as halves of every other video, which get one spec by `spec export` and `use`;
the whole gets it too. Prints how many questions have the same hits (video and start), swaps of scores within TOLERANCE
allowed, the largest difference of one clip's scores, and the median time of a question to one and to two libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import time
from collections.abc import Sequence
from pathlib import Path

from vfindex.search.results import Hits
from vfindex.search.service import SearchService
from vfindex.storage.library import Library
from vfindex.storage.maintenance.shared_spec import exported, use_spec
from vfindex.storage.writer import writing

TOLERANCE = 1e-3


def keep(folder: Path, kept: set[str]) -> None:
    """Remove all videos but those with these fingerprints."""
    with Library.open(folder).snapshot() as snapshot:
        videos = snapshot.videos()
    with writing(folder) as writer:
        for video in videos:
            for place in video.locations if video.fingerprint not in kept else ():
                writer.catalog.remove(place.path)
        writer.publish()


def cut(library: Path, work: Path) -> tuple[Path, Path, Path]:
    """Return the folders of the whole and of its halves, made from a copy of a library, all with one spec."""
    folders = (work / "whole", work / "A", work / "B")
    for folder in folders:
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(library, folder)
    with Library.open(library).snapshot() as snapshot:
        prints = [video.fingerprint for video in snapshot.videos()]
    keep(folders[1], set(prints[::2]))
    keep(folders[2], set(prints[1::2]))
    spec = work / "spec.json"
    spec.write_text(exported(folders[1:]).to_json())
    for folder in folders:
        use_spec(folder, spec)
    return folders


def same_hits(one: Hits, several: Hits) -> bool:
    """Return whether both have the same clips in the same order, but for scores that differ by TOLERANCE at most."""
    if len(one) != len(several):
        return False
    scores = {hit.key: hit.score for hit in one}
    last = one[-1].score if one else 0.0
    for before, after in zip(one, several, strict=True):
        if abs(before.score - after.score) > TOLERANCE:
            return False
        if abs(scores.get(after.key, last) - after.score) > TOLERANCE:
            return False
    return True


def ask(services: Sequence[SearchService], questions: Sequence[str], top_k: int) -> list[tuple[list[Hits], float]]:
    """Return for each service the hits of all questions, and the median seconds of one; they are asked alternately."""
    found: list[list[Hits]] = [[] for _ in services]
    took_s: list[list[float]] = [[] for _ in services]
    for question in questions:
        for number, service in enumerate(services):
            began = time.perf_counter()
            found[number].append(service.search(question, top_k=top_k, min_confidence="none"))
            took_s[number].append(time.perf_counter() - began)
    return [(hits, statistics.median(times)) for hits, times in zip(found, took_s, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--top-k", type=int, default=10)
    arguments = parser.parse_args()
    lines = arguments.queries.read_text(encoding="utf-8").splitlines()
    questions = [json.loads(line)["query"] for line in lines]
    whole, first, second = cut(arguments.library, arguments.work)
    with SearchService(whole) as one, SearchService([first, second]) as both:
        ask([one, both], questions[:20], arguments.top_k)  # opens models and indexes
        (ones, one_s), (boths, both_s) = ask([one, both], questions, arguments.top_k)
    same, largest = 0, 0.0
    for question, alone, merged in zip(questions, ones, boths, strict=True):
        scores = {hit.key: hit.score for hit in alone}
        differences = [abs(scores[hit.key] - hit.score) for hit in merged if hit.key in scores]
        largest = max([largest, *differences])
        if same_hits(alone, merged):
            same += 1
            continue
        print(f"{question!r}: largest difference {max(differences, default=0.0):.4f}")
        for left, right in zip(alone, merged, strict=False):
            if left.key != right.key or abs(left.score - right.score) > TOLERANCE:
                names = [os.path.basename(os.fsdecode(hit.video or b"?")) for hit in (left, right)]
                print(f"    {left.rank}: {names[0]} {left.score:.4f}, {names[1]} {right.score:.4f}")
                break
    print(f"{same} of {len(questions)} questions have the same hits ({same / len(questions):.1%})")
    print(f"largest difference of one clip's score {largest:.2e}")
    print(f"median {1000 * one_s:.1f} ms one library, {1000 * both_s:.1f} ms two ({both_s / one_s:.2f} times)")


if __name__ == "__main__":
    main()
