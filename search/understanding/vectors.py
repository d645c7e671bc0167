"""The vectors in which clips are compared with each other: centred, of length 1, joint or of one modality."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.vector import JointSpec, fuse
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray


def comparison_vectors(rows: dict[ModalityName, FloatArray], spec: JointSpec, only: ModalityName | None) -> FloatArray:
    """Return (n_clips, dim) float32 rows of length 1, zero where a clip has nothing to compare.

    rows: modality -> (n_clips, dim) embeddings, zero rows where absent. only: one modality; None: the joint vector.
    The inner product of two joint rows is their cosine under the weighted late fusion of the modalities' centred
    similarities: each slice is scaled by the root of its weight, since both sides have it.
    """
    if only is not None:
        joint = np.where(np.any(rows[only], axis=1)[:, None], spec.parts[only].centre(rows[only]), np.float32(0))
    else:
        joint = fuse(rows, spec)
        for modality, where in spec.slices().items():
            joint[:, where] *= np.float32(np.sqrt(spec.parts[modality].weight))
    lengths = np.linalg.norm(joint, axis=1, keepdims=True)
    return np.asarray(joint / np.where(lengths > 0, lengths, 1.0), np.float32)


def vector_batches(
    snapshot: Snapshot, spec: JointSpec, ids: Sequence[int] | NDArray[np.int64], only: ModalityName | None = None
) -> Iterator[tuple[NDArray[np.int64], FloatArray]]:
    """Yield (ids (n,), `comparison_vectors` (n, dim)) over the clips, in bounded batches.

    Raises UsageError for a modality that the library lacks.
    """
    if only is not None and only not in spec.parts:
        raise UsageError(f"this library has no {only}; it has {', '.join(spec.order)}")
    dims = {m: part.dim for m, part in spec.parts.items() if only in (None, m)}
    for part, rows in snapshot.batches(ids, dims):
        yield part, comparison_vectors(rows, spec, only)
