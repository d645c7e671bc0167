"""Outlier scores from nearest neighbours, against scikit-learn, and what stands out."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.search.understanding.outliers import (
    LocalDensities,
    deviations,
    fence,
    nearest_rows,
    neighbour_distances,
)
from vfindex.storage.records import FloatArray


def _unit(points: FloatArray) -> FloatArray:
    return np.asarray(points / np.linalg.norm(points, axis=1, keepdims=True), np.float32)


def _nearest(points: FloatArray, k: int) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return the neighbours of points, each a group of its own."""
    groups = np.arange(len(points))
    return nearest_rows(points, groups, points, groups, k)


def _circle(*degrees: float) -> FloatArray:
    angles = np.radians(degrees)
    return np.stack([np.cos(angles), np.sin(angles)], axis=1).astype(np.float32)


def test_the_factors_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn comes with the extra index")
    points = _unit(np.random.default_rng(3).normal(size=(80, 5)))
    model = neighbors.LocalOutlierFactor(n_neighbors=7, novelty=True).fit(points)
    distances, rows = _nearest(points, 7)
    densities = LocalDensities.of(distances, rows)
    np.testing.assert_allclose(densities.factors(distances, rows), -model.negative_outlier_factor_, rtol=1e-3)
    others = _unit(np.random.default_rng(4).normal(size=(9, 5)))
    theirs = densities.factors(*nearest_rows(others, np.full(9, -1), points, np.arange(80), 7))
    np.testing.assert_allclose(theirs, -model.score_samples(others), rtol=1e-3)


def test_clips_of_the_own_group_are_no_neighbours() -> None:
    points = _circle(0, 1, 90)
    distances, rows = nearest_rows(points, np.array([7, 7, 8]), points, np.array([7, 7, 8]), 2)
    assert rows.tolist() == [[2, -1], [2, -1], [1, 0]]
    np.testing.assert_allclose(distances[0], [2**0.5, np.inf], rtol=1e-6)


def test_an_item_between_clusters_of_different_density_has_the_highest_factor() -> None:
    dense, loose = np.linspace(0, 0.5, 10), np.linspace(60, 120, 10)
    distances, rows = _nearest(_circle(*dense, 5.0, *loose), 3)  # 5.0 is nearer to `dense` than loose ones are apart
    assert np.argmax(LocalDensities.of(distances, rows).factors(distances, rows)) == 10
    assert np.argmax(neighbour_distances(distances)) != 10


def test_fewer_neighbours_than_asked_do_not_count() -> None:
    distances = np.array([[1.0, np.inf], [1.0, 3.0], [np.inf, np.inf]])
    np.testing.assert_array_equal(neighbour_distances(distances), [1.0, 2.0, np.inf])
    rows = np.array([[1, -1], [0, -1], [-1, -1]])
    factors = LocalDensities.of(distances, rows).factors(distances, rows)
    np.testing.assert_allclose(factors, [1.0, 1.0, np.inf], rtol=1e-6)


def test_identical_items_have_finite_factors() -> None:
    distances, rows = _nearest(_circle(0, 0, 0, 0), 2)
    np.testing.assert_allclose(LocalDensities.of(distances, rows).factors(distances, rows), 1.0)


@pytest.mark.parametrize("seed", range(6))
def test_rounding_makes_nothing_stand_out(seed: int) -> None:
    first, second = _unit(np.random.default_rng(seed).normal(size=(2, 384)))
    scores = neighbour_distances(_nearest(np.stack([first] * 100 + [second] * 11), 10)[0])
    assert deviations(scores, scores).max() <= fence(len(scores))


def test_deviations_ignore_what_they_are_to_find() -> None:
    usual = np.random.default_rng(0).normal(5.0, 2.0, 10_000)
    scores = np.array([5.0, 9.0, 205.0])
    np.testing.assert_allclose(deviations(scores, np.concatenate([usual, [205.0, np.inf]])), [0, 2, 100], atol=3)
    np.testing.assert_array_equal(deviations(scores, np.full(9, 5.0)), 0.0)


def test_equal_scores_of_more_than_half_hide_nothing() -> None:
    usual = np.array([1.0] * 60 + [1.1] * 20 + [9.0])
    assert deviations(np.array([9.0]), usual)[0] > fence(len(usual)) > deviations(np.array([1.1]), usual)[0] > 0


def test_one_of_twenty_normal_samples_has_a_score_beyond_the_fence() -> None:
    samples = np.random.default_rng(1).normal(size=(4000, 500)).max(axis=1)
    assert 0.035 < np.mean(samples > fence(500)) < 0.065
    assert fence(1) < fence(500) < fence(1_000_000)
