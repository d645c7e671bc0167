"""vfindex eval"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import plain, print_json
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.evaluation.datasets import Question
    from vfindex.search.evaluation.evaluate import Answers, Level
    from vfindex.search.evaluation.metrics import Difference, Figure

NAME = "eval"
EXAMPLE = "vfindex eval queries.jsonl --config default --config speech=0"
# "0.706 [0.653, 0.755]" and a gap; the column of measures.
_CELL, _HEAD = 23, 14
_PERCENTILES = (50, 90, 99)
# Of questions refused and videos absent, as many are named.
_EXAMPLES = 3


def command(
    queries: Annotated[
        Path,
        typer.Argument(metavar="QUERIES", help="Queries with known answers (docs/evaluation.md).", show_default=False),
    ],
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="Search settings, or a .json file; repeat to compare."),
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Evaluate a TREC run instead; repeat to compare.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only the queries of this split.")] = None,
    paragraphs: Annotated[
        bool, typer.Option("--paragraphs", help="Join the sentences of a video into one query.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Measure search quality with queries whose answers are known.

    By video and by moment, for each modality, with 95 % intervals. Further configurations are compared with the first.
    """
    from vfindex.search.evaluation.datasets import read_questions

    if config and run:
        raise UsageError("--config is for searches, and --run gives results already; use one of them")
    for chosen in (config or [], run or []):
        if len(set(chosen)) < len(chosen):
            raise UsageError("a configuration or run is given twice; there is nothing to compare")
    questions = read_questions(queries, split=split, paragraphs=paragraphs)
    if not any(question.relevant for question in questions):
        raise UsageError(f"no query of {queries} has an answer, so there is nothing to measure")
    answers = _judge_runs(run, questions) if run else _ask(config or ["default"], library_folder(library), questions)
    levels = {name: _levels(questions, each) for name, each in answers.items()}
    if json:
        print_json(_document(queries, questions, answers, levels))
    else:
        _print(questions, answers, levels)


def _judge_runs(paths: Sequence[Path], questions: Sequence[Question]) -> dict[str, Answers]:
    from vfindex.search.evaluation.datasets import read_run
    from vfindex.search.evaluation.evaluate import from_run

    return {str(path): from_run(read_run(path), questions) for path in paths}


