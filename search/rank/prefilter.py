"""Which clips may answer a moment: those of videos that the filters leave, with all words that must stand there and
without those that must not.

What must stand there is found for the whole library, and the index looks at those clips alone. What must not is looked
up for the clips that come up, however many others there are.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Moment, Needle
from vfindex.search.rank.lexical import WordEvidence, find_held
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import held_in
from vfindex.storage.text.full_text import kept


class Allowed:
    """The clips that may answer. clips: the only ones, None for all of the library; `unwanted` words aside."""

    def __init__(self, snapshot: Snapshot, clips: NDArray[np.int64] | None, unwanted: Sequence[Needle] = ()) -> None:
        """clips: (n,), increasing."""
        self.clips = clips
        self.unwanted = tuple(unwanted)
        self._snapshot = snapshot
        self._videos: dict[int, int] = {}  # by clip, of those looked at
        self._dropped: set[int] = set()
        self._dropped_videos: set[int] = set()

    def pick(self, ids: Sequence[int]) -> list[int]:
        """Return those of `ids` that may answer, in their order."""
        asked = np.asarray(ids, np.int64)
        if self.clips is not None:
            asked = asked[held_in(asked, self.clips)]
        chosen: list[int] = asked.tolist()
        if not self.unwanted or not chosen:
            return chosen
        self._look_at(chosen)
        dropped, of_videos = self._dropped, self._dropped_videos
        return [id_ for id_ in chosen if id_ not in dropped and self._videos.get(id_) not in of_videos]

    def _look_at(self, ids: Sequence[int]) -> None:
        """Look up the unwanted words in the videos of clips."""
        unseen, seen = [id_ for id_ in ids if id_ not in self._videos], set(self._videos.values())
        self._videos |= self._snapshot.videos_of(unseen) if unseen else {}
        new = frozenset(self._videos.values()) - seen
        for needle in self.unwanted if new else ():
            held = find_held(self._snapshot, needle, new)
            self._dropped.update(held.said[1].tolist())
            self._dropped_videos.update(held.titled[1].tolist())


def allowed(
    snapshot: Snapshot, moment: Moment, evidence: WordEvidence, videos: Collection[int] | None = None
) -> Allowed | None:
    """Return the clips that may answer, or None for all: of `videos`, with all that must stand there and none else."""
    chosen = None if videos is None else _clips_of(snapshot, videos)
    for held in evidence.held.values():
        titled = held.titled[1].tolist()
        clips = np.unique(np.append(held.said[1], snapshot.clips_in(titled) if titled else []).astype(np.int64))
        chosen = clips if chosen is None else np.intersect1d(chosen, clips, assume_unique=True)
    unwanted = moment.unwanted()
    return None if chosen is None and not unwanted else Allowed(snapshot, chosen, unwanted)


def _clips_of(snapshot: Snapshot, videos: Collection[int]) -> NDArray[np.int64]:
    """Return the clips of videos, increasing; those of some videos are remembered."""
    known: dict[frozenset[int], NDArray[np.int64]] = snapshot.remembered("clips of videos", dict)
    return kept(known, frozenset(videos), lambda: snapshot.clips_in(videos))
