"""vfindex search"""

from __future__ import annotations

import os
import sys
import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from vfindex.cli.extras import require
from vfindex.cli.members import MembersOption, asked_libraries, page_of, place_text
from vfindex.cli.options import JsonOption, give_image_encoder, refuse_empty
from vfindex.cli.out_file import PNG, ForceOption, check_out_file
from vfindex.cli.output import clock, plain, print_json, say, say_hints, shortened
from vfindex.cli.render.explain import confidence, decimals, explained, write_sheet
from vfindex.search.calibration.labels import LABELS, Label
from vfindex.search.query.ast import Combination
from vfindex.storage.errors import QueryError, UsageError, VideoError, counted
from vfindex.storage.modalities import modality_names

if TYPE_CHECKING:
    from vfindex.search.query.image import Picture
    from vfindex.search.query.request import Example
    from vfindex.search.results import Hit, Hits
    from vfindex.search.service import SearchService

NAME = "search"
EXAMPLE = "vfindex search dog running in park -k 5 --weight speech=0"
# As with grep: a shell can tell a match from none.
EXIT_NO_MATCH = 1
# A library on another machine gave no answer, so that hits may be missing.
EXIT_MISSING = 3
# Narrower terminals have no room for a table: each hit becomes a short paragraph.
_TABLE_WIDTH = 110
# Columns besides the video: "1000", "12.34", "1:00:00-1:00:12", "visual +0.98, speech +12.34, text +0.00" and gaps.
_OTHER_COLUMNS_WIDTH = 75
# Two or three lines of a terminal; --json has all of the text.
_SNIPPET_CHARS = 120
_NO_MATCH = "no match: no clip contains what the query requires (docs/query.md)"
_NO_CONFIDENT_MATCH = "no confident match; --all shows the closest clips"
# Characters of a wrong query shown on either side of the error.
_CONTEXT_CHARS = 36


def command(
    words: Annotated[
        list[str] | None,
        typer.Argument(metavar="TEXT", help="The query (docs/query.md). What follows `--` is never an option."),
    ] = None,
    image: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help="Find clips like this image (repeatable).")
    ] = None,
    like: Annotated[
        list[str] | None,
        typer.Option(metavar="VIDEO@TIME", help="Find clips like this indexed one (repeatable)."),
    ] = None,
    clip: Annotated[
        list[str] | None,
        typer.Option(metavar="FILE@A-B", help="Find clips like part of a file (repeatable)."),
    ] = None,
    top_k: Annotated[int, typer.Option("-k", "--top-k", metavar="K", min=1, max=1000, help="Number of hits.")] = 10,
    per_video: Annotated[int, typer.Option(metavar="N", min=1, help="Hits per video at most.")] = 1,
    weight: Annotated[
        str | None,
        typer.Option(
            metavar="NAME=W,...",
            help=f"Weights of {', '.join(modality_names())}.  [default: the preset's]",
        ),
    ] = None,
    combine: Annotated[Combination, typer.Option(metavar="HOW", help="Combine scores, or ranks (rrf).")] = "convex",
    min_confidence: Annotated[
        Label | None,
        typer.Option(metavar="LABEL", help=f"Minimum confidence: {', '.join(LABELS)}."),
    ] = None,
    show_all: Annotated[bool, typer.Option("--all", help="Show hits no better than chance, too.")] = False,
    exact: Annotated[bool, typer.Option("--exact", help="Scan all clips instead of using the index.")] = False,
    feedback: Annotated[bool, typer.Option("--feedback", help="Let judgements of this question move it.")] = False,
    explain: Annotated[bool, typer.Option("--explain", help="Show what makes up each score.")] = False,
    sheet: Annotated[Path | None, typer.Option(metavar="FILE", help="Write the hits as a contact sheet (PNG).")] = None,
    force: ForceOption = False,
    library: MembersOption = None,
    json: JsonOption = False,
) -> None:
    """Find clips that match a query, best first. Exits with 1 if none does, 3 if a server gave no answer."""
    from vfindex.search.query.parser import joined, parse_weights
    from vfindex.search.service import SearchService

    if not words and not image and not like and not clip:
        raise UsageError(f"the query is missing: give words, --image, --like or --clip, as in: {EXAMPLE}")
    if sheet is not None:
        check_out_file(sheet, "--sheet", PNG, force=force)
    text = joined(words or ())
    weights = parse_weights(weight) if weight else None
    if show_all and min_confidence not in (None, "none"):
        raise UsageError("--all shows what --min-confidence leaves out; use one of them")
    folders, servers = asked_libraries(library)
    service = SearchService(folders, remotes=servers)
    images = _images(service, image or [], like or [], clip or [])
    try:
        hits = service.search(
            text,
            images=images,
            top_k=top_k,
            per_video=per_video,
            weights=weights,
            combine=combine,
            exact=exact,
            min_confidence="none" if show_all else min_confidence,
            feedback=feedback,
        )
    except QueryError as exc:
        if exc.position is not None and text.strip() and not json:
            _point_at(text, exc.position)
        raise
    if sheet is not None:
        write_sheet(" ".join([text, *(f"[{each}]" for each in images)]).strip(), hits, sheet)
    if json:
        print_json(hits.to_dict())
    else:
        _say(hits, service, feedback=feedback, explain=explain)
        if hits:
            from vfindex.cli.last_search import keep

            keep([*folders, *(each.place for each in servers)], hits)
            print_hits(hits, explain=explain)
    if hits.missing or not hits:
        raise typer.Exit(EXIT_MISSING if hits.missing else EXIT_NO_MATCH)


