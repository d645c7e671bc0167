"""Outlier scores from nearest neighbours, against scikit-learn."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.search.understanding.outliers import local_outlier_factors, neighbour_distances
from vfindex.storage.records import FloatArray


def _nearest(points: FloatArray, k: int) -> tuple[FloatArray, NDArray[np.int64]]:
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    rows = np.argsort(distances, axis=1, kind="stable")[:, :k]
    return np.take_along_axis(distances, rows, axis=1), rows


def test_the_factors_are_those_of_scikit_learn() -> None:
    neighbors = pytest.importorskip("sklearn.neighbors", reason="scikit-learn comes with the extra index")
    points = np.random.default_rng(3).normal(size=(80, 5))
    expected = neighbors.LocalOutlierFactor(n_neighbors=7).fit(points).negative_outlier_factor_
    np.testing.assert_allclose(local_outlier_factors(*_nearest(points, 7)), -expected, rtol=1e-5)


def test_an_item_between_clusters_of_different_density_has_the_highest_factor() -> None:
    dense = np.linspace(0, 0.1, 10)
    loose = np.linspace(10, 20, 10)
    points = np.concatenate([dense, [1.0], loose])[:, None]  # 1.0 is nearer to `dense` than the loose ones are apart
    distances, rows = _nearest(points, 3)
    assert np.argmax(local_outlier_factors(distances, rows)) == 10
    assert np.argmax(neighbour_distances(distances)) != 10


def test_fewer_neighbours_than_asked_do_not_count() -> None:
    distances = np.array([[1.0, np.inf], [1.0, 3.0], [np.inf, np.inf]])
    np.testing.assert_array_equal(neighbour_distances(distances), [1.0, 2.0, np.inf])
    rows = np.array([[1, -1], [0, -1], [-1, -1]])
    factors = local_outlier_factors(distances, rows)
    np.testing.assert_allclose(factors, [1.0, 1.0, np.inf], rtol=1e-6)


def test_identical_items_have_finite_factors() -> None:
    distances, rows = _nearest(np.zeros((4, 2)), 2)
    np.testing.assert_allclose(local_outlier_factors(distances, rows), 1.0)
