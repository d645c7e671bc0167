"""Answers to questions: python tests/bench/ask.py --library DIR [--half development|held-out] [--detail]

60 questions over the public collection (ask_questions.jsonl), 40 that it answers and 20 that it does not, written
before the code that answers them. DIR is an ingested library of public/videos, whose scores are calibrated.

right first: the first moment is in the right video, overlaps the right span, and the words that answer are said or
written during it (up to a minute). Control: the first hit of a plain search, by the same rule.
words shown: they also stand, word for word, in the quotations of the first moment. Control: the snippet that a plain
search shows with its first hit.
does not say: precision and recall of "the library does not say" over all questions, and the share of questions that are
rightly answered or rightly not. Controls: answering always, and "no confident match" of a plain search.
Intervals are percentile bootstraps over questions; differences are paired.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from vfindex.search.evaluation.metrics import RESAMPLES, compare
from vfindex.search.query.ast import Query
from vfindex.search.service import SearchService

QUESTIONS = Path(__file__).with_name("ask_questions.jsonl")
TEXT = ("speech", "screen")


@dataclass(frozen=True)
class Question:
    """kind: of one without an answer, "" of one with. words: which the moment must contain."""

    id: str
    text: str
    half: str
    kind: str = ""
    video: str = ""
    start_s: float = 0.0
    end_s: float = 0.0
    words: str = ""


@dataclass(frozen=True)
class Outcome:
    """says: whether it answers. right: whether the first moment is right. took_s: of the whole answer.

    shown: whether the words are in the text that is shown with it: quotations, or the snippet of a search.
    """

    says: bool
    right: bool
    took_s: float = 0.0
    shown: bool = False


def read(half: str | None) -> list[Question]:
    rows = [json.loads(line) for line in QUESTIONS.read_text(encoding="utf-8").splitlines()]
    questions = [
        Question(row["id"], row["question"], row["half"], row["unanswerable"])
        if "unanswerable" in row
        else Question(
            row["id"], row["question"], row["half"], "", row["video"], row["start_s"], row["end_s"], row["words"]
        )
        for row in rows
    ]
    return [each for each in questions if half in (None, each.half)]


def squeezed(text: str) -> str:
    return " ".join(text.split()).casefold()


def is_right(question: Question, video: bytes | None, span: tuple[float, float], texts: Sequence[str]) -> bool:
    same = os.path.basename(os.fsdecode(video or b"")) == question.video
    overlaps = span[0] < question.end_s and span[1] > question.start_s
    return same and overlaps and squeezed(question.words) in squeezed(" ".join(texts))


def by_ask(service: SearchService, question: Question) -> Outcome:
    start_s = time.perf_counter()
    found = service.ask(question.text)
    took_s = time.perf_counter() - start_s
    if not found.moments:
        return Outcome(bool(found.says), False, took_s)
    first = found.moments[0]
    span = (first.start_s, first.end_s)
    shown = any(
        is_right(question, first.video, span, [each.text for each in first.quotations if each.track == track])
        for track in TEXT
    )
    return Outcome(bool(found.says), is_there(service, question, first.video, span), took_s, shown)


def is_there(service: SearchService, question: Question, video: bytes | None, span: tuple[float, float]) -> bool:
    """Return whether a span is the right one, by all that is said, or all that is written, during it."""
    info = service.video(Path(os.fsdecode(video or b"")))
    during = [each for each in (*info.transcript, *info.other_text) if each.start_s < span[1] and each.end_s > span[0]]
    return any(is_right(question, video, span, [each.text for each in during if each.track == track]) for track in TEXT)


def by_search(service: SearchService, question: Question) -> Outcome:
    """Return the outcome of a plain search: right by its first hit, says by whether any hit is better than chance."""
    start_s = time.perf_counter()
    hits = service.search(Query.plain(question.text), top_k=1, min_confidence="none")
    took_s = time.perf_counter() - start_s
    first = hits[0]
    span = (first.start_s, first.end_s)
    shown = is_right(question, first.video, span, [first.snippet or ""])
    return Outcome(hits.confident is not False, is_there(service, question, first.video, span), took_s, shown)


def interval(values: Sequence[Sequence[float]], statistic: Callable[[np.ndarray], float]) -> str:
    """Return a statistic of rows drawn with replacement, with its 95 % interval. values: a row a question."""
    table = np.array(values, float)
    generator = np.random.default_rng(0)
    drawn = [statistic(table[generator.integers(0, len(table), len(table))]) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(drawn, [2.5, 97.5])
    return f"{statistic(table):.2f} [{low:.2f}, {high:.2f}]"


def ratio(table: np.ndarray) -> float:
    """Return the sum of the first column by that of the second."""
    return float(table[:, 0].sum() / table[:, 1].sum()) if table[:, 1].sum() else float("nan")


def report(name: str, questions: Sequence[Question], asked: Sequence[Outcome]) -> None:
    silent = [float(not each.says) for each in asked]
    absent = [float(bool(each.kind)) for each in questions]
    both = [a * b for a, b in zip(silent, absent, strict=True)]
    right = [[float(each.right), 1.0] for each, q in zip(asked, questions, strict=True) if not q.kind]
    print(f"\n{name}")
    print(f"  right moment first   {interval(right, ratio)}")
    print(f"  'does not say': precision {interval(list(zip(both, silent, strict=True)), ratio)}", end="")
    print(f", recall {interval(list(zip(both, absent, strict=True)), ratio)}")
    for kind in ("far", "near"):
        of = [float(not each.says) for each, q in zip(asked, questions, strict=True) if q.kind == kind]
        print(f"    of {kind}: {int(sum(of))} of {len(of)}")
    print(f"  rightly answered or not  {interval([[each, 1.0] for each in decided(questions, asked)], ratio)}")
    print(f"  median {1000 * float(np.median([each.took_s for each in asked])):.0f} ms a question")


def decided(questions: Sequence[Question], asked: Sequence[Outcome]) -> list[float]:
    """Return of each question whether it is rightly answered: says for one with an answer, silent for another."""
    return [float(each.says != bool(q.kind)) for each, q in zip(asked, questions, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--library", type=Path, required=True, help="an ingested library of public/videos")
    parser.add_argument("--half", choices=("development", "held-out"), help="only these questions")
    parser.add_argument("--detail", action="store_true", help="a line for each question")
    arguments = parser.parse_args()
    questions = read(arguments.half)
    with SearchService(arguments.library) as service:
        service.ask(questions[0].text)  # opens the models
        asked = [by_ask(service, each) for each in questions]
        searched = [by_search(service, each) for each in questions]
    always = [Outcome(True, each.right, each.took_s) for each in searched]
    if arguments.detail:
        for q, one, other in zip(questions, asked, searched, strict=True):
            print(q.id, q.kind or "-", f"ask {one.says} {one.right}", f"search {other.says} {other.right}", q.text)
    print(f"{len(questions)} questions, {sum(not q.kind for q in questions)} with an answer")
    report("ask", questions, asked)
    report("plain search, 'no confident match'", questions, searched)
    report("always answering", questions, always)
    print("\npaired differences")
    answerable = [at for at, q in enumerate(questions) if not q.kind]
    firsts = compare([searched[at].right for at in answerable], [asked[at].right for at in answerable])
    print(f"  right moment first, ask - plain search: {firsts.value:+.2f} [{firsts.low:+.2f}, {firsts.high:+.2f}]")
    said = [at for at in answerable if asked[at].says]
    there = compare([searched[at].right for at in said], [asked[at].right for at in said])
    print(f"  the same, of the {len(said)} it answers: {there.value:+.2f} [{there.low:+.2f}, {there.high:+.2f}]")
    shown = [[float(of[at].shown) for at in answerable] for of in (searched, asked)]
    for name, values in zip(("snippet of the first hit", "quotations of the first moment"), shown, strict=True):
        print(f"  words shown in the {name}: {interval([[each, 1.0] for each in values], ratio)}")
    quoted = compare(*shown)
    print(f"  words shown, ask - snippet: {quoted.value:+.2f} [{quoted.low:+.2f}, {quoted.high:+.2f}]")
    for name, others in (("plain search", searched), ("always answering", always)):
        gain = compare(decided(questions, others), decided(questions, asked))
        print(f"  rightly answered or not, ask - {name}: {gain.value:+.2f} [{gain.low:+.2f}, {gain.high:+.2f}]")


if __name__ == "__main__":
    main()
