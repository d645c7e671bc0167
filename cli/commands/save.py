"""vfindex save"""

from __future__ import annotations

from typing import Annotated

import typer

from vfindex.cli.options import LibraryOption, library_folder
from vfindex.cli.output import say

NAME = "save"
EXAMPLE = 'vfindex save goals "a goal in the rain after:2024"'


def command(
    name: Annotated[str, typer.Argument(metavar="NAME", help="A name for the question.")],
    words: Annotated[
        list[str], typer.Argument(metavar="TEXT", help="The query (docs/query.md). What follows `--` is no option.")
    ],
    library: LibraryOption = None,
) -> None:
    """Save a question under a name; `vfindex saved NAME` runs it."""
    from vfindex.search.query.parser import joined
    from vfindex.search.service import SearchService

    saved = SearchService(library_folder(library)).save_query(name, joined(words))
    say(f"saved as {saved.name}: {saved.text}")
