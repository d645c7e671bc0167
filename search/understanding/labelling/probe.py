"""Few-shot classes: a linear probe on the joint vectors of example clips.

Multinomial logistic regression with an L2 penalty (Radford et al. 2021, arXiv 2103.00020, appendix A.3), by
scikit-learn with its default strength, classes weighted alike. Two are fitted. One has the library's other clips as a
class more, the background: its decision values, in standard deviations of the clips for which another class or the
background is better, say whether a clip is of a class at all. They are the negatives of learning from positive and
unlabelled examples (Elkan and Noto 2008, KDD; Liu et al. 2003, ICDM): most clips of a library are of no class. The
other has the classes alone, and says which of them. Probabilities are calibrated on the examples themselves, each
scored by a probe on those of other videos.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.like import Like, clip_of
from vfindex.search.understanding.labelling.classes import LabelClass
from vfindex.search.understanding.labelling.mixture import NEVER, against_null, empirical_null, fit_separation
from vfindex.search.understanding.vectors import vector_batches
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import UsageError, VfindexError
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.records import FloatArray

# Parts of the examples that are predicted by the others, whole videos each.
FOLDS = 10
# Clips of the library, evenly spread, that are the background: their mean is known to 1/45 of their spread.
BACKGROUND = 2000
# Examples of a class below which descriptions do as well: a probe needs four of them to reach zero-shot on the same
# features (Radford et al. 2021, figure 6).
FEW_EXAMPLES = 4
_MAX_STEPS = 1000


@dataclass(frozen=True, slots=True, eq=False)
class Examples:
    """Example clips. clips: their ids (n,). classes: (n,) numbers of classes. videos: (n,) ids."""

    clips: NDArray[np.int64]
    classes: NDArray[np.int64]
    videos: NDArray[np.int64]


@dataclass(frozen=True, slots=True, eq=False)
class Membership:
    """Scores of whether clips are of a class or of none. weights: (C, dim). offsets, centre, spread: (C,).

    known: scores of held-out examples for their own class. by_chance: how probable it is that they lie so far above
    other clips of the library, if they are no more of their classes than those are.
    """

    weights: FloatArray
    offsets: FloatArray
    centre: FloatArray
    spread: FloatArray
    known: tuple[float, ...] = ()
    by_chance: float = 1.0

    def scores(self, features: FloatArray) -> FloatArray:
        """Return (n, C): standard deviations above clips of other classes or of none; 0 for nothing to compare."""
        values = np.asarray(unit_rows(features) @ self.weights.T + self.offsets, np.float32)
        return against_null(values, features, (self.centre, self.spread))


@dataclass(frozen=True, slots=True, eq=False)
class Probe:
    """A classifier by examples. weights: (C, dim), offsets: (C,). centre, spread: (C,) of the library's clips.

    by_chance: how probable it is to predict the examples that well by chance. separation: of the choices for held-out
    examples (`mixture`), None before it is known. membership: None where all videos of the library are examples; then
    the choices alone tell.
    """

    spec: JointSpec
    weights: FloatArray
    offsets: FloatArray
    by_chance: float
    centre: FloatArray
    spread: FloatArray
    separation: float | None = None
    membership: Membership | None = None

    @property
    def known(self) -> tuple[float, ...]:
        """Scores of held-out examples for their own class."""
        return () if self.membership is None else self.membership.known

    def read(self, snapshot: Snapshot, ids: Sequence[int] | NDArray[np.int64]) -> FloatArray:
        """Return (n, dim) joint vectors of clips, of length 1."""
        return joint_rows(snapshot, self.spec, ids)

    def scores(self, features: FloatArray) -> FloatArray:
        """Return (n, C): standard deviations above the library's other clips; 0 for rows with nothing to compare."""
        return self.choices(features) if self.membership is None else self.membership.scores(features)

    def choices(self, features: FloatArray) -> FloatArray:
        """Return (n, C), of the classes alone: standard deviations above clips for which another class is better."""
        return against_null(self.decisions(features), features, (self.centre, self.spread))

    def decisions(self, features: FloatArray) -> FloatArray:
        """Return (n, C) decision values."""
        return np.asarray(unit_rows(features) @ self.weights.T + self.offsets, np.float32)

    def chance(self, features: FloatArray) -> float:
        return self.by_chance

    def against(self, features: FloatArray) -> Probe:
        """Return the probe with centre and spread of these clips of the library (n, dim)."""
        present = features[np.any(features, axis=1)]
        centre, spread = empirical_null(self.decisions(present))
        return replace(self, centre=centre, spread=spread)


def joint_rows(snapshot: Snapshot, spec: JointSpec, ids: Sequence[int] | NDArray[np.int64]) -> FloatArray:
    """Return (n, dim) joint vectors of clips, of length 1; zero rows for those with nothing to compare."""
    found = [rows for _, rows in vector_batches(snapshot, spec, ids)]
    return np.concatenate([np.zeros((0, spec.dim), np.float32), *found])


