"""vfindex chapters"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.options import JsonOption, LibrariesOption, library_folders, refuse_empty
from vfindex.cli.output import clock, plain, print_json, say, shortened
from vfindex.cli.render.progress import progress_bar
from vfindex.search.outline.records import LEAST_CHAPTER_S

if TYPE_CHECKING:
    from vfindex.search.outline.records import ChapterList

NAME = "chapters"
EXAMPLE = "vfindex chapters ~/Videos/lecture.mp4"
EXIT_NONE = 1
_SENTENCE_CHARS = 100


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, file name or fingerprint of an indexed video.")],
    least: Annotated[
        float, typer.Option(metavar="SECONDS", help="The shortest chapter to be found.")
    ] = LEAST_CHAPTER_S,
    detect: Annotated[bool, typer.Option("--detect", help="Find chapters even if the file has its own.")] = False,
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Show the chapters of a video: those of its file, or found.

    A chapter begins where what is shown, said and written changes. Its title is made of its most telling words. Exits
    with 1 if the video has no parts that are better than chance.
    """
    from vfindex.search.service import SearchService

    refuse_empty([video])
    with SearchService(library_folders(library)) as service, progress_bar("comparing with random orders") as progress:
        found = service.chapters(video, least_s=least, detect=detect, progress=progress)
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
    if not found.chapters:
        raise typer.Exit(EXIT_NONE)


def _print(found: ChapterList) -> None:
    for chapter in found.chapters:
        span = f"{clock(chapter.start_s)}-{clock(chapter.end_s)}"
        print(f"{span}\t{plain(chapter.title) or '(nothing said or written)'}")
        if chapter.sentence is not None:
            sentence = shortened(plain(chapter.sentence.text), _SENTENCE_CHARS)
            print(f"    {clock(chapter.sentence.start_s)} {sentence}")
    say(_remark(found))


def _remark(found: ChapterList) -> str:
    """Return where the chapters come from, and how sure they are."""
    if found.origin == "file":
        return "chapters of the file; --detect finds others"
    if found.better_than_chance is False:
        return f"not better than chance here: the video has no parts of its own (p = {found.p_value:.2f})"
    if found.better_than_chance is None:
        return "found where the pictures, speech and text change; too few clips to compare them with chance"
    return f"found where the pictures, speech and text change (p = {found.p_value:.2f})"
