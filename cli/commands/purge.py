"""vfindex purge"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import DryRunOption, JsonOption, LibraryOption, ReportOption, YesOption, library_folder
from vfindex.cli.output import print_json, say, show
from vfindex.cli.removal import checked_report, confirm, print_left, print_preview, removal_settings, write_report
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.storage.maintenance.removal_preview import RemovalPreview
    from vfindex.storage.writer import Writer

NAME = "purge"
EXAMPLE = "vfindex purge --older-than 90d"
DEFAULT_AGE = "30d"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def command(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Only files missing for this long, as in 12h, 30d or 4w.")
    ] = DEFAULT_AGE,
    now: Annotated[bool, typer.Option("--now", help="All missing files, whatever their age.")] = False,
    dry_run: DryRunOption = False,
    yes: YesOption = False,
    report: ReportOption = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Delete videos whose files have been missing for 30 days.

    A missing file leaves search at the next `vfindex reindex`. Its index is kept in case it returns, until it is
    purged.
    """
    from vfindex.storage.maintenance.removal import forget_missing
    from vfindex.storage.maintenance.removal_preview import preview_missing

    age = None if now else _age(older_than)
    folder = library_folder(library)
    checked_report(report, folder)
    preview = preview_missing(folder, age, datetime.now(UTC))
    if dry_run:
        print_preview(preview, json)
        if not json and preview.kept_missing:
            say(_kept(preview, older_than))
        return
    confirm(preview, yes=yes)

    def purge(writer: Writer) -> tuple[int, int, list[str]]:
        return writer.catalog.purge(None) if age is None else writer.catalog.purge_missing(age, datetime.now(UTC))

    found = forget_missing(folder, purge, removal_settings(report))
    document = found.to_dict()
    write_report(report, "purge", document)
    print_left(found)
    if json:
        print_json(document)
        return
    print(f"removed {counted(found.locations, 'file')}, {counted(found.videos, 'video')} from the library")
    if preview.kept_missing:
        show(_kept(preview, older_than))


def _kept(preview: RemovalPreview, older_than: str) -> str:
    kept = counted(preview.kept_missing, "missing file")
    return f"{kept} kept, missing for less than {older_than}; `vfindex purge --now` removes all"


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--older-than takes a number of hours, days or weeks, as in 12h, 30d or 4w, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]
