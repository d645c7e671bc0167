"""The clips that may match a moment, by filters, required keywords and excluded keywords.

Required keywords are looked up in the whole library, and the index searches only the clips that contain them. Excluded
keywords are looked up only in the videos of candidates, however many others contain them.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Keyword, Moment
from vfindex.search.rank.lexical import KeywordMatches, find_postings
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import FEW_VIDEOS, in_sorted
from vfindex.storage.text.document_lists import kept


class Prefilter:
    """Accepts clips. clips: the only ones that can match; None for all.

    rejects: whether candidates among `clips` may be rejected, for an excluded keyword or a hidden video.
    """

    def __init__(
        self,
        snapshot: Snapshot,
        clips: NDArray[np.int64] | None,
        excluded: Sequence[Keyword] = (),
        hidden: Collection[int] = (),
    ) -> None:
        """clips: (n,), increasing. hidden: videos whose clips are not accepted."""
        self.clips = clips
        self.rejects = bool(excluded or hidden)
        self._excluded = tuple(excluded)
        self._snapshot = snapshot
        self._videos: dict[int, int] = {}  # clip id -> video id, of clips checked so far
        self._excluded_clips: set[int] = set()
        self._excluded_videos = set(hidden)

    def accepted(self, ids: Sequence[int]) -> list[int]:
        """Return those of `ids` that may match, in their order."""
        array = np.asarray(ids, np.int64)
        if self.clips is not None:
            array = array[in_sorted(array, self.clips)]
        chosen: list[int] = array.tolist()
        if not self.rejects or not chosen:
            return chosen
        self._check_videos(chosen)
        clips, videos = self._excluded_clips, self._excluded_videos
        return [id_ for id_ in chosen if id_ not in clips and self._videos.get(id_) not in videos]

    def _check_videos(self, ids: Sequence[int]) -> None:
        """Look up the excluded keywords in the videos of clips."""
        unchecked, checked = [id_ for id_ in ids if id_ not in self._videos], set(self._videos.values())
        self._videos |= self._snapshot.videos_of(unchecked) if unchecked else {}
        new = sorted(set(self._videos.values()) - checked) if self._excluded else []
        for part in [new[n : n + FEW_VIDEOS] for n in range(0, len(new), FEW_VIDEOS)]:
            for keyword in self._excluded:
                postings = find_postings(self._snapshot, keyword, frozenset(part))
                self._excluded_clips.update(postings.timed[1].tolist())
                self._excluded_videos.update(postings.whole[1].tolist())


def build_prefilter(
    snapshot: Snapshot,
    moment: Moment,
    keywords: KeywordMatches,
    videos: Collection[int] | None = None,
    hidden: Collection[int] = (),
    passing: NDArray[np.int64] | None = None,
) -> Prefilter | None:
    """Return what accepts the clips of `videos` (None: of all) that may match a moment; None if all clips may.

    hidden: videos whose clips are not accepted. passing: (n,), increasing; the only ones accepted.
    """
    chosen = None if videos is None else _clips_of(snapshot, videos)
    if passing is not None:
        chosen = passing if chosen is None else np.intersect1d(chosen, passing, assume_unique=True)
    for postings in keywords.required.values():
        whole = postings.whole[1].tolist()
        of_videos = snapshot.clips_in(whole) if whole else np.zeros(0, np.int64)
        clips = np.unique(np.append(postings.timed[1], of_videos))
        chosen = clips if chosen is None else np.intersect1d(chosen, clips, assume_unique=True)
    excluded = moment.excluded()
    return Prefilter(snapshot, chosen, excluded, hidden) if chosen is not None or excluded or hidden else None


def _clips_of(snapshot: Snapshot, videos: Collection[int]) -> NDArray[np.int64]:
    """Return the clips of videos, increasing, cached until the next commit."""
    cached: dict[frozenset[int], NDArray[np.int64]] = snapshot.remembered("clips of videos", dict)
    return kept(cached, frozenset(videos), lambda: snapshot.clips_in(videos))
