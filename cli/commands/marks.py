"""vfindex marks"""

from __future__ import annotations

from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say
from vfindex.cli.render.marks import print_marks
from vfindex.storage.errors import UsageError, counted

NAME = "marks"
EXAMPLE = "vfindex marks --list holiday --json"


def command(
    list_: Annotated[str | None, typer.Option("--list", metavar="NAME", help="Only marks in this list.")] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="Only judgements of this question.")] = None,
    remove: Annotated[
        list[int] | None, typer.Option(metavar="ID", min=1, help="Delete this mark and print it (repeatable).")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List marks, the oldest first, or delete some.

    A mark stays when its video leaves the library. Exits with 1 if there is none.
    """
    from vfindex.search.service import SearchService

    if remove and (list_ is not None or question is not None):
        raise UsageError("--remove takes ids alone; leave out --list and --question")
    service = SearchService(library_folder(library))
    found = service.remove_marks(remove) if remove else service.marks(list_=list_, question=question)
    if json:
        print_json(found.to_dict())
    else:
        print_marks(found.marks)
        say(f"{counted(len(found.marks), 'mark')}{' deleted' if remove else ''}")
    if not found.marks:
        raise typer.Exit(1)
