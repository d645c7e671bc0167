"""vfindex eval"""

from __future__ import annotations

import math
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.out_file import PNG, ForceOption, check_out_file, write_out_file
from vfindex.cli.output import plain, print_json, say
from vfindex.cli.render.progress import progress_bar
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.evaluation.datasets import Question
    from vfindex.search.evaluation.evaluate import Level, Rankings
    from vfindex.search.evaluation.metrics import Difference, Figure
    from vfindex.search.evaluation.report import Evaluation

Task = Literal["search", "classification"]
NAME = "eval"
EXAMPLE = "vfindex eval queries.jsonl --config default --config speech=0"
# "0.706 [0.653, 0.755]" and a gap; the column of measures.
_CELL, _HEAD = 25, 14
# Refused questions and absent videos that are listed.
_EXAMPLES = 3


def command(
    queries: Annotated[
        Path,
        typer.Argument(metavar="QUERIES", help="Queries, or labelled videos (docs/evaluation.md).", show_default=False),
    ],
    config: Annotated[
        list[str] | None,
        typer.Option(metavar="KEY=VALUE,...", help="Search settings, or a .json file; repeat to compare."),
    ] = None,
    run: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Evaluate a TREC run instead; repeat to compare.")
    ] = None,
    split: Annotated[str | None, typer.Option(metavar="NAME", help="Only the queries of this split.")] = None,
    task: Annotated[
        Task, typer.Option(metavar="NAME", help="search, or classification of labelled videos.")
    ] = "search",
    classes: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Classes, else the labels' names (docs/label.md).")
    ] = None,
    figure: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Draw the confusion matrix of a classification (PNG).")
    ] = None,
    force: ForceOption = False,
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
    from vfindex.search.evaluation.report import Evaluation

    if task == "classification":
        if config or run or paragraphs:
            raise UsageError("--config, --run and --paragraphs are of searches; leave them out of a classification")
        _classify(library_folder(library), queries, (split, classes, figure), force=force, json=json)
        return
    if classes or figure:
        raise UsageError("--classes and --figure are of classifications; add --task classification")
    if config and run:
        raise UsageError("--config is for searches, and --run gives results already; use one of them")
    for chosen in (config or [], run or []):
        if len(set(chosen)) < len(chosen):
            raise UsageError("a configuration or run is given twice; there is nothing to compare")
    questions = read_questions(queries, split=split, paragraphs=paragraphs)
    if not any(question.relevant for question in questions):
        raise UsageError(f"no query of {queries} has an answer, so there is nothing to measure")
    if run:
        rankings = _judge_runs(run, questions)
    else:
        rankings = _search(config or ["default"], library_folder(library), questions)
    evaluation = Evaluation.of(queries, questions, rankings)
    if json:
        print_json(evaluation.to_dict())
    else:
        _print(evaluation)


def _classify(
    library: Path, truths: Path, chosen: tuple[str | None, Path | None, Path | None], *, force: bool, json: bool
) -> None:
    """Print how well the labels of a library are. chosen: the split, the file of classes, the picture to write."""
    from vfindex.search.evaluation.classification import classify
    from vfindex.search.evaluation.labelled_videos import read_labelled
    from vfindex.search.understanding.labelling.classes import read_classes

    split, classes, figure = chosen
    if split is not None and split not in ("1", "2", "3"):
        raise UsageError(f"the splits are 1, 2 and 3, not {split!r:.40}")
    if figure is not None:
        check_out_file(figure, "--figure", PNG, force=force)
    labelled = read_labelled(truths, None if split is None else int(split))
    with progress_bar("labelling clips") as progress:
        found, absent = classify(library, labelled, None if classes is None else read_classes(classes), progress)
    if figure is not None:
        from vfindex.cli.render.confusion import confusion_picture

        write_out_file(figure, "--figure", confusion_picture(found))
    if json:
        print_json({"truths": str(truths.absolute()), "absent": absent, **found.to_dict()})
        return
    figures, controls, gain = found.figures(), found.controls(), found.against_majority()
    print(f"{counted(len(found.truth), 'video')} of {len(found.classes)} classes; {len(absent)} not in the library")
    print(f"{'':20}{'labels':25}{'majority':25}chance")
    for name, value in figures.items():
        others = (_cell(of[name]) if name in of else "" for of in controls.values())
        print(f"{name:20}{_cell(value):25}{''.join(f'{each:25}' for each in others)}".rstrip())
    print(f"{'over majority':20}{_signed(gain)}")
    if gain.low <= 0:
        say("not better than chance here: the most frequent class does as well")


