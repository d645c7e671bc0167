"""Pairs of videos that may share footage, by votes of their nearest clips for offsets in time.

Temporal Hough voting (Douze, Jégou and Schmid 2010, IEEE Transactions on Multimedia). A clip that is a near neighbour
of another by chance is rarely found from the other side as well, nor do its neighbours in time agree on an offset: a
pair with one vote is dropped, unless the other side was never asked.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.search.rank.delta import View
from vfindex.search.understanding.alignment import STEP_S
from vfindex.search.understanding.outliers import nearest_rows
from vfindex.search.understanding.vectors import Ids, comparison_vectors, nearest_clips, vector_batches
from vfindex.storage.ids import positions_in, spread
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

# Clips of a video whose neighbours are looked up, and neighbours of each: 128 others a video, however long it is.
CLIPS_A_VIDEO, NEIGHBOURS = 16, 8
# Clips compared with each other exactly: 300 MB of 384 dimensions, 15 minutes on two cores. Of more, the joint index is
# asked.
MOST_EXACT = 200_000
# Scores in memory at a time: 64 MB, and twice as much for their order.
_MOST_SCORES = 1 << 24
# Offsets in time that are tried of a pair of videos, those with the most votes: two clips of 10 s vote for 80.
MOST_OFFSETS = 320
# Votes for one offset from which on a pair is examined: of two clips, or of one from both sides.
LEAST_VOTES = 2


@dataclass(frozen=True, slots=True, eq=False)
class Candidate:
    """Two videos by id, first < second. offsets_s: differences of the times in the second to those in the first."""

    first: int
    second: int
    offsets_s: list[float]


@dataclass(frozen=True, slots=True, eq=False)
class Clips:
    """The clips of a library that have frames. ids: (n,), increasing. videos, starts_s, ends_s: (n,)."""

    ids: Ids
    videos: Ids
    starts_s: NDArray[np.float64]
    ends_s: NDArray[np.float64]


@dataclass(frozen=True, slots=True, eq=False)
class Votes:
    """Matches of clips, by their rows in `Clips`: source, one of its neighbours (m,), and what the vote counts (m,)."""

    sources: Ids
    matches: Ids
    counts: Ids

    @classmethod
    def of(cls, sources: Ids, matches: Ids, is_asked: NDArray[np.bool_]) -> Votes:
        """is_asked: whether the neighbours of a clip were looked up (n,); a match that was not counts twice."""
        return cls(sources, matches, np.where(is_asked[matches], 1, 2))


def candidates(votes: Votes, clips: Clips) -> tuple[list[Candidate], int]:
    """Return the pairs with LEAST_VOTES for one offset, by id, and of how many pairs with any vote."""
    first, second = votes.sources, votes.matches
    is_turned = clips.videos[first] > clips.videos[second]
    first, second = np.where(is_turned, second, first), np.where(is_turned, first, second)
    order = np.lexsort((clips.videos[second], clips.videos[first]))
    first, second, counts = first[order], second[order], votes.counts[order]
    videos = np.stack([clips.videos[first], clips.videos[second]], axis=1)
    is_new = np.ones(len(videos), np.bool_)
    is_new[1:] = np.any(videos[1:] != videos[:-1], axis=1)
    starts = np.flatnonzero(is_new)
    if not len(starts):
        return [], 0
    low = np.ceil((clips.starts_s[second] - clips.ends_s[first]) / STEP_S).astype(np.int64)
    high = np.floor((clips.ends_s[second] - clips.starts_s[first]) / STEP_S).astype(np.int64)
    found = []
    enough = np.add.reduceat(counts, starts) >= LEAST_VOTES
    for start, stop in zip(starts[enough].tolist(), np.append(starts[1:], len(videos))[enough].tolist(), strict=True):
        offsets = Counter[int]()
        for a, b, count in zip(low[start:stop].tolist(), high[start:stop].tolist(), counts[start:stop], strict=True):
            for step in range(a, b + 1):
                offsets[step] += int(count)
        if offsets and max(offsets.values()) >= LEAST_VOTES:
            most = sorted(STEP_S * step for step, _ in offsets.most_common(MOST_OFFSETS))
            found.append(Candidate(int(videos[start, 0]), int(videos[start, 1]), most))
    return found, len(starts)


def clips_of(view: View, modality: ModalityName, check: Callable[[], None]) -> tuple[Clips, FloatArray | None]:
    """Return the clips with frames, and their comparison vectors (n, dim) if there are at most MOST_EXACT.

    check: called for each batch that is read, as a million clips take minutes.
    """
    ids = np.array(view.snapshot.clip_ids(), np.int64)
    vectors = np.zeros((len(ids), view.spec.parts[modality].dim), np.float32) if len(ids) <= MOST_EXACT else None
    known, at = np.zeros(len(ids), np.bool_), 0
    for part, rows in vector_batches(view.snapshot, view.spec, ids, modality):
        check()
        known[at : at + len(part)] = np.any(rows, axis=1)
        if vectors is not None:
            vectors[at : at + len(part)] = rows
        at += len(part)
    ids = ids[known]
    videos, times = np.zeros(len(ids), np.int64), np.zeros((len(ids), 2))
    for at in range(0, len(ids), 4096):
        check()
        stored = view.snapshot.clips(ids[at : at + 4096].tolist())
        for row, id_ in enumerate(ids[at : at + 4096].tolist(), start=at):
            clip = stored[id_]
            videos[row], times[row] = clip.video_id, (clip.start_s, clip.end_s)
    return Clips(ids, videos, times[:, 0], times[:, 1]), None if vectors is None else vectors[known]


def asked_rows(clips: Clips, video_ids: Sequence[int]) -> Ids:
    """Return the rows of at most CLIPS_A_VIDEO clips of each of these videos, increasing."""
    order = np.lexsort((clips.starts_s, clips.videos))
    bounds = (
        np.searchsorted(clips.videos[order], np.array(video_ids)),
        np.searchsorted(clips.videos[order], np.array(video_ids), side="right"),
    )
    chosen = [spread(order[a:b].tolist(), CLIPS_A_VIDEO) for a, b in zip(*bounds, strict=True)]
    return np.array(sorted(row for rows in chosen for row in rows), np.int64)


def neighbours(
    view: View, clips: Clips, vectors: FloatArray | None, rows: Ids, modality: ModalityName
) -> Iterator[tuple[Ids, Ids]]:
    """Yield (sources, matches) in batches: rows of clips, and those of their nearest clips of other videos."""
    if vectors is None:
        yield from _by_index(view, clips, rows, modality)
        return
    size = max(1, min(256, _MOST_SCORES // max(1, len(clips.ids))))
    for at in range(0, len(rows), size):
        part = rows[at : at + size]
        _, found = nearest_rows(vectors[part], clips.videos[part], vectors, clips.videos, NEIGHBOURS)
        known = found >= 0
        yield np.repeat(part, known.sum(axis=1)), found[known]


def _by_index(view: View, clips: Clips, rows: Ids, modality: ModalityName) -> Iterator[tuple[Ids, Ids]]:
    spec: JointSpec = view.spec
    dims = {modality: spec.parts[modality].dim}
    for part, read in view.snapshot.batches(clips.ids[rows], dims):
        places, _ = positions_in(part, clips.ids)
        for place, vector in zip(places.tolist(), comparison_vectors(read, spec, modality), strict=True):
            own = view.snapshot.clips_in([int(clips.videos[place])])
            ids, _ = nearest_clips(view, vector, NEIGHBOURS, modality, None, own)
            found, is_known = positions_in(ids, clips.ids)
            found = found[is_known]
            yield np.full(len(found), place), found
