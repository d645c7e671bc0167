"""Measures of classification with bootstrap intervals, against naming the most frequent class, and against chance.

Definitions are those of scikit-learn: macro means over the classes that occur among truths or predictions, balanced
accuracy the mean recall over those among truths (Brodersen et al. 2010). The Brier score is that of several classes:
the mean over items of the sum of squared differences between probabilities and truth (Brier 1950), 0 to 2, less is
better.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.labelled_videos import TIMES, LabelledVideo, label_of
from vfindex.search.evaluation.metrics import Difference, Figure, compare
from vfindex.search.understanding.labelling.classes import NONE, ClassSet, LabelClass
from vfindex.search.understanding.labelling.label import Progress, video_shares
from vfindex.storage.errors import QueryError, UsageError

RESAMPLES = 2_000
BINS = 10
Counts = NDArray[np.int64]
_MEASURES = (
    *("accuracy", "balanced accuracy", "precision (macro)", "recall (macro)", "F1 (macro)"),
    *("precision (micro)", "recall (micro)", "F1 (micro)"),
)


@dataclass(frozen=True, slots=True)
class Bin:
    """Items whose best class has a probability in [low, high). probability: their mean; right: the share of the right.

    Both 0 without items.
    """

    low: float
    high: float
    items: int
    probability: float
    right: float


@dataclass(frozen=True, slots=True, eq=False)
class Classification:
    """Items of known classes. classes: C names. truth: (n,) numbers of classes. shares: (n, C) probabilities."""

    classes: tuple[str, ...]
    truth: Counts
    shares: NDArray[np.float64]

    @property
    def predicted(self) -> Counts:
        return np.asarray(self.shares.argmax(axis=1), np.int64)

    @property
    def right(self) -> NDArray[np.bool_]:
        return np.asarray(self.predicted == self.truth)

    def confusion(self) -> Counts:
        """Return (C, C): how many items of each class, a row, are taken for each, a column."""
        return confusion(self.truth, self.predicted, len(self.classes))

    def figures(self) -> dict[str, Figure]:
        """Return measure -> figure with its percentile bootstrap interval over items."""
        draws = np.random.default_rng(0).integers(0, len(self.truth), (RESAMPLES, len(self.truth)))
        found = _intervals(draws, self.truth, self.predicted, len(self.classes))
        errors = ((self.shares - np.eye(len(self.classes))[self.truth]) ** 2).sum(axis=1)
        low, high = np.percentile(errors[draws].mean(axis=1), [2.5, 97.5])
        return found | {"Brier": Figure(float(errors.mean()), float(low), float(high))}

    def controls(self) -> dict[str, dict[str, Figure]]:
        """Return `majority` and `chance` -> measure -> figure: the most frequent class, and a class drawn at random."""
        draws = np.random.default_rng(0).integers(0, len(self.truth), (RESAMPLES, len(self.truth)))
        size = len(self.classes)
        most = np.full(len(self.truth), np.bincount(self.truth).argmax())
        guesses = np.random.default_rng(1).integers(0, size, draws.shape)
        drawn = [measures(confusion(self.truth[draw], guess, size)) for draw, guess in zip(draws, guesses, strict=True)]
        chance = _figures(np.mean(drawn, axis=0), np.stack(drawn))
        return {"majority": _intervals(draws, self.truth, most, size), "chance": chance}

    def against_majority(self) -> Difference:
        """Return the paired difference of accuracy to naming the most frequent class."""
        most = np.bincount(self.truth).argmax()
        return compare((self.truth == most).astype(float).tolist(), self.right.astype(float).tolist())

    def reliability(self) -> list[Bin]:
        """Return BINS bins of the best class's probability: calibrated, if both numbers of each bin are alike."""
        best = self.shares.max(axis=1)
        place = np.minimum((best * BINS).astype(int), BINS - 1)
        bins = []
        for number in range(BINS):
            of = place == number
            means = (float(best[of].mean()), float(self.right[of].mean())) if of.any() else (0.0, 0.0)
            bins.append(Bin(number / BINS, (number + 1) / BINS, int(of.sum()), *means))
        return bins

    def to_dict(self) -> dict[str, Any]:
        """Return the figures for JSON."""
        return {
            "items": len(self.truth),
            "classes": list(self.classes),
            "figures": {name: asdict(figure) for name, figure in self.figures().items()},
            "controls": {name: {m: asdict(f) for m, f in of.items()} for name, of in self.controls().items()},
            "against_majority": asdict(self.against_majority()),
            "calibration_error": calibration_error(self.reliability()),
            "reliability": [asdict(each) for each in self.reliability()],
            "confusion": self.confusion().tolist(),
        }


