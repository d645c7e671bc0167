"""vfindex remove"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from vfindex.cli.options import (
    DryRunOption,
    JsonOption,
    LibraryOption,
    ReportOption,
    YesOption,
    known_as,
    library_folder,
)
from vfindex.cli.output import path_text, plain, print_json, show
from vfindex.cli.removal import checked_report, confirm, print_left, print_preview, removal_settings, write_report
from vfindex.storage.errors import LibraryError, UsageError, counted

NAME = "remove"
EXAMPLE = "vfindex remove ~/Videos/old"


def command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A video, or a folder of videos.")],
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    report: ReportOption = None,
    forget_exclusion: Annotated[
        bool, typer.Option("--forget-exclusion", help="Index PATH again from the next run on.")
    ] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Remove a video, or a folder of videos, from the library.

    The files themselves are not touched. Inside an indexed folder, later runs skip PATH.
    """
    from vfindex.storage.maintenance.removal import forget_path
    from vfindex.storage.maintenance.removal_preview import preview_path

    folder = library_folder(library)
    if forget_exclusion:
        if report is not None or dry_run:
            raise UsageError("--forget-exclusion removes nothing; leave --report and --dry-run out")
        _forget_exclusion(folder, path, json)
        return
    checked_report(report, folder)
    typed = known_as(path)
    known, preview = preview_path(folder, typed)
    if dry_run:
        if known is None:
            raise _unknown(folder, path)
        print_preview(preview, json)
        return
    confirm(preview, yes=yes)
    chosen, found = forget_path(folder, typed, removal_settings(report))
    if found.is_empty():
        raise _unknown(folder, path)
    document: dict[str, Any] = {"path": path_text(chosen), **found.to_dict()}
    write_report(report, "remove", document)
    print_left(found)
    if json:
        print_json(document)
        return
    parts = [counted(found.locations, "file"), counted(found.videos, "video")]
    parts += [counted(found.unfinished, "unfinished video")] if found.unfinished else []
    print(f"removed {', '.join(parts)} from the library")
    if found.roots:
        print(f"`vfindex reindex` no longer walks {counted(found.roots, 'path')}")
    if found.excluded:
        show("later runs skip it; to index it again: vfindex remove --forget-exclusion PATH, or vfindex ingest PATH")


def _unknown(folder: Path, path: str) -> LibraryError:
    """Return why nothing is removed. Other commands take the end of a path; this one names the paths that end so."""
    from vfindex.storage.db.integrity import shown_paths
    from vfindex.storage.library import Library

    with Library.open(folder).snapshot() as snapshot:
        fit = sorted(each for each in snapshot.paths() if each.endswith(b"/" + os.fsencode(path)))
    step = f"give its whole path: {shown_paths(fit)}" if fit else "`vfindex list` shows what is"
    return LibraryError(plain(f"{path} is not in this library; {step}"))


def _forget_exclusion(folder: Path, path: str, json: bool) -> None:
    from vfindex.storage.db.sources import forget_exclusions
    from vfindex.storage.library import Library
    from vfindex.storage.writer import writing

    Library.open(folder)
    with writing(folder) as writer:
        forgotten = forget_exclusions(writer.catalog, known_as(path))
        if forgotten:
            writer.write_backup()
    if not forgotten:
        raise LibraryError(f"{plain(path)} was not removed earlier; `vfindex status` lists what was")
    if json:
        print_json({"path": os.fsdecode(forgotten[0]), "excluded": False})
    else:
        show("the next `vfindex reindex` indexes it again")
