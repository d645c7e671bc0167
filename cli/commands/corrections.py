"""vfindex corrections"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibraryOption, library_folder, refuse_empty
from vfindex.cli.output import clock, path_text, plain, print_json, say
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.corrections import CorrectionInfo

NAME = "corrections"
EXAMPLE = "vfindex corrections beach.mp4 --json"
_STATES = {"taken_up": "taken up", "stale": "stale: its line is not there any more"}


def command(
    video: Annotated[
        str | None, typer.Argument(metavar="VIDEO", help="Only in this video: its path, file name or fingerprint.")
    ] = None,
    remove: Annotated[
        list[int] | None, typer.Option(metavar="ID", min=1, help="Delete this correction and print it (repeatable).")
    ] = None,
    library: LibraryOption = None,
    json: JsonOption = False,
) -> None:
    """List corrections of transcripts, or delete some.

    They are made on the page of a video (vfindex serve). Exits with 1 if there is none.
    """
    from vfindex.search.service import SearchService

    if remove and video is not None:
        raise UsageError("--remove takes ids alone; leave out the video")
    if video is not None:
        refuse_empty([video])
    with SearchService(library_folder(library)) as service:
        found = service.remove_corrections(remove) if remove else service.corrections(video)
    if json:
        print_json(found.to_dict())
    else:
        for each in found.corrections:
            print(_line(each))
        say(f"{counted(len(found.corrections), 'correction')}{' deleted' if remove else ''}")
    if not found.corrections:
        raise typer.Exit(1)


def _line(correction: CorrectionInfo) -> str:
    """Return a correction as one line that is safe on a terminal: id, span, video, who, before, after, its state."""
    span = f"{clock(correction.start_s, tenths=True)}-{clock(correction.end_s, tenths=True)}"
    absent = "its video has left the library" if correction.state == "absent" else "the files of its video are missing"
    video = path_text(correction.video) or f"({absent}: {correction.fingerprint[:12]})"
    state = [_STATES[correction.state]] if correction.state in _STATES else []
    texts = [correction.original, correction.text or "(nothing)"]
    parts = [str(correction.id), span, video, correction.by, *texts, *state]
    return "\t".join(plain(part) for part in parts)