def _no_match(service: SearchService) -> str:
    """Return why a search found nothing: no video, or none that has what is required."""
    from vfindex.storage.meta import no_videos

    with service.opened() as (libraries, snapshots):
        is_empty = not service.remotes and not any(snapshot.video_ids() for snapshot in snapshots)
        return no_videos(libraries[0].root) if is_empty else _NO_MATCH


def _say(hits: Hits, service: SearchService, *, feedback: bool, explain: bool) -> None:
    """Print what a reader should know besides the hits."""
    say_hints(hits.hints)
    if feedback:
        _say_feedback(hits, explain=explain)
    for each in hits.missing:
        say(f"{plain(each.library)}: {plain(each.reason)}; its videos are not among the hits")
    if not hits:
        say(_NO_CONFIDENT_MATCH if hits.found else _no_match(service))


def _say_feedback(hits: Hits, *, explain: bool) -> None:
    """Print which judgements moved the question, and how far."""
    moved = hits.feedback
    if moved is None:
        say("this question has no judgements: vfindex mark VIDEO@TIME --question TEXT --grade N")
        return
    say(f"moved by {moved.used} of {counted(moved.judged, 'judgement')}; to undo: vfindex marks --remove ID")
    say("not better than without them in the measurement (docs/feedback.md)")
    for modality, cosine in moved.cosines.items() if explain else ():
        say(f"    {modality:7} cosine {cosine:.2f} to the question as typed")


def _images(service: SearchService, files: list[Path], likes: list[str], clips: list[str]) -> list[Example]:
    """Return the images and clips of the query; make sure that the library has its image encoder.

    Raises UsageError, QueryError.
    """
    if not files and not likes and not clips:
        return []
    from vfindex.search.query.image import check_file
    from vfindex.search.query.like import Like

    if (files or clips) and not service.engines:
        raise UsageError(
            "--image and --clip need the models of a library on this machine; name one with --library, too"
        )
    indexed = [Like.parse(like) for like in likes]
    for file in files:
        check_file(file)
    for engine in service.engines if files or clips else ():
        give_image_encoder(engine)
    return [*files, *_clips(clips, service), *indexed]


