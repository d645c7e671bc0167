"""How unlike its neighbours an item is: distances to the nearest ones, local outlier factors, and what stands out."""

from __future__ import annotations

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import FloatArray

# Chance that any of n scores without outliers is called one, as is usual for tests.
LEVEL = 0.05
# Median absolute deviation of a normal distribution by its standard deviation (Hampel 1974).
_NORMAL_MAD = 0.6744897501960817
# Mean absolute deviation of a normal distribution by its standard deviation, the root of 2 / pi.
_NORMAL_MEAN_AD = 0.7978845608028654
# Of 1, in products of float32: cosines of identical vectors of 384 to 1,536 dimensions are up to 6e-7 from 1.
_ROUNDING = 1e-6
_SMALLEST = 1e-10  # as in scikit-learn: identical items are at distance 0, and their density stays finite


def nearest_rows(
    vectors: FloatArray, groups: NDArray[np.int64], table: FloatArray, table_groups: NDArray[np.int64], k: int
) -> tuple[FloatArray, NDArray[np.int64]]:
    """Return (distances, rows of `table`), each (n, <= k), the nearest first, those of an item's own group left out.

    vectors: (n, dim), table: (m, dim), of length 1. Distances are Euclidean, 0 to 2; infinite, with row -1, where a
    group leaves fewer than k. Takes n * m memory: give batches.
    """
    similar = vectors @ table.T  # (n, m)
    similar[groups[:, None] == table_groups[None]] = -np.inf
    k = min(k, len(table))
    rows = (
        np.argpartition(-similar, k - 1, axis=1)[:, :k] if k < len(table) else np.tile(np.arange(k), (len(vectors), 1))
    )
    values = np.take_along_axis(similar, rows, axis=1)
    order = np.argsort(-values, axis=1, kind="stable")
    rows, values = np.take_along_axis(rows, order, axis=1), np.take_along_axis(values, order, axis=1)
    known = np.isfinite(values)
    distances = np.where(known, distance(np.where(known, values, 0.0)), np.inf)
    return distances.astype(np.float32), np.where(known, rows, -1)


def distance(cosine: FloatArray) -> FloatArray:
    """Return the Euclidean distance of vectors of length 1 with this cosine, 0 for what rounding may have made of 1."""
    return np.asarray(np.sqrt(np.where(cosine > 1.0 - _ROUNDING, 0.0, 2.0 - 2.0 * cosine)), np.float32)


def neighbour_distances(distances: FloatArray) -> FloatArray:
    """Return the mean distance (n,) to the k nearest neighbours, the outlier score of Angiulli and Pizzuti 2002.

    distances: (n, k) to the nearest neighbours, increasing; infinite where there are fewer than k, which do not count.
    An item without a neighbour has an infinite score.
    """
    known = np.isfinite(distances)
    totals = np.where(known, distances, 0.0).sum(axis=1)
    counts = known.sum(axis=1)
    return np.where(counts > 0, totals / np.maximum(counts, 1), np.inf)


@dataclass(frozen=True, slots=True, eq=False)
class LocalDensities:
    """The items that others are compared with: k_distances (m,) and local reachability densities (m,).

    Breunig, Kriegel, Ng and Sander 2000 (SIGMOD): reach(a, b) = max(k-distance(b), d(a, b)); the density of an item is
    one by its mean reach of its k neighbours.
    """

    k_distances: FloatArray
    densities: FloatArray

    @classmethod
    def of(cls, distances: FloatArray, neighbours: NDArray[np.int64]) -> LocalDensities:
        """distances, neighbours: (m, k) of the items among themselves, as `nearest_rows` returns them."""
        known = neighbours >= 0
        k_distances = np.where(known, distances, 0.0).max(axis=1, initial=0.0)
        return cls(k_distances, _density(distances, neighbours, k_distances))

    def factors(self, distances: FloatArray, neighbours: NDArray[np.int64]) -> FloatArray:
        """Return the local outlier factor (n,): about 1 inside a cluster, larger outside.

        It is the mean density of the neighbours by the item's own. distances, neighbours: (n, k), of items that may
        but need not be of these; one without a neighbour has an infinite factor.
        """
        known = neighbours >= 0
        own = _density(distances, neighbours, self.k_distances)
        counts = known.sum(axis=1)
        theirs = np.where(known, self.densities[neighbours], 0.0).sum(axis=1) / np.maximum(counts, 1)
        return np.where(counts > 0, theirs / own, np.inf)


def _density(distances: FloatArray, neighbours: NDArray[np.int64], k_distances: FloatArray) -> FloatArray:
    known = neighbours >= 0
    reach = np.where(known, np.maximum(distances, k_distances[neighbours]), 0.0)
    return np.asarray(1.0 / (reach.sum(axis=1) / np.maximum(known.sum(axis=1), 1) + _SMALLEST))


def deviations(scores: FloatArray, usual: FloatArray) -> FloatArray:
    """Return how many robust standard deviations scores (n,) lie above the median of `usual` (m,), finite values.

    The scale is the median absolute deviation by that of a normal distribution (Hampel 1974); where more than half of
    the scores are equal, the mean absolute deviation (Iglewicz and Hoaglin 1993); 0 if all are.
    """
    usual = usual[np.isfinite(usual)]
    centre = float(np.median(usual)) if len(usual) else 0.0
    apart = np.abs(usual - centre)
    spread = float(np.median(apart)) / _NORMAL_MAD if len(usual) else 0.0
    if len(usual) and spread <= _SMALLEST:
        spread = float(np.mean(apart)) / _NORMAL_MEAN_AD
    return np.asarray((scores - centre) / spread if spread > 0 else np.zeros(len(scores)), np.float32)


def fence(count: int) -> float:
    """Return the deviation beyond which one of `count` scores stands out.

    The outlier region of Davies and Gather 1993 (JASA 88): none of `count` normal scores lies beyond it in 95 % of all
    samples, however many they are.
    """
    return NormalDist().inv_cdf((1.0 - LEVEL) ** (1.0 / max(count, 1)))
