"""The joint index: which clips are nearest to a question, exactly in a small library, by their codes in a large one.

Up to `EXACT_CLIPS` clips the vectors stand in the file as float32, and a question is one product of matrix and vector.
Beyond, they stand as float16 with codes of half a byte for two dimensions beside them, in lists of clips that are alike
(ivf_pq.py). A scan of the nearest lists gives candidates, which are scored from the float16 vectors. How many lists and
candidates are needed is measured when the index is built, for every weighting by itself (recall.py), and kept with it;
where no number of them is enough, all vectors are scored.

Either file is mapped, not read: see `JointIndex.load` for what is checked of it.
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

# Up to so many clips are scanned exactly: of 1,152 dimensions, 230 MB, some 13 ms at 17 GB/s.
EXACT_CLIPS = 50_000
# Where all vectors are scored, from so many clips on, a GPU does it where there is one. Not measured for want of one.
GPU_CLIPS = 200_000
# FAISS answers no more at a time there (its k-selection runs in shared memory).
GPU_TOP_K = 2048
# Vectors that are gathered and scored at a time where not all are looked at: 150 MB of 1,152 dimensions.
GATHERED = 65_536
# Where at least this share of the clips may answer, as but for some that are outdated, candidates are trusted as where
# all may.
MOSTLY = 0.9
# A file up to this size is compared with all its checksums when it is opened (some 20 ms); of the large arrays of
# others, so many blocks.
CHECKED_BYTES = 1 << 24
CHECKED_BLOCKS = 16
# Arrays that steer a search, always checked whole.
STEERING = ("ids", "dead", "members", "ends", "centroids", "codebook")


class JointIndex:
    """Joint vectors of clips, searched by inner product."""

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[Any], dead: NDArray[np.int64] | None = None) -> None:
        """ids: (n,), increasing. rows: (n, dim) float32 or float16. dead: places whose clips are gone, increasing."""
        self._ids = ids
        self._rows = rows
        self._dead = np.zeros(0, np.int64) if dead is None else dead
        self.codes: IvfPq | None = None  # of a large library, with the efforts measured
        self.tuned: TunedParams | None = None
        self._on_gpus: Any = None
        self.built = len(ids)  # clips that the lists were made of at once
        self.replaced = 0  # vectors replaced since

    @property
    def dim(self) -> int:
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return len(self._ids) - len(self._dead)

    @property
    def rows(self) -> NDArray[Any]:
        """The vectors by place (n, dim), those of clips that are gone too."""
        return self._rows

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids held, increasing."""
        return np.delete(self._ids, self._dead)

    @property
    def is_quick(self) -> bool:
        """Whether no question has all vectors scored but for its filters."""
        return self.tuned is not None and all(each.first.candidates for each in self.tuned.corners)

    def all_ids(self) -> NDArray[np.int64]:
        """Return the clip ids by place, those of clips that are gone too."""
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

        among: ids (m,) of the only clips looked at, increasing; others cost no place among the first. without: ids of
        clips that are passed over, increasing.
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
        """Return which places may answer (n,), None for all."""
        dropped = self._dead if without is None else np.append(self._dead, self.places_of(without))
        if among is None and not len(dropped):
            return None
        kept = np.full(len(self._ids), among is None)
        if among is not None:
            kept[self.places_of(among)] = True
        kept[dropped] = False
        return kept

    def places_of(self, ids: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the places of those of some clips that the index holds."""
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
            # Clips that lack what is asked for score 0, many at once: where they stand among codes says nothing of
            # those that a filter leaves.
            if count >= MOSTLY * len(self._ids) or found[0][-1] > 0:
                return found
        return self._scan(query, top_k, kept)

    def _candidates(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None, count: int
    ) -> NDArray[np.int64] | None:
        """Return places with the best among them, or None where it is faster, or the only way, to score all `count`."""
        if self.codes is None or self.tuned is None:
            return None
        measured = self.tuned.choose(query)
        reach = measured.of(top_k * len(self._ids) // count)
        while reach.candidates and self.codes.cost(reach.candidates, reach.share) < count:
            places = self.codes.nearest(query, reach.candidates, reach.share)
            if kept is None:
                return places if len(places) >= top_k else None
            at = np.flatnonzero(kept[places])
            # A reach is trusted with as many of the first as were measured with it, whoever may answer of them.
            if len(at) >= top_k and reach.covers(measured.of(int(at[top_k - 1]) + 1)):
                return places[at]
            reach = SearchParams(2 * reach.candidates, 1.0)
        return None

    def _scan(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of the best of all that may answer, each of them scored."""
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
        """Return (scores, places) of the best among `places`, by what is asked for of their vectors."""
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

        Checked are its size, its footer, all that steers a search, and of the large arrays blocks here and there: what
        is damaged between them costs candidates, never memory, and a hit's score is made from library.db. thorough:
        check every block.
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
        """Return the index in a file. Raises KeyError, TypeError or ValueError if it is none."""
        ids, rows, dead = file.array("ids"), file.array("rows"), file.array("dead")
        if rows.ndim != 2 or ids.ndim != 1 or len(ids) != len(rows) or np.any(ids[1:] <= ids[:-1]):
            raise ValueError("the clips of the index are in disorder")
        if len(dead) and not (np.all(dead[1:] > dead[:-1]) and dead[0] >= 0 and dead[-1] < len(ids)):
            raise ValueError("the clips that are gone are in disorder")
        index = cls(ids, rows, dead)
        index.built, index.replaced = int(file.facts["built"]), int(file.facts.get("replaced", 0))
        if file.facts["efforts"] is not None:
            index.codes, index.tuned = _codes(file, rows.shape), TunedParams.of(file.facts["efforts"])
        if len(ids) >= GPU_CLIPS and not index.is_quick:
            index.copy_to_gpus()
        return index

    def copy_to_gpus(self) -> None:
        """Let the GPUs answer what they can; the processor goes on with the rest, and with all where they are full."""
        self._on_gpus = on_gpus(self._rows)


def facts_of(built: int, efforts: TunedParams | None = None, replaced: int = 0) -> dict[str, Any]:
    """Return what a file says of its index beside the arrays.

    built: clips that the lists were made of at once. replaced: vectors replaced since.
    """
    return {"built": built, "efforts": None if efforts is None else efforts.told(), "replaced": replaced}


def _codes(file: IndexFile, shape: tuple[int, ...]) -> IvfPq:
    """Return the codes in a file. shape: of its vectors. Raises KeyError, TypeError or ValueError if they are none."""
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
    """Return where the `top_k` largest scores stand, the largest first; ties in order of place."""
    first = max(0, len(scores) - top_k)
    chosen = np.sort(np.argpartition(scores, first)[first:]) if first else np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
