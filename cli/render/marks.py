"""Marks as lines of text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from vfindex.cli.output import clock, path_text, plain

if TYPE_CHECKING:
    from vfindex.search.marks import ShownMark

_ABSENT = {
    "missing": "the files of its video are missing",
    "gone": "its video has left the library",
}


def print_marks(marks: Iterable[ShownMark]) -> None:
    """Print one line a mark: id, span, list, video, then who wrote what; separated by tabs."""
    for each in marks:
        print(plain_line(each))


def plain_line(shown: ShownMark) -> str:
    """Return a mark as one line that is safe on a terminal."""
    mark = shown.mark
    span = f"{clock(mark.moment.start_ms / 1000)}-{clock(mark.moment.end_ms / 1000)}"
    video = path_text(shown.video) or f"({_ABSENT[shown.presence]}: {mark.moment.fingerprint[:12]})"
    judged = [] if mark.grade is None else [f"{mark.question} = {mark.grade}"]
    return "\t".join(plain(part) for part in [str(mark.id), span, mark.list, video, mark.by, *judged, mark.note])
