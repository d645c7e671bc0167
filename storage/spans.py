"""Which clips belong to many videos, told by first and last: a row a video instead of one a clip."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection
from typing import Any

import numpy as np
from numpy.typing import NDArray

# Where more videos than these are asked for, all are read and kept: 0.2 s at 50,000 videos, once a commit.
FEW_VIDEOS = 2000


def clip_spans(
    rows: Callable[[str, tuple[Any, ...]], list[Any]], videos: Collection[int] | None = None
) -> NDArray[np.int64]:
    """Return (4, n): video id, first and last clip id, and number of clips, of searchable videos with clips.

    rows: a statement and its parameters -> its rows. videos: the only ones looked at.
    """
    among = "" if videos is None else " AND v.id IN (SELECT value FROM json_each(?))"
    found = rows(
        "SELECT v.id, min(c.id), max(c.id), count(*) FROM video v JOIN clip c ON c.video_id = v.id"
        f" WHERE v.state IN ('indexed', 'partial'){among} GROUP BY v.id",
        () if videos is None else (json.dumps(list(videos)),),
    )
    return np.array(found, np.int64).reshape(-1, 4).T


def expanded(spans: NDArray[np.int64], videos: Collection[int]) -> tuple[NDArray[np.int64], list[int]]:
    """Return the clips of the videos whose clips' ids follow each other, and the other videos.

    They follow each other unless units of two videos were committed in turn. spans: as `clip_spans` has them.
    """
    ids, firsts, lasts, counts = spans[:, np.isin(spans[0], list(videos))]
    whole = lasts - firsts + 1 == counts
    stops = np.cumsum(counts[whole])
    within = np.arange(stops[-1] if len(stops) else 0) - np.repeat(stops - counts[whole], counts[whole])
    return np.repeat(firsts[whole], counts[whole]) + within, [int(id_) for id_ in ids[~whole]]
