"""The vectors in which clips are compared with each other, and the nearest clips of a library in them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.search.rank.delta import View
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.ids import in_sorted
from vfindex.storage.joint.vector import JointSpec, fuse
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

Ids = NDArray[np.int64]
# Candidates of the index for each neighbour: it ranks by inner products of vectors of other lengths than 1.
OVERFETCH = 4


def comparison_vectors(
    rows: Mapping[ModalityName, FloatArray], spec: JointSpec, only: ModalityName | None
) -> FloatArray:
    """Return (n_clips, dim) float32 rows of length 1, zero where a clip has nothing to compare.

    rows: modality -> (n_clips, dim) embeddings, zero rows where absent. only: one modality; None: the joint vector.
    The inner product of two joint rows is their cosine under the weighted late fusion of the modalities' centred
    similarities: each slice is scaled by the root of its weight, since both sides have it.
    """
    if only is not None:
        joint = np.where(np.any(rows[only], axis=1)[:, None], spec.parts[only].centre(rows[only]), np.float32(0))
    else:
        joint = fuse(rows, spec) * _roots(spec)
    lengths = np.linalg.norm(joint, axis=1, keepdims=True)
    return np.asarray(joint / np.where(lengths > 0, lengths, 1.0), np.float32)


def _roots(spec: JointSpec) -> FloatArray:
    """Return the root of the weight of each dimension (spec.dim,), 1 where weights are inside the vectors."""
    roots = np.ones(spec.dim, np.float32)
    for modality, where in spec.slices().items():
        roots[where] = np.sqrt(spec.parts[modality].weight)
    return roots


def vector_batches(
    snapshot: Snapshot, spec: JointSpec, ids: Sequence[int] | Ids, only: ModalityName | None = None
) -> Iterator[tuple[Ids, FloatArray]]:
    """Yield (ids (n,), `comparison_vectors` (n, dim)) over the clips, in bounded batches.

    Raises UsageError for a modality that the library lacks.
    """
    check_modality(spec, only)
    dims = {m: part.dim for m, part in spec.parts.items() if only in (None, m)}
    for part, rows in snapshot.batches(ids, dims):
        yield part, comparison_vectors(rows, spec, only)


def check_modality(spec: JointSpec, only: ModalityName | None) -> None:
    """Raise UsageError for a modality that a library lacks."""
    if only is not None and only not in spec.parts:
        raise UsageError(f"this library has no {only}; it has {', '.join(spec.order)}")


def videos_of(snapshot: Snapshot, ids: Sequence[int] | Ids) -> Ids:
    """Return the video of each clip (n,), -1 for one that is gone."""
    found = snapshot.videos_of([int(id_) for id_ in ids])
    return np.array([found.get(int(id_), -1) for id_ in ids], np.int64)


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Clips in memory. ids, videos: (n,). vectors: (n, dim), of length 1."""

    ids: Ids
    videos: Ids
    vectors: FloatArray

    @classmethod
    def read(cls, snapshot: Snapshot, spec: JointSpec, ids: Ids, only: ModalityName | None) -> Rows:
        """Return those of the clips that have something to compare. Raises UsageError as `vector_batches` does."""
        dim = spec.dim if only is None else spec.parts[only].dim if only in spec.parts else 0
        batches = list(vector_batches(snapshot, spec, ids, only))
        vectors = np.concatenate([np.zeros((0, dim), np.float32), *(vectors for _, vectors in batches)])
        known = np.any(vectors, axis=1)
        chosen = np.asarray(ids, np.int64)[known]
        return cls(chosen, videos_of(snapshot, chosen), vectors[known])


def nearest_clips(
    view: View, vector: FloatArray, k: int, only: ModalityName | None, among: Ids | None, without: Ids
) -> tuple[Ids, FloatArray]:
    """Return (ids, cosines) of up to k clips nearest to a comparison vector, best first, by the index and the delta.

    among, without: only these clips, and not these, increasing.
    """
    query = _query(view.spec, vector, only)
    ids: list[int] = []
    if view.index is not None:
        left_out = np.union1d(view.delta.outdated, without)
        ids += view.index.nearest(query[None], OVERFETCH * k, among, left_out)[1][0].tolist()
    later = np.array(view.delta.nearest(query, among), np.int64)
    ids += later[~in_sorted(later, without)][: OVERFETCH * k].tolist()
    found = np.array(sorted(set(ids)), np.int64)
    if not len(found):
        return found, np.zeros(0, np.float32)
    rows = np.concatenate([rows for _, rows in vector_batches(view.snapshot, view.spec, found, only)])
    cosines = rows @ vector
    best = np.lexsort((found, -cosines))[:k]
    return found[best], cosines[best]


def _query(spec: JointSpec, vector: FloatArray, only: ModalityName | None) -> FloatArray:
    """Return what ranks the index by the inner product with a comparison vector.

    Where vectors of modalities are added up, one of them alone is compared with the sum.
    """
    if only is None:
        return np.asarray(vector * _roots(spec), np.float32)
    query = np.zeros(spec.dim, np.float32)
    query[spec.slices().get(only, slice(0, len(vector)))] = vector
    return query
