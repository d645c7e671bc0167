"""vfindex questions"""

from __future__ import annotations

from typing import Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder
from vfindex.cli.output import print_json, say, show
from vfindex.storage.errors import counted

NAME = "questions"
EXAMPLE = "vfindex questions --no-keep"


def command(
    keep: Annotated[
        bool | None, typer.Option("--keep/--no-keep", help="Keep some from now on; or none, and delete those kept.")
    ] = None,
    forget: Annotated[bool, typer.Option("--forget", help="Delete those kept.")] = False,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """Show or delete the questions kept to measure the index.

    Of large libraries, whose index is not exact, some questions are kept as vectors. The next run answers them by an
    exact scan too, and deletes them; `vfindex status` shows what the index found."""
    from vfindex.storage.library import Library
    from vfindex.storage.user.questions import forget_questions, keep_questions, keeps_questions, kept_count

    folder = library_folder(library)
    found = Library.open(folder)
    if keep is not None:
        keep_questions(folder, keep)
    deleted = forget_questions(folder) if forget or keep is False else 0
    kept, keeps = kept_count(found.folder), keeps_questions(folder)
    if json:
        print_json({"keeps": keeps, "kept": kept, "deleted": deleted})
        return
    if deleted:
        say(f"{counted(deleted, 'question')} deleted")
    if keeps:
        use = f"; the next run measures the index with {'it' if kept == 1 else 'them'}" if kept else ""
        print(f"{counted(kept, 'question')} kept{use}")
    else:
        show(f"{counted(kept, 'question')} kept, and no more will be; to keep some again: vfindex questions --keep")