def examples_of(snapshot: Snapshot, classes: Sequence[LabelClass], otherwise: str = "") -> Examples:
    """Return the clips that the examples name. otherwise: what to do without some, as the end of a sentence.

    Raises UsageError for a class without any and for a clip that is an example of two, QueryError for no clip.
    """
    found: list[tuple[int, int, int]] = []
    named: dict[int, tuple[str, str]] = {}
    for number, each in enumerate(classes):
        if not each.examples:
            raise UsageError(
                f"the class {each.name!r} has no examples, and others have; add some, as beach.mp4@0:12{otherwise}"
            )
        clips = {text: clip_of(snapshot, Like.parse(text)) for text in each.examples}
        for text, clip in clips.items():
            first, other = named.setdefault(clip.id, (text, each.name))
            if other != each.name:
                raise UsageError(
                    f"{text}, an example of {each.name!r}, is the same clip as {first}, one of {other!r}; name it in "
                    "one class alone"
                )
        found += [(clip.id, number, clip.video_id) for clip in {clip.id: clip for clip in clips.values()}.values()]
    ids, numbers, videos = np.array(found, np.int64).reshape(-1, 3).T
    return Examples(ids, numbers, videos)


def fit_probe(features: FloatArray, examples: Examples, spec: JointSpec) -> Probe:
    """Return the probe of examples with these features (n, dim), without chance, centre and spread.

    Raises VfindexError without scikit-learn, UsageError if an example has nothing to compare.
    """
    if not np.any(features, axis=1).all():
        raise UsageError("an example has none of the modalities that these classes compare; name another clip")
    rows, classes = unit_rows(features), int(examples.classes.max()) + 1
    weights, offsets = fitted(rows, examples.classes, classes)
    nothing = np.zeros(classes, np.float32)
    return Probe(spec, weights, offsets, 1.0, nothing, nothing + 1)


def learn_probe(
    features: FloatArray, examples: Examples, spec: JointSpec, library: FloatArray, videos: NDArray[np.int64]
) -> Probe:
    """Return the probe of examples with these features (n, dim), calibrated and compared with chance.

    library: (m, dim) of its clips, evenly spread. videos: (m,) theirs.
    """
    choices = held_out_scores(features, examples, library)
    others = np.any(library, axis=1) & ~np.isin(videos, examples.videos)
    membership = fit_membership(features, examples, library[others], videos[others])
    by_chance = max(chance_of(choices, examples), 0.0 if membership is None else membership.by_chance)
    separation = fit_separation(choices, examples.classes)
    probe = replace(fit_probe(features, examples, spec), by_chance=by_chance, separation=separation)
    return replace(probe.against(library), membership=membership)


