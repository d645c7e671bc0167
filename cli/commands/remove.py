"""vfindex remove"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, ReportOption, known_as, library_folder
from vfindex.cli.output import path_text, plain, print_json
from vfindex.cli.removal import checked_report, removal_settings, tell, write_report
from vfindex.storage.errors import LibraryError, UsageError, counted

NAME = "remove"
EXAMPLE = "vfindex remove ~/Videos/old"


def command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A video, or a folder of videos.")],
    report: ReportOption = None,
    forget_exclusion: Annotated[
        bool, typer.Option("--forget-exclusion", help="Let runs index PATH again after a removal.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Forget a video, or all videos of a folder. The files themselves are not touched.

    Inside a folder that is indexed, PATH is skipped from now on.
    """
    from vfindex.storage.maintenance.removal import forget_path

    folder = library_folder(library)
    if forget_exclusion:
        if report is not None:
            raise UsageError("--forget-exclusion removes nothing; leave --report out")
        _forget_exclusion(folder, path, json)
        return
    checked_report(report, folder)
    chosen, found = forget_path(folder, known_as(path), removal_settings(report))
    if found.is_empty():
        raise LibraryError(f"{plain(path)} is not in this library; `vfindex status` tells what is")
    document: dict[str, Any] = {"path": path_text(chosen), **found.to_dict()}
    write_report(report, "remove", document)
    tell(found)
    if json:
        print_json(document)
        return
    parts = [counted(found.locations, "file"), counted(found.videos, "video")]
    parts += [counted(found.unfinished, "unfinished video")] if found.unfinished else []
    print(f"forgot {', '.join(parts)}")
    if found.roots:
        print(f"{counted(found.roots, 'path')} no longer looked into by `vfindex reindex`")
    if found.excluded:
        print("skipped from now on; to index it again: vfindex remove --forget-exclusion PATH, or vfindex ingest PATH")


def _forget_exclusion(folder: Path, path: str, json: bool) -> None:
    from vfindex.storage.db.sources import forget_exclusions
    from vfindex.storage.library import Library
    from vfindex.storage.writer import writing

    Library.open(folder)
    with writing(folder) as writer:
        forgotten = forget_exclusions(writer.catalog, known_as(path))
    if not forgotten:
        raise LibraryError(f"{plain(path)} was not removed earlier; `vfindex status` lists what was")
    if json:
        print_json({"path": os.fsdecode(forgotten[0]), "excluded": False})
    else:
        print("the next `vfindex reindex` indexes it again")
