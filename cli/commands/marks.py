"""vfindex marks"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say
from vfindex.cli.render.marks import print_marks
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from vfindex.search.marks import ShownMark
    from vfindex.storage.user.data import UserData
    from vfindex.storage.user.records import Mark

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
    """List marks in the order in which they were made, or delete some.

    A mark stays when its video leaves the library. Exits with 1 if there is none.
    """
    from vfindex.search.marks import shown
    from vfindex.storage.library import Library, again_if_changed
    from vfindex.storage.user.data import UserData

    if remove and (list_ is not None or question is not None):
        raise UsageError("--remove takes ids alone; leave out --list and --question")
    opened = Library.open(library_folder(library))
    data = UserData.open(opened.root)
    marks = _removed(data, remove) if remove else data.marks(list_=list_, question=question)

    @again_if_changed
    def read() -> list[ShownMark]:
        with opened.snapshot() as snapshot:
            return shown(snapshot, marks)

    found = read()
    if json:
        print_json({"marks": [mark.to_dict() for mark in found]})
    else:
        print_marks(found)
        say(f"{counted(len(found), 'mark')}{' deleted' if remove else ''}")
    if not found:
        raise typer.Exit(1)


def _removed(data: UserData, ids: Sequence[int]) -> list[Mark]:
    """Delete marks, all or none. Raises UsageError for an id that no mark has."""
    unknown = set(ids) - {mark.id for mark in data.marks()}
    if unknown:
        raise UsageError(f"there is no mark {min(unknown)}; `vfindex marks` lists them, with their ids")
    return data.remove_marks(ids)