def fit_membership(
    features: FloatArray, examples: Examples, others: FloatArray, videos: NDArray[np.int64]
) -> Membership | None:
    """Return the scores of whether clips are of a class, by examples (n, dim) against other clips of the library.

    others: (m, dim), of videos without examples; videos: (m,) theirs. None if there are fewer than two such videos.
    Held-out examples are compared with clips that are held out as they are.
    """
    thinned = slice(None, None, max(1, -(-len(others) // BACKGROUND)))
    rows, background, videos = unit_rows(features), unit_rows(others[thinned]), videos[thinned]
    n_videos = len(np.unique(videos))
    if n_videos < 2:
        return None
    labels, classes = examples.classes, int(examples.classes.max()) + 1
    folds, parts = (
        folds_of(examples.videos, labels, FOLDS),
        folds_of(videos, np.zeros_like(videos), FOLDS),
    )
    known, above = np.full((2, len(rows)), np.nan)
    for fold in range(int(folds.max()) + 1):
        apart = parts == fold % (int(parts.max()) + 1)
        kept = folds != fold
        held = np.flatnonzero(~kept & np.isin(labels, labels[kept]))
        found = _against_background(rows[kept], labels[kept], background[~apart], classes)
        own = found.scores(rows[held])[np.arange(len(held)), labels[held]]
        null = found.scores(background[apart])[:, labels[held]]  # (clips held out, examples held out)
        known[held], above[held] = own, (0.5 * (null < own) + 0.5 * (null <= own)).mean(axis=0)
    has_others = ~np.isnan(known)
    chance = _rank_chance(above[has_others], examples.videos[has_others], n_videos)
    whole = _against_background(rows, labels, background, classes)
    return replace(whole, known=tuple(known[has_others].tolist()), by_chance=chance)


def _against_background(
    rows: FloatArray, labels: NDArray[np.int64], background: FloatArray, classes: int
) -> Membership:
    """Return the scores by these examples, with background (m, dim) as a class more."""
    numbers = np.concatenate([labels, np.full(len(background), classes)])
    both = np.concatenate([rows, background])
    weights, offsets = fitted(both, numbers, classes + 1)
    centre, spread = empirical_null(both @ weights.T + offsets)
    return Membership(weights[:classes], offsets[:classes], centre[:classes], spread[:classes])


def _rank_chance(above: NDArray[np.float64], videos: NDArray[np.int64], others: int) -> float:
    """Return the probability that examples lie so far above other clips by chance (Mann and Whitney 1947).

    above: (n,) shares of other clips that have lower scores, of examples of these videos. others: number of videos
    of those. A video counts once.
    """
    own = [float(above[videos == video].mean()) for video in np.unique(videos)]
    if not own:
        return 1.0
    spread = math.sqrt((len(own) + others + 1) / (12 * len(own) * others))
    return 0.5 * math.erfc((float(np.mean(own)) - 0.5) / spread / math.sqrt(2))


def unit_rows(features: FloatArray) -> FloatArray:
    """Return rows of length 1; zero rows stay."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return np.asarray(features / np.where(lengths > 0, lengths, 1.0), np.float32)


def fitted(rows: FloatArray, labels: NDArray[np.int64], classes: int) -> tuple[FloatArray, FloatArray]:
    """Return weights (classes, dim) and offsets (classes,); a class without examples is never chosen."""
    present = np.unique(labels)
    weights, offsets = np.zeros((classes, rows.shape[1]), np.float32), np.full(classes, -1e9, np.float32)
    if len(present) < 2:
        offsets[present] = 0.0
        return weights, offsets
    model = _linear_model().LogisticRegression(max_iter=_MAX_STEPS, class_weight="balanced").fit(rows, labels)
    if len(present) == 2:  # one row, for the second class
        weights[present] = np.stack([-model.coef_[0], model.coef_[0]]) / 2
        offsets[present] = np.array([-model.intercept_[0], model.intercept_[0]]) / 2
    else:
        weights[present], offsets[present] = model.coef_, model.intercept_
    return weights, offsets


def held_out_scores(features: FloatArray, examples: Examples, library: FloatArray) -> FloatArray:
    """Return (n, C) scores of the examples by probes on those of other videos; NEVER for a class without any there.

    features: (n, dim) of the examples. library: (m, dim) of its clips, which set centre and spread.
    """
    rows, classes = unit_rows(features), int(examples.classes.max()) + 1
    others = unit_rows(library[np.any(library, axis=1)])
    folds = folds_of(examples.videos, examples.classes, FOLDS)
    scores = np.full((len(rows), classes), NEVER, np.float32)
    for fold in range(int(folds.max()) + 1):
        held = folds == fold
        weights, offsets = fitted(rows[~held], examples.classes[~held], classes)
        null = empirical_null(others @ weights.T + offsets)
        found = against_null(rows[held] @ weights.T + offsets, rows[held], null)
        scores[held] = np.where(np.isin(np.arange(classes), examples.classes[~held]), found, NEVER)
    return scores


def folds_of(videos: NDArray[np.int64], classes: NDArray[np.int64], folds: int) -> NDArray[np.int64]:
    """Return the part (n,) of each clip: whole videos, with as many videos of each class in each part as can be."""
    names, first = np.unique(videos, return_index=True)
    order = np.argsort(classes[first], kind="stable")
    parts = np.empty(len(names), np.int64)
    parts[order] = np.arange(len(names)) % min(folds, len(names))
    return np.asarray(parts[np.searchsorted(names, videos)])


def chance_of(scores: FloatArray, examples: Examples) -> float:
    """Return the probability that naming the most frequent class is right for as many example videos as scores are.

    scores: (n, C), of `held_out_scores`. A video counts as right where most of its clips are.
    """
    right = scores.argmax(axis=1) == examples.classes
    videos, first = np.unique(examples.videos, return_index=True)
    correct = sum(right[examples.videos == video].mean() > 0.5 for video in videos)
    own = examples.classes[first]
    return binomial_tail(int(correct), len(videos), float(np.bincount(own).max() / len(own)))


def binomial_tail(least: int, n: int, share: float) -> float:
    """Return the probability of `least` or more of n independent trials with this share."""
    if least <= 0 or share >= 1:
        return 1.0
    logs = (
        math.lgamma(n + 1)
        - math.lgamma(k + 1)
        - math.lgamma(n - k + 1)
        + k * math.log(share)
        + (n - k) * math.log1p(-share)
        for k in range(least, n + 1)
    )  # of thousands of trials the coefficients are greater than any float
    return min(1.0, math.fsum(map(math.exp, logs)))


def _linear_model() -> Any:
    try:
        from sklearn import linear_model
    except ImportError as exc:
        raise VfindexError(
            "labels by examples need scikit-learn, not installed here; run: pip install 'vfindex[index]', or compare "
            "texts alone with --zero-shot"
        ) from exc
    return linear_model
