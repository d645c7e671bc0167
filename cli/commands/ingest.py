"""vfindex ingest"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import (
    AddressOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    PresetOption,
    ProgressiveOption,
    RunnerOption,
    SpeechOption,
    TextOption,
    VisualOption,
    WorkersOption,
    cache_folder,
    library_folder,
    refuse_empty,
    runner_choice,
)
from vfindex.cli.output import clock, path_text, plain, print_json, say, say_hints
from vfindex.cli.trust import keep_trust
from vfindex.storage.errors import Problem, VfindexError, counted

if TYPE_CHECKING:
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.report import ProgressCallback, Report
    from vfindex.indexer.runs.run import Callbacks

NAME = "ingest"
EXAMPLE = "vfindex ingest ~/Videos --exclude 'raw/*'"
EXIT_BUG = 70
# Widths in characters. Room for "1000/2000 files 1:00:00 of video, 10.0x 0:00:00 1:00:00 left" beside the bar, and for
# the ^C that a terminal writes behind it: one that wraps would leave a second bar on the screen.
_SHORTEST_BAR, _LONGEST_BAR, _BESIDE_BAR = 4, 40, 66


def command(
    paths: Annotated[list[str], typer.Argument(metavar="PATH", help="Videos and folders of videos.")],
    preset: PresetOption = None,
    visual: VisualOption = None,
    text: TextOption = None,
    speech: SpeechOption = None,
    sampling: Annotated[
        str | None,
        typer.Option(metavar="MODE", help="auto, keyframes, or frames per second.  [default: auto]"),
    ] = None,
    asr: Annotated[
        bool | None,
        typer.Option("--asr/--no-asr", help="Transcribe speech.  [default: as last time, else on]"),
    ] = None,
    workers: WorkersOption = None,
    compiled: Annotated[
        bool, typer.Option("--compile", help="Compile the image model first, which takes minutes.")
    ] = False,
    progressive: ProgressiveOption = False,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    exclude: Annotated[
        list[str] | None, typer.Option(metavar="GLOB", help="Skip matching names and paths; repeatable.")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Index videos and folders of videos.

    Reads only new and changed files. After Ctrl-C the same command continues.
    """
    require("index")
    from vfindex.indexer.models.presets import Choice
    from vfindex.indexer.options import Sampling
    from vfindex.indexer.runs.execute import RunSettings

    refuse_empty(paths)

    settings = RunSettings(
        cache=cache_folder(),
        choice=Choice(preset, visual, text, speech),
        sampling=Sampling.parse(sampling) if sampling else None,
        asr=asr,
        workers=workers,
        compiled=compiled,
        exclude=tuple(exclude or ()),
        progressive=progressive,
        runner=runner_choice(runner, ray_address, path_map, gpu_share),
    )
    folder = library_folder(library)
    _refuse_missing(paths, folder)
    report = run_ingest(folder, [os.fsencode(path) for path in paths], settings)
    if json:
        print_json(report.to_dict(os.fsdecode))
    else:
        print_report(report)
    if report.interrupted:
        raise typer.Exit(130)
    keep_trust(folder)
    end_with(report.bugs(), failed=bool(report.failed or report.not_published))


def _refuse_missing(paths: list[str], folder: Path) -> None:
    """Raise VfindexError before a library is made for paths none of which exists."""
    if not folder.exists() and not any(os.path.lexists(path) for path in paths):
        raise VfindexError(f"{paths[0]}: there is no such file or folder; check the spelling and the mount")


def end_with(found: list[Problem], *, failed: bool) -> None:
    """Exit with 70 if a run has met bugs, after their tracebacks; with 1 if something failed; else return."""
    for problem in found:
        say(f"{path_text(problem.path)}: {problem.reason}")
        for line in problem.trace.splitlines():
            say(f"  {line}")
    if found:
        say("this is a bug of vfindex: please report it with the lines above")
        raise typer.Exit(EXIT_BUG)
    if failed:
        raise typer.Exit(1)


def run_ingest(folder: Path, paths: list[bytes], settings: RunSettings, *, name: str = "ingest") -> Report:
    """Ingest with progress on a terminal and Ctrl-C that ends cleanly. Raises what `ingest` raises."""
    from vfindex.indexer.runs.ingest import ingest

    with watching() as callbacks:
        return ingest(folder, paths, settings, callbacks, name=name)


