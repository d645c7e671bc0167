"""vfindex reindex"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vfindex.cli.ingest import print_report, watching
from vfindex.cli.options import JsonOption, LibraryOption, cache_folder, library_folder
from vfindex.cli.output import print_json
from vfindex.cli.trust import keep_trust

NAME = "reindex"
EXAMPLE = "vfindex reindex --library /srv/videos/library"


def command(
    workers: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Videos read at once.  [default: cores + 1]")
    ] = None,
    allow_missing: Annotated[
        bool, typer.Option("--allow-missing", help="Believe that what is not there is gone, however much.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Bring the index up to date with all that was ever ingested.

    New, changed and moved files are indexed; vanished ones leave search, and return when they do.
    """
    from vfindex.indexer.reindex import ReindexSettings, reindex

    folder = library_folder(library)
    with watching() as watcher:
        report = reindex(folder, ReindexSettings(cache_folder(), workers, allow_missing), watcher)
    if json:
        print_json(report.to_dict(os.fsdecode))
    else:
        print_report(report)
    if report.interrupted:
        raise typer.Exit(130)
    if report.has_changed():
        keep_trust(folder)
    if report.failed or report.left_alone:
        raise typer.Exit(1)
