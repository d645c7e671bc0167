"""What clips are compared with: one vector per modality for the words and images of one moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import zip_longest

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


@dataclass(frozen=True, slots=True)
class ImageSample:
    """How similar clips of libraries are to the images of a query; samples of several libraries add up.

    clips: how many were compared. squares: for each image, the sum of the squares of its centred similarities.
    """

    clips: int = 0
    squares: tuple[float, ...] = ()

    def plus(self, other: ImageSample) -> ImageSample:
        """Return the sample of both."""
        squares = tuple(map(sum, zip_longest(self.squares, other.squares, fillvalue=0.0)))
        return ImageSample(self.clips + other.clips, squares)

    def spreads(self) -> list[float]:
        """Return the standard deviation of the similarities to each image, by the prior and the sample."""
        return [math.sqrt((squares + PRIOR_CLIPS) / (self.clips + PRIOR_CLIPS)) for squares in self.squares]


def add_images(
    query: QueryVectors, images: Sequence[FloatArray], spreads: Sequence[float], spec: JointSpec
) -> QueryVectors:
    """Return the query with images, which together count as much as its words. spreads: of `ImageSample`.

    Images are not centred, so that clips rank by plain cosine: with the clips' mean subtracted, frames found their own
    video less often (docs/decisions/image-queries.md). Images resemble one another more than texts resemble images;
    their similarities are scaled to a spread of 1, that of texts.
    """
    if not images:
        return query
    framed = frame_modality()
    part = spec.parts[framed]
    if part.weight == 0:
        raise QueryError(f"images are compared in the {framed} modality, whose weight is 0; use a weight above 0")
    total = np.mean([vector / spread for vector, spread in zip(images, spreads, strict=True)], axis=0)
    words = query.vectors.get(framed, part.query_mean)
    spread = math.hypot(query.spread.get(framed, 0.0), 1.0)
    return replace(
        query,
        vectors={**query.vectors, framed: np.asarray(words + total, np.float32)},
        spread={**query.spread, framed: spread},
    )


def sample_images(view: View, images: Sequence[FloatArray], *, alone: bool) -> ImageSample:
    """Return how similar clips, spread over a library, are to images. alone: whether no other is searched with it."""
    if not images:
        return ImageSample()
    framed, snapshot = frame_modality(), view.snapshot
    part = view.spec.parts[framed]
    last = (view.watermark if alone else 0) or max(snapshot.clip_ids(), default=0)
    ids = np.unique(np.linspace(min(1, last), last, SAMPLE_CLIPS).astype(np.int64)).tolist()
    batches = [batch[framed] for _, batch in snapshot.batches(ids, {framed: part.dim})]
    rows = np.concatenate([np.zeros((0, part.dim), np.float32), *batches])
    sample = part.centre(rows[np.any(rows, axis=1)])  # (n, dim)
    squares = (float(np.sum(np.square(sample @ vector, dtype=np.float64))) for vector in images)
    return ImageSample(len(sample), tuple(squares))
