"""Exact scans: of clips in library.db, and by FAISS of float16 vectors in a mapped file or on GPUs."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.joint.vector import JointSpec, fuse
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    from numpy.typing import NDArray

logger = logging.getLogger(__name__)
# Vectors per matrix product: as float32 of 1,152 dimensions, 75 MB.
_TOGETHER = 1 << 14


class HalfVectors:
    """float16 vectors, scored exactly without a float32 copy."""

    def __init__(self, rows: NDArray[np.float16]) -> None:
        """rows: (n, dim)."""
        self._rows = rows

    def best(
        self, query: FloatArray, top_k: int, kept: NDArray[np.bool_] | None = None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, places), each (<= top_k,), best first. query: (dim,). kept: which may answer (n,), or all."""
        import faiss

        count, dim = self._rows.shape
        top_k = min(top_k, count if kept is None else int(np.count_nonzero(kept)))
        if not top_k:
            return np.zeros(0, np.float32), np.zeros(0, np.int64)
        half = faiss.ScalarQuantizer.QT_fp16
        index: Any = faiss.IndexScalarQuantizer(dim, half, faiss.METRIC_INNER_PRODUCT)
        _lend(index.codes, np.ascontiguousarray(self._rows).view(np.uint8).reshape(-1))
        index.ntotal, index.is_trained = count, True
        parameters: Any = None
        if kept is not None:
            selector: Any = faiss.IDSelectorBitmap
            of: Any = faiss.SearchParameters
            parameters = of(sel=selector(np.packbits(kept, bitorder="little")))
        with one_thread():
            asked = np.ascontiguousarray(query[None], np.float32)
            scores, places = index.search(asked, top_k, params=parameters)
        return scores[0], places[0]

    def best_scores(self, queries: FloatArray, top_k: int) -> FloatArray:
        """Return the best scores (n_queries, <= top_k) of each query, best first. queries: (n_queries, dim).

        One matrix product for all queries takes a fraction of the time of single scans.
        """
        import faiss

        asked = np.ascontiguousarray(queries, np.float32)
        best = np.zeros((len(asked), 0), np.float32)
        for first in range(0, len(self._rows), _TOGETHER):
            rows = np.asarray(self._rows[first : first + _TOGETHER], np.float32)
            found = faiss.knn(asked, rows, min(top_k, len(rows)), faiss.METRIC_INNER_PRODUCT)[0]
            best = -np.sort(-np.concatenate([best, found], axis=1), axis=1)[:, :top_k]
        return best


def on_gpus(rows: FloatArray) -> Any:
    """Return an index of vectors (n, dim) on all GPUs, or None if there are none or they are full."""
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
def one_thread() -> Iterator[None]:
    """Run FAISS in this thread alone: it parallelizes over queries, and for a single one its threads spin."""
    import faiss

    before = faiss.omp_get_max_threads()
    faiss.omp_set_num_threads(1)
    try:
        yield
    finally:
        faiss.omp_set_num_threads(before)


def _lend(vector: Any, data: NDArray[Any]) -> None:
    """Make a FAISS vector point into an array, which the caller must keep alive."""
    import faiss

    vector.is_owned = False
    vector.view_data = vector.c_ptr = faiss.swig_ptr(data)
    vector.view_size = vector.c_size = data.size


def joint_batches(
    snapshot: Snapshot, spec: JointSpec, ids: Sequence[int] | NDArray[np.int64]
) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
    """Yield (ids (n,), joint vectors (n, spec.dim)) of the clips `ids`, fused from SQLite, in bounded batches."""
    dims = {m: part.dim for m, part in spec.parts.items()}
    for part, rows in snapshot.batches(ids, dims):
        yield part, fuse(rows, spec)


def exact_scan(
    snapshot: Snapshot, spec: JointSpec, query: FloatArray, ids: Sequence[int] | NDArray[np.int64]
) -> list[tuple[int, float]]:
    """Return (clip id, score) of the clips `ids`, best first, by fusing them from SQLite."""
    scores = [rows @ query for _, rows in joint_batches(snapshot, spec, ids)]
    each = np.concatenate(scores) if scores else np.zeros(0, np.float32)
    clip_ids = np.asarray(ids, np.int64)
    order = np.lexsort((clip_ids, -each))
    return list(zip(clip_ids[order].tolist(), each[order].tolist(), strict=True))
