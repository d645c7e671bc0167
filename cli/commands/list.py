"""vfindex list"""

from __future__ import annotations

import json as json_module
import shlex
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, path_text, plain, say
from vfindex.storage.errors import UsageError, counted
from vfindex.storage.records import MODALITIES

if TYPE_CHECKING:
    from vfindex.search.query.ast import Filters
    from vfindex.storage.library import Library

NAME = "list"
EXAMPLE = "vfindex list in:holiday lang:de longer:10m"
# Videos read and printed at a time, so that memory does not grow with the library.
_BATCH = 1000


def command(
    filters: Annotated[
        list[str] | None,
        typer.Argument(metavar="FILTER", help="in: after: before: longer: shorter: lang: (docs/query.md)."),
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List the videos of a library, by path.

    Length, clips, and the share of the clips that have each modality.
    """
    from vfindex.storage.library import Library

    wanted = _filters(" ".join(filters or ()))
    opened = Library.open(library_folder(library))
    ids = _ids(opened, wanted)
    batches = (ids[start : start + _BATCH] for start in range(0, len(ids), _BATCH))
    rows = chain.from_iterable(_rows(opened, batch) for batch in batches)
    if json:
        _print_document(rows)
    else:
        for row in rows:
            print(plain(_line(row)))
        say(counted(len(ids), "video"))
    if not ids:
        raise typer.Exit(1)


def _filters(text: str) -> Filters:
    """Return the filters of a query. Raises QueryError, and UsageError for words to search for."""
    from vfindex.search.query.parser import parse

    query = parse(text, wordless=True)
    words = " ".join(map(str, query.moments))
    if words:
        raise UsageError(f"list takes filters only, as in {EXAMPLE!r}; to search: vfindex search {shlex.quote(words)}")
    return query.filters


def _ids(opened: Library, filters: Filters) -> list[int]:
    """Return the ids of the searchable videos that pass the filters, in order of their first path."""
    from vfindex.search.query.filters import filtered
    from vfindex.storage.library import again_if_changed

    @again_if_changed
    def read() -> list[int]:
        with opened.snapshot() as snapshot:
            passing = filtered(snapshot, filters)
            return [id_ for id_ in snapshot.video_ids() if passing is None or id_ in passing]

    return read()


def _rows(opened: Library, ids: Sequence[int]) -> list[dict[str, Any]]:
    """Return the rows of some videos, in the order of `ids`; videos deleted meanwhile are left out."""
    from vfindex.search.query.filters import recorded_on
    from vfindex.storage.library import again_if_changed

    @again_if_changed
    def read() -> list[dict[str, Any]]:
        with opened.snapshot() as snapshot:
            videos = {video.id: video for video in snapshot.videos(ids)}
            clips, languages = snapshot.clip_counts(ids), snapshot.languages_of(ids)
        rows = []
        for video in (videos[id_] for id_ in ids if id_ in videos):
            day = recorded_on(video.tags, video.locations)
            counts = clips.get(video.id, {})
            rows.append(
                {
                    "video": path_text(video.locations[0].path) if video.locations else None,
                    "copies": len(video.locations),
                    "title": video.title,
                    "state": video.state,
                    "day": day.isoformat() if day else None,
                    "duration_s": round(video.end_s - video.start_s, 3),
                    "languages": languages.get(video.id, []),
                    "clips": counts.get("", 0),
                    "clips_with": {m: counts.get(m, 0) for m in MODALITIES},
                }
            )
        return rows

    return read()


def _print_document(rows: Iterator[dict[str, Any]]) -> None:
    """Print one JSON document row by row, in ASCII."""
    print('{"videos": [', end="")
    for number, row in enumerate(rows):
        print(",\n" if number else "\n", json_module.dumps(row, ensure_ascii=True, allow_nan=False), sep="", end="")
    print("\n]}")


def _line(row: dict[str, Any]) -> str:
    shares = "  ".join(f"{m} {_percent(n, row['clips']):>4}" for m, n in row["clips_with"].items())
    copies = f" ({row['copies']} copies)" if row["copies"] > 1 else ""
    languages = ",".join(row["languages"]) or "-"
    return f"{clock(row['duration_s']):>8}  {row['clips']:>5} clips  {shares}  {languages:5}  {row['video']}{copies}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"
