"""The joint index: FAISS behind five verbs. The only file that imports faiss, and not before it is needed: a run that
finds nothing new, and a reading of settings, do without.

Inner product over float32 joint vectors, exact (IndexFlatIP under ids that are the clips' own).
"""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError, LibraryDamaged
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    import faiss

logger = logging.getLogger(__name__)

# From so many clips on an index is copied to the GPUs, where there are any: fewer are scanned before a device is open.
# Not measured for want of a GPU: 200,000 joint vectors are 0.9 GB, which the processor reads in some 0.1 s.
GPU_CLIPS = 200_000
# FAISS answers no more at a time there (its k-selection runs in shared memory).
GPU_TOP_K = 2048


@dataclass(frozen=True, slots=True, eq=False)
class ClipSet:
    """Some of a library's clips: those of `ids` (n,), or all but those."""

    ids: NDArray[np.int64]
    excluded: bool = False

    def pick(self, ids: Sequence[int]) -> list[int]:
        """Return those of `ids` that belong to the set, in their order."""
        asked = np.asarray(ids, np.int64)
        return [int(id_) for id_ in asked[np.isin(asked, self.ids, invert=self.excluded)]]


class JointIndex:
    """Joint vectors of clips, searched by inner product."""

    def __init__(self, index: faiss.Index) -> None:
        self._index: Any = index
        self._on_gpus: Any = None  # a copy of the vectors alone, rows in the order of `ids`

    @classmethod
    def build(cls, dim: int) -> JointIndex:
        """Return an empty index for vectors of `dim` dimensions."""
        import faiss

        return cls(faiss.IndexIDMap(faiss.IndexFlatIP(dim)))

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids held, in the order added."""
        import faiss

        return np.asarray(faiss.vector_to_array(self._index.id_map), dtype=np.int64)

    def add(self, ids: NDArray[np.int64], vectors: FloatArray) -> None:
        """Add vectors (n, dim) float32 under ids (n,) int64. Raises DimensionError."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or len(ids) != len(vectors):
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {vectors.shape}")
        self._on_gpus = None
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))

    def search(
        self, queries: FloatArray, top_k: int, among: ClipSet | None = None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, ids), each (n_queries, <= top_k), best first. Raises DimensionError.

        among: the only clips looked at; others cost no place among the first.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {queries.shape}")
        rows = np.ascontiguousarray(queries, np.float32)
        wanted = min(top_k, max(len(self), 1))
        if self._on_gpus is not None and among is None and wanted <= GPU_TOP_K:
            scores, places = self._on_gpus.search(rows, wanted)
            return scores, self.ids()[places]
        parameters: Any = None
        if among is not None:
            import faiss

            selector = faiss.IDSelectorBatch(np.ascontiguousarray(among.ids, np.int64))
            negated = faiss.IDSelectorNot(selector) if among.excluded else selector
            parameters = faiss.SearchParameters(sel=negated)  # type: ignore[call-arg]  # the stub lacks it
        scores, ids = self._index.search(rows, wanted, params=parameters)
        found = ids.min(axis=0, initial=0) >= 0
        return scores[:, found], ids[:, found]

    def save(self, path: Path) -> tuple[int, str]:
        """Write the index to `path`, on the disk when this returns; return (bytes, sha256)."""
        import faiss

        faiss.write_index(self._index, os.fspath(path))
        with path.open("rb+") as file:
            os.fsync(file.fileno())
        sync_folder(path.parent)
        return path.stat().st_size, file_sha256(path)

    @classmethod
    def load(cls, path: Path, *, size_bytes: int, sha256: str) -> JointIndex:
        """Return the index in `path`, checked first: FAISS trusts its files with its memory.

        Raises FileNotFoundError, or LibraryDamaged if the file is not the one that was written.
        """
        if path.stat().st_size != size_bytes or file_sha256(path) != sha256:
            raise LibraryDamaged(f"the joint index {path.name} is damaged; the next `vfindex ingest` builds it again")
        import faiss

        index = cls(faiss.read_index(os.fspath(path)))
        if len(index) >= GPU_CLIPS and faiss.get_num_gpus() > 0:
            index.copy_to_gpus()
        return index

    def copy_to_gpus(self) -> None:
        """Let the GPUs answer what they can; the processor goes on with the rest, and with all where they are full."""
        import faiss

        try:
            self._on_gpus = faiss.index_cpu_to_all_gpus(faiss.downcast_index(self._index.index))
        except RuntimeError as exc:
            logger.warning("the joint index stays on the processor: it could not be copied to the GPU (%s)", exc)


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
