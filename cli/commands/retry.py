"""vfindex retry"""

from __future__ import annotations

from typing import Annotated

import typer

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
from vfindex.cli.output import say
from vfindex.cli.run import finish, interrupt_reported, print_run, watching

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
    with interrupt_reported(json=json), watching("stopping") as callbacks:
        report = retry(folder, named, settings, callbacks)
    if json or report.found:
        print_run(report, json=json)
    else:
        where = " at or below these paths" if paths else ""
        step = "" if paths else "; name a failed file to retry it whatever its error"
        say(f"nothing to retry{where}; `vfindex status` lists what failed{step}; every run tries what cannot be opened")
    finish(report, folder, calibrate=report.has_changed())
