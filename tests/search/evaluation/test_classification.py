"""Measures of classification: right by hand, and equal to scikit-learn's."""

from __future__ import annotations

import numpy as np
import pytest

from vfindex.search.evaluation.classification import Classification, calibration_error, confusion, measures


def some(n: int = 300, classes: int = 4, seed: int = 0) -> Classification:
    generator = np.random.default_rng(seed)
    truth = generator.choice(classes, n, p=[0.5, 0.3, 0.15, 0.05])
    shares = generator.dirichlet(np.ones(classes), n)
    shares[np.arange(n), truth] += 0.4
    return Classification(tuple("abcd"), truth, shares / shares.sum(axis=1, keepdims=True))


def test_by_hand() -> None:
    counts = confusion(np.array([0, 0, 0, 1]), np.array([0, 0, 1, 1]), 3)
    assert counts.tolist() == [[2, 1, 0], [0, 1, 0], [0, 0, 0]]
    accuracy, balanced, precision, recall, f1, *micro = measures(counts)
    assert (accuracy, balanced, precision, recall) == pytest.approx((0.75, 5 / 6, 0.75, 5 / 6))
    assert f1 == pytest.approx((0.8 + 2 / 3) / 2) and micro == [0.75] * 3


def test_equal_to_scikit_learn() -> None:
    oracle = pytest.importorskip("sklearn.metrics")
    items = some()
    found = {name: figure.value for name, figure in items.figures().items()}
    truth, predicted = items.truth, items.predicted
    assert items.confusion().tolist() == oracle.confusion_matrix(truth, predicted).tolist()
    assert found["accuracy"] == pytest.approx(oracle.accuracy_score(truth, predicted))
    assert found["balanced accuracy"] == pytest.approx(oracle.balanced_accuracy_score(truth, predicted))
    for average in ("macro", "micro"):
        expected = oracle.precision_recall_fscore_support(truth, predicted, average=average, zero_division=0)
        names = (f"precision ({average})", f"recall ({average})", f"F1 ({average})")
        assert [found[name] for name in names] == pytest.approx(expected[:3])


def test_intervals_hold_their_value_and_controls_are_below() -> None:
    items = some()
    for figure in items.figures().values():
        assert figure.low <= figure.value <= figure.high
    controls = items.controls()
    assert controls["majority"]["accuracy"].value == np.bincount(items.truth).max() / 300
    assert controls["chance"]["accuracy"].value == pytest.approx(0.25, abs=0.02)
    assert items.against_majority().low > 0


def test_brier_and_reliability() -> None:
    sure = Classification(("a", "b"), np.array([0, 1, 1, 1]), np.array([[1, 0], [0, 1], [0, 1], [1, 0]], float))
    assert sure.figures()["Brier"].value == 0.5
    [*_, last] = sure.reliability()
    assert (last.items, last.probability, last.right) == (4, 1.0, 0.75)
    assert calibration_error(sure.reliability()) == 0.25
    assert sure.to_dict()["confusion"] == [[1, 0], [1, 2]]
