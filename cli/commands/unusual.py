"""vfindex unusual"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, plain, print_json, say
from vfindex.cli.render.progress import progress_bar
from vfindex.storage.errors import counted
from vfindex.storage.modalities import modality_names

if TYPE_CHECKING:
    from vfindex.search.understanding.unusual import ClipPlace, UnusualClip, UnusualList

NAME = "unusual"
EXAMPLE = "vfindex unusual in:camera1 after:2026-11-28 --among in:camera1"
EXIT_NONE = 1


def command(
    filters: Annotated[
        list[str] | None, typer.Argument(metavar="FILTERS", help="The clips to look at, as in:camera1 (docs/query.md).")
    ] = None,
    among: Annotated[
        str | None, typer.Option(metavar="FILTERS", help="Compare them with these.  [default: each other]")
    ] = None,
    against: Annotated[
        str | None, typer.Option(metavar="QUESTION", help="Compare them with the clips that answer this.")
    ] = None,
    modality: Annotated[
        str | None, typer.Option(metavar="NAME", help=f"Only by {', '.join(modality_names())}.  [default: all]")
    ] = None,
    method: Annotated[
        str, typer.Option(metavar="HOW", help="Distance to neighbours: knn; local outlier factor: lof.")
    ] = "knn",
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=1000, help="Number of clips.")] = 10,
    per_video: Annotated[int, typer.Option(metavar="N", min=1, help="Clips per video at most.")] = 1,
    show_all: Annotated[bool, typer.Option("--all", help="Show clips that chance explains, too.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show the clips least like the others, with the nearest. Exits with 1 if none stands out."""
    from vfindex.search.query.parser import joined
    from vfindex.search.service import SearchService

    with SearchService(library_folder(library)) as service, progress_bar("comparing clips") as progress:
        found = service.unusual(
            joined(filters or ()),
            among=among,
            against=against or "",
            modality=modality,
            method=method,
            top_k=top_k,
            per_video=per_video,
            progress=progress,
        )
    if json:
        print_json(found.to_dict())
    else:
        _print(found, show_all=show_all)
    if not found.outstanding:
        raise typer.Exit(EXIT_NONE)


def _print(found: UnusualList, *, show_all: bool) -> None:
    for each in found.clips if show_all else found.outstanding:
        print("\t".join(map(plain, _parts(each))))
    compared = f"{counted(found.scored, 'clip')} compared with {found.compared:,}"
    if found.outstanding:
        say(f"{compared}; a deviation above {found.fence:.1f} stands out")
    else:
        rest = "" if show_all else "; --all shows those least like the others"
        say(f"nothing stands out, not better than chance here: {compared}, no deviation above {found.fence:.1f}{rest}")


def _parts(clip: UnusualClip) -> tuple[str, ...]:
    sign = "stands out" if clip.stands_out else "chance"
    nearest = f"nearest {_place(clip.nearest)} ({clip.nearest.similarity:+.2f})" if clip.nearest else "nothing near"
    span = f"{clock(clip.start_s)}-{clock(clip.end_s)}"
    name = "(no file)" if clip.video is None else os.fsdecode(clip.video)
    return str(clip.rank), f"{clip.deviation:+.1f}", sign, span, name, nearest


def _place(place: ClipPlace) -> str:
    name = "(no file)" if place.video is None else os.path.basename(os.fsdecode(place.video))
    return f"{name}@{clock(place.start_s)}"
