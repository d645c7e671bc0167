"""The joint index: nearest clips by inner product, exact in a small library, 4-bit IVF-PQ in a large one.

Up to `EXACT_CLIPS` clips the file holds float32 vectors, and a query is one matrix-vector product. Larger files hold
float16 vectors and IVF-PQ codes (ivf_pq.py): a scan of the nearest lists gives candidates, which are re-ranked by their
float16 vectors. The search parameters, numbers of lists and candidates, are tuned for each weighting when the index is
built (tuning.py) and stored in the file; if no number of candidates suffices, all vectors are scored.

The file is mapped, not read: `JointIndex.load` says what is checked.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError
from vfindex.storage.ids import positions_in
from vfindex.storage.index.file_format import IndexFile, damage
from vfindex.storage.index.flat import HalfVectors, on_gpus
from vfindex.storage.index.ivf_pq import IvfPq, Lists, segments_of
from vfindex.storage.index.search_params import SearchParams, TunedParams
from vfindex.storage.records import FloatArray

# Up to this many clips are scanned exactly: of 1,152 dimensions, 230 MB, some 13 ms at 17 GB/s.
EXACT_CLIPS = 50_000
# From this many clips on, a GPU scores all vectors where that is needed. Not measured: no GPU was at hand.
GPU_CLIPS = 200_000
# FAISS's limit for one search on a GPU (its k-selection runs in shared memory).
GPU_TOP_K = 2048
# Vectors gathered and scored at a time when a filter selects some: 150 MB of 1,152 dimensions.
GATHERED = 65_536
# With at least this share of the clips selected (all but outdated ones, say), the parameters tuned for all clips hold.
MOSTLY = 0.9
# Up to this size all checksums of a file are compared when it is opened (some 20 ms); of larger files, this many blocks
# of each large array.
CHECKED_BYTES = 1 << 24
CHECKED_BLOCKS = 16
# Arrays with ids, lists and codebooks; always checked completely.
STEERING = ("ids", "dead", "members", "ends", "centroids", "codebook")


class JointIndex:
    """Joint vectors of clips, searched by inner product."""

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[Any], dead: NDArray[np.int64] | None = None) -> None:
        """ids: (n,), increasing. rows: (n, dim) float32 or float16. dead: rows of deleted clips, increasing."""
        self._ids = ids
        self._rows = rows
        self._dead = np.zeros(0, np.int64) if dead is None else dead
        self.codes: IvfPq | None = None  # of a large library, with its search parameters
        self.tuned: TunedParams | None = None
        self._on_gpus: Any = None
        self.built = len(ids)  # clips that the lists were trained on
        self.replaced = 0  # vectors replaced since then

    @property
    def dim(self) -> int:
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return len(self._ids) - len(self._dead)

    @property
    def rows(self) -> NDArray[Any]:
        """The vectors (n, dim), those of deleted clips included."""
        return self._rows

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids of the index, without deleted ones, increasing."""
        return np.delete(self._ids, self._dead)

    @property
    def is_quick(self) -> bool:
        """Whether unfiltered queries never score all vectors."""
        return self.tuned is not None and all(each.first.candidates for each in self.tuned.corners)

    def all_ids(self) -> NDArray[np.int64]:
        """Return the clip id of each row, deleted clips included."""
        return self._ids

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
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
        kept = self._kept(among, without)
        found = [self._nearest(query, top_k, kept) for query in np.ascontiguousarray(queries, np.float32)]
        count = min((len(places) for _, places in found), default=0)
        scores = np.array([each[:count] for each, _ in found], np.float32).reshape(len(found), count)
        places = np.array([each[:count] for _, each in found], np.int64).reshape(len(found), count)
        return scores, np.asarray(self._ids)[places]

    def _kept(self, among: NDArray[np.int64] | None, without: NDArray[np.int64] | None) -> NDArray[np.bool_] | None:
        """Return the mask (n,) of the rows that may be returned, None for all."""
        dropped = self._dead if without is None else np.append(self._dead, self.places_of(without))
        if among is None and not len(dropped):
            return None
        kept = np.full(len(self._ids), among is None)
        if among is not None:
            kept[self.places_of(among)] = True
        kept[dropped] = False
        return kept

    def places_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the rows of these clips; clips that are not in the index are left out."""
        places, known = positions_in(ids, self._ids)
        return places[known]

    def _nearest(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of at most `top_k`, best first."""
        count = len(self._ids) if kept is None else int(np.count_nonzero(kept))
        top_k = min(top_k, count)
        if not top_k:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        candidates = self._candidates(query, top_k, kept, count)
        if candidates is not None:
            found = self._scored(query, candidates, top_k)
            # Clips without the query's modality score 0, many at once: their order among the codes says nothing about
            # the clips that a filter selects.
            if count >= MOSTLY * len(self._ids) or found[0][-1] > 0:
                return found
        return self._scan(query, top_k, kept)

    def _candidates(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None, count: int
    ) -> NDArray[np.int64] | None:
        """Return rows that contain the best, or None if scoring all `count` is faster or the only way."""
        if self.codes is None or self.tuned is None:
            return None
        measured = self.tuned.choose(query)
        reach = measured.of(top_k * len(self._ids) // count)
        while reach.candidates and self.codes.cost(reach.candidates, reach.share) < count:
            places = self.codes.nearest(query, reach.candidates, reach.share)
            if kept is None:
                return places if len(places) >= top_k else None
            at = np.flatnonzero(kept[places])
            # The parameters hold for as many first candidates as were measured, whichever of them a filter selects.
            if len(at) >= top_k and reach.covers(measured.of(int(at[top_k - 1]) + 1)):
                return places[at]
            reach = SearchParams(2 * reach.candidates, 1.0)
        return None

    def _scan(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows) of the best, by scoring every selected row."""
        if self._on_gpus is not None and kept is None and top_k <= GPU_TOP_K:
            scores, places = self._on_gpus.search(query[None], top_k)
            return scores[0], places[0]
        many = kept is None or 4 * np.count_nonzero(kept) > len(kept)
        if many and self._rows.dtype == np.float16:
            return HalfVectors(self._rows).best(query, top_k, kept)
        if kept is None or (many and self._rows.dtype == np.float32):
            scores = self._rows @ query
            if kept is not None:
                scores[~kept] = -np.inf
            places = _largest(scores, top_k)
            return scores[places], places
        return self._scored(query, np.flatnonzero(kept), top_k)

    def _scored(self, query: FloatArray, places: NDArray[np.int64], top_k: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, rows) of the best of `places`, scored in the dimensions that the query uses."""
        best, scores = places[:0], np.zeros(0, np.float32)
        asked = np.flatnonzero(query)
        span = slice(int(asked[0]), int(asked[-1]) + 1) if len(asked) else slice(self.dim)
        query = query[span]
        for first in range(0, len(places), GATHERED):
            part = places[first : first + GATHERED]
            rows = self._rows[part, span]
            if rows.dtype == np.float16:
                found, at = HalfVectors(rows).best(query, top_k)
            else:
                each = rows @ query
                at = _largest(each, top_k)
                found = each[at]
            best, scores = np.concatenate([best, part[at]]), np.concatenate([scores, found])
            order = _largest(scores, top_k)
            best, scores = best[order], scores[order]
        return scores, best

    # --- files --------------------------------------------------------------------------------------------------

    @classmethod
    def load(cls, path: Path, *, size_bytes: int, sha256: str, thorough: bool = False) -> JointIndex:
        """Return the index in `path`, mapped. Raises FileNotFoundError, or LibraryDamaged for another file.

        Checks its size, footer and STEERING arrays, and a sample of blocks of the large arrays: damage in other blocks
        costs candidates, never memory safety, and a hit's score comes from library.db. thorough: check every block.
        """
        file = IndexFile.open(path, size_bytes=size_bytes, sha256=sha256)
        file.check([name for name in STEERING if name in file])
        if thorough or size_bytes <= CHECKED_BYTES:
            file.check_all()
        else:
            file.check([name for name in file.names if name not in STEERING], CHECKED_BLOCKS)
        try:
            return cls._of(file)
        except (KeyError, TypeError, ValueError) as exc:
            raise damage(path) from exc

    @classmethod
    def _of(cls, file: IndexFile) -> JointIndex:
        """Return the index in a file. Raises KeyError, TypeError or ValueError for another content."""
        ids, rows, dead = file.array("ids"), file.array("rows"), file.array("dead")
        if rows.ndim != 2 or ids.ndim != 1 or len(ids) != len(rows) or np.any(ids[1:] <= ids[:-1]):
            raise ValueError("the clips of the index are in disorder")
        if len(dead) and not (np.all(dead[1:] > dead[:-1]) and dead[0] >= 0 and dead[-1] < len(ids)):
            raise ValueError("the clips that are gone are in disorder")
        index = cls(ids, rows, dead)
        index.built, index.replaced = int(file.facts["built"]), int(file.facts.get("replaced", 0))
        if file.facts["efforts"] is not None:
            index.codes, index.tuned = _codes(file, rows.shape), TunedParams.from_dict(file.facts["efforts"])
        if len(ids) >= GPU_CLIPS and not index.is_quick:
            index.copy_to_gpus()
        return index

    def copy_to_gpus(self) -> None:
        """Copy the vectors to the GPUs, if there are any with enough memory."""
        self._on_gpus = on_gpus(self._rows)


def facts_of(built: int, tuned: TunedParams | None = None, replaced: int = 0) -> dict[str, Any]:
    """Return the facts that the footer stores.

    built: clips that the lists were trained on. replaced: vectors replaced since then.
    """
    return {"built": built, "efforts": None if tuned is None else tuned.to_dict(), "replaced": replaced}


def _codes(file: IndexFile, shape: tuple[int, ...]) -> IvfPq:
    """Return a file's codes. shape: of its vectors. Raises KeyError, TypeError or ValueError for other content."""
    slices = [slice(int(start), int(stop)) for start, stop in file.facts["efforts"]["slices"]]
    segments = segments_of(slices, shape[1])
    lists = Lists(file.array("members"), file.array("ends"), file.array("centroids"))
    if lists.centroids.shape[1] != shape[1] or len(lists.members) != shape[0]:
        raise ValueError("the lists are of other vectors")
    codes = [file.array(code_name(number)) for number in range(len(segments))]
    return IvfPq(segments, lists, file.array("codebook"), codes)


def code_name(number: int) -> str:
    """Return the name of the array with the codes of one segment."""
    return f"codes of segment {number}"


def _largest(scores: FloatArray, top_k: int) -> NDArray[np.int64]:
    """Return the positions of the `top_k` largest scores, largest first; ties in order of position."""
    first = max(0, len(scores) - top_k)
    chosen = np.sort(np.argpartition(scores, first)[first:]) if first else np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
