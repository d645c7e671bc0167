"""Relevance feedback on judged questions: python tests/bench/feedback.py QUESTIONS --library DIR

A simulated person looks at the first K = 1, 3, 5 hits of a question, one a video, and judges each by the file: its
grade, or 0. Then the question is asked again, moved by these judgements; beside it the question as it was, and blind
feedback, which takes the same K hits for relevant without looking (pseudo relevance feedback). Residual collection
(Salton and Buckley 1990): the K videos that were seen are taken out of all three rankings and of what is relevant;
questions with nothing relevant left are left out. Prints the mean nDCG@10 of each, and the differences with paired
95 % bootstrap intervals. `--modality` leaves in only questions about this one.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from pathlib import Path

from vfindex.search.engine import SearchEngine, answer
from vfindex.search.evaluation.datasets import Question, read_questions
from vfindex.search.evaluation.metrics import compare, score
from vfindex.search.query.request import Judged, Request
from vfindex.search.results import Hit

DEPTH = 40
MARKS = (1, 3, 5)


def name(hit: Hit) -> str:
    return os.path.basename(os.fsdecode(hit.video or b""))


def ask(engine: SearchEngine, question: Question, judged: Sequence[Judged] = ()) -> list[Hit]:
    return list(answer([engine], Request(question.text, top_k=DEPTH, judged=tuple(judged))))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("questions", type=Path)
    parser.add_argument("--library", type=Path, required=True)
    parser.add_argument("--modality", default="")
    chosen = parser.parse_args()
    engine = SearchEngine.open(chosen.library)
    questions = [each for each in read_questions(chosen.questions) if each.relevant]
    questions = [each for each in questions if chosen.modality in ("", each.modality)]
    first = {each.id: ask(engine, each) for each in questions}
    print(
        f"{len(questions)} questions, library of {len({name(h) for hits in first.values() for h in hits})} videos seen"
    )
    for marks in MARKS:
        report(engine, questions, first, marks)


def report(engine: SearchEngine, questions: list[Question], first: dict[str, list[Hit]], marks: int) -> None:
    """Print the measures after this number of marks."""
    runs: dict[str, dict[str, list[str]]] = {"none": {}, "blind": {}, "feedback": {}}
    judged: dict[str, dict[str, int]] = {}
    for question in questions:
        seen = first[question.id][:marks]
        grades = {os.path.basename(each.video): each.grade for each in question.relevant}
        left = {video: grade for video, grade in grades.items() if video not in set(map(name, seen))}
        if not left:
            continue
        judged[question.id] = left
        told = [Judged(hit.key, grades.get(name(hit), 0)) for hit in seen]
        blind = [Judged(hit.key, 1) for hit in seen]
        answers = {
            "none": first[question.id],
            "blind": ask(engine, question, blind),
            "feedback": ask(engine, question, told),
        }
        for how, hits in answers.items():
            runs[how][question.id] = [each for each in map(name, hits) if each not in set(map(name, seen))]
    values = {how: list(score(judged, run, 10)["nDCG@10"].values()) for how, run in runs.items()}
    print(f"{marks} marks, {len(judged)} questions with something left to find: nDCG@10", end="")
    print("".join(f", {how} {sum(of) / len(of):.3f}" for how, of in values.items()))
    for other in ("none", "blind"):
        gain = compare(values[other], values["feedback"])
        print(f"    feedback - {other}: {gain.value:+.3f} [{gain.low:+.3f}, {gain.high:+.3f}]")


if __name__ == "__main__":
    main()
