"""vfindex list"""

from __future__ import annotations

import json as json_module
import shutil
import sys
from collections.abc import Iterator
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, path_text, plain, say, say_hints
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.search.results import VideoList, VideoSummary

NAME = "list"
EXAMPLE = "vfindex list in:holiday lang:de longer:10m"
_SPOOLED_BYTES = 4 << 20


def command(
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", help="in: after: before: longer: shorter: lang: speaker: label: (query.md)."),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List the videos of a library, by path.

    Length, clips, and the share of the clips that have each modality.
    """
    from vfindex.search.query.parser import requoted
    from vfindex.search.service import SearchService

    pages = SearchService(library_folder(library)).video_pages(" ".join(map(requoted, filters or [])))
    first = next(pages)
    say_hints(first.hints)
    if json:
        _print_document(first, pages)
    else:
        for row in chain(first.videos, chain.from_iterable(page.videos for page in pages)):
            print(plain(_line(row)))
        say(counted(first.total, "video"))
        for each in first.labels:
            say(f"  label {plain(each.label)}: {counted(each.videos, 'whole video')}, {counted(each.clips, 'clip')}")
    if not first.total:
        raise typer.Exit(1)


def _print_document(first: VideoList, others: Iterator[VideoList]) -> None:
    """Print one JSON document, in ASCII, once all pages are read: an error has a document of its own.

    Beyond _SPOOLED_BYTES they wait in a temporary file, not in memory.
    """
    head = json_module.dumps({name: value for name, value in first.to_dict().items() if name != "videos"})
    with SpooledTemporaryFile(_SPOOLED_BYTES, "w+", encoding="ascii") as spooled:
        for number, row in enumerate(chain(first.videos, chain.from_iterable(page.videos for page in others))):
            spooled.write(",\n" if number else "\n")
            json_module.dump(row.to_dict(), spooled, ensure_ascii=True, allow_nan=False)
        spooled.seek(0)
        print(f'{head[:-1]}, "videos": [', end="")
        shutil.copyfileobj(spooled, sys.stdout)
        print("\n]}")


def _line(row: VideoSummary) -> str:
    shares = "  ".join(f"{m} {_percent(n, row.clips):>4}" for m, n in row.clips_with.items())
    copies = f" ({counted(row.copies, 'copy')})" if row.copies > 1 else ""
    languages = ",".join(row.languages) or "-"
    clips = counted(row.clips, "clip")
    return f"{clock(row.duration_s):>8}  {clips:>11}  {shares}  {languages:5}  {path_text(row.video)}{copies}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"
