"""Excerpts as one film: the time code that it begins with, and what is otherwise in it than was asked for."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

from vfindex.search.export.selection import Excerpt
from vfindex.search.export.timeline import frame_count
from vfindex.storage.errors import LibraryError
from vfindex.storage.records import ROUNDING_S, CutEnd

# A cut at a keyframe that begins this much before its moment is said.
_EARLY_S = 0.1


def start_timecode(excerpts: Sequence[Excerpt], *, exact: bool) -> str | None:
    """Return the time code of the first frame of an exact cut of one excerpt, None where its file states none.

    That frame is the one shown at the start, as in the cut. A copy begins at the keyframe before, whose time code is
    not known.
    """
    first = excerpts[0]
    source = first.source
    if not exact or len(excerpts) > 1 or source.start_timecode is None or source.rate is None or source.varies:
        return None
    base = source.timebase
    shown = math.floor(Fraction(first.start_s - source.start_s + ROUNDING_S) * base.rate)
    return base.timecode(source.first_frame(base) + min(max(0, shown), frame_count(source, base) - 1))


def present(excerpts: Sequence[Excerpt], file: Callable[[str], object]) -> tuple[tuple[Excerpt, ...], tuple[str, ...]]:
    """Return the excerpts whose file is there, the one that was indexed, and a sentence on each that is not.

    file: `SearchService.file`. Raises LibraryError, with the first of these sentences, if none is there.
    """
    lost: dict[str, str] = {}
    for fingerprint in dict.fromkeys(each.source.fingerprint for each in excerpts):
        try:
            file(fingerprint)
        except LibraryError as exc:
            lost[fingerprint] = str(exc)
    kept = tuple(each for each in excerpts if each.source.fingerprint not in lost)
    if lost and not kept:
        raise LibraryError(next(iter(lost.values())))
    return kept, tuple(lost.values())


def remarks(excerpts: Sequence[Excerpt], made: CutEnd) -> tuple[str, ...]:
    """Return sentences on excerpts that begin early, and on what could not be read."""
    early = [(each, each.start_s - start_s) for each, (start_s, _) in zip(excerpts, made.spans, strict=True)]
    lines = [
        f"{each.source.name}: begins {before_s:.1f} s before its moment, at a keyframe; an exact cut begins there"
        for each, before_s in early
        if before_s > _EARLY_S
    ]
    return (*lines, *([f"a part could not be read: {made.error}"] if made.error else []))
