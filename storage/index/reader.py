"""The joint index of a generation: nearest clips by inner product over all its segments.

A generation's file in `index/` is a segment (segment.py), or a list of segments with a bitmap of the deleted clips of
each:

    arrays  "deleted N"  bits of the rows of the N-th segment, the lowest first; only where some are deleted
    facts   "segments"   of each: its file, size, SHA-256, the blocks whose checksums a removal has made invalid, and
                         search parameters that have been raised since it was built (live_recall.py)

A clip that is not deleted is in one segment only. What is in library.db vouches for the list, and the list for its
segments, so one committed row publishes them all.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError
from vfindex.storage.ids import in_sorted, positions_in
from vfindex.storage.index.file_format import IndexFile, damage, writing_index
from vfindex.storage.index.flat import Block, Shards
from vfindex.storage.index.search_params import TunedParams
from vfindex.storage.index.segment import CHECKED_BLOCKS, IndexSegment
from vfindex.storage.joint.codecs import as_float32
from vfindex.storage.records import FloatArray, StoredFile

logger = logging.getLogger(__name__)

# Clips copied to a device at a time: as float32 of 1,536 dimensions, 400 MB.
BLOCK = 1 << 16
# FAISS's limit for one search on a GPU (its k-selection runs in shared memory), and candidates beyond those wanted,
# because a device may round scores, and the query, to float16.
SHARDS_TOP_K, SPARE_CANDIDATES = 2048, 64
# Suffixes of the files in `index/`: segments, and lists of segments.
SEGMENT_SUFFIX, LIST_SUFFIX = ".joint", ".segments"


class VectorIndex(Protocol):
    """An index of joint vectors, in files or elsewhere. The methods of `JointIndex` say what they return."""

    @property
    def dim(self) -> int: ...

    @property
    def is_exact(self) -> bool: ...

    def __len__(self) -> int: ...

    def ids(self) -> NDArray[np.int64]: ...

    def nearest(
        self,
        queries: FloatArray,
        top_k: int,
        among: NDArray[np.int64] | None = None,
        without: NDArray[np.int64] | None = None,
    ) -> tuple[FloatArray, NDArray[np.int64]]: ...

    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], FloatArray]: ...

    def stored(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], FloatArray]: ...


class JointIndex:
    """Joint vectors of clips in segments, searched by inner product. Immutable; `builder.Draft` makes the next one."""

    def __init__(self, segments: Sequence[IndexSegment]) -> None:
        """segments: at least one; no clip is in two of them unless it is deleted in one."""
        self.segments = tuple(segments)
        self.shards: Shards | None = None  # all vectors on other devices, see `copy_to`

    @property
    def dim(self) -> int:
        return self.segments[0].dim

    def __len__(self) -> int:
        return sum(map(len, self.segments))

    @property
    def is_exact(self) -> bool:
        """Whether all vectors are always scored."""
        return self.shards is not None or all(each.codes is None for each in self.segments)

    def prepare(self) -> None:
        """Import what the first search needs."""
        for each in self.segments:
            if each.codes is not None:
                each.codes.prepare()

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids of the index, without deleted ones, increasing."""
        return np.sort(np.concatenate([each.living() for each in self.segments]))

    def nearest(
        self,
        queries: FloatArray,
        top_k: int,
        among: NDArray[np.int64] | None = None,
        without: NDArray[np.int64] | None = None,
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, ids), each (n_queries, <= top_k), best first. Raises DimensionError.

        among: only these clip ids (m,), increasing. without: not these clip ids, increasing.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {queries.shape}")
        found = [
            self._from_shards(query, top_k, among, without)
            or _best([each.nearest(query, top_k, among, without) for each in self.segments], top_k)
            for query in np.ascontiguousarray(queries, np.float32)
        ]
        count = min((len(ids) for _, ids in found), default=0)
        scores = np.array([each[:count] for each, _ in found], np.float32).reshape(len(found), count)
        ids = np.array([each[:count] for _, each in found], np.int64).reshape(len(found), count)
        return scores, ids

    def _from_shards(
        self, query: FloatArray, top_k: int, among: NDArray[np.int64] | None, without: NDArray[np.int64] | None
    ) -> tuple[FloatArray, NDArray[np.int64]] | None:
        """Return what `nearest` returns, by the shards; None if there are none, or a filter leaves too few."""
        shards, selected = self.shards, len(self) if among is None else len(among)
        selected -= 0 if without is None else len(without)
        wanted = (top_k + SPARE_CANDIDATES) * len(self) // max(1, selected)
        if shards is None or wanted > SHARDS_TOP_K:
            return None
        try:
            ids = shards.nearest(query, min(wanted, len(self)))
        except RuntimeError as exc:
            self.shards = None
            logger.warning("the joint index is searched on the processor from now on: a GPU failed (%s)", exc)
            return None
        kept = np.ones(len(ids), np.bool_) if among is None else in_sorted(ids, among)
        kept &= ~in_sorted(ids, without) if without is not None else True
        if np.count_nonzero(kept) < top_k and len(ids) < len(self):
            return None
        ids = ids[kept]
        scores = self.vectors(ids)[1] @ query
        best = np.lexsort((ids, -scores))[:top_k]
        return scores[best], ids[best]

    def copy_to(self, devices: Sequence[Callable[[int], Any]], check: Callable[[], None] = lambda: None) -> None:
        """Copy all vectors to devices, as `Shards` takes them; they answer from then on. Raises as `Shards` does."""
        blocks = []
        for part in self.segments:
            living = np.delete(np.arange(len(part.ids)), part.dead)
            for first in range(0, len(living), BLOCK):
                places = living[first : first + BLOCK]
                blocks.append(Block(np.asarray(part.ids)[places], part.rows, places))
        if blocks and devices:
            self.shards = Shards(self.dim, blocks, devices, check)

    def vectors(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return which of the clips (n,) the index holds, and their vectors (n_held, dim)."""
        held = np.zeros(len(ids), np.bool_)
        parts = []
        for each in self.segments:
            places, known = positions_in(ids, each.ids)
            known &= ~positions_in(places, each.dead)[1]
            held |= known
            parts.append((np.flatnonzero(known), each.rows[places[known]]))
        if len(parts) == 1:
            return held, as_float32(parts[0][1])
        rows = np.zeros((len(ids), self.dim), np.float32)
        for at, part in parts:
            rows[at] = as_float32(part)
        return held, rows[held]

    def stored(self, ids: NDArray[np.int64]) -> tuple[NDArray[np.bool_], FloatArray]:
        """Return `vectors`. An index elsewhere may score by other ones than those it stores."""
        return self.vectors(ids)

    def within(self, snapshot: object, spec: object) -> JointIndex:
        """Return the index for the readers of a snapshot: itself."""
        return self

    # --- files --------------------------------------------------------------------------------------------------

    @classmethod
    def load(
        cls, folder: Path, own: StoredFile, *, thorough: bool = False, known: JointIndex | None = None
    ) -> JointIndex:
        """Return the index whose file is `own`, mapped. Raises FileNotFoundError, or LibraryDamaged for another file.

        `IndexSegment.load` says what is checked of each segment. thorough: check every block. known: an open index,
        whose segments are used again.
        """
        file = IndexFile.open(folder, own)
        if "segments" not in file.facts:
            return cls([IndexSegment.of(file, None if thorough else CHECKED_BLOCKS)])
        file.check_all()
        again = {each.file: each for each in known.segments} if known is not None and not thorough else {}
        try:
            files = [_stored_file(entry) for entry in file.facts["segments"]]
            blocks = None if thorough else max(1, CHECKED_BLOCKS // len(files))
            segments = []
            for number, (stored, entry) in enumerate(zip(files, file.facts["segments"], strict=True)):
                segment = again.get(stored) or _opened(folder, stored, entry["unchecked"], blocks)
                if "efforts" in entry:
                    segment = segment.with_params(TunedParams.from_dict(entry["efforts"]))
                segments.append(segment.with_dead(_dead(file, f"deleted {number}", segment)))
            return cls(segments)
        except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError) as exc:
            raise damage(file.path) from exc


def files_of(folder: Path, own: StoredFile) -> list[StoredFile]:
    """Return the files of a generation, its own first. Raises OSError, LibraryDamaged; opens no other."""
    file = IndexFile.open(folder, own)
    try:
        return [file.stored, *map(_stored_file, file.facts.get("segments", ()))]
    except (KeyError, TypeError, ValueError) as exc:
        raise damage(file.path) from exc


def write_list(path: Path, segments: Sequence[IndexSegment]) -> StoredFile:
    """Write a list of segments, whose files are on the disk. Raises OSError."""
    with writing_index(path) as file:
        for number, each in enumerate(segments):
            if len(each.dead):
                bits = np.zeros(len(each.ids), np.bool_)
                bits[each.dead] = True
                file.put(f"deleted {number}", "|u1", [np.packbits(bits, bitorder="little")])
        return file.end({"segments": [_entry(each) for each in segments]})


def _entry(segment: IndexSegment) -> dict[str, Any]:
    if segment.file is None:
        raise ValueError("a segment in memory cannot be listed")
    unchecked = {name: sorted(blocks) for name, blocks in segment.unchecked.items()}
    raised = {"efforts": segment.tuned.to_dict()} if segment.is_raised and segment.tuned is not None else {}
    return {**asdict(segment.file), "unchecked": unchecked, **raised}


def _stored_file(entry: Mapping[str, Any]) -> StoredFile:
    """Parse the file of an entry. Raises KeyError, TypeError or ValueError for anything else."""
    name = str(entry["name"])
    if Path(name).name != name or name in ("", ".", ".."):
        raise ValueError("the list names a segment outside its folder")
    return StoredFile(name, int(entry["size_bytes"]), str(entry["sha256"]))


def _opened(
    folder: Path, stored: StoredFile, unchecked: Mapping[str, Sequence[int]], blocks: int | None
) -> IndexSegment:
    passed_over = {name: frozenset(map(int, each)) for name, each in unchecked.items()}
    return IndexSegment.load(folder, stored, blocks, passed_over)


def _dead(file: IndexFile, name: str, segment: IndexSegment) -> NDArray[np.int64]:
    """Return the deleted rows of a segment. Raises ValueError for a bitmap of another length."""
    if name not in file:
        return np.zeros(0, np.int64)
    bits = file.array(name)
    if bits.shape != (-(-len(segment.ids) // 8),):
        raise ValueError("the bitmap is of another segment")
    return np.flatnonzero(np.unpackbits(bits, count=len(segment.ids), bitorder="little"))


def _best(found: Sequence[tuple[FloatArray, NDArray[np.int64]]], top_k: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the best of several (scores, ids), best first; ties in order of id."""
    if len(found) == 1:
        return found[0]
    scores, ids = (np.concatenate(parts) for parts in zip(*found, strict=True))
    best = np.lexsort((ids, -scores))[:top_k]
    return scores[best], ids[best]
