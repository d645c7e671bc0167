"""vfindex verify"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from vfindex.cli.extras import require
from vfindex.cli.options import JsonOption, LibraryOption, cache_folder, library_folder
from vfindex.cli.output import path_text, print_json, say, show
from vfindex.cli.run import end_with
from vfindex.storage.errors import counted

if TYPE_CHECKING:
    from vfindex.storage.errors import Problem
    from vfindex.storage.maintenance.verify import Verification

NAME = "verify"
EXAMPLE = "vfindex verify --library /srv/videos/library"


def command(
    sample: Annotated[
        int,
        typer.Option(min=0, metavar="N", help="Also decode N random clips again and compare their vectors."),
    ] = 0,
    full: Annotated[bool, typer.Option("--full", help="Also hash every file and compare it with last time.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Check a library for damage.

    Checks the database and its checksums, that every clip has its vector, and the index against an exact scan.
    """
    from vfindex.storage.library import Library
    from vfindex.storage.maintenance.verify import verify

    if sample:
        require("index")
    folder = library_folder(library)
    result = verify(Library.open(folder))
    clips, files = None, None
    met: list[Problem] = []
    if sample and not result.problems:
        clips, met = _read_again(folder, sample, result)
    if full and not result.problems:
        files = _hash_files(folder, result)
    if json:
        print_json(
            {
                "clean": result.clean,
                "videos": result.videos,
                "clips": result.clips,
                "embeddings": result.embeddings,
                "segments": result.segments,
                "recall_at_10": result.recall_at_10,
                "redo": [path_text(path) for path in result.redo],
                "sample": clips,
                "full": files,
                "problems": result.problems,
                "notes": result.notes,
            }
        )
    else:
        for problem in result.problems:
            say(f"problem: {problem}")
        for note in result.notes:
            show(f"note: {note}")
        recall = "" if result.recall_at_10 is None else f", recall@10 against an exact scan {result.recall_at_10:.2f}"
        numbers = (
            (result.videos, "video"),
            (result.clips, "clip"),
            (result.embeddings, "vector"),
            (result.segments, "segment"),
        )
        found = ", ".join(counted(n, noun) for n, noun in numbers)
        print(f"{'clean' if result.clean else 'NOT clean'}: {found}{recall}")
        if clips is not None and clips["clips"]:
            print(f"{counted(clips['clips'], 'clip')} decoded again: lowest cosine {clips['lowest_cosine']:.4f}")
        if files is not None:
            print(f"{counted(files['compared'], 'file')} unchanged, {files['first']} hashed for the first time")
    end_with(met, failed=not result.clean)


def _read_again(folder: Path, count: int, result: Verification) -> tuple[dict[str, Any], list[Problem]]:
    """Compare a sample of clips with their files; add problems to the result, return figures and bugs."""
    from vfindex.indexer.runs.spot_check import spot_check

    found = spot_check(folder, count, cache_folder())
    result.problems += found.problems
    result.notes += found.notes
    return {"clips": found.clips, "lowest_cosine": found.lowest}, found.bugs


def _hash_files(folder: Path, result: Verification) -> dict[str, Any]:
    """Compare the hashes of whole files with earlier ones; add problems to the result, return figures."""
    from vfindex.storage.maintenance.file_hashes import check_files

    found = check_files(folder)
    result.problems += found.problems
    result.notes += found.notes
    return {"compared": found.compared - len(found.problems), "first": found.first}
