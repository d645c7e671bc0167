"""Erases the vectors of deleted clips from segments, in place.

A removal must leave nothing of a video, and writing a large segment anew for one video takes minutes. So the rows of
deleted clips are zeroed, the codes of their blocks computed again, and so are means of which they were a part: with all
other vectors, a mean tells the one that is missing. That of a large segment does not: it is rounded more coarsely.
The checksums of the blocks touched hold no longer: a list of segments that says so is published before anything is
written, so whatever a crash interrupts, no reader compares them. Searches pass over these rows before and after.
"""

from __future__ import annotations

from collections.abc import Iterator
from copy import copy
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.index.file_format import IndexFile
from vfindex.storage.index.segment import IndexSegment

# Deleted rows looked at together: 75 MB of 1,152 dimensions in float16.
_TOGETHER = 1 << 15
_Rows = tuple[str, NDArray[np.int64]]
_FIRST = np.zeros(1, np.int64)


def is_erased(part: IndexSegment) -> bool:
    """Return whether nothing is left of the vectors of deleted clips."""
    return not any(np.any(part.rows[rows]) for rows in _parts(part.dead))


def marked(part: IndexSegment, folder: Path) -> IndexSegment:
    """Return the segment with the blocks `unchecked` that `erase` will write."""
    file = _file(part, folder)
    blocks: dict[str, frozenset[int]] = dict(part.unchecked)
    for name, rows in _touched(part):
        blocks[name] = blocks.get(name, frozenset()) | file.blocks_of(name, rows)
    other = copy(part)
    other.unchecked = blocks
    return other


def erase(part: IndexSegment, folder: Path) -> None:
    """Erase the vectors of deleted clips from the segment's file, on the disk when this returns. Raises OSError."""
    file = _file(part, folder)
    with file.overwriting() as write:
        if part.codes is not None:
            touched = zip(part.codes.touched(part.dead), part.codes.renewed(part.rows, part.dead), strict=True)
            for (name, rows), values in touched:
                write(name, rows, values)
        elif part.centre is not None:
            living = np.delete(part.rows, part.dead, axis=0)
            write("centre", _FIRST, living.sum(axis=0, dtype=np.float32)[None] / max(1, len(living)))
    with file.overwriting() as write:  # last: `is_erased` reads them alone
        for rows in _parts(part.dead):
            write("rows", rows, np.zeros((len(rows), part.dim), part.rows.dtype))


def _file(part: IndexSegment, folder: Path) -> IndexFile:
    if part.file is None:
        raise ValueError("a segment in memory has no file")
    return IndexFile.open(folder, part.file)


def _parts(rows: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for first in range(0, len(rows), _TOGETHER):
        yield rows[first : first + _TOGETHER]


def _touched(part: IndexSegment) -> Iterator[_Rows]:
    yield "rows", part.dead
    if part.codes is not None:
        yield from part.codes.touched(part.dead)
    elif part.centre is not None:
        yield "centre", _FIRST
