"""Marks as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vfindex.cli.output import clock, path_text, plain

if TYPE_CHECKING:
    from vfindex.search.results import MarkInfo

_ABSENT = {
    "missing": "the files of its video are missing",
    "gone": "its video has left the library",
}


def print_marks(marks: Iterable[MarkInfo]) -> None:
    """Print one line a mark: id, span, list, video, then who wrote what; separated by tabs."""
    for each in marks:
        print(plain_line(each))


def plain_line(mark: MarkInfo) -> str:
    """Return a mark as one line that is safe on a terminal."""
    span = f"{clock(mark.start_s)}-{clock(mark.end_s)}"
    video = path_text(mark.video) or f"({_ABSENT[mark.presence]}: {mark.fingerprint[:12]})"
    judged = [] if mark.grade is None else [f"{mark.question} = {mark.grade}"]
    return "\t".join(plain(part) for part in [str(mark.id), span, mark.list, video, mark.by, *judged, mark.note])
