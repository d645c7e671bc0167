"""vfindex remove"""

from __future__ import annotations

import os
from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, known_as, library_folder
from vfindex.cli.output import plain, print_json, say
from vfindex.storage.counting import counted
from vfindex.storage.errors import LibraryError

NAME = "remove"
EXAMPLE = "vfindex remove ~/Videos/old"


def command(
    path: Annotated[str, typer.Argument(metavar="PATH", help="A video, or a folder of videos.")],
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Forget a video, or all videos of a folder. The files themselves are not touched."""
    from vfindex.storage.library import Library
    from vfindex.storage.writer import writing

    folder = library_folder(library)
    Library.open(folder)
    with writing(folder) as writer:
        typed = known_as(path)
        chosen = writer.catalog.path_of(typed) or typed[0]
        locations, videos, thumbnails = writer.catalog.remove(chosen)
        writer.discard_thumbnails(thumbnails)
        # What is removed is gone from searches already: said before anything else may fail.
        if locations and json:
            print_json({"path": os.fsdecode(chosen), "locations": locations, "videos": videos})
        elif locations:
            print(f"forgot {counted(locations, 'file')}, {counted(videos, 'video')}")
        refused = writer.publish_changes()  # also what a call that was killed had left to do
    if refused:
        say(refused)
    if not locations:
        raise LibraryError(f"{plain(path)} is not in this library; `vfindex status` tells what is")
