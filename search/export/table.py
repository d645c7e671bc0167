"""Tables: CSV (RFC 4180) that a spreadsheet opens without running any of it."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Iterator

from vfindex.search.export.selection import Excerpt, Selection, one_line
from vfindex.search.export.timeline import frames_of

COLUMNS = (
    *("number", "video", "start_s", "end_s", "start_timecode", "end_timecode", "frame_rate", "score", "confidence"),
    *("text", "list", "note", "by", "title", "fingerprint"),
)
# A cell that begins with one of these is a formula in some spreadsheet (OWASP, CSV injection); the last four are the
# full-width forms.
_FORMULAS = ("=", "+", "-", "@", "|", "%", "\uff1d", "\uff0b", "\uff0d", "\uff20")
# In languages with a decimal comma, spreadsheets divide cells at semicolons too, and drop quotation marks.
_FORMULAS_WITHIN = re.compile(rf';(?=[\s"]*[{re.escape("".join(_FORMULAS))}])')
# Without it, spreadsheets take UTF-8 for the system's old encoding.
_MARK = "\ufeff"


def write_csv(selection: Selection) -> bytes:
    """Return the excerpts as rows: UTF-8 with a byte order mark, a quote before what would be a formula."""
    out = io.StringIO(newline="")
    rows = csv.writer(out)
    rows.writerow(COLUMNS)
    for excerpt in selection.excerpts:
        rows.writerow(map(cell, _row(excerpt)))
    return (_MARK + out.getvalue()).encode()


def _row(excerpt: Excerpt) -> Iterator[object]:
    source = excerpt.source
    codes, rate = ["", ""], ""
    if source.rate is not None:
        base, first = source.timebase, source.first_frame(source.timebase)
        codes = [base.timecode(first + frame) for frame in frames_of(excerpt, base)]
        rate = "variable" if source.varies else base.name
    yield from (excerpt.number, os.fsdecode(source.path), f"{excerpt.start_s:.3f}", f"{excerpt.end_s:.3f}")
    yield from (*codes, rate, "" if excerpt.score is None else f"{excerpt.score:.6g}", excerpt.confidence or "")
    yield from (excerpt.text, excerpt.list, excerpt.note, excerpt.by, source.title, source.fingerprint)


def cell(value: object) -> str:
    """Return a cell on one line; a number stays one, in a text what could be a formula begins with a quote."""
    text = _FORMULAS_WITHIN.sub(";'", one_line(str(value)))
    if text.startswith(_FORMULAS) and not _is_number(text):
        return f"'{text}"
    return text


def _is_number(text: str) -> bool:
    return text.removeprefix("-").replace(".", "", 1).isdecimal() and text.isascii()
