"""From scores to probabilities: each item is of one class, or of none.

The scores of an item are in standard deviations of what unrelated texts (or clips) score. Those of the classes that it
is not of are N(0, 1), that of its class is N(d, 1): the two groups of Efron 2008 (Statistical Science 23, 1), with
classes that exclude each other. Then, for a share w of items of none and equal shares of C classes,

    P(class c) = (1 - w) / C * exp(d * z_c - d^2 / 2) / (w + (1 - w) / C * sum of exp(d * z_k - d^2 / 2))

which is a softmax of temperature 1 / d with one more entry for none. d and w are fitted to the library without labels,
by expectation maximisation (Dempster, Laird and Rubin 1977), towards a prior that counts as much as PRIOR_ITEMS items;
items of known classes, where there are any, count as such (Nigam et al. 2000, Machine Learning 39).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# d at which a clip of a class scores above an unrelated one 19 times of 20: the square root of 2 times 1.645.
PRIOR_SEPARATION = 2.326
# As many items as a calibration of search needs (calibration/labels.py), and shares of none and of a class alike.
PRIOR_ITEMS = 20
_STEPS = 200
LEAST_SEPARATION, _MOST_SEPARATION, _HALVINGS = 1e-3, 20.0, 40
# The score of a class that could not be chosen: a probe on other videos had no example of it.
NEVER = -1e9
# Scores that a fit reads, of items evenly spread: 2,500 of 400 classes, which give the share of none to 0.01.
MOST_SCORES = 1_000_000


@dataclass(frozen=True, slots=True)
class Mixture:
    """separation: d, above 0. none_share: w, 0 to 1.

    held_out: the separation at which held-out items of known classes have the most probable labels (`fit_separation`);
    classes share by it what is not none's. None: they share it by d.
    """

    separation: float
    none_share: float
    held_out: float | None = None

    def probabilities(self, scores: FloatArray, choices: FloatArray | None = None) -> NDArray[np.float64]:
        """Return (n, C + 1): of each class, and of none, which sum to 1.

        scores: (n, C). choices: (n, C), by which classes share what is not none's, where `held_out` is of these.
        """
        classes = scores.shape[1]
        odds = (
            self.separation * scores.astype(np.float64)
            - self.separation**2 / 2
            + np.log((1 - self.none_share) / classes)
        )
        shares = _softmax(np.concatenate([odds, np.full((len(scores), 1), np.log(self.none_share))], axis=1))
        if self.held_out is not None:
            shared = scores if choices is None else choices
            shares[:, :-1] = (1 - shares[:, -1:]) * _softmax(self.held_out * shared.astype(np.float64))
        return shares


def _softmax(odds: NDArray[np.float64]) -> NDArray[np.float64]:
    shares = np.exp(odds - odds.max(axis=1, keepdims=True))
    return np.asarray(shares / shares.sum(axis=1, keepdims=True))


def fit_mixture(scores: FloatArray, held_out: float | None = None, known: Sequence[float] = ()) -> Mixture:
    """Return the mixture of greatest posterior density for the scores (n, C); that of the prior for no items.

    held_out: see `Mixture`. known: scores of other items for the class that they are known to be of. Of more than
    MOST_SCORES, items evenly spread count.
    """
    mixture = Mixture(PRIOR_SEPARATION, 0.5)
    scores = scores[:: 1 + scores.size // MOST_SCORES]
    for _ in range(_STEPS if len(scores) else 0):
        shares = mixture.probabilities(scores)
        of_classes = shares[:, :-1]
        total = float(of_classes.sum())
        of_known = math.fsum(known) + PRIOR_ITEMS * PRIOR_SEPARATION
        separation = (float((of_classes * scores).sum()) + of_known) / (total + len(known) + PRIOR_ITEMS)
        none_share = (float(shares[:, -1].sum()) + PRIOR_ITEMS / 2) / (len(scores) + PRIOR_ITEMS)
        moved = abs(separation - mixture.separation) + abs(none_share - mixture.none_share)
        mixture = Mixture(max(separation, LEAST_SEPARATION), none_share)
        if moved < 1e-6:
            break
    return replace(mixture, held_out=held_out)


def fit_separation(scores: FloatArray, labels: NDArray[np.int64]) -> float:
    """Return the separation at which held-out items of known classes have the most probable labels.

    Temperature scaling (Guo et al. 2017, arXiv 1706.04599) of scores that the items' own labels had no part in, with
    the targets of Platt (1999): (N + 1) / (N + 2) for an item's class, and the rest for the others, so that few items
    which are all right are not taken for certainty. N is the number of all items: they share one temperature.

    scores: (n, C), NEVER for a class that could not be chosen; items of such a class do not count. labels: (n,) numbers
    of classes.
    """
    rows = scores[np.arange(len(labels)), labels] > NEVER
    scores, labels = scores[rows].astype(np.float64), labels[rows]
    known = scores > NEVER
    others = known.sum(axis=1) - 1
    scores, labels, known, others = (each[others > 0] for each in (scores, labels, known, others))
    if not len(labels):
        return PRIOR_SEPARATION
    own = (len(labels) + 1) / (len(labels) + 2)
    targets = known * ((1 - own) / others)[:, None]
    targets[np.arange(len(labels)), labels] = own
    values = np.where(known, scores, 0.0)
    aimed = float((targets * values).sum())
    low, high = LEAST_SEPARATION, _MOST_SEPARATION
    for _ in range(_HALVINGS):  # the slope of the loss, mean score less aimed score, grows with the separation
        middle = (low + high) / 2
        shares = _softmax(np.where(known, middle * values, -np.inf))
        mean = float((shares * values).sum())
        low, high = (middle, high) if mean < aimed else (low, middle)
    return (low + high) / 2


def standardised(scores: FloatArray, null: FloatArray) -> FloatArray:
    """Return scores (n, C) in standard deviations of those of unrelated texts, about their mean.

    null: (n, B) the scores of unrelated texts, of each row its own. Rows whose null has no spread, of items with
    nothing to compare, are 0.
    """
    centre, spread = null.mean(axis=1, keepdims=True), null.std(axis=1, keepdims=True)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(spread > 0, (scores - centre) / spread, 0.0).astype(np.float32)


def empirical_null(scores: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Return the mean (C,) and standard deviation (C,) of each class's scores over items for which another one is best.

    scores: (n, C) of a library. Those items are of other classes or of none, and say what the class scores by chance.
    """
    centre, spread = np.zeros(scores.shape[1], np.float32), np.ones(scores.shape[1], np.float32)
    best = scores.argmax(axis=1)
    for number in range(scores.shape[1]):
        others = scores[best != number, number]
        if len(others) > 1:
            centre[number], spread[number] = others.mean(), max(float(others.std()), 1e-6)
    return centre, spread


def against_null(values: FloatArray, features: FloatArray, null: tuple[FloatArray, FloatArray]) -> FloatArray:
    """Return decision values (n, C) in standard deviations of `empirical_null`; 0 for rows of features without any."""
    centre, spread = null
    return np.where(np.any(features, axis=1)[:, None], (values - centre) / spread, 0.0).astype(np.float32)
