"""vfindex runs"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, add_command, command_group, library_folder
from vfindex.cli.out_file import HTML, ForceOption, check_out_file, write_out_file
from vfindex.cli.output import clock, plain, print_json, say
from vfindex.cli.render.run_page import run_page
from vfindex.cli.render.run_report import COUNTS, LISTS, endings, files_done, label, run_line
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.status import RunInfo

NAME = "runs"
EXAMPLE = "vfindex runs show 12"

app = command_group("Show what earlier runs did. Without a command, list them.", EXAMPLE, bare=True)


@app.callback()
def bare_command(context: typer.Context, library: LibraryOption = None, json: JsonOption = False) -> None:
    if context.invoked_subcommand is None:
        list_command(library, json)
        return
    typed = [name for name in ("library", "json") if _is_typed(context, name)]
    if typed:
        raise UsageError(
            f"--{typed[0]} goes behind the command: vfindex runs {context.invoked_subcommand} --{typed[0]}"
        )


def _is_typed(context: typer.Context, name: str) -> bool:
    source = context.get_parameter_source(name)
    return source is not None and source.name == "COMMANDLINE"


@add_command(app, "list", "vfindex runs list")
def list_command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """List all runs, the latest last."""
    from vfindex.search.service import SearchService

    found = SearchService(library_folder(library)).runs()
    if json:
        print_json(found.to_dict())
        return
    for run in found.runs:
        print(plain(f"{run.id:>5}  {run.started_at}  {run.command:8}  {run_line(run)}"))


@add_command(app, "show", EXAMPLE)
def show_command(
    run_id: Annotated[int, typer.Argument(metavar="ID", help="Number of the run.")],
    page: Annotated[Path | None, typer.Option(metavar="FILE", help="Write an HTML page.")] = None,
    force: ForceOption = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the files of a run, its speed, and what is left."""
    from vfindex.search.service import SearchService

    if page is not None:
        check_out_file(page, "--page", HTML, force=force)
    run = SearchService(library_folder(library)).run(run_id)
    if page is not None:
        _write(page, run)
    if json:
        print_json(run.to_dict())
    elif page is None:
        _print(run)


def _write(path: Path, run: RunInfo) -> None:
    write_out_file(path, "--page", run_page(run).encode())
    say(f"written: {path}")


def _print(run: RunInfo) -> None:
    print(plain(f"run {run.id}: {run.command}"))
    print(f"began     {run.started_at}")
    print(f"ended     {run.finished_at or 'not yet: in progress, or killed'}")
    if run.progress is not None:
        print(f"progress  {files_done(run.progress)}, at {run.progress.at}")
    report = run.report or {}
    for name in COUNTS:
        if report.get(name) is not None:
            print(f"{label(name):9} {report[name]}")
    if report.get("video_seconds") and report.get("wall_s"):
        speed = report["video_seconds"] / report["wall_s"]
        print(f"speed     {clock(report['video_seconds'])} of video in {clock(report['wall_s'])}, {speed:.1f} times")
    for kind, number in report.get("left_out", {}).items():
        print(f"left out  {counted(number, kind)}")
    for words in endings(report):
        print(f"it was    {words}")
    for name in LISTS:
        for problem in report.get(name, []):
            print(plain(f"{name.replace('_', ' ')}: {problem['path']}: {problem['reason']}; {problem['next']}"))
            for line in problem.get("traceback", "").splitlines():
                print(plain(f"  {line}"))
