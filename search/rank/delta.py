"""What one search reads: the joint index and the delta, the clips that the index lacks or has older vectors of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from threading import Lock

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import in_sorted
from vfindex.storage.index.flat import exact_scan, joint_batches
from vfindex.storage.index.reader import VectorIndex
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray, Setup
from vfindex.storage.user.questions import QuestionKeeper

# Joint vectors cached between searches, 4.6 KB each with three modalities of 384 dimensions. The writer publishes an
# index before the delta grows this large.
MAX_CACHED = 60_000


@dataclass(frozen=True, slots=True, eq=False)
class Delta:
    """Searchable clips outside an index up to clip id `watermark`; every search scans them exactly.

    ids: (n,), increasing. joint: (n, spec.dim), None if there are too many to cache. outdated: (m,), increasing, clips
    whose rows in the index are older than library.db.
    """

    snapshot: Snapshot
    spec: JointSpec
    watermark: int
    ids: NDArray[np.int64]
    joint: FloatArray | None
    outdated: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot, spec: JointSpec, watermark: int) -> Delta:
        """Return the delta of a snapshot, cached until the next commit. watermark: 0 without an index."""
        latest: _Latest = snapshot.remembered("delta", _Latest)
        with latest.lock:  # one copy of the vectors, however many threads search
            last = latest.delta
            if last is not None and last.watermark == watermark and _fuse_alike(last.spec, spec):
                return replace(last, snapshot=snapshot, spec=spec)
            ids = snapshot.unindexed(watermark)
            joint = _fused(snapshot, spec, ids) if len(ids) <= MAX_CACHED else None
            latest.delta = cls(snapshot, spec, watermark, ids, joint, snapshot.outdated(watermark))
            return latest.delta

    def nearest(self, query: FloatArray, prefilter: NDArray[np.int64] | None) -> list[int]:
        """Return all ids, nearest first. query: (spec.dim,). prefilter: only these ids, increasing; None for all."""
        chosen = slice(None) if prefilter is None else in_sorted(self.ids, prefilter)
        ids = self.ids[chosen]
        if self.joint is None:
            return [id_ for id_, _ in exact_scan(self.snapshot, self.spec, query, ids)]
        scores = self.joint[chosen] @ query
        nearest: list[int] = ids[np.lexsort((ids, -scores))].tolist()
        return nearest


@dataclass(slots=True)
class _Latest:
    """The delta of the latest search of a state."""

    delta: Delta | None = None
    lock: Lock = field(default_factory=Lock)


def _fused(snapshot: Snapshot, spec: JointSpec, ids: NDArray[np.int64]) -> FloatArray:
    none = np.zeros((0, spec.dim), np.float32)
    return np.concatenate([none, *(rows for _, rows in joint_batches(snapshot, spec, ids))])


def _fuse_alike(first: JointSpec, second: JointSpec) -> bool:
    """Return whether two specs give the same joint vectors; the weights of a query do not matter."""
    if first.fusion != second.fusion or first.heads is not second.heads or first.order != second.order:
        return False
    pairs = [(part, second.parts[m]) for m, part in first.parts.items()]
    same = all(one.mean is other.mean and one.scale == other.scale for one, other in pairs)
    return same and (first.weights_are_open or all(one.weight == other.weight for one, other in pairs))


@dataclass(frozen=True, slots=True)
class View:
    """What one search reads. index: the clips up to `watermark`; None: all clips are scanned.

    watermark: the last clip id of the current generation, 0 before the first. rank_weights: the weight of each
    modality's list if ranks are fused, None if scores are. number: of the library among those that are searched.
    only_named: modalities that count for the terms that name them, and for no others. questions: keeps what the index
    is asked; None: nothing is kept.
    """

    snapshot: Snapshot
    spec: JointSpec
    setup: Setup
    index: VectorIndex | None
    watermark: int
    rank_weights: Mapping[ModalityName, float] | None = None
    number: int = 0
    only_named: frozenset[ModalityName] = frozenset()
    questions: QuestionKeeper | None = None

    @property
    def unused(self) -> frozenset[ModalityName]:
        """The modalities that do not count for terms without a prefix."""
        return self.only_named.union(m for m, part in self.spec.parts.items() if not part.weight)

    @property
    def delta(self) -> Delta:
        """The clips outside the index."""
        return Delta.of(self.snapshot, self.spec, 0 if self.index is None else self.watermark)