def _clips(named: list[str], service: SearchService) -> list[Picture]:
    """Return the frames of parts of files, each of `FILE@A-B` or `FILE`. Raises UsageError, QueryError."""
    if not named:
        return []
    refuse_empty(named)
    require("index")
    from vfindex.indexer.stills import FrameDecoder
    from vfindex.search.query.image import Picture
    from vfindex.search.query.values import span_in

    found = []
    with FrameDecoder() as decoder:
        for name in named:
            file, at, span = name.rpartition("@")
            is_part = bool(file) and bool(at) and not os.path.lexists(name)
            start_s, end_s = span_in(span) if is_part else (None, None)
            path = os.path.realpath(os.fsencode(file if is_part else name))  # an ingest follows no links; a person may
            try:
                frames = decoder.clip_frames(path, start_s, end_s, service.engine.pictures.size_px)
            except VideoError as exc:
                raise QueryError(f"the clip {name} cannot be read: {exc.problem.reason}; name another file") from exc
            found.append(Picture(name, tuple(frames)))
    return found


def _point_at(text: str, position: int) -> None:
    """Print the part of a query around an error, with a caret below the character."""
    start = max(0, position - _CONTEXT_CHARS)
    before, after = plain(text[start:position]), plain(text[position : position + _CONTEXT_CHARS])
    columns = sum(2 if unicodedata.east_asian_width(char) in "WF" else 1 for char in before)
    say(f"  {before}{after}")
    say(f"  {' ' * columns}^")


def print_hits(hits: list[Hit], *, explain: bool = False) -> None:
    """Print hits: on a terminal as a table, else one line each. explain: with what makes up their scores."""
    if sys.stdout.isatty() and not explain:
        _print_table(hits)
        return
    digits = decimals(hits)
    for hit in hits:
        print(f"{hit.rank}\t{hit.score:.{digits + 1}f}\t{_span(hit)}\t{place_text(hit) if hit.video else ''}")
        for line in explained(hit, digits) if explain else ():
            print(f"    {line}")


def _span(hit: Hit) -> str:
    return f"{clock(hit.start_s)}-{clock(hit.end_s)}"


def _contributions(hit: Hit, digits: int) -> str:
    parts = [f"{m} {value:+.{digits}f}" for m, value in hit.modalities.items() if value is not None]
    return ", ".join(parts)


def _file(hit: Hit) -> str | None:
    """Return the address of the file of a hit on this machine."""
    return None if hit.video is None else Path(os.fsdecode(hit.video)).as_uri()


def _print_table(hits: list[Hit]) -> None:
    """Print hits as a table. Text from files is printed as plain text, never as markup."""
    from rich.console import Console
    from rich.style import Style
    from rich.table import Table
    from rich.text import Text

    console, digits = Console(highlight=False), decimals(hits)
    wide = console.width >= _TABLE_WIDTH
    table = Table(box=None, pad_edge=False, header_style="dim", show_header=wide, padding=(0, 2, 0 if wide else 1, 0))
    table.add_column("#", justify="right")
    if wide:
        table.add_column("score", justify="right")
        table.add_column("time", justify="right")
        table.add_column("video", overflow="fold", max_width=console.width - _OTHER_COLUMNS_WIDTH)
        table.add_column("because", overflow="fold")
    else:
        table.add_column("hit", overflow="fold")
    for hit in hits:
        folder, name = os.path.split(place_text(hit))
        place = Text.assemble((name, Style(bold=True, link=page_of(hit) or _file(hit))), "\n", (folder, "dim"))
        because = Text(_contributions(hit, digits))
        if hit.snippet:
            because.append(f"\n{shortened(plain(hit.snippet), _SNIPPET_CHARS)}", style="italic")
        label = confidence(hit)
        rank, score = Text(str(hit.rank)), f"{hit.score:.{digits}f}"
        if wide:
            table.add_row(rank, Text(f"{score}\n{label}".rstrip()), Text(_span(hit)), place, because)
        else:
            head = Text(f"{_span(hit)}  score {score}{label and f', confidence {label}'}")
            table.add_row(rank, Text("\n").join([head, place, because]))
    console.print(table)
