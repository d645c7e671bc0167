"""vfindex saved"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.commands import search
from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import plain, print_json, say
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.results import SavedList

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
    from vfindex.search.results import SavedList
    from vfindex.search.service import SearchService

    service = SearchService(library_folder(library))
    if name is None:
        if remove:
            raise UsageError("name the question to delete, as in: vfindex saved goals --remove")
        _list(service.saved_queries(), json=json)
    elif not remove:
        text = service.saved_query(name).text
        search.command([text], top_k=top_k, library=None if library is None else [str(library)], json=json)
    else:
        found = service.remove_query(name)
        if json:
            print_json(SavedList((found,)).to_dict())
        else:
            say(f"deleted: {found.name}: {found.text}")


def _list(found: SavedList, *, json: bool) -> None:
    if json:
        print_json(found.to_dict())
    else:
        for each in found.saved:
            print("\t".join(plain(part) for part in (each.name, each.text, each.by)))
        say(counted(len(found.saved), "saved question"))
    if not found.saved:
        raise typer.Exit(1)
