"""The joint index: FAISS behind five verbs. The only file that imports faiss.

Inner product over float32 joint vectors, exact (IndexFlatIP under ids that are the clips' own).
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import DimensionError, LibraryDamaged
from vfindex.storage.records import FloatArray


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

    @classmethod
    def build(cls, dim: int) -> JointIndex:
        """Return an empty index for vectors of `dim` dimensions."""
        return cls(faiss.IndexIDMap(faiss.IndexFlatIP(dim)))

    @property
    def dim(self) -> int:
        return int(self._index.d)

    def __len__(self) -> int:
        return int(self._index.ntotal)

    def ids(self) -> NDArray[np.int64]:
        """Return the clip ids held, in the order added."""
        return np.asarray(faiss.vector_to_array(self._index.id_map), dtype=np.int64)

    def add(self, ids: NDArray[np.int64], vectors: FloatArray) -> None:
        """Add vectors (n, dim) float32 under ids (n,) int64. Raises DimensionError."""
        if vectors.ndim != 2 or vectors.shape[1] != self.dim or len(ids) != len(vectors):
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {vectors.shape}")
        self._index.add_with_ids(np.ascontiguousarray(vectors, np.float32), np.ascontiguousarray(ids, np.int64))

    def search(
        self, queries: FloatArray, top_k: int, among: ClipSet | None = None
    ) -> tuple[FloatArray, NDArray[np.int64]]:
        """Return (scores, ids), each (n_queries, <= top_k), best first. Raises DimensionError.

        among: the only clips looked at; others cost no place among the first.
        """
        if queries.ndim != 2 or queries.shape[1] != self.dim:
            raise DimensionError(f"the index holds vectors of {self.dim} dimensions, not {queries.shape}")
        parameters: Any = None
        if among is not None:
            selector = faiss.IDSelectorBatch(np.ascontiguousarray(among.ids, np.int64))
            negated = faiss.IDSelectorNot(selector) if among.excluded else selector
            parameters = faiss.SearchParameters(sel=negated)  # type: ignore[call-arg]  # the stub lacks it
        rows = np.ascontiguousarray(queries, np.float32)
        scores, ids = self._index.search(rows, min(top_k, max(len(self), 1)), params=parameters)
        found = ids.min(axis=0, initial=0) >= 0
        return scores[:, found], ids[:, found]

    def save(self, path: Path) -> tuple[int, str]:
        """Write the index to `path`, on the disk when this returns; return (bytes, sha256)."""
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
        return cls(faiss.read_index(os.fspath(path)))


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
