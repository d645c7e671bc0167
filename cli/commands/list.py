"""vfindex list"""

from __future__ import annotations

import json as json_module
import shlex
import shutil
import sys
from collections.abc import Iterator, Sequence
from itertools import chain
from tempfile import SpooledTemporaryFile
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import clock, path_text, plain, say, say_hints
from vfindex.storage.errors import UsageError, counted
from vfindex.storage.modalities import modality_names

if TYPE_CHECKING:
    from vfindex.search.query.ast import Filters
    from vfindex.storage.library import Library
    from vfindex.storage.records import Hint

NAME = "list"
EXAMPLE = "vfindex list in:holiday lang:de longer:10m"
# Videos read and printed at a time, so that memory does not grow with the library.
_BATCH = 1000
_SPOOLED_BYTES = 4 << 20


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

    wanted = _filters(filters or [])
    opened = Library.open(library_folder(library))
    ids, hints = _ids(opened, wanted)
    say_hints(hints)
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


def _filters(arguments: Sequence[str]) -> Filters:
    """Return the filters of a query. Raises QueryError, and UsageError for words to search for."""
    from vfindex.search.query.parser import parse

    query = parse(" ".join(map(_requoted, arguments)), wordless=True)
    words = " ".join(map(str, query.moments))
    if words:
        raise UsageError(f"list takes filters only, as in {EXAMPLE!r}; to search: vfindex search {shlex.quote(words)}")
    return query.filters


def _requoted(argument: str) -> str:
    """Return an argument with the quotation marks that a shell has taken: `in:My Trip` was typed as `in:"My Trip"`."""
    name, _, value = argument.partition(":")
    return f'{name}:"{value}"' if len(value.split()) > 1 and not set(':"') & set(value) else argument


def _ids(opened: Library, filters: Filters) -> tuple[list[int], Sequence[Hint]]:
    """Return the ids of the searchable videos that pass the filters, in order of their first path, and hints."""
    from vfindex.search.query.filters import filtered, unmatched_globs
    from vfindex.search.query.hints import glob_hints
    from vfindex.storage.library import again_if_changed

    @again_if_changed
    def read() -> tuple[list[int], Sequence[Hint]]:
        with opened.snapshot() as snapshot:
            passing = filtered(snapshot, filters)
            ids = [id_ for id_ in snapshot.video_ids() if passing is None or id_ in passing]
            return ids, glob_hints(unmatched_globs(snapshot, filters))

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
                    "clips_with": {m: counts.get(m, 0) for m in modality_names()},
                }
            )
        return rows

    return read()


def _print_document(rows: Iterator[dict[str, Any]]) -> None:
    """Print one JSON document, in ASCII, once all rows are read: an error has a document of its own.

    Beyond _SPOOLED_BYTES they wait in a temporary file, not in memory.
    """
    with SpooledTemporaryFile(_SPOOLED_BYTES, "w+", encoding="ascii") as spooled:
        for number, row in enumerate(rows):
            spooled.write(",\n" if number else "\n")
            json_module.dump(row, spooled, ensure_ascii=True, allow_nan=False)
        spooled.seek(0)
        print('{"videos": [', end="")
        shutil.copyfileobj(spooled, sys.stdout)
        print("\n]}")


def _line(row: dict[str, Any]) -> str:
    shares = "  ".join(f"{m} {_percent(n, row['clips']):>4}" for m, n in row["clips_with"].items())
    copies = f" ({row['copies']} copies)" if row["copies"] > 1 else ""
    languages = ",".join(row["languages"]) or "-"
    return f"{clock(row['duration_s']):>8}  {row['clips']:>5} clips  {shares}  {languages:5}  {row['video']}{copies}"


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.0f}%" if whole else "-"
