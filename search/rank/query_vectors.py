"""What clips are compared with: one vector a modality, of the words and the pictures of one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfindex.search.query.ast import Part
from vfindex.search.rank.delta import View
from vfindex.storage.errors import QueryError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray, Modality

# Clips from all over the library by which the spread of a picture's similarities is measured, and how many the prior,
# the spread that words have, counts among them.
SAMPLE_CLIPS, PRIOR_CLIPS = 512, 20


@dataclass(frozen=True, slots=True)
class Asked:
    """What clips are compared with. vectors: modality -> (dim,); modalities that nothing asks are left out.

    strength: modality -> spread of unrelated clips' centred similarities, that of one part of weight 1 being 1.
    """

    vectors: Mapping[Modality, FloatArray]
    strength: Mapping[Modality, float]


def combined(parts: Sequence[Part], vectors: Sequence[Mapping[Modality, FloatArray]], spec: JointSpec) -> Asked:
    """Return one query vector a modality, whose centred similarity is the weighted sum of those of the parts.

    vectors: one mapping a part. Parts are taken for independent: their spreads add as squares.
    """
    result: dict[Modality, FloatArray] = {}
    strength: dict[Modality, float] = {}
    for modality, modality_spec in spec.parts.items():
        nu = modality_spec.query_mean
        asked = [
            (part.weight, each[modality])
            for part, each in zip(parts, vectors, strict=True)
            if modality in part.modalities and modality in each
        ]
        strength[modality] = math.sqrt(sum(weight**2 for weight, _ in asked))
        if len(asked) == 1 and asked[0][0] == 1.0:
            result[modality] = asked[0][1]
        elif asked:
            total = np.sum([weight * (vector - nu) for weight, vector in asked], axis=0)
            result[modality] = np.asarray(nu + total, np.float32)
    return Asked(result, strength)


def with_pictures(asked: Asked, pictures: Sequence[FloatArray], view: View) -> Asked:
    """Return a question that asks for pictures too, all of them together as much as for its words.

    A picture is not centred, so that clips rank by plain cosine: without the clips' mean, frames found their own video
    less often (docs/decisions/image-queries.md). Pictures resemble one another more than words resemble pictures: their
    similarities are brought to a spread of 1, which those of words have.
    """
    if not pictures:
        return asked
    part = view.spec.parts["visual"]
    if part.weight == 0:
        raise QueryError("pictures are compared by what is shown, whose weight is 0; leave visual above 0")
    sample = _sample(view)
    total = np.mean([vector / _spread(sample @ vector) for vector in pictures], axis=0)
    words = asked.vectors.get("visual", part.query_mean)
    strength = math.hypot(asked.strength.get("visual", 0.0), 1.0)
    return replace(
        asked,
        vectors={**asked.vectors, "visual": np.asarray(words + total, np.float32)},
        strength={**asked.strength, "visual": strength},
    )


def _sample(view: View) -> FloatArray:
    """Return the centred pictures (n, dim) of clips from all over the library."""
    part, snapshot = view.spec.parts["visual"], view.snapshot
    last = view.watermark or max(snapshot.clip_ids(), default=0)
    ids = np.unique(np.linspace(min(1, last), last, SAMPLE_CLIPS).astype(np.int64)).tolist()
    rows = [batch["visual"] for _, batch in snapshot.batches(ids, {"visual": part.dim})]
    stacked = np.concatenate(rows)
    return part.centre(stacked[np.any(stacked, axis=1)])


def _spread(similarities: FloatArray) -> float:
    squares = float(np.sum(np.square(similarities, dtype=np.float64)))
    return math.sqrt((squares + PRIOR_CLIPS) / (len(similarities) + PRIOR_CLIPS))
