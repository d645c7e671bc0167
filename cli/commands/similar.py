"""vfindex similar"""

from __future__ import annotations

from typing import Annotated

import typer

from vfindex.cli.commands.search import EXIT_NO_MATCH, print_hits
from vfindex.cli.options import JsonOption, LibrariesOption, library_folders, refuse_empty
from vfindex.cli.output import print_json, say, say_hints

NAME = "similar"
EXAMPLE = "vfindex similar beach.mp4@1:02 -k 5"
# Carbonell and Goldstein 1998, to stay with what was asked; `understanding.diversity.BALANCE`, which a test compares.
_BALANCE = 0.7


def command(
    what: Annotated[
        str, typer.Argument(metavar="VIDEO[@TIME]", help="A video of the library, or the clip of one at a time.")
    ],
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=1000, help="Number of hits.")] = 10,
    per_video: Annotated[int, typer.Option(metavar="N", min=1, help="Hits per video at most.")] = 1,
    balance: Annotated[
        float,
        typer.Option(metavar="X", min=0.0, max=1.0, help="1: only what is most alike; lower: more that differs."),
    ] = _BALANCE,
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Recommend clips that look like a clip or a video.

    They should not all look alike, see --balance. Exits with 1 if there is none."""
    from vfindex.search.service import SearchService

    refuse_empty([what])
    folders = library_folders(library)
    with SearchService(folders) as service:
        hits = service.similar(what, top_k=top_k, per_video=per_video, balance=balance)
    if json:
        print_json(hits.to_dict())
    else:
        say_hints(hits.hints)
        if hits:
            from vfindex.cli.last_search import keep

            keep(folders, hits)
            print_hits(hits)
        else:
            say("nothing else in the library looks like it; it may be the only video with frames")
    if not hits:
        raise typer.Exit(EXIT_NO_MATCH)
