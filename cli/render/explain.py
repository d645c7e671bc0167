"""Hits explained line by line, and hits as a contact sheet."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.cli.members import place_text
from vfindex.cli.out_file import write_out_file
from vfindex.cli.output import clock, path_text, plain, shortened
from vfindex.storage.modalities import get_modality
from vfindex.storage.records import box_words

if TYPE_CHECKING:
    from vfindex.cli.render.contact_sheet import Row
    from vfindex.search.results import Hit, Match

_LINE_CHARS = 100
SOURCES = {"sidecar": "subtitle file", "embedded": "subtitles inside", "asr": "recognised", "frames": "on the screen"}


def decimals(hits: Sequence[Hit]) -> int:
    """Return the decimals for scores: more for fused ranks, which are all below 0.1."""
    return 2 if any(abs(hit.score) >= 0.1 for hit in hits) else 4


def explained(hit: Hit, digits: int = 2) -> Iterator[str]:
    """Yield the lines that explain a hit, safe for a terminal. digits: decimals of scores."""
    total = sum(abs(value) for value in hit.modalities.values() if value is not None)
    for modality, value in hit.modalities.items():
        if value is None:
            yield f"{modality:7} -      {plain(hit.missing.get(modality, ''))}".rstrip()
            continue
        share = f"{abs(value) / total:4.0%}" if total else "  0%"
        frame = hit.frame_s if get_modality(modality).has_frames else None
        best = "" if frame is None else f"  best frame {clock(frame, tenths=True)}"
        yield f"{modality:7} {value:+.{digits}f}  {share}{best}"
    for match in hit.matches:
        yield f"words   {_line(match)}"
    for number, span in enumerate(hit.moments, start=1):
        name = "moment " if len(hit.moments) == 1 else f"part {number} "
        times = f"{clock(span.start_s, tenths=True)}-{clock(span.end_s, tenths=True)}"
        yield f"{name} {times}  score {span.score:.{digits}f}"
    if hit.confidence is not None:
        yield f"sure    {confidence(hit)}"
    if hit.coarse:
        yield "coarse  only the preview index so far; the next run reads the video fully"
    for place in hit.also:
        yield f"also    {clock(place.start_s)}-{clock(place.end_s)}  {place_text(place)}"


def confidence(hit: Hit) -> str:
    """Return a hit's label and share, as `high 97%`; empty if the library cannot tell."""
    share = "" if hit.share is None else f" {hit.share:.0%}"
    return f"{hit.confidence or ''}{share}"


def _line(match: Match) -> str:
    text = f"{plain(', '.join(match.words))}: {shortened(plain(match.text), _LINE_CHARS)}"
    if match.start_s is None or match.end_s is None:
        return f"{text}  ({match.kind})"
    source = ", ".join([str(SOURCES.get(match.source or "", match.source)), *map(plain, match.speakers)])
    where = f", {box_words(match.box)}" if match.box else ""
    when = f"{clock(match.start_s, tenths=True)}-{clock(match.end_s, tenths=True)}"
    when += "" if match.phrase_s is None else f", the phrase at {clock(match.phrase_s, tenths=True)}"
    return f"{text}  ({when}, {source}{where})"


def row_of(query: str, hits: Sequence[Hit]) -> Row:
    """Return hits as a row of a contact sheet: thumbnail, name, span and score."""
    from vfindex.cli.render.contact_sheet import Row, Tile

    tiles = []
    for hit in hits:
        picture = hit.thumbnail.read_bytes() if hit.thumbnail else None
        name = plain(os.path.basename(path_text(hit.video) or "?"))
        score = f"score {hit.score:.{decimals(hits)}f}"
        tiles.append(Tile(picture, (name, f"{clock(hit.start_s)}-{clock(hit.end_s)}   {score}")))
    return Row(query, tuple(tiles))


def write_sheet(query: str, hits: Sequence[Hit], path: Path) -> None:
    """Write hits as a contact sheet (PNG). Raises UsageError if it cannot be written."""
    from vfindex.cli.render.contact_sheet import contact_sheet

    picture = io.BytesIO()
    contact_sheet([row_of(plain(query), hits)], picture, "vfindex search")
    write_out_file(path, "--sheet", picture.getvalue())
