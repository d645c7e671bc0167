"""Sorted arrays of row ids: membership, position, an even sample."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]


def positions_in(ids: Ids, among: Ids) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return where each of `ids` stands among those that increase, and whether it does: shapes of `ids`.

    For short lists a tenth of the time of np.isin.
    """
    if not len(among):
        return np.zeros(ids.shape, np.int64), np.zeros(ids.shape, np.bool_)
    places = np.minimum(np.searchsorted(among, ids), len(among) - 1)
    return places, np.asarray(among[places] == ids)


def in_sorted(ids: Ids, among: Ids) -> NDArray[np.bool_]:
    """Return which of `ids` are among those that increase."""
    return positions_in(ids, among)[1]


def evenly_spaced(count: int, wanted: int) -> slice:
    """Return which of `count` to take for `wanted` of them, or all there are, as far apart as whole steps allow."""
    step = max(1, count // wanted)
    return slice(0, step * wanted, step)


# Where more videos than these are asked for, all are read and kept: 0.2 s at 50,000 videos, once a commit.
FEW_VIDEOS = 2000


def listed(told: str | None) -> NDArray[np.int64]:
    """Return the numbers of SQLite's group_concat with a space between them."""
    return np.fromstring(told, np.int64, sep=" ") if told else np.zeros(0, np.int64)
