"""vfindex rebuild"""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say
from vfindex.cli.run import calibrate_if_due, interrupt_said
from vfindex.storage.errors import counted
from vfindex.storage.records import FUSIONS, FusionName

NAME = "rebuild"
EXAMPLE = "vfindex rebuild --fusion concat"


def command(
    fusion: Annotated[
        FusionName | None,
        typer.Option(metavar="NAME", help=f"How to fuse modalities: {', '.join(FUSIONS)}.  [default: as before]"),
    ] = None,
    index: Annotated[
        str | None,
        typer.Option(
            metavar="PLACE", help="Where the index is from now on: built-in or qdrant:URL.  [default: where it was]"
        ),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Rebuild the search index from the library's database.

    No video is opened. The fusions are described in docs/fusion.md, an index in Qdrant in docs/scale.md.
    """
    with interrupt_said():
        from vfindex.storage.maintenance.rebuild import rebuild

        folder = library_folder(library)
        done = rebuild(folder, fusion, index)
        calibrate_if_due(folder)
    if json:
        print_json(asdict(done))
    else:
        print(
            f"index of {counted(done.clips, 'clip')} as {done.fusion}, {done.dimensions} dimensions"
            f"{'' if done.index == 'built-in' else f', in {done.index}'}; "
            f"full text of {counted(done.documents, 'line')}"
        )
        if done.left:
            say(f"left: index: {done.left}")
