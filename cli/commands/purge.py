"""vfindex purge"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, ReportOption, library_folder
from vfindex.cli.output import print_json
from vfindex.cli.removal import checked_report, removal_settings, tell, write_report
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.storage.writer import Writer

NAME = "purge"
EXAMPLE = "vfindex purge --older-than 90d"
DEFAULT_AGE = "30d"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def command(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Files gone for this long: hours (12h), days or weeks.")
    ] = DEFAULT_AGE,
    now: Annotated[bool, typer.Option("--now", help="All files that are gone, however short.")] = False,
    report: ReportOption = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Forget videos whose files have vanished, for good.

    `vfindex reindex` finds what has vanished; until it is purged, it returns with its file. Time between two runs
    counts up to half of AGE.
    """
    from vfindex.storage.maintenance.removal import forget_missing

    age = _age(older_than)
    folder = library_folder(library)
    checked_report(report, folder)

    def purge(writer: Writer) -> tuple[int, int, list[str]]:
        return writer.catalog.purge(None) if now else writer.catalog.purge_missing(age, datetime.now(UTC))

    found = forget_missing(folder, purge, removal_settings(report))
    document = found.to_dict()
    write_report(report, "purge", document)
    tell(found)
    if json:
        print_json(document)
    else:
        print(f"forgot {counted(found.locations, 'file')}, {counted(found.videos, 'video')}")


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--older-than takes a number of hours, days or weeks, as in 12h, 30d or 4w, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]
