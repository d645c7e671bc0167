"""The joint index: which clips are nearest to a question, exactly in a small library, by a graph in a large one.

Up to `GRAPH_CLIPS` clips the vectors stand in the file as float32, and a question is one product of matrix and vector.
Beyond, they stand as float16 with a graph of near neighbours (graph.py) beside them. Its walk gives candidates, which
are scored from the float16 vectors. How far a walk must go is measured when the index is built, for every weighting by
itself (recall.py), and kept as an `Effort` of each; where no walk is good enough, all vectors are scored.

Either file is mapped, not read: see `JointIndex.load` for what is checked of it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError
from vfindex.storage.graph import Entry, Graph, HalfVectors, on_gpus
from vfindex.storage.index_file import IndexFile, damage
from vfindex.storage.records import FloatArray

# Up to so many clips are scanned exactly: of 1,152 dimensions, 230 MB, some 13 ms at 17 GB/s.
GRAPH_CLIPS = 50_000
# Where all vectors are scored, from so many clips on, a GPU does it where there is one. Not measured for want of one.
GPU_CLIPS = 200_000
# FAISS answers no more at a time there (its k-selection runs in shared memory).
GPU_TOP_K = 2048
# A walk that must go further than this costs more than it saves.
MAX_EFFORT = 4096
# Vectors that a walk scores for each of its candidates, and that a scan scores in the same time.
SCANNED_FOR_ONE = 20
# Vectors that are gathered and scored at a time where not all are looked at: 150 MB of 1,152 dimensions.
GATHERED = 65_536
# A file up to this size is compared with all its checksums when it is opened (some 20 ms); of the large arrays of
# others, so many blocks.
CHECKED_BYTES = 1 << 24
CHECKED_BLOCKS = 16


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """Some of a library's clips: those of `ids` (n,), or all but those."""

    ids: NDArray[np.int64]
    excluded: bool = False

    def pick(self, ids: Sequence[int]) -> list[int]:
        """Return those of `ids` that belong to the set, in their order."""
        asked = np.asarray(ids, np.int64)
        return [int(id_) for id_ in asked[np.isin(asked, self.ids, invert=self.excluded)]]


