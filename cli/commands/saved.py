"""vfindex saved"""

from __future__ import annotations

import shlex
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.commands import search
from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import plain, print_json, say
from vfindex.storage.errors import QueryError, UsageError, counted

if TYPE_CHECKING:
    from vfindex.storage.user.data import UserData

NAME = "saved"
EXAMPLE = "vfindex saved goals -k 20"


def command(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="The one to run; without it, list all.")] = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=1000, help="Number of hits.")] = 10,
    remove: Annotated[bool, typer.Option("--remove", help="Delete the question instead.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List saved questions, run one, or delete one.

    A run is one of `vfindex search`, with its output and exit code."""
    from vfindex.storage.library import Library
    from vfindex.storage.user.data import UserData

    data = UserData.open(Library.open(library_folder(library)).root)
    if name is None:
        if remove:
            raise UsageError("name the question to delete, as in: vfindex saved goals --remove")
        _list(data, json=json)
        return
    found = data.saved_query(name)
    if found is None:
        raise QueryError(f"there is no saved question {name}; save one with: vfindex save {shlex.quote(name)} TEXT")
    if not remove:
        search.command([found.text], top_k=top_k, library=None if library is None else [library], json=json)
    elif data.remove_query(name):
        if json:
            print_json({"saved": [asdict(found)]})
        else:
            say(f"deleted: {found.name}: {found.text}")


def _list(data: UserData, *, json: bool) -> None:
    found = data.saved_queries()
    if json:
        print_json({"saved": [asdict(each) for each in found]})
    else:
        for each in found:
            print("\t".join(plain(part) for part in (each.name, each.text, each.by)))
        say(counted(len(found), "saved question"))
    if not found:
        raise typer.Exit(1)