def calibration_error(bins: list[Bin]) -> float:
    """Return the expected calibration error: the mean gap of the bins, by items (Guo et al. 2017, arXiv 1706.04599)."""
    items = sum(each.items for each in bins)
    return sum(each.items * abs(each.probability - each.right) for each in bins) / max(items, 1)


def confusion(truth: Counts, predicted: Counts, classes: int) -> Counts:
    """Return (classes, classes): how many items of each class, a row, are taken for each, a column."""
    counts = np.bincount(truth * classes + predicted, minlength=classes * classes)
    return np.asarray(counts.reshape(classes, classes), np.int64)


def measures(counts: Counts) -> NDArray[np.float64]:
    """Return the value of each of the measures (8,) for a confusion matrix; 0 where nothing is predicted or true."""
    right, of_class, taken = np.diag(counts).astype(float), counts.sum(axis=1), counts.sum(axis=0)
    recall, precision = right / np.maximum(of_class, 1), right / np.maximum(taken, 1)
    f1 = 2 * right / np.maximum(of_class + taken, 1)
    known, occurring = of_class > 0, (of_class > 0) | (taken > 0)
    accuracy = right.sum() / max(counts.sum(), 1)
    macro = (float(each[occurring].mean()) for each in (precision, recall, f1))
    return np.array([accuracy, recall[known].mean(), *macro, accuracy, accuracy, accuracy])


def _intervals(draws: Counts, truth: Counts, predicted: Counts, classes: int) -> dict[str, Figure]:
    values = measures(confusion(truth, predicted, classes))
    drawn = np.stack([measures(confusion(truth[draw], predicted[draw], classes)) for draw in draws])
    return _figures(values, drawn)


def _figures(values: NDArray[np.float64], drawn: NDArray[np.float64]) -> dict[str, Figure]:
    """Return measure -> figure. values: (8,). drawn: (RESAMPLES, 8)."""
    low, high = np.percentile(drawn, [2.5, 97.5], axis=0)
    rows = zip(_MEASURES, values, low, high, strict=True)
    return {name: Figure(float(value), float(a), float(b)) for name, value, a, b in rows}


def classify(
    library: Path, truths: Sequence[LabelledVideo], classes: ClassSet | None, progress: Progress
) -> tuple[Classification, list[str]]:
    """Return the labels of the library's videos beside the true ones, and the names of videos that it lacks.

    classes: None for those of the truths, by their names. Where a truth is `none`, none of these is a class; else the
    most probable of the others counts. Raises UsageError for a label that is no class, QueryError if no video is there.
    """
    names = tuple(dict.fromkeys(each.label for each in truths if each.label != NONE))
    chosen = ClassSet("truth", tuple(LabelClass(name) for name in names)) if classes is None else classes
    if unknown := [name for name in names if name not in chosen.names]:
        raise UsageError(f"{unknown[0]!r} is a label and no class of {chosen.name}; add it, or leave out --classes")
    if len(chosen.classes) < 2:
        raise UsageError("all videos have one label, so there is nothing to tell apart; give --classes")
    is_open = any(each.label == NONE for each in truths)
    known = (*chosen.names, NONE) if is_open else chosen.names
    labels, seen, truth, shares = {each.stem: each.label for each in truths}, set[str](), list[int](), []
    for path, own in video_shares(library, chosen, by_text=classes is None, progress=progress):
        stem = Path(path.decode(errors="surrogateescape")).stem
        label = label_of(stem, labels)
        if label is not None:
            seen |= {stem, TIMES.sub("", stem)}
            truth.append(known.index(label))
            shares.append(own if is_open else own[:-1] / max(float(own[:-1].sum()), 1e-300))
    if not truth:
        raise QueryError(
            "none of the labelled videos is in this library; they are compared by the names of their files"
        )
    return Classification(known, np.array(truth), np.stack(shares)), [each for each in labels if each not in seen]