@dataclass(frozen=True, slots=True)
class Effort:
    """How far a walk goes for the first 10, and for the first 200; 0: no walk is good enough, all are scored.

    recall: recall@10 measured with it. shares: of each slice, in the lengths of the questions it was measured with.
    """

    first: int
    many: int
    recall: float
    shares: tuple[float, ...]

    def of(self, top_k: int) -> int:
        """Return how far to go for `top_k`."""
        if not self.first or top_k <= 10:
            return self.first
        return max(self.first, self.many, self.many * top_k // 200)


class JointIndex:
    """Joint vectors of clips, searched by inner product."""

    def __init__(self, ids: NDArray[np.int64], rows: NDArray[Any], dead: NDArray[np.int64] | None = None) -> None:
        """ids: (n,), increasing. rows: (n, dim) float32 or float16. dead: places whose clips are gone, increasing."""
        self._ids = ids
        self._rows = rows
        self._dead = np.zeros(0, np.int64) if dead is None else dead
        self._graph: Graph | None = None
        self._efforts: tuple[Effort, ...] = ()
        self._slices: tuple[slice, ...] = ()
        self._on_gpus: Any = None
        self.built = len(ids)  # clips that the graph was made of at once

    @property
    def dim(self) -> int:
        return int(self._rows.shape[1])

    def __len__(self) -> int:
        return len(self._ids) - len(self._dead)

    @property
    def efforts(self) -> tuple[Effort, ...]:
        """What was measured of each weighting, as `JointSpec.corners` orders them; empty without a graph."""
        return self._efforts

    @property
    def rows(self) -> NDArray[Any]:
        """The vectors by place (n, dim), those of clips that are gone too."""
        return self._rows

    @property
    def graph(self) -> Graph | None:
        return self._graph

    @property
    def slices(self) -> tuple[slice, ...]:
        """Where each modality stands in a vector; empty without a graph."""
        return self._slices

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids held, increasing."""
        return np.delete(self._ids, self._dead)

    def all_ids(self) -> NDArray[np.int64]:
        """Return the clip ids by place, those of clips that are gone too."""
        return self._ids

    def walk(self, graph: Graph, slices: Sequence[slice], efforts: Sequence[Effort]) -> None:
        """Answer by walks of the graph from now on, as far as the efforts say. slices: of the modalities."""
        self._graph, self._slices, self._efforts = graph, tuple(slices), tuple(efforts)

    # --- searching ----------------------------------------------------------------------------------------------

    def search(
        self, queries: FloatArray, top_k: int, among: ClipSet | None = None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, ids), each (n_queries, <= top_k), best first. Raises DimensionError.

        among: the only clips looked at; others cost no place among the first.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {queries.shape}")
        kept = self._kept(among)
        found = [self._nearest(query, top_k, kept) for query in np.ascontiguousarray(queries, np.float32)]
        count = min((len(places) for _, places in found), default=0)
        scores = np.array([each[:count] for each, _ in found], np.float32).reshape(len(found), count)
        places = np.array([each[:count] for _, each in found], np.int64).reshape(len(found), count)
        return scores, np.asarray(self._ids)[places]

    def effort(self, query: FloatArray, top_k: int) -> int:
        """Return how far a walk goes for this question, 0 for a scan.

        One slice alone: as far as was measured for it. Every slice at least half as much in it as at the default
        weights: as far as for these. Between them: as far as the most difficult of all.
        """
        lengths = np.array([np.linalg.norm(query[where]) for where in self._slices])
        asked = np.flatnonzero(lengths)
        if len(asked) == 1 and len(self._efforts) > 1:
            return self._efforts[1 + int(asked[0])].of(top_k)
        default = self._efforts[0]
        if not len(lengths) or np.all(2 * lengths >= np.array(default.shares) * lengths.sum()):
            return default.of(top_k)
        efforts = [each.of(top_k) for each in self._efforts]
        return 0 if 0 in efforts else max(efforts)

    def _kept(self, among: ClipSet | None) -> NDArray[np.bool_] | None:
        """Return which places may answer (n,), None for all."""
        if among is None and not len(self._dead):
            return None
        kept = np.full(len(self._ids), among is None or among.excluded)
        if among is not None and len(self._ids):
            places = np.minimum(np.searchsorted(self._ids, among.ids), len(self._ids) - 1)
            kept[places[self._ids[places] == among.ids]] = not among.excluded
        kept[self._dead] = False
        return kept

    def _nearest(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of at most `top_k`, best first."""
        count = len(self._ids) if kept is None else int(np.count_nonzero(kept))
        top_k = min(top_k, count)
        if not top_k:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        effort = self.effort(query, top_k * len(self._ids) // count) if self._graph is not None else 0
        while self._graph is not None and 0 < effort <= MAX_EFFORT and effort * SCANNED_FOR_ONE < count:
            places = self._graph.nearest(query, effort)
            at = np.arange(len(places)) if kept is None else np.flatnonzero(kept[places])
            # A walk is trusted with as many of the first as were measured with its effort, whoever may answer of them.
            if kept is None or (len(at) >= top_k and effort >= self.effort(query, int(at[top_k - 1]) + 1)):
                return self._scored(query, places[at[: rescored(top_k)]], top_k)
            effort *= 2
        return self._scan(query, top_k, kept)

    def _scan(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of the best of all that may answer, each of them scored."""
        if self._on_gpus is not None and kept is None and top_k <= GPU_TOP_K:
            scores, places = self._on_gpus.search(query[None], top_k)
            return scores[0], places[0]
        if kept is None and self._rows.dtype == np.float16:
            scores, places = HalfVectors(self._rows).best(query[None], top_k)
            return scores[0], places[0]
        if kept is None or (self._rows.dtype == np.float32 and 4 * np.count_nonzero(kept) > len(kept)):
            scores = self._rows @ query
            if kept is not None:
                scores[~kept] = -np.inf
            places = _largest(scores, top_k)
            return scores[places], places
        return self._scored(query, np.flatnonzero(kept), top_k)

    def _scored(self, query: FloatArray, places: NDArray[np.int64], top_k: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places) of the best among `places`, by their vectors."""
        best, scores = places[:0], np.zeros(0, np.float32)
        for first in range(0, len(places), GATHERED):
            part = places[first : first + GATHERED]
            rows = np.take(self._rows, part, axis=0)
            if rows.dtype == np.float16:
                [found], [at] = HalfVectors(rows).best(query[None], top_k)
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
        small = [name for name in ("ids", "dead", "ranges", "floors") if name in file]
        file.check(small)
        if thorough or size_bytes <= CHECKED_BYTES:
            file.check_all()
        else:
            file.check([name for name in ("rows", "codes", "links") if name in file], CHECKED_BLOCKS)
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
        index.built = int(file.facts["built"])
        if file.facts["entry"] is not None:
            arrays = {name: file.array(name) for name in ("codes", "ranges", "floors", "links")}
            if arrays["codes"].shape != rows.shape:
                raise ValueError("the graph is of other vectors")
            slices = [slice(int(start), int(stop)) for start, stop in file.facts["slices"]]
            efforts = [Effort(**{**each, "shares": tuple(each["shares"])}) for each in file.facts["efforts"]]
            if len(efforts) not in (1, 1 + len(slices)) or len(efforts[0].shares) != len(slices):
                raise ValueError("the efforts are not those of the slices")
            index.walk(Graph.view(arrays, Entry(*file.facts["entry"])), slices, efforts)
        elif len(ids) >= GPU_CLIPS:
            index.copy_to_gpus()
        return index

    def copy_to_gpus(self) -> None:
        """Let the GPUs answer what they can; the processor goes on with the rest, and with all where they are full."""
        self._on_gpus = on_gpus(self._rows)


def rescored(top_k: int) -> int:
    """Return how many candidates of a walk are scored again: one byte a dimension puts few of the best far behind."""
    return max(2 * top_k, top_k + 32)


def facts_of(entry: Entry | None, slices: Sequence[slice], efforts: Sequence[Effort], built: int) -> dict[str, Any]:
    """Return what a file says of its index beside the arrays. built: clips that the graph was made of at once."""
    return {
        "entry": None if entry is None else [entry.node, entry.floor],
        "slices": [[where.start, where.stop] for where in slices],
        "efforts": [asdict(effort) for effort in efforts],
        "built": built,
    }


def _largest(scores: FloatArray, top_k: int) -> NDArray[np.int64]:
    """Return where the `top_k` largest scores stand, the largest first; ties in order of place."""
    first = max(0, len(scores) - top_k)
    chosen = np.sort(np.argpartition(scores, first)[first:]) if first else np.arange(len(scores))
    return chosen[np.argsort(-scores[chosen], kind="stable")]
