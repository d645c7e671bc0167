"""Which clips belong to videos: to many told by first and last, a row a video instead of one a clip; which stand near
others; and which the joint index does not answer for.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Collection, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

# A statement and its parameters -> its rows.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]
# Stretches of ids, first and last, increasing.
Spans = Sequence[tuple[int, int]]
# Where ids have more gaps than are wanted, how many stretches are told: many of them hold little but others anyway.
LOOSE_SPANS = 4
# Where more videos than these are asked for, all are read and kept: 0.2 s at 50,000 videos, once a commit.
FEW_VIDEOS = 2000


def clips_of_few(rows: Rows, videos: Collection[int]) -> NDArray[np.int64]:
    """Return the ids of the clips of videos, whatever their state, in no order."""
    of_video = "SELECT group_concat(c.id, ' ') FROM json_each(?) j CROSS JOIN clip c ON c.video_id = j.value"
    return listed(rows(of_video, (json.dumps(list(videos)),))[0][0])


def clip_spans(rows: Rows) -> NDArray[np.int64]:
    """Return (4, n): video id, first and last clip id, and number of clips, of searchable videos with clips."""
    found = rows(
        "SELECT v.id, min(c.id), max(c.id), count(*) FROM video v JOIN clip c ON c.video_id = v.id"
        " WHERE v.state IN ('indexed', 'partial') GROUP BY v.id",
        (),
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


def clips_near(rows: Rows, ids: Collection[int], within_s: float) -> NDArray[np.float64]:
    """Return (6, n) for each clip and each clip near it, itself too: id, start_s and end_s of both.

    Near is a gap of at most `within_s` between the end of one and the start of the other.
    """
    found = rows(
        "SELECT k.id, k.start_s, k.end_s, c.id, c.start_s, c.end_s FROM json_each(?1) j"
        " CROSS JOIN clip k ON k.id = j.value CROSS JOIN clip c ON c.video_id = k.video_id"
        " AND c.start_s <= k.end_s + ?2 AND c.end_s >= k.start_s - ?2"
        " AND c.start_ms <= 1000 * (k.end_s + ?2) + 1 AND c.start_ms >= coalesce((SELECT max(b.start_ms) FROM clip b"
        " WHERE b.video_id = k.video_id AND b.start_ms <= 1000 * (k.start_s - ?2) - 1), -9e15)",
        (json.dumps(list(ids)), within_s),
    )
    return np.array(found, np.float64).reshape(-1, 6).T


def first_clips(rows: Rows, videos: Collection[int], limit: int) -> dict[int, list[int]]:
    """Return video id -> the ids of its first `limit` clips, in order of time."""
    found: dict[int, list[int]] = {id_: [] for id_ in videos}
    for video_id, clip_id in rows(
        "SELECT j.value, c.id FROM json_each(?) j JOIN clip c ON c.id IN"
        " (SELECT id FROM clip WHERE video_id = j.value ORDER BY start_ms LIMIT ?) ORDER BY c.start_ms",
        (json.dumps(list(videos)), limit),
    ):
        found[video_id].append(clip_id)
    return found


def hidden_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the clips up to `watermark` whose video is not searchable now, increasing."""
    found = rows(
        "SELECT group_concat(c.id, ' ') FROM video v CROSS JOIN clip c ON c.video_id = v.id"
        " WHERE v.state NOT IN ('indexed', 'partial') AND c.id <= ?",
        (watermark,),
    )
    return np.sort(listed(found[0][0]))


def changed_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the clips up to `watermark` whose vectors were changed or deleted since that was published, increasing."""
    found = rows("SELECT group_concat(clip_id, ' ') FROM index_change WHERE clip_id <= ?", (watermark,))
    return np.sort(listed(found[0][0]))


def unindexed_clips(rows: Rows, watermark: int) -> NDArray[np.int64]:
    """Return the searchable clips above `watermark`, and those up to it that were changed since, increasing."""
    searchable = "JOIN video v ON v.id = c.video_id AND v.state IN ('indexed', 'partial')"
    found = rows(
        f"SELECT group_concat(id, ' ') FROM (SELECT c.id FROM clip c {searchable} WHERE c.id > ?1 UNION ALL"
        f" SELECT c.id FROM index_change i CROSS JOIN clip c ON c.id = i.clip_id {searchable} WHERE i.clip_id <= ?1)",
        (watermark,),
    )
    return np.sort(listed(found[0][0]))


def listed(told: str | None) -> NDArray[np.int64]:
    """Return the numbers of SQLite's group_concat with a space between them."""
    return np.fromstring(told, np.int64, sep=" ") if told else np.zeros(0, np.int64)


def around(ids: NDArray[np.int64], most: int) -> Spans:
    """Return the stretches of ids, increasing, that follow each other; where they are more than `most`, LOOSE_SPANS
    stretches that hold them all, parted at the widest gaps.
    """
    if not len(ids):
        return []
    gaps = np.diff(ids)
    cuts = np.flatnonzero(gaps > 1)
    if len(cuts) >= most:
        cuts = np.sort(np.argsort(-gaps, kind="stable")[: LOOSE_SPANS - 1])
    starts, stops = ids[np.append(0, cuts + 1)], ids[np.append(cuts, len(ids) - 1)]
    return list(zip(starts.tolist(), stops.tolist(), strict=True))


def outside(ids: NDArray[np.int64], last: int, most: int) -> Spans:
    """Return the stretches from 1 to `last` between the `most` longest runs of ids that follow each other."""
    if not len(ids):
        return [(1, last)]
    starts = np.append(0, np.flatnonzero(np.diff(ids) > 1) + 1)
    lengths = np.diff(np.append(starts, len(ids)))
    longest = np.sort(np.argsort(-lengths, kind="stable")[:most])
    holes = [(int(ids[starts[n]]), int(ids[starts[n] + lengths[n] - 1])) for n in longest]
    edges = [0, *(edge for hole in holes for edge in hole), last + 1]
    spans = [(edges[n] + 1, edges[n + 1] - 1) for n in range(0, len(edges), 2)]
    return [span for span in spans if span[0] <= span[1]]


def newest_part(spans: Spans, share: float) -> Spans:
    """Return the newest part of spans, `share` of their ids; all where that is 1 or more."""
    left = math.ceil(share * sum(last - first + 1 for first, last in spans))
    chosen: list[tuple[int, int]] = []
    for first, last in reversed(spans):
        if left > 0:
            chosen.append((max(first, last - left + 1), last))
        left -= last - first + 1
    return chosen[::-1]