def _ask(texts: Sequence[str], library: Path, questions: Sequence[Question]) -> dict[str, Answers]:
    from vfindex.search.evaluation.evaluate import ask, parse_configuration

    chosen = [parse_configuration(text, library) for text in texts]
    with _progress(len(questions)) as on_asked:
        answers = ask(chosen, questions, on_asked)
    return {each.name: answer for each, answer in zip(chosen, answers, strict=True)}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Give a function that draws how many questions are done, where standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("asking"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("asking", total=total)
        yield lambda done: bar.update(task, completed=done)


def _levels(questions: Sequence[Question], answers: Answers) -> dict[str, Level]:
    """Return level -> figures, moments only for answers that have times."""
    from vfindex.search.evaluation.evaluate import LEVELS, judge

    timed = any(hit.span[1] > hit.span[0] for hits in answers.found.values() for hit in hits)
    judged = {name: judge(questions, answers, name) for name, iou in LEVELS.items() if iou is None or timed}
    return {name: level for name, level in judged.items() if level is not None}


# --- JSON -----------------------------------------------------------------------------------------------------------


def _document(
    queries: Path,
    questions: Sequence[Question],
    answers: Mapping[str, Answers],
    levels: Mapping[str, Mapping[str, Level]],
) -> dict[str, Any]:
    from dataclasses import asdict

    from vfindex.search.evaluation.evaluate import labelled

    first, *others = answers
    return {
        "queries": str(queries.absolute()),
        "questions": len(questions),
        "without_answer": sum(not question.relevant for question in questions),
        "configurations": [
            {
                "name": name,
                "depth": each.depth,
                "latency_ms": {f"p{p}": value for p, value in _latencies(each).items()} or None,
                "refused": [{"query_id": id_, "reason": why} for id_, why in each.refused.items()],
                "absent": list(each.absent),
                "labels": {label: asdict(of) for label, of in labelled(questions, each).items()},
                "levels": {level: _figures(of) for level, of in levels[name].items()},
            }
            for name, each in answers.items()
        ],
        "differences": [
            {"from": first, "to": other, "level": level, "measures": _differences(levels[first][level], of)}
            for other in others
            for level, of in levels[other].items()
            if level in levels[first]
        ],
    }


def _figures(level: Level) -> dict[str, Any]:
    return {
        group: {
            "questions": len(level.groups[group]),
            **{name: {k: _finite(getattr(f, k)) for k in ("value", "low", "high")} for name, f in figures.items()},
        }
        for group, figures in level.figures().items()
    }


def _differences(first: Level, second: Level) -> dict[str, Any]:
    from dataclasses import asdict

    from vfindex.search.evaluation.evaluate import differences

    return {name: asdict(difference) for name, difference in differences(first, second).items()}


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _latencies(answers: Answers) -> dict[int, float]:
    """Return percentile -> milliseconds of a question, empty where nothing was asked."""
    if not answers.seconds:
        return {}
    import numpy as np

    taken = np.percentile(np.asarray(answers.seconds) * 1000, _PERCENTILES)
    return {p: round(float(ms), 3) for p, ms in zip(_PERCENTILES, taken, strict=True)}


# --- for people -----------------------------------------------------------------------------------------------------


def _print(
    questions: Sequence[Question], answers: Mapping[str, Answers], levels: Mapping[str, Mapping[str, Level]]
) -> None:
    first, *others = answers
    without = sum(not question.relevant for question in questions)
    print(f"{counted(len(questions), 'question')}{f', {without} of them without an answer' if without else ''}")
    for name, each in answers.items():
        print(f"\n== {plain(name)}, the first {counted(each.depth, 'hit')}")
        for level, of in levels[name].items():
            _print_level(level, of)
        latencies = ", ".join(f"p{p} {ms:.0f} ms" for p, ms in _latencies(each).items())
        if latencies:
            print(f"a question took {latencies}")
        _print_labels(questions, each)
        _print_trouble(each)
    for other in others:
        for level, of in levels[other].items():
            if level in levels[first]:
                _print_differences(f"{other} against {first}, {level}", levels[first][level], of)


def _print_level(name: str, level: Level) -> None:
    figures = level.figures()
    fitting = max(1, (shutil.get_terminal_size().columns - _HEAD) // _CELL)
    groups = list(figures)
    print(f"\n{name}")
    for start in range(0, len(groups), fitting):
        part = groups[start : start + fitting]
        heads = "".join(f"{plain(f'{g} ({len(level.groups[g])})'):{_CELL}}" for g in part)
        print(f"{'':{_HEAD}}{heads}".rstrip())
        for measure in figures["all"]:
            print(f"{measure:{_HEAD}}{''.join(f'{_cell(figures[g][measure]):{_CELL}}' for g in part)}".rstrip())


def _cell(figure: Figure) -> str:
    return f"{_rank(figure.value)} [{_rank(figure.low)}, {_rank(figure.high)}]"


def _rank(value: float) -> str:
    return f"{value:.3f}" if math.isfinite(value) else "beyond"


def _print_labels(questions: Sequence[Question], answers: Answers) -> None:
    from vfindex.search.evaluation.evaluate import labelled

    for label, of in reversed(labelled(questions, answers).items()):
        told = f"{counted(of.right + of.wrong, 'question')} with an answer ({of.right} right), {of.absent} without"
        print(f"first hits with confidence {label}: {told}")


def _print_trouble(answers: Answers) -> None:
    if answers.absent:
        named = ", ".join(answers.absent[:_EXAMPLES])
        print(plain(f"not in the library, so never found: {counted(len(answers.absent), 'video')}, such as {named}"))
    for question, reason in list(answers.refused.items())[:_EXAMPLES]:
        print(plain(f"not asked, so unanswered: {question}: {reason}"))
    if len(answers.refused) > _EXAMPLES:
        print(f"and {len(answers.refused) - _EXAMPLES} more")


def _print_differences(title: str, first: Level, second: Level) -> None:
    from vfindex.search.evaluation.evaluate import differences

    print(f"\n== {plain(title)}, the same {counted(len(first.groups['all']), 'question')}")
    print(f"{'':{_HEAD}}{'difference':27}{'P(gain)':>9}{'p':>9}")
    for name, d in differences(first, second).items():
        print(f"{name:{_HEAD}}{_signed(d):27}{d.p_gain:9.3f}{d.p_value:9.3f}")


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
