"""Exact scans: of clips in library.db, and by FAISS of float16 vectors in a mapped file or in shards on devices.

The code for GPUs has not run on one, for want of it: its tests have shards on the processor.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.joint.codecs import as_float32
from vfindex.storage.joint.vector import JointSpec, fuse
from vfindex.storage.records import FloatArray

# Vectors per matrix product: as float32 of 1,152 dimensions, 75 MB.
_TOGETHER = 1 << 14
# Memory of a GPU that FAISS computes in, and what is left to other programs.
GPU_SCRATCH_BYTES, GPU_SPARE_BYTES = 256 << 20, 1 << 30


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
        index = half_flat(dim)
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
        found = places[0] >= 0  # fewer than `top_k` where vectors are damaged and have no score
        return scores[0][found], places[0][found]

    def best_of(self, asked: Sequence[FloatArray], top_k: int) -> list[tuple[FloatArray, NDArray[np.int64]]]:
        """Return (scores, places), each (n_queries, top_k), best first, for groups of queries (n_queries, dim).

        Missing ones have the place -1. The vectors are read once, and of a group only the dimensions that it uses are
        scored: one matrix product takes a fraction of the time of single scans.
        """
        import faiss

        spans = [used_span(each) for each in asked]
        groups = [np.ascontiguousarray(each[:, span], np.float32) for each, span in zip(asked, spans, strict=True)]
        heaps: list[Any] = [faiss.ResultHeap(len(each), top_k, keep_max=True) for each in groups]
        for first in range(0, len(self._rows), _TOGETHER):
            rows = as_float32(self._rows[first : first + _TOGETHER])
            for queries, span, heap in zip(groups, spans, heaps, strict=True):
                part = np.ascontiguousarray(rows[:, span])
                scores, places = faiss.knn(queries, part, min(top_k, len(part)), faiss.METRIC_INNER_PRODUCT)
                heap.add_result(scores, places + first)
        for heap in heaps:
            heap.finalize()
        return [(heap.D, heap.I) for heap in heaps]


def used_span(queries: FloatArray) -> slice:
    """Return the shortest slice of the dimensions that holds all that queries (n, dim) use; all if they use none."""
    used = np.flatnonzero(np.any(queries, axis=0))
    return slice(int(used[0]), int(used[-1]) + 1) if len(used) else slice(queries.shape[1])


def half_flat(dim: int) -> Any:
    """Return an empty index of float16 vectors on the processor, scanned exactly."""
    import faiss

    return faiss.IndexScalarQuantizer(dim, faiss.ScalarQuantizer.QT_fp16, faiss.METRIC_INNER_PRODUCT)


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Vectors of clips that are added at once. ids: (n,). rows: of a file, mapped. places: those of the clips (n,)."""

    ids: NDArray[np.int64]
    rows: NDArray[Any]
    places: NDArray[np.int64]


class Shards:
    """float16 vectors divided among devices, which scan them exactly, at the same time. For any number of threads.

    A shard is a list of blocks, so that a copy in float32 is made of one block at a time. Scores are rounded as the
    device does, so the best are candidates for a re-ranking.
    """

    def __init__(
        self,
        dim: int,
        blocks: Sequence[Block],
        devices: Sequence[Callable[[int], Any]],
        check: Callable[[], None] = lambda: None,
    ) -> None:
        """devices: each makes an empty index of `dim` dimensions. check: called for each block; may raise.

        Raises RuntimeError, MemoryError.
        """
        import faiss

        self._lock = Lock()  # FAISS's memory of a GPU is used by one thread at a time
        self._ids = np.concatenate([each.ids for each in blocks])
        shards: Any = faiss.IndexShards  # its arguments: width; a thread a shard; rows are counted on
        self._index = shards(dim, True, True)
        for number in range(len(devices)):
            shard = shards(dim, False, True)
            for block in blocks[number * len(blocks) // len(devices) : (number + 1) * len(blocks) // len(devices)]:
                check()
                part = devices[number](dim)
                part.add(as_float32(block.rows[block.places]))
                shard.add_shard(part)
            if shard.ntotal:
                self._index.add_shard(shard)

    def nearest(self, query: FloatArray, top_k: int) -> NDArray[np.int64]:
        """Return the ids (<= top_k,) of the best clips, best first. query: (dim,). Raises RuntimeError."""
        with self._lock:
            _, places = self._index.search(np.ascontiguousarray(query[None], np.float32), top_k)
        found: NDArray[np.int64] = self._ids[places[0][places[0] >= 0]]
        return found


def gpu_devices(size_bytes: int) -> list[Callable[[int], Any]]:
    """Return the GPUs as `Shards` takes them, none where there are none. size_bytes: of the vectors of all.

    Raises RuntimeError if a GPU lacks the memory for its share, or does not tell.
    """
    import faiss

    count = faiss.get_num_gpus()
    for device in range(count):
        free, wanted = _free_bytes(device), size_bytes // count + GPU_SCRATCH_BYTES + GPU_SPARE_BYTES
        if free < wanted:
            raise RuntimeError(f"GPU {device} has {free / 1e9:.1f} GB free, and it takes {wanted / 1e9:.1f} GB")
    return [partial(_gpu_flat, device, _resources()) for device in range(count)]


def _resources() -> Any:
    import faiss

    resources = faiss.StandardGpuResources()
    resources.setTempMemory(GPU_SCRATCH_BYTES)
    return resources


def _gpu_flat(device: int, resources: Any, dim: int) -> Any:
    import faiss

    config = faiss.GpuIndexFlatConfig()
    config.device, config.useFloat16 = device, True
    return faiss.GpuIndexFlatIP(resources, dim, config)


def _free_bytes(device: int) -> int:
    """Return the free memory of a GPU, by the CUDA runtime that FAISS has loaded. Raises RuntimeError."""
    try:
        maps = Path("/proc/self/maps").read_text(encoding="utf-8", errors="surrogateescape")
        runtime = ctypes.CDLL(next(line.split(maxsplit=5)[5] for line in maps.splitlines() if "libcudart" in line))
    except (OSError, StopIteration) as exc:
        raise RuntimeError(f"the CUDA runtime was not found, to ask GPU {device} for its memory") from exc
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    fault = runtime.cudaSetDevice(device) or runtime.cudaMemGetInfo(ctypes.byref(free), ctypes.byref(total))
    if fault:
        raise RuntimeError(f"GPU {device} does not tell its free memory (CUDA error {fault})")
    return free.value


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
