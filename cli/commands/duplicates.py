"""vfindex duplicates"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, plain, print_json, say
from vfindex.cli.render.progress import progress_bar
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.search.understanding.duplicates import Copy, DuplicateGroup

NAME = "duplicates"
EXAMPLE = "vfindex duplicates in:imports --json"
EXIT_NONE = 1
_KINDS = {
    "file": "the same file",
    "whole": "the same video",
    "part": "a video and parts of it",
    "shared": "a common part",
}


def command(
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTERS", help="Only copies of these videos, as in:imports (docs/query.md)."),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the same footage in several files, and what could go. Deletes nothing.

    Finds copies, re-encodes, crops, excerpts and shared intros in which something
    moves. Exits with 1 if there is none.
    """
    from vfindex.search.query.parser import joined
    from vfindex.search.service import SearchService

    with SearchService(library_folder(library)) as service, progress_bar("comparing videos") as progress:
        found = service.duplicates(joined(filters or ()), progress=progress)
    if json:
        print_json(found.to_dict())
    else:
        for number, group in enumerate(found.groups, start=1):
            _print(number, group)
        of = f"{counted(len(found.groups), 'group')} of the same footage in {counted(found.videos, 'video')}"
        none = "" if found.groups else ", none better than chance here"
        say(f"{of}{none}" + (f"; {found.could_free / 1e6:,.1f} MB could go" if found.could_free else ""))
    if not found.groups:
        raise typer.Exit(EXIT_NONE)


def _print(number: int, group: DuplicateGroup) -> None:
    print(f"{number}. {_KINDS[group.kind]}")
    for each in group.copies:
        print("\t".join(map(plain, _parts(each))))


def _parts(copy: Copy) -> tuple[str, ...]:
    verdict = "could go" if copy.could_go else f"keep: {copy.why_not}" if copy.why_not else "keep"
    name = "(no file)" if copy.video is None else os.fsdecode(copy.video)
    size = f"{copy.width_px}x{copy.height_px}, {copy.bytes / 1e6:,.1f} MB"
    return verdict, f"{clock(copy.start_s)}-{clock(copy.end_s)}", f"{copy.share:.0%}", size, name
