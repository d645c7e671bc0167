"""vfindex purge"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say
from vfindex.storage.counting import counted
from vfindex.storage.errors import UsageError

NAME = "purge"
EXAMPLE = "vfindex purge --older-than 90d"
DEFAULT_AGE = "30d"
_UNITS = {"h": timedelta(hours=1), "d": timedelta(days=1), "w": timedelta(weeks=1)}


def command(
    older_than: Annotated[
        str, typer.Option(metavar="AGE", help="Files gone for this long: hours (12h), days or weeks.")
    ] = DEFAULT_AGE,
    now: Annotated[bool, typer.Option("--now", help="All files that are gone, however short.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Forget videos whose files have vanished, for good.

    `vfindex reindex` finds what has vanished; until it is purged, it returns with its file.
    """
    from vfindex.storage.library import Library
    from vfindex.storage.writer import writing

    before = None if now else (datetime.now(UTC) - _age(older_than)).isoformat(timespec="seconds")
    folder = library_folder(library)
    Library.open(folder)
    with writing(folder) as writer:
        files, videos, thumbnails = writer.catalog.purge(before)
        writer.discard_thumbnails(thumbnails)
        # What is purged is gone already: said before anything else may fail.
        if json:
            print_json({"locations": files, "videos": videos})
        else:
            print(f"forgot {counted(files, 'file')}, {counted(videos, 'video')}")
        refused = writer.publish_changes()
    if refused:
        say(refused)


def _age(text: str) -> timedelta:
    match = re.fullmatch(r"([0-9]{1,5})([hdw])", text.strip().lower())
    if match is None:
        raise UsageError(f"--older-than takes a number of hours, days or weeks, as in 12h, 30d or 4w, not {text!r}")
    return int(match[1]) * _UNITS[match[2]]
