"""vfindex export"""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.commands.search import EXIT_NO_MATCH
from vfindex.cli.exports import CUT, SIDECARS, Target
from vfindex.cli.extras import require
from vfindex.cli.options import LibrariesOption, frame_reader, library_folders, media_player, refuse_empty
from vfindex.search.calibration.labels import LABELS, Label
from vfindex.storage.errors import UsageError
from vfindex.storage.modalities import timed_text_modalities

if TYPE_CHECKING:
    from vfindex.search.export.formats import Settings
    from vfindex.search.export.gather import Chosen, Span
    from vfindex.search.service import SearchService

NAME = "export"
EXAMPLE = 'vfindex export "dog running in park" -o dogs.edl'
# In the order of docs/export.md.
_NAMES = "srt, vtt, csv, m3u8, edl, fcpxml, otio, json, mp4, xmp, nfo"
_STDOUT = "-"


def command(
    words: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="The query (docs/query.md): export its hits.")
    ] = None,
    list_: Annotated[str | None, typer.Option("--list", metavar="NAME", help="Export the marks in this list.")] = None,
    saved: Annotated[str | None, typer.Option(metavar="NAME", help="Export the hits of this saved question.")] = None,
    video: Annotated[str | None, typer.Option(metavar="VIDEO", help="Export this indexed video.")] = None,
    span: Annotated[str | None, typer.Option(metavar="A-B", help="Only this part of it, as in 1:02-1:30.")] = None,
    output: Annotated[
        str,
        typer.Option("--output", "-o", metavar="FILE", help="A file, or a folder for several; - is standard output."),
    ] = _STDOUT,
    format_: Annotated[
        str | None,
        typer.Option("--format", metavar="NAME", help=f"{_NAMES}.  [default: what FILE ends in]"),
    ] = None,
    exact: Annotated[
        bool, typer.Option("--exact", help="Cut mp4 at the very frames and encode it again; else at keyframes.")
    ] = False,
    single: Annotated[bool, typer.Option("--single", help="An mp4 for each moment, into the folder FILE.")] = False,
    beside: Annotated[bool, typer.Option("--beside", help="Write tags (xmp, nfo) next to each video.")] = False,
    rate: Annotated[
        str | None, typer.Option(metavar="FPS", help="Frame rate of the timeline, as 25 or 29.97df.")
    ] = None,
    offset: Annotated[
        str | None,
        typer.Option(metavar="TIME", help="Start time code of the timeline.  [default: 0; of an edl 1:00:00]"),
    ] = None,
    track: Annotated[
        str | None,
        typer.Option(
            metavar="NAME", help=f"Text of subtitles: {', '.join(timed_text_modalities())}.  [default: what is said]"
        ),
    ] = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=1000, help="Number of hits.")] = 10,
    per_video: Annotated[int, typer.Option(metavar="N", min=1, help="Hits per video at most.")] = 1,
    min_confidence: Annotated[
        Label | None,
        typer.Option(metavar="LABEL", help=f"Only hits with this label or a better one: {', '.join(LABELS)}."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a file that is there.")] = False,
    library: LibrariesOption = None,
) -> None:
    """Export moments or a video for other programs.

    Subtitles, tables, playlists, edit lists, cuts, tags. Exits with 1 if there is nothing to export.
    """
    from vfindex.search.export.formats import FORMATS
    from vfindex.search.service import SearchService

    source = _Source(words or [], list_, saved, video)
    if span and not video:
        raise UsageError("--span is a part of a --video")
    format_ = _format(format_, output)
    settings, cut = _settings(rate, offset), _span(span)
    target = Target(None if output == _STDOUT else Path(output), format_, beside, single, exact, force)
    target.check()
    if settings is not None and format_ not in FORMATS:
        raise UsageError(f"{format_} has no timeline; leave out --rate and --offset")
    if track is not None and format_ not in FORMATS:
        raise UsageError(f"{format_} has no text of a track; leave out --track")
    if format_ == CUT:
        require("index")
    with ExitStack() as opened:
        player = media_player(opened) if format_ == CUT else None
        folders = library_folders(library)
        service = opened.enter_context(SearchService(folders, frames=frame_reader(opened), player=player))
        chosen = source.read(service, top_k, per_video, min_confidence)
        if format_ in FORMATS:
            target.write(service, service.export(chosen, format_, span=cut, settings=settings, track=track))
        elif not target.write_files(service, service.selection(chosen, cut)):
            raise typer.Exit(EXIT_NO_MATCH)


@dataclass(frozen=True, slots=True)
class _Source:
    """What to export: one of these. Raises UsageError for none, or several."""

    words: list[str]
    list: str | None
    saved: str | None
    video: str | None

    def __post_init__(self) -> None:
        given = [each for each in (self.words or None, self.list, self.saved, self.video) if each is not None]
        if len(given) != 1:
            raise UsageError(f"name what to export: a query, --list, --saved or --video, one of them, as in: {EXAMPLE}")

    def read(self, service: SearchService, top_k: int, per_video: int, least: Label | None) -> Chosen:
        """Return the record of it. Raises QueryError, LibraryError."""
        from vfindex.search.query.parser import joined

        if self.video is not None:
            refuse_empty([self.video])
            return service.video(self.video)
        if self.list is not None:
            return service.marks(list_=self.list)
        text = joined(self.words) if self.saved is None else service.saved_query(self.saved).text
        return service.search(text, top_k=top_k, per_video=per_video, min_confidence=least)


def _format(name: str | None, output: str) -> str:
    """Return the format, by default that of the file's name. Raises UsageError."""
    from vfindex.search.export.formats import FORMATS

    known = (*FORMATS, CUT, *SIDECARS)
    found = os.path.splitext(output)[1].removeprefix(".").lower() if name is None else name.lower()
    if found in known:
        return found
    if name is None:
        raise UsageError(f"name a format with --format, or a file for --output that ends in one of {', '.join(known)}")
    raise UsageError(f"there is no format {name!r}; export to one of {', '.join(known)}")


def _settings(rate: str | None, offset: str | None) -> Settings | None:
    """Return what was given of a timeline, None if nothing was. Raises UsageError."""
    if rate is None and offset is None:
        return None
    from vfindex.search.export.formats import Settings
    from vfindex.search.export.timecode import Timebase
    from vfindex.search.query.values import seconds_in

    start_s = None if offset is None else seconds_in(offset)
    if offset is not None and start_s is None:
        raise UsageError(f"--offset takes a time, as in 12.5 or 1:00:00, not {offset!r}")
    return Settings(None if rate is None else Timebase.parse(rate), start_s)


def _span(text: str | None) -> Span:
    from vfindex.search.query.values import span_in

    return (None, None) if text is None else span_in(text)
