"""Several libraries against one: a library is cut into two halves with one spec, and both are asked the same.

    python tests/bench/several.py LIBRARY QUERIES.jsonl WORK [--top-k N]

LIBRARY is copied into WORK: whole, and as halves of every other video, which get one spec by `spec export` and `use`;
the whole gets it too. All three are calibrated. Each question is asked as it is, and in one of the FORMS in turn; then
clips are asked for clips like them. Prints how many questions of each form have the same hits (video and start), swaps
of scores within TOLERANCE allowed; the largest difference of one clip's scores; how often a clip's label in the whole
goes with each of its labels in the halves; and the median time of a question to one and to two libraries.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import shutil
import statistics
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vfindex.cli.run import calibrate_if_due
from vfindex.search.results import Hits
from vfindex.search.service import SearchService
from vfindex.storage.library import Library
from vfindex.storage.maintenance.shared_spec import exported, use_spec
from vfindex.storage.records import ClipKey
from vfindex.storage.writer import writing

TOLERANCE = 1e-3
# {0}: a question; {1}: another; {2}: the longest word of the first; {3}: that of the other.
FORMS: Mapping[str, tuple[str, Mapping[str, int | bool]]] = {
    "then": ("{0} then {1} within 60s", {}),
    "near": ("{0} near {1} within 20s", {"per_video": 2}),
    "negated": ("{0} -{3}", {}),
    "negated phrase": ('{0} -"{2}"', {}),
    "phrase": ('"{2}" {0}', {"top_k": 30}),
    "said": ("said:{2} {1}", {}),
    "titled": ("titled:{3} {0}", {"top_k": 100}),
    "filters": ("{0} longer:30s shorter:10m in:*", {"top_k": 50}),
    "hits per video": ("{0}", {"per_video": 3, "top_k": 30}),
    "exact scan": ("{0}", {"exact": True, "top_k": 200}),
}
# Clips that are asked for similar ones: the best hits of the first questions.
EXAMPLES = 40
_WORD = re.compile(r"\w+")


@dataclass(frozen=True)
class Question:
    """A question in one form. images: clips to find similar ones for."""

    form: str
    text: str
    options: Mapping[str, Any]
    images: tuple[ClipKey, ...] = ()


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
        calibrate_if_due(folder, anew=True)
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


def in_forms(texts: Sequence[str], top_k: int) -> list[Question]:
    """Return each question as it is and in one form; the other question of a form is the seventh after it."""
    asked = [Question("plain", text, {"top_k": top_k}) for text in texts]
    for number, text in enumerate(texts):
        other = texts[(number + 7) % len(texts)]
        name, (pattern, options) = list(FORMS.items())[number % len(FORMS)]
        words = [max(_WORD.findall(each), key=len) for each in (text, other)]
        asked.append(Question(name, pattern.format(text, other, *words), {"top_k": top_k, **options}))
    return asked


def ask(services: Sequence[SearchService], questions: Sequence[Question]) -> list[tuple[list[Hits], float]]:
    """Return for each service the hits of all questions, and the median seconds of one; they are asked alternately."""
    found: list[list[Hits]] = [[] for _ in services]
    took_s: list[list[float]] = [[] for _ in services]
    for each in questions:
        for number, service in enumerate(services):
            began = time.perf_counter()
            found[number].append(service.search(each.text, images=each.images, min_confidence="none", **each.options))
            took_s[number].append(time.perf_counter() - began)
    return [(hits, statistics.median(times)) for hits, times in zip(found, took_s, strict=True)]


def print_difference(question: Question, one: Hits, several: Hits) -> None:
    """Print the first rank where both differ."""
    print(f"{question.text!r}: {len(one)} hits, {len(several)} hits")
    for left, right in zip(one, several, strict=False):
        if left.key != right.key or abs(left.score - right.score) > TOLERANCE:
            names = [os.path.basename(os.fsdecode(hit.video or b"?")) for hit in (left, right)]
            print(f"    {left.rank}: {names[0]} {left.score:.4f}, {names[1]} {right.score:.4f}")
            return


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("library", type=Path)
    parser.add_argument("queries", type=Path)
    parser.add_argument("work", type=Path)
    parser.add_argument("--top-k", type=int, default=10)
    arguments = parser.parse_args()
    lines = arguments.queries.read_text(encoding="utf-8").splitlines()
    questions = in_forms([json.loads(line)["query"] for line in lines], arguments.top_k)
    whole, first, second = cut(arguments.library, arguments.work)
    same, asked, labels, largest = Counter[str](), Counter[str](), Counter[str](), 0.0
    with SearchService(whole) as one, SearchService([first, second]) as both:
        opened = ask([one, both], questions[:EXAMPLES])  # opens models and indexes
        keys = [hits[0].key for hits in opened[0][0] if hits]
        questions += [Question("similar", "", {"top_k": arguments.top_k}, (key,)) for key in keys]
        (ones, one_s), (boths, both_s) = ask([one, both], questions)
    for question, alone, merged in zip(questions, ones, boths, strict=True):
        known = {hit.key: hit for hit in alone}
        pairs = [(known[hit.key], hit) for hit in merged if hit.key in known]
        largest = max([largest, *(abs(left.score - right.score) for left, right in pairs)])
        labels.update(f"{left.confidence} {right.confidence}" for left, right in pairs)
        asked[question.form] += 1
        same[question.form] += same_hits(alone, merged)
        if not same_hits(alone, merged):
            print_difference(question, alone, merged)
    for form in asked:
        print(f"{form:16} {same[form]} of {asked[form]} questions have the same hits")
    print(f"largest difference of one clip's score {largest:.2e}")
    print(f"labels in the whole and in the halves: {dict(labels.most_common())}")
    print(f"median {1000 * one_s:.1f} ms one library, {1000 * both_s:.1f} ms two ({both_s / one_s:.2f} times)")


if __name__ == "__main__":
    main()
