"""What clips are compared with: one vector per modality for the words and images of one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from vfindex.search.query.ast import Part
from vfindex.search.rank.delta import View
from vfindex.storage.errors import QueryError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.modalities import ModalityName, frame_modality
from vfindex.storage.records import FloatArray

# Clips, spread over the library, that estimate the spread of an image's similarities; and how many clips the prior
# counts for, which has the spread of text queries, 1.
SAMPLE_CLIPS, PRIOR_CLIPS = 512, 20


@dataclass(frozen=True, slots=True)
class QueryVectors:
    """The query in each modality. vectors: modality -> (dim,); a modality that the query does not use is missing.

    spread: modality -> standard deviation of the centred similarities of unrelated clips, 1 for one part of weight 1.
    """

    vectors: Mapping[ModalityName, FloatArray]
    spread: Mapping[ModalityName, float]


def combine_parts(
    parts: Sequence[Part], vectors: Sequence[Mapping[ModalityName, FloatArray]], spec: JointSpec
) -> QueryVectors:
    """Return one vector per modality whose centred similarity is the weighted sum of those of the parts.

    vectors: one mapping per part. The parts are assumed independent: their variances add.
    """
    result: dict[ModalityName, FloatArray] = {}
    spread: dict[ModalityName, float] = {}
    for modality, modality_spec in spec.parts.items():
        nu = modality_spec.query_mean
        weighted = [
            (part.weight, each[modality])
            for part, each in zip(parts, vectors, strict=True)
            if modality in part.modalities and modality in each
        ]
        spread[modality] = math.sqrt(sum(weight**2 for weight, _ in weighted))
        if len(weighted) == 1 and weighted[0][0] == 1.0:
            result[modality] = weighted[0][1]
        elif weighted:
            total = np.sum([weight * (vector - nu) for weight, vector in weighted], axis=0)
            result[modality] = np.asarray(nu + total, np.float32)
    return QueryVectors(result, spread)


def add_images(query: QueryVectors, images: Sequence[FloatArray], view: View) -> QueryVectors:
    """Return the query with images, which together count as much as its words.

    Images are not centred, so that clips rank by plain cosine: with the clips' mean subtracted, frames found their own
    video less often (docs/decisions/image-queries.md). Images resemble one another more than texts resemble images;
    their similarities are scaled to a spread of 1, that of texts.
    """
    if not images:
        return query
    framed = frame_modality()
    part = view.spec.parts[framed]
    if part.weight == 0:
        raise QueryError(f"images are compared in the {framed} modality, whose weight is 0; use a weight above 0")
    sample = _sample(view)
    total = np.mean([vector / _spread(sample @ vector) for vector in images], axis=0)
    words = query.vectors.get(framed, part.query_mean)
    spread = math.hypot(query.spread.get(framed, 0.0), 1.0)
    return replace(
        query,
        vectors={**query.vectors, framed: np.asarray(words + total, np.float32)},
        spread={**query.spread, framed: spread},
    )


def _sample(view: View) -> FloatArray:
    """Return the centred vectors (n, dim) that images are compared with, of clips spread over all that is searched."""
    framed, rows = frame_modality(), []
    part = view.spec.parts[framed]
    for snapshot in (view.snapshot, *view.others):
        last = (0 if view.others else view.watermark) or max(snapshot.clip_ids(), default=0)
        ids = np.unique(np.linspace(min(1, last), last, SAMPLE_CLIPS).astype(np.int64)).tolist()
        rows += [batch[framed] for _, batch in snapshot.batches(ids, {framed: part.dim})]
    stacked = np.concatenate(rows)
    return part.centre(stacked[np.any(stacked, axis=1)])


def _spread(similarities: FloatArray) -> float:
    squares = float(np.sum(np.square(similarities, dtype=np.float64)))
    return math.sqrt((squares + PRIOR_CLIPS) / (len(similarities) + PRIOR_CLIPS))
