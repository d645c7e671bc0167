"""vfindex mark"""

from __future__ import annotations

from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json
from vfindex.cli.render.marks import print_marks
from vfindex.storage.user.records import DEFAULT_LIST, MAX_GRADE

NAME = "mark"
EXAMPLE = 'vfindex mark beach.mp4@1:02 --list holiday --note "use this one"'


def command(
    moment: Annotated[str, typer.Argument(metavar="VIDEO@TIME", help="An indexed video and a time in it.")],
    list_: Annotated[str, typer.Option("--list", metavar="NAME", help="The list it goes into.")] = DEFAULT_LIST,
    note: Annotated[str | None, typer.Option(metavar="TEXT", help="A note; a later one replaces it.")] = None,
    question: Annotated[str | None, typer.Option(metavar="TEXT", help="Judge the clip for this question.")] = None,
    grade: Annotated[
        int | None, typer.Option(metavar="N", help=f"How relevant it is: 0 (not at all) to {MAX_GRADE}.")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Mark a clip, with a note or a judgement.

    Works at once, also while a run works on the library."""
    from vfindex.search.service import SearchService

    service = SearchService(library_folder(library))
    made = service.mark(moment, list_=list_, note=note, question=question or "", grade=grade)
    if json:
        print_json(made.to_dict())
    else:
        print_marks([made])
