"""The tail: clips that the joint index lacks or has older vectors of, scanned exactly for every question."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import held_in
from vfindex.storage.index.flat import exact_scan, joint_batches
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray, Modality, Setup

# Joint vectors kept from one question to the next, 4.6 KB each with three modalities of 384 dimensions; the writer
# publishes before a tail is that long.
MAX_KEPT = 60_000


@dataclass(frozen=True, slots=True, eq=False)
class Tail:
    """Searchable clips that an index up to `watermark` lacks, or has older vectors of.

    ids: (n,), increasing. joint: (n, spec.dim), None where there are too many to keep. outdated: (m,), increasing, the
    clips whose rows in the index do not count.
    """

    snapshot: Snapshot
    spec: JointSpec
    watermark: int
    ids: NDArray[np.int64]
    joint: FloatArray | None
    outdated: NDArray[np.int64]

    @classmethod
    def of(cls, snapshot: Snapshot, spec: JointSpec, watermark: int) -> Tail:
        """Return the tail of a snapshot; its vectors are kept until somebody commits. watermark: 0 for no index."""
        kept: dict[str, Tail] = snapshot.remembered("tail", dict)
        last = kept.get("last")
        if last is not None and last.watermark == watermark and _fuse_alike(last.spec, spec):
            return replace(last, snapshot=snapshot, spec=spec)
        ids = snapshot.unindexed(watermark)
        joint = _fused(snapshot, spec, ids) if len(ids) <= MAX_KEPT else None
        kept["last"] = cls(snapshot, spec, watermark, ids, joint, snapshot.outdated(watermark))
        return kept["last"]

    def best(self, query: FloatArray, among: NDArray[np.int64] | None) -> list[int]:
        """Return the ids of the clips, best first; query: (spec.dim,). among: the only ids looked at, increasing."""
        asked = slice(None) if among is None else held_in(self.ids, among)
        ids = self.ids[asked]
        if self.joint is None:
            return [id_ for id_, _ in exact_scan(self.snapshot, self.spec, query, ids)]
        scores = self.joint[asked] @ query
        return [int(id_) for id_ in ids[np.lexsort((ids, -scores))]]


def _fused(snapshot: Snapshot, spec: JointSpec, ids: NDArray[np.int64]) -> FloatArray:
    none = np.zeros((0, spec.dim), np.float32)
    return np.concatenate([none, *(rows for _, rows in joint_batches(snapshot, spec, ids))])


def _fuse_alike(first: JointSpec, second: JointSpec) -> bool:
    """Return whether two specs make the same joint vectors of clips: a question's own weights do not matter."""
    if first.fusion != second.fusion or first.heads is not second.heads or first.order != second.order:
        return False
    pairs = [(part, second.parts[m]) for m, part in first.parts.items()]
    same = all(one.mean is other.mean and one.scale == other.scale for one, other in pairs)
    return same and (first.weights_are_open or all(one.weight == other.weight for one, other in pairs))


@dataclass(frozen=True, slots=True)
class View:
    """What one search looks at. index: the clips up to `watermark`; None: all clips are scanned exactly.

    watermark: the last clip of the current generation, 0 before the first. is_whole: the index is there, or none is
    wanted. ranks: the weight of each modality's list where ranks are fused, None where scores are.
    """

    snapshot: Snapshot
    spec: JointSpec
    setup: Setup
    index: JointIndex | None
    watermark: int
    is_whole: bool
    ranks: Mapping[Modality, float] | None = None

    @property
    def tail(self) -> Tail:
        """The clips that the index does not answer for."""
        return Tail.of(self.snapshot, self.spec, 0 if self.index is None else self.watermark)
