"""vfindex digest"""

from __future__ import annotations

import os
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.exports import CUT, SIDECARS, Target
from vfindex.cli.extras import require
from vfindex.cli.options import (
    JsonOption,
    LibrariesOption,
    frame_reader,
    library_folders,
    media_player,
    refuse_empty,
)
from vfindex.cli.out_file import HTML, PNG, check_out_file, write_out_file
from vfindex.cli.output import clock, plain, print_json, say
from vfindex.search.outline.records import DIGEST_LENGTH_S, DIGEST_WORDS
from vfindex.storage.errors import UsageError, counted

if TYPE_CHECKING:
    from vfindex.search.outline.records import Digest

NAME = "digest"
EXAMPLE = "vfindex digest talk.mp4 --storyboard talk.html -o talk.edl"
EXIT_NONE = 1
_NOT_ABOVE = "not better than chance here: {} stand for the video no better than random ones (p = {:.2f})"


def command(
    video: Annotated[str, typer.Argument(metavar="VIDEO", help="Path, file name or fingerprint of an indexed video.")],
    length: Annotated[
        float, typer.Option(metavar="SECONDS", help="Length of the excerpts together, at most.")
    ] = DIGEST_LENGTH_S,
    words: Annotated[int, typer.Option(metavar="N", help="Words of the sentences, at most.")] = DIGEST_WORDS,
    storyboard: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE", help="Write key frames and sentences as .png or .html (repeatable)."),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Write the excerpts as mp4, edl, otio or another export."),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Cut mp4 at the very frames and encode it again; else at keyframes.")
    ] = False,
    force: Annotated[bool, typer.Option("--force", help="Replace files that are there.")] = False,
    library: LibrariesOption = None,
    json: JsonOption = False,
) -> None:
    """Summarise a video by excerpts and sentences of its own.

    They stand for the rest: nothing is written anew. Exits with 1 if nothing is better than a random choice.
    """
    from vfindex.search.service import SearchService

    refuse_empty([video])
    target = None if output is None else _target(output, exact=exact, force=force)
    if exact and (target is None or target.format != CUT):
        raise UsageError("--exact is for cuts: name an mp4 with --output")
    for file in storyboard or ():
        check_out_file(file, "--storyboard", _kind(file), force=force)
    with ExitStack() as opened:
        player = media_player(opened) if target is not None and target.format == CUT else None
        frames = None if target is None else frame_reader(opened)
        service = opened.enter_context(SearchService(library_folders(library), frames=frames, player=player))
        found = service.digest(video, length_s=length, words=words)
        for file in storyboard or ():
            _write_storyboard(found, file)
        complete = True
        if target is not None and not found.moments:
            say(f"not written, as there are no excerpts: {output}")
        elif target is not None:
            if target.format == CUT:
                complete = target.write_files(service, service.selection(found))
            else:
                target.write(service, service.export(found, target.format))
    if json:
        print_json(found.to_dict())
    else:
        _print(found)
    if not complete or not (found.moments or found.sentences):
        raise typer.Exit(EXIT_NONE)


def _target(output: Path, *, exact: bool, force: bool) -> Target:
    """Return where the excerpts go, in the format that the file's name ends in. Raises UsageError."""
    from vfindex.search.export.formats import FORMATS

    if output.name.endswith(f".{CUT}"):
        require("index")
    name = output.suffix.removeprefix(".").lower()
    known = [each for each in (*FORMATS, CUT) if each not in SIDECARS]
    if name not in known:
        raise UsageError(f"name a file for --output that ends in one of {', '.join(known)}")
    target = Target(output, name, beside=False, single=False, exact=exact, force=force)
    target.check()
    return target


def _kind(file: Path) -> bytes:
    """Return how a storyboard begins, by the name of its file. Raises UsageError."""
    kinds = {".png": PNG, ".html": HTML, ".htm": HTML}
    if file.suffix.lower() not in kinds:
        raise UsageError(f"a storyboard is a .png or a .html, not {file.name}")
    return kinds[file.suffix.lower()]


def _write_storyboard(found: Digest, file: Path) -> None:
    from vfindex.cli.render.storyboard import as_html, as_png

    if not found.moments and not found.sentences:
        say(f"not written, as nothing stands for the video: {file}")
        return
    data = as_png(found) if _kind(file) == PNG else as_html(found)
    write_out_file(file, "--storyboard", data)
    say(f"written: {file}")


def _print(found: Digest) -> None:
    for moment in found.moments:
        span = f"{clock(moment.start_s, tenths=True)}-{clock(moment.end_s, tenths=True)}"
        print(f"{span}\tkey frame {clock(moment.frame_s, tenths=True)}\tstands for {moment.share:.0%}")
    for sentence in found.sentences:
        print(f"{clock(sentence.start_s, tenths=True)}-{clock(sentence.end_s, tenths=True)}\t{plain(sentence.text)}")
    name = plain(os.path.basename(os.fsdecode(found.video or b"?")))
    excerpts, sentences = counted(len(found.moments), "excerpt"), counted(len(found.sentences), "sentence")
    say(f"{name}, {clock(found.duration_s)}: {excerpts} of {clock(found.length_s, tenths=True)}, {sentences}")
    for noun, verdict in (("the excerpts", found.pictures), ("the sentences", found.text)):
        if verdict.better_than_chance is False:
            say(_NOT_ABOVE.format(noun, verdict.p_value))
