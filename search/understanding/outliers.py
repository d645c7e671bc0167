"""How unlike its neighbours an item is: the distance to its nearest ones, and the local outlier factor."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray


def neighbour_distances(distances: FloatArray) -> FloatArray:
    """Return the mean distance (n,) to the k nearest neighbours, the outlier score of Angiulli and Pizzuti 2002.

    distances: (n, k) to the nearest neighbours, increasing; infinite where there are fewer than k, which do not count.
    An item without a neighbour has an infinite score.
    """
    known = np.isfinite(distances)
    totals = np.where(known, distances, 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)


def local_outlier_factors(distances: FloatArray, neighbours: NDArray[np.int64]) -> FloatArray:
    """Return the local outlier factor (n,) of each item: about 1 inside a cluster, larger outside.

    Breunig, Kriegel, Ng and Sander 2000 (SIGMOD): the mean local reachability density of the k neighbours by the item's
    own, with reach(a, b) = max(k-distance(b), d(a, b)). distances, neighbours: (n, k), the nearest first, the item
    itself left out; neighbours are rows of the same table, -1 (with any distance) where there are fewer than k.
    """
    known = neighbours >= 0
    counts = known.sum(axis=1)
    reaches = np.where(known, distances, -np.inf).max(axis=1, initial=-np.inf)  # (n,) the k-distance
    reach = np.where(known, np.maximum(distances, reaches[neighbours]), 0.0)
    # As in scikit-learn: identical items are at distance 0, and their density stays finite.
    density = 1.0 / (reach.sum(axis=1) / np.maximum(counts, 1) + 1e-10)
    ratios = np.where(known, density[neighbours] / density[:, None], 0.0)
    factors = ratios.sum(axis=1) / np.maximum(counts, 1)
    return np.where(counts > 0, factors, np.inf)
