"""vfindex verify"""

from __future__ import annotations

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import counted, path_text, plain, print_json, say

NAME = "verify"
EXAMPLE = "vfindex verify --library /srv/videos/library"


def command(library: LibraryOption = None, json: JsonOption = False) -> None:
    """Check that the library is sound.

    The database, the checksums of its rows, that every clip has its vector, the index against an exact scan.
    """
    from vfindex.storage.library import Library
    from vfindex.storage.verify import verify

    result = verify(Library.open(library_folder(library)))
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
                "problems": result.problems,
                "notes": result.notes,
            }
        )
    else:
        for problem in result.problems:
            say(f"problem: {problem}")
        for note in result.notes:
            print(plain(f"note: {note}"))
        recall = "" if result.recall_at_10 is None else f", recall@10 against an exact scan {result.recall_at_10:.2f}"
        numbers = (
            (result.videos, "video"),
            (result.clips, "clip"),
            (result.embeddings, "vector"),
            (result.segments, "segment"),
        )
        found = ", ".join(counted(n, noun) for n, noun in numbers)
        print(f"{'clean' if result.clean else 'NOT clean'}: {found}{recall}")
    if not result.clean:
        raise typer.Exit(1)
