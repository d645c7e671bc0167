"""A graph of near neighbours over vectors of one byte a dimension, by FAISS. The only file that imports faiss, and not
before a library is large enough for a graph.

HNSW (Malkov and Yashunin 2016, arXiv 1603.09320) by inner product; the vectors are scaled to 256 steps a dimension.
What it finds is scored again from the vectors themselves, see vectors.py. FAISS is given arrays, never a file of its
own form: they stay mapped, nothing is read that a search does not touch, and what steers its memory is checked first.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

# Neighbours of a node, twice as many on the ground floor; candidates looked at for each new node. Measured in
# docs/decisions.md.
LINKS = 32
CANDIDATES_TO_LINK = 100
# Rows from which the range of every dimension is learned.
TRAINING_ROWS = 32_768
# Links looked through at a time when they are checked: 4 MB, which the processor's cache holds.
_CHECKED_LINKS = 1 << 20
_ARRAYS = {"codes": "|u1", "ranges": "<f4", "floors": "<i4", "links": "<i4"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Where a search of a graph begins: a node, and its highest floor."""

    node: int
    floor: int


class Graph:
    """Vectors by their places 0..n-1, found by inner product, nearly always the best."""

    def __init__(self, index: faiss.IndexHNSWSQ, held: tuple[NDArray[Any], ...] = ()) -> None:
        """held: the arrays that `index` looks into, which must live as long."""
        self._index: Any = index
        self._held = held

    @classmethod
    def trained(cls, sample: FloatArray) -> Graph:
        """Return an empty graph for vectors like those of the sample (n, dim)."""
        index: Any = _empty(sample.shape[1])
        index.hnsw.efConstruction = CANDIDATES_TO_LINK
        index.train(np.ascontiguousarray(sample, np.float32))
        return cls(index)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def add(self, rows: FloatArray) -> None:
        """Add vectors (n, dim) at the next places. Only for a graph that was made, or thawed, here."""
        self._index.add(np.ascontiguousarray(rows, np.float32))

    def nearest(self, query: FloatArray, effort: int) -> NDArray[np.int64]:
        """Return the places of the `effort` best that a walk with so many candidates finds, best first."""
        import faiss

        parameters: Any = faiss.SearchParametersHNSW(efSearch=effort)  # type: ignore[attr-defined]  # the stub lacks it
        with _one_thread():
            _, places = self._index.search(query[None], min(effort, len(self)), params=parameters)
        found: NDArray[np.int64] = places[0]
        return found[found >= 0]

    def arrays(self) -> Iterable[tuple[str, str, NDArray[Any]]]:
        """Yield (name, dtype, array) of what `view` needs beside the entry."""
        import faiss

        storage: Any = faiss.downcast_index(self._index.storage)
        hnsw = self._index.hnsw
        found: Mapping[str, Any] = {
            "codes": _array(storage.codes).reshape(len(self), -1),
            "ranges": faiss.vector_to_array(storage.sq.trained),
            "floors": faiss.vector_to_array(hnsw.levels),
            "links": _array(hnsw.neighbors),
        }
        for name, dtype in _ARRAYS.items():
            yield name, dtype, found[name]

    @property
    def entry(self) -> Entry:
        return Entry(int(self._index.hnsw.entry_point), int(self._index.hnsw.max_level))

    @classmethod
    def view(cls, arrays: Mapping[str, NDArray[Any]], entry: Entry) -> Graph:
        """Return the graph of `arrays` and `entry`, which stays where the arrays are.

        Raises ValueError if they are no graph: a link that leads nowhere would lead FAISS out of its memory.
        """
        import faiss

        codes, ranges, floors, links = (arrays[name] for name in _ARRAYS)
        index: Any = _empty(codes.shape[1])
        storage: Any = faiss.downcast_index(index.storage)
        begins = _begins(faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level), floors)
        if len(codes) != len(floors) or ranges.shape != (2 * codes.shape[1],) or int(begins[-1]) != len(links):
            raise ValueError("the arrays of the graph do not fit together")
        if not 0 <= entry.node < len(floors) or not entry.floor < floors[entry.node] <= entry.floor + 1:
            raise ValueError("the graph's entry is not on its highest floor")
        _check_links(faiss.vector_to_array(index.hnsw.cum_nneighbor_per_level), begins, floors, links)
        for vector, data in ((storage.codes, codes.reshape(-1)), (index.hnsw.neighbors, links)):
            _lend(vector, data)
        faiss.copy_array_to_vector(np.ascontiguousarray(ranges), storage.sq.trained)
        faiss.copy_array_to_vector(np.ascontiguousarray(floors), index.hnsw.levels)
        faiss.copy_array_to_vector(begins, index.hnsw.offsets)
        index.hnsw.entry_point, index.hnsw.max_level = entry.node, entry.floor
        index.ntotal = storage.ntotal = len(codes)
        index.is_trained = storage.is_trained = True
        return cls(index, (codes, links))

    def thawed(self) -> Graph:
        """Return a copy in memory, to which vectors can be added."""
        import faiss

        index: Any = faiss.clone_index(self._index)
        index.hnsw.efConstruction = CANDIDATES_TO_LINK
        storage: Any = faiss.downcast_index(index.storage)
        for vector in (storage.codes, index.hnsw.neighbors):
            _own(vector)
        return Graph(index)