def _judge_runs(paths: Sequence[Path], questions: Sequence[Question]) -> dict[str, Rankings]:
    from vfindex.search.evaluation.datasets import read_run
    from vfindex.search.evaluation.evaluate import from_run

    return {str(path): from_run(read_run(path), questions) for path in paths}


def _search(texts: Sequence[str], library: Path, questions: Sequence[Question]) -> dict[str, Rankings]:
    from vfindex.search.evaluation.evaluate import parse_configuration, run_questions

    chosen = [parse_configuration(text, library) for text in texts]
    with _progress(len(questions)) as on_done:
        rankings = run_questions(chosen, questions, on_done)
    return {each.name: ranking for each, ranking in zip(chosen, rankings, strict=True)}


@contextmanager
def _progress(total: int) -> Iterator[Callable[[int], None]]:
    """Yield a function that draws the number of questions done, if standard error is a terminal."""
    if not sys.stderr.isatty():
        yield lambda done: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("searching"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("searching", total=total)
        yield lambda done: bar.update(task, completed=done)


# --- for people -----------------------------------------------------------------------------------------------------


def _print(evaluation: Evaluation) -> None:
    questions, rankings, levels = evaluation.questions, evaluation.rankings, evaluation.levels
    first, *others = rankings
    without = sum(not question.relevant for question in questions)
    print(f"{counted(len(questions), 'question')}{f', {without} of them without an answer' if without else ''}")
    for name, each in rankings.items():
        print(f"\n== {plain(name)}, the first {counted(each.depth, 'hit')}")
        for level, of in levels[name].items():
            _print_level(level, of)
        latencies = ", ".join(f"p{p} {ms:.0f} ms" for p, ms in each.latencies_ms().items())
        if latencies:
            print(f"latency {latencies}")
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


def _print_labels(questions: Sequence[Question], rankings: Rankings) -> None:
    from vfindex.search.evaluation.evaluate import labelled

    for label, of in reversed(labelled(questions, rankings).items()):
        numbers = f"{counted(of.right + of.wrong, 'question')} with an answer ({of.right} right), {of.absent} without"
        print(f"first hits with confidence {label}: {numbers}")


def _print_trouble(rankings: Rankings) -> None:
    if rankings.absent:
        named = ", ".join(rankings.absent[:_EXAMPLES])
        print(plain(f"not in the library: {counted(len(rankings.absent), 'video')}, such as {named}"))
    for question, reason in list(rankings.refused.items())[:_EXAMPLES]:
        print(plain(f"refused: {question}: {reason}"))
    if len(rankings.refused) > _EXAMPLES:
        print(f"and {len(rankings.refused) - _EXAMPLES} more")


def _print_differences(title: str, first: Level, second: Level) -> None:
    from vfindex.search.evaluation.evaluate import differences

    print(f"\n== {plain(title)}, the same {counted(len(first.groups['all']), 'question')}")
    print(f"{'':{_HEAD}}{'difference':27}{'P(gain)':>9}{'p':>9}")
    for name, d in differences(first, second).items():
        print(f"{name:{_HEAD}}{_signed(d):27}{d.p_gain:9.3f}{d.p_value:9.3f}")


def _signed(difference: Difference) -> str:
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"
