"""vfindex retry"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vfindex.cli.commands.ingest import end_with, print_report, watching
from vfindex.cli.extras import require
from vfindex.cli.options import (
    AddressOption,
    GpuShareOption,
    JsonOption,
    LibraryOption,
    PathMapOption,
    RunnerOption,
    WorkersOption,
    cache_folder,
    known_as,
    library_folder,
    runner_choice,
)
from vfindex.cli.output import print_json, say
from vfindex.cli.trust import keep_trust

NAME = "retry"
EXAMPLE = "vfindex retry --quarantined"


def command(
    paths: Annotated[
        list[str] | None, typer.Argument(metavar="PATH", help="Files and folders.  [default: all]")
    ] = None,
    quarantined: Annotated[
        bool, typer.Option("--quarantined", help="Also files that crashed or hung the decoder.")
    ] = False,
    workers: WorkersOption = None,
    runner: RunnerOption = "auto",
    ray_address: AddressOption = None,
    path_map: PathMapOption = None,
    gpu_share: GpuShareOption = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Retry failed files.

    Files that are not videos are skipped unless you name them.
    """
    require("index")
    from vfindex.indexer.runs.execute import RunSettings
    from vfindex.indexer.runs.retry import retry

    choice = runner_choice(runner, ray_address, path_map, gpu_share)
    settings = RunSettings(cache_folder(), workers=workers, runner=choice, quarantined=quarantined)
    folder = library_folder(library)
    named = [candidate for path in paths or () for candidate in known_as(path)]
    with watching() as callbacks:
        report = retry(folder, named, settings, callbacks)
    if json:
        print_json(report.to_dict(os.fsdecode))
    elif report.found:
        print_report(report)
    else:
        say("nothing to retry; `vfindex status` lists what failed, and a file that you name is always retried")
    if report.interrupted:
        raise typer.Exit(130)
    if report.has_changed():
        keep_trust(folder)
    end_with(report.bugs(), failed=bool(report.failed or report.not_published))
