"""Zero-shot classes: the texts of a class against the vectors of clips, in each modality, fused as a search does.

A class is the mean of its texts' vectors in each modality, of length 1 (prompt ensembling: Radford et al. 2021, arXiv
2103.00020, section 3.1.4). A clip's score is the inner product of the joint vectors, in standard deviations of what the
library's background queries score against the same clip: so clips that score high against anything, and clips that lack
modalities, are comparable.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Part, content_words
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.understanding.labelling.classes import LabelClass
from vfindex.search.understanding.labelling.mixture import standardised
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, fuse, fuse_query
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

# Sets of texts that stand in for the classes, to say what chance is.
PLACEBO_SETS = 1000
# Items that they are compared with, evenly spread: of 2,000 the mean fit is known to a fiftieth of its spread.
PLACEBO_ITEMS = 2000
# Between two reports of progress.
_TEXTS_AT_ONCE = 64
_SEED = 0


@dataclass(frozen=True, slots=True, eq=False)
class ZeroShot:
    """A classifier by text. classes: (C, dim) joint vectors; background: (B, dim), of the background queries."""

    spec: JointSpec
    classes: FloatArray
    background: FloatArray

    separation: None = None
    known: tuple[float, ...] = ()

    def read(self, snapshot: Snapshot, ids: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """Return (n, dim) joint vectors of clips."""
        dims = {m: part.dim for m, part in self.spec.parts.items()}
        found = [fuse(rows, self.spec) for _, rows in snapshot.batches(ids, dims)]
        return np.concatenate([np.zeros((0, self.spec.dim), np.float32), *found])

    def scores(self, features: FloatArray) -> FloatArray:
        """Return (n, C): standard deviations above the background; 0 for rows with nothing to compare."""
        return standardised(features @ self.classes.T, features @ self.background.T)

    def choices(self, features: FloatArray) -> None:
        """Classes share by their scores."""

    def chance(self, features: FloatArray) -> float:
        """Return the share of PLACEBO_SETS of as many texts that fit these items as well as the classes do.

        A permutation test (Fisher 1935): sets are drawn from the classes and the background queries together, so that
        unrelated classes come below 0.05 once in 20 times, however many they are. The fit of a set is the mean over
        items of its best score, in standard deviations of all these texts. Of more classes than background queries, as
        many are drawn at random. Of more items than PLACEBO_ITEMS, as many count.
        """
        features = features[:: max(1, -(-len(features) // PLACEBO_ITEMS))]
        generator, size = np.random.default_rng(_SEED), min(len(self.classes), len(self.background))
        own = self.classes[generator.choice(len(self.classes), size, replace=False)]
        scores = features @ np.concatenate([own, self.background]).T
        texts = standardised(scores, scores)  # (n, size + B)
        fit = float(texts[:, :size].max(axis=1).mean())
        fits = [
            float(texts[:, generator.choice(texts.shape[1], size, replace=False)].max(axis=1).mean())
            for _ in range(PLACEBO_SETS)
        ]
        return (1 + sum(each >= fit for each in fits)) / (1 + PLACEBO_SETS)


def zero_shot(
    classes: Sequence[LabelClass],
    encoder: QueryEncoder,
    spec: JointSpec,
    priors: Mapping[ModalityName, ModalityPrior],
    only: Sequence[ModalityName] = (),
    encoded: Callable[[int], None] = lambda texts: None,
) -> ZeroShot:
    """Return the classifier of classes by their texts. only: the modalities compared; () for all.

    encoded: called with how many more texts are encoded. Raises ModelError, and UsageError if the library has none of
    the modalities.
    """
    chosen = restricted(spec, only)
    asked = [m for m, part in chosen.parts.items() if part.weight]
    texts = dict.fromkeys(text for each in classes for text in each.texts)
    found = _encoded(list(texts), encoder, asked, encoded)
    vectors = []
    for each in classes:
        means = {m: np.mean([of[text] for text in each.texts], axis=0) for m, of in found.items()}
        vectors.append(fuse_query({m: _unit(mean) for m, mean in means.items()}, chosen))
    background = {m: priors[m].background for m in asked}
    counts = {len(rows) for rows in background.values()}
    queries = [fuse_query({m: rows[n] for m, rows in background.items()}, chosen) for n in range(min(counts))]
    return ZeroShot(chosen, np.stack(vectors), np.stack(queries))


def _encoded(
    texts: Sequence[str], encoder: QueryEncoder, modalities: Sequence[ModalityName], encoded: Callable[[int], None]
) -> dict[ModalityName, dict[str, FloatArray]]:
    """Return modality -> text -> (dim,), of the modalities that have a text model."""
    found: dict[ModalityName, dict[str, FloatArray]] = {}
    for first in range(0, len(texts), _TEXTS_AT_ONCE):
        some = texts[first : first + _TEXTS_AT_ONCE]
        parts = [Part(text, content_words(text), 1.0, tuple(modalities)) for text in some]
        for modality, rows in encoder.encode_all(parts, modalities).items():
            found.setdefault(modality, {}).update(zip(some, rows, strict=True))
        encoded(len(some))
    return found


def restricted(spec: JointSpec, only: Sequence[ModalityName]) -> JointSpec:
    """Return the spec with only these modalities weighted, () for as it is. Raises UsageError."""
    if not only:
        return spec
    if not spec.weights_are_open:
        raise UsageError(
            f"this library's vectors are fused as {spec.fusion}, so no modality can be compared alone; run: vfindex "
            "rebuild --fusion concat"
        )
    if not set(only) & set(spec.parts):
        raise UsageError(
            f"these classes compare {' and '.join(only)}, and this library has {', '.join(spec.order)} only; leave "
            "out modalities in the class file, or add one with: vfindex upgrade"
        )
    return spec.with_weights({m: spec.alone_weight(m) if m in only else 0.0 for m in spec.parts})


def _unit(vector: FloatArray) -> FloatArray:
    return np.asarray(vector / max(float(np.linalg.norm(vector)), 1e-12), np.float32)