class HalfVectors:
    """Vectors of float16 in the file, scored exactly where they lie."""

    def __init__(self, rows: NDArray[np.float16]) -> None:
        """rows: (n, dim)."""
        self._rows = rows

    def best(self, queries: FloatArray, top_k: int) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places), each (n_queries, <= top_k), best first."""
        import faiss

        count, dim = self._rows.shape
        half = faiss.ScalarQuantizer.QT_fp16
        index: Any = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
        data = np.ascontiguousarray(self._rows).view(np.uint8).reshape(-1)
        _lend(index.codes, data)
        index.ntotal, index.is_trained = count, True
        with _one_thread() if len(queries) == 1 else nullcontext():
            scores, places = index.search(np.ascontiguousarray(queries, np.float32), min(top_k, count))
        return scores, places


def on_gpus(rows: FloatArray) -> Any:
    """Return an index of vectors (n, dim) on all GPUs, or None where there is none or they are full."""
    import faiss

    if not faiss.get_num_gpus():
        return None
    index: Any = faiss.IndexFlatIP(rows.shape[1])
    index.add(np.ascontiguousarray(rows, np.float32))
    try:
        return faiss.index_cpu_to_all_gpus(index)
    except RuntimeError as exc:
        logger.warning("the joint index stays on the processor: it could not be copied to the GPU (%s)", exc)
        return None


@contextmanager
def _one_thread() -> Iterator[None]:
    """Let FAISS work in this thread alone: it divides questions, and for a single one its threads wait in a loop."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _empty(dim: int) -> faiss.IndexHNSWSQ:
    import faiss

    kind: Any = faiss.ScalarQuantizer.QT_8bit
    return faiss.IndexHNSWSQ(dim, kind, LINKS, faiss.METRIC_INNER_PRODUCT)


def _begins(links_below: NDArray[np.int32], floors: NDArray[np.int32]) -> NDArray[np.uint64]:
    """Return where each node's links begin, and where the last end. Raises ValueError for floors that cannot be."""
    if not len(floors) or int(floors.min()) < 1 or int(floors.max()) >= len(links_below):
        raise ValueError("the graph's floors cannot be")
    begins = np.zeros(len(floors) + 1, np.uint64)
    np.cumsum(links_below.astype(np.uint64)[floors], out=begins[1:])
    return begins


def _check_links(
    links_below: NDArray[np.int32], begins: NDArray[np.uint64], floors: NDArray[np.int32], links: NDArray[np.int32]
) -> None:
    """Raise ValueError unless every link leads to a node, and on upper floors to one that stands as high."""
    for first in range(0, len(links), _CHECKED_LINKS):
        part = links[first : first + _CHECKED_LINKS]
        if int(part.min()) < -1 or int(part.max()) >= len(floors):
            raise ValueError("a link of the graph leads nowhere")
    for floor in range(1, int(floors.max())):
        nodes = np.flatnonzero(floors > floor)
        start = begins[nodes].astype(np.int64) + int(links_below[floor])
        width = int(links_below[floor + 1] - links_below[floor])
        led = links[start[:, None] + np.arange(width)]
        if int(floors[led[led >= 0]].min(initial=floor + 1)) <= floor:
            raise ValueError("a link of the graph leads to a lower floor")


def _array(vector: Any) -> NDArray[Any]:
    """Return what one of FAISS's vectors holds, not copied."""
    import faiss

    found: NDArray[Any] = faiss.rev_swig_ptr(vector.data(), vector.size())
    return found


def _lend(vector: Any, data: NDArray[Any]) -> None:
    """Let one of FAISS's vectors look into an array that somebody keeps."""
    import faiss

    vector.is_owned = False
    vector.view_data = vector.c_ptr = faiss.swig_ptr(data)
    vector.view_size = vector.c_size = data.size


def _own(vector: Any) -> None:
    """Let one of FAISS's vectors that looks into an array have a copy instead."""
    if vector.is_owned:
        return
    data = _array(vector)
    vector.is_owned = True
    vector.resize(data.size)
    _array(vector)[:] = data