@contextmanager
def watching() -> Iterator[Callbacks]:
    """Yield a callbacks that draws progress on a terminal and stops at Ctrl-C; a second one raises."""
    from vfindex.indexer.runs.run import Callbacks

    with _stopping() as (stop, interruptible), _progress() as progress:
        yield Callbacks(progress, stop, say, interruptible)


@contextmanager
def _stopping() -> Iterator[tuple[Callable[[], bool], Callable[[], AbstractContextManager[None]]]]:
    """Yield a function that says whether Ctrl-C was pressed or the process was asked to end; a second one raises.

    The second function gives a context in which the first one raises.
    """
    asked: list[int] = []
    impatient = 0

    @contextmanager
    def interruptible() -> Iterator[None]:
        nonlocal impatient
        impatient += 1
        try:
            yield
        finally:
            impatient -= 1

    def handle(number: int, _: object) -> None:
        asked.append(number)
        if len(asked) == 1 and not impatient:
            say("stopping after the videos in work; press Ctrl-C again to stop at once")
            return
        if len(asked) == 1:
            say("interrupted; run the same command again to go on")
        raise KeyboardInterrupt

    before = {number: signal.signal(number, handle) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked), interruptible
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _progress() -> Iterator[ProgressCallback]:
    """Yield a callback that draws files, seconds of video, rate and time left; quiet where no terminal looks on."""
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

        def tell(progress: Progress) -> None:
            elapsed_s = bar.tasks[0].elapsed or 0.0
            # Files that failed at once, before the first video is done, tell nothing of the time that the rest takes.
            telling = elapsed_s > 0 and progress.done_s > 0 and progress.done_files > 0
            rate = f"{clock(progress.done_s)} of video, {progress.done_s / elapsed_s:.1f}x" if telling else ""
            files_left = progress.total_files - progress.done_files
            left_s = elapsed_s / progress.done_files * files_left if telling else None
            bar.update(
                task,
                visible=True,
                completed=progress.done_files,
                total=progress.total_files,
                rate=rate,
                left="" if left_s is None else f"{clock(left_s)} left",
            )

        yield tell


def print_report(report: Report) -> None:
    """Print what became of the files, one line a problem on standard error, the counts on standard output."""
    kinds = (("failed", report.failed), ("partial", report.partial), ("skipped", report.skipped))
    for word, problems in (*kinds, ("left alone", report.left_alone), ("note", report.notes)):
        for problem in problems:
            say(f"{word}: {_line(problem)}")
    say_hints(report.hints)
    counts = f"{report.found} found: {report.indexed} indexed, {report.unchanged} unchanged, {report.moved} moved"
    counts += f", {len(report.partial)} partial, {len(report.failed)} failed, {len(report.skipped)} skipped"
    for word in ("reworded", "coarse", "vanished"):
        counts += f", {getattr(report, word)} {word}" if getattr(report, word) else ""
    print(counts)
    if report.left_out:
        print("left out: " + ", ".join(counted(number, kind) for kind, number in sorted(report.left_out.items())))
    if not (report.found or report.left_alone or report.interrupted or report.out_of_time):
        say("no videos found; name a folder that contains some, or the files themselves")
    if report.clips:
        speed = report.video_seconds / report.wall_s if report.wall_s else 0.0
        took = f"{clock(report.video_seconds)} of video in {clock(report.wall_s)} ({speed:.1f} times real time)"
        print(f"{counted(report.clips, 'clip')} from {took}")
    _print_gpus(report)
    if report.interrupted:
        left = f": {counted(report.left, 'file')} left" if report.left else ""
        print(f"interrupted{left}; run the same command again to continue")
    if report.not_published:
        say(report.not_published)
    if report.out_of_time:
        left = f": {counted(report.left, 'file')} left" if report.left else ""
        print(f"out of time{left}; the next run continues")


def _print_gpus(report: Report) -> None:
    for gpu, share in sorted(report.gpu_busy.items()):
        print(f"{gpu} encoded images for {share:.0%} of the time")


def _line(problem: Problem) -> str:
    return plain(f"{path_text(problem.path)}: [{problem.stage}] {problem.reason}; {problem.next}")
