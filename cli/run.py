"""Shared by commands that index: progress, Ctrl-C, the printed report, calibration and the exit code."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

import typer

from vfindex.cli.output import clock, path_text, plain, print_json, say, say_hints
from vfindex.cli.render.run_report import label
from vfindex.storage.errors import LibraryLocked, Problem, counted

if TYPE_CHECKING:
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.report import ProgressCallback, Report
    from vfindex.indexer.runs.run import Callbacks

EXIT_BUG, EXIT_INTERRUPTED = 70, 130
_EMPTY = "no videos found; name a folder that contains some, or the files themselves"
AGAIN = "interrupted; run the same command again to continue"
# Widths in characters. Room for "1000/2000 files 1:00:00 of video, 10.0x 0:00:00 1:00:00 left" beside the bar, and for
# the ^C that a terminal adds: a bar that wraps would leave a second one on the screen.
_SHORTEST_BAR, _LONGEST_BAR, _BESIDE_BAR = 4, 40, 66


def run_ingest(folder: Path, paths: list[bytes], settings: RunSettings, *, name: str = "ingest") -> Report:
    """Ingest with progress on a terminal and a clean end at Ctrl-C. Raises what `ingest` raises."""
    from vfindex.indexer.runs.ingest import ingest

    with watching("stopping") as callbacks:
        return ingest(folder, paths, settings, callbacks, name=name)


@contextmanager
def watching(stopped: str = AGAIN) -> Iterator[Callbacks]:
    """Yield callbacks that draw progress on a terminal and stop at Ctrl-C; a second Ctrl-C raises.

    stopped: what to say where the first one ends the command at once.
    """
    from vfindex.indexer.runs.run import Callbacks

    with _stopping(stopped) as (stop, interruptible), _progress() as progress:
        yield Callbacks(progress, stop, say, interruptible)


@contextmanager
def interrupt_reported(*, json: bool) -> Iterator[None]:
    """Print the report of a run that Ctrl-C ends before it returns one, and exit."""
    try:
        with interruption():
            yield
    except KeyboardInterrupt as exc:
        from vfindex.indexer.runs.report import Report, RunInterrupted

        report = exc.report if isinstance(exc, RunInterrupted) else Report(interrupted=True)
        print_run(report, json=json)
        if json:
            say(AGAIN)
        raise typer.Exit(EXIT_INTERRUPTED) from None


@contextmanager
def interrupt_said() -> Iterator[None]:
    """Say that Ctrl-C ends a command which the next call begins again."""
    try:
        yield
    except KeyboardInterrupt:
        say("interrupted; run the same command again")
        raise


@contextmanager
def interruption() -> Iterator[None]:
    """Raise KeyboardInterrupt in place of any exception after Ctrl-C."""
    received: list[int] = []
    before = signal.getsignal(signal.SIGINT)
    if not callable(before):  # nohup ignores it
        yield
        return

    def handle(number: int, frame: FrameType | None) -> None:
        received.append(number)
        before(number, frame)

    signal.signal(signal.SIGINT, handle)
    try:
        with _interrupted_if(received):
            yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def _interrupted_if(received: Sequence[int]) -> Iterator[None]:
    """Raise KeyboardInterrupt in place of any exception if a signal was received.

    Libraries such as omegaconf and ctranslate2 catch Ctrl-C while they are imported, and raise an error of their own.
    """
    try:
        yield
    except Exception as exc:
        if received:
            raise KeyboardInterrupt from exc
        raise


@contextmanager
def _stopping(stopped: str) -> Iterator[tuple[Callable[[], bool], Callable[[], AbstractContextManager[None]]]]:
    """Yield a function that returns whether SIGINT or SIGTERM has arrived, and a context in which the first one raises.

    A second signal raises KeyboardInterrupt anywhere.
    """
    received: list[int] = []
    depth = 0

    @contextmanager
    def interruptible() -> Iterator[None]:
        nonlocal depth
        depth += 1
        try:
            with _interrupted_if(received):
                yield
        finally:
            depth -= 1

    def handle(number: int, _: object) -> None:
        received.append(number)
        if len(received) == 1 and not depth:
            say("stopping after the videos in progress; press Ctrl-C again to stop at once")
            return
        if len(received) == 1:
            say(stopped)
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(received), interruptible
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """Yield a callback that draws files, seconds of video, speed and time left on a terminal, and nothing elsewhere."""
    from vfindex.indexer.runs.report import Progress

    if not sys.stderr.isatty():
        yield lambda _: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, TextColumn, TimeElapsedColumn
    from rich.progress import Progress as Bar

    console = Console(stderr=True)
    columns = (
        BarColumn(bar_width=max(_SHORTEST_BAR, min(_LONGEST_BAR, console.width - _BESIDE_BAR))),
        TextColumn("{task.completed:.0f}/{task.total:.0f} files", markup=False),
        TextColumn("{task.fields[rate]}", markup=False),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", markup=False),
    )
    with Bar(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None, rate="", left="", visible=False)

        def draw(progress: Progress) -> None:
            elapsed_s = bar.tasks[0].elapsed or 0.0
            # Files that fail at once, before the first video is done, do not predict the time left.
            known = elapsed_s > 0 and progress.done_s > 0 and progress.done_files > 0
            rate = f"{clock(progress.done_s)} of video, {progress.done_s / elapsed_s:.1f}x" if known else ""
            files_left = progress.total_files - progress.done_files
            left_s = elapsed_s / progress.done_files * files_left if known else None
            bar.update(
                task,
                visible=True,
                completed=progress.done_files,
                total=progress.total_files,
                rate=rate,
                left="" if left_s is None else f"{clock(left_s)} left",
            )

        yield draw


def print_run(report: Report, *, json: bool, empty: str = _EMPTY) -> None:
    """Print the report of a run. empty: what to say where no video was found."""
    if json:
        print_json(report.to_dict(os.fsdecode))
    else:
        print_report(report, empty=empty)


def print_report(report: Report, known: Collection[Problem] = (), *, empty: str = _EMPTY) -> None:
    """Print counts on standard output, and a line per problem on standard error, except for known ones."""
    kinds = (("failed", report.failed), ("partial", report.partial), ("skipped", report.skipped))
    for word, problems in (*kinds, ("left alone", report.left_alone), ("note", report.notes)):
        for problem in problems:
            if problem not in known:
                say(f"{word}: {_line(problem)}")
    say_hints(report.hints)
    counts = f"{report.found} found: {report.indexed} indexed, {report.unchanged} unchanged, {report.moved} moved"
    counts += f", {len(report.partial)} partial, {len(report.failed)} failed, {len(report.skipped)} skipped"
    for word in ("reworded", "coarse", "vanished"):
        counts += f", {getattr(report, word)} {label(word)}" if getattr(report, word) else ""
    print(counts)
    if report.left_out:
        print("left out: " + ", ".join(counted(number, kind) for kind, number in sorted(report.left_out.items())))
    if not (report.found or report.left_alone or report.interrupted or report.out_of_time):
        say(empty)
    if report.clips:
        speed = report.video_seconds / report.wall_s if report.wall_s else 0.0
        took = f"{clock(report.video_seconds)} of video in {clock(report.wall_s)} ({speed:.1f} times real time)"
        print(f"{counted(report.clips, 'clip')} from {took}")
    for gpu, share in sorted(report.gpu_busy.items()):
        print(f"{gpu} encoded images for {share:.0%} of the time")
    _print_end(report)


def _print_end(report: Report) -> None:
    """Print why a run ended before it was done, and how many files are left."""
    left = f": {counted(report.left, 'file')} left" if report.left else ""
    if report.interrupted and report.left == 0 and not report.coarse:
        print("interrupted: no file is left; the next run brings the index up to date")
    elif report.interrupted:
        print(f"interrupted{left}; run the same command again to continue")
    if report.not_published:
        say(report.not_published)
    if report.out_of_time:
        unknown = " before all files were found" if report.left is None else ""
        print(f"out of time{unknown}{left}; the next run continues")


def _line(problem: Problem) -> str:
    return plain(f"{path_text(problem.path)}: [{problem.stage}] {problem.reason}; {problem.next}")


def finish(
    report: Report,
    folder: Path,
    *,
    calibrate: bool = True,
    failed: bool | None = None,
    then: Callable[[], bool] = lambda: True,
) -> None:
    """Calibrate the library's scores if due, and exit unless all went well.

    failed: None: a file failed, or the index was not published. then: called after the calibration, returns whether it
    succeeded. Exit codes: 130 interrupted, 70 a bug, 1 failed.
    """
    if report.interrupted:
        raise typer.Exit(EXIT_INTERRUPTED)
    if calibrate:
        calibrate_if_due(folder)
    succeeded = then()
    failed = bool(report.failed or report.not_published) if failed is None else failed
    end_with(report.bugs(), failed=failed or not succeeded)


def end_with(bugs: Sequence[Problem], *, failed: bool) -> None:
    """Exit with 70 after printing the tracebacks of bugs, with 1 if something failed; else return."""
    for problem in bugs:
        say(f"{path_text(problem.path)}: {problem.reason}")
        for line in problem.trace.splitlines():
            say(f"  {line}")
    if bugs:
        say("this is a bug of vfindex: please report it with the lines above")
        raise typer.Exit(EXIT_BUG)
    if failed:
        raise typer.Exit(1)


def calibrate_if_due(folder: Path, *, anew: bool = False) -> None:
    """Calibrate the confidence labels of the library in `folder` if due. Raises what `calibrate_if_changed` raises.

    If another run has started meanwhile, it calibrates instead. anew: it is due.
    """
    from vfindex.indexer.models.priors import background_queries
    from vfindex.search.calibration.fit import calibrate_if_changed

    try:
        calibrate_if_changed(folder, background_queries(), say, anew=anew)
    except LibraryLocked:
        say("another run is in progress; it will calibrate the confidence of hits")
