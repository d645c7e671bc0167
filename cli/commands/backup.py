"""vfindex backup"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import plain, print_json
from vfindex.storage.errors import counted

NAME = "backup"
EXAMPLE = "vfindex backup /mnt/backup/library"


def command(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A new folder for the copy.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Copy a library to another folder, also while a run writes.

    The copy is a library as of one instant, with its marks, and without models that are not in use."""
    from vfindex.storage.maintenance.backup import back_up

    done = back_up(library_folder(library), folder)
    if json:
        where = str(done.folder.absolute())
        print_json({"folder": where, "videos": done.videos, "clips": done.clips, "bytes": done.bytes})
    else:
        counts = f"{counted(done.videos, 'video')}, {counted(done.clips, 'clip')}, {done.bytes / 1e6:,.1f} MB"
        print(plain(f"copied to {done.folder}: {counts}"))
