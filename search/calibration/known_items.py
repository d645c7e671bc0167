"""Known items of a library: transcript segments and titles that occur in one video each, as queries with one answer.

For known-item search (Craswell 2009). The queries use words of the library, so they are easier than those of people.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from vfindex.search.query.ast import STOP_WORDS, content_words
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.ids import spread
from vfindex.storage.modalities import ModalityName, VideoText, document_modality, word_modalities
from vfindex.storage.records import SEARCHABLE

TITLE: VideoText = "title"
# Items of each modality's segments, and titles: with 200, a share of 0.95 is known to within 0.03.
MAX_ITEMS = 200
# Content words that a segment or a title must have to identify its video.
MIN_SEGMENT_WORDS = 4
MIN_TITLE_WORDS = 2


@dataclass(frozen=True, slots=True)
class KnownItem:
    """A text and the fingerprint of the one video that contains it. source: of the segment, or TITLE.

    modality: the one that the text belongs to.
    """

    text: str
    fingerprint: str
    source: str
    modality: ModalityName

    @property
    def is_title(self) -> bool:
        return self.source == TITLE


def known_items(snapshot: Snapshot) -> list[KnownItem]:
    """Return at most MAX_ITEMS segments of each modality, spread evenly over the videos, and as many titles.

    A text of several videos is no known item. The same library always gives the same items.
    """
    videos = [video for video in snapshot.videos() if video.state in SEARCHABLE]
    videos.sort(key=lambda video: video.fingerprint)  # a hash, so independent of the contents
    candidates = [list(_segments(snapshot, video)) for video in spread(videos, MAX_ITEMS)]
    items: list[KnownItem] = []
    for modality in word_modalities():
        items += _unique([[item for item in of if item.modality == modality] for of in candidates])
    return [*items, *_titled(videos)]


def _unique(candidates: Sequence[Sequence[KnownItem]]) -> list[KnownItem]:
    """Return the items whose text is of one video. candidates: the items of each video, of one modality."""
    counts = Counter(text for items in candidates for text in {item.text.casefold() for item in items})
    unique = [[item for item in items if counts[item.text.casefold()] == 1] for items in candidates]
    quotas = _quotas([len(items) for items in unique], MAX_ITEMS)
    return [item for items, quota in zip(unique, quotas, strict=True) for item in spread(items, quota)]


def _segments(snapshot: Snapshot, video: StoredVideo) -> Iterator[KnownItem]:
    seen = set()
    for segment in snapshot.segments(video.id):
        text = " ".join(segment.text.split())
        if (segment.track, text) not in seen and _content_words(text) >= MIN_SEGMENT_WORDS:
            seen.add((segment.track, text))
            yield KnownItem(text, video.fingerprint, segment.source, segment.track)


def _titled(videos: Sequence[StoredVideo]) -> list[KnownItem]:
    counts = Counter(video.title.casefold() for video in videos)
    unique = [
        video
        for video in videos
        if counts[video.title.casefold()] == 1 and _content_words(video.title) >= MIN_TITLE_WORDS
    ]
    modality = document_modality()
    return [KnownItem(video.title, video.fingerprint, TITLE, modality) for video in spread(unique, MAX_ITEMS)]


def _content_words(text: str) -> int:
    words = (word for word in content_words(text) if not word.isdigit())
    return sum(word.casefold() not in STOP_WORDS for word in words)


def _quotas(sizes: Sequence[int], total: int) -> list[int]:
    """Return how many to take of each, as evenly as their sizes let; together `total`, or all there are."""
    quotas = [0] * len(sizes)
    left = min(total, sum(sizes))
    while left:
        for at, size in enumerate(sizes):
            if left and quotas[at] < size:
                quotas[at] += 1
                left -= 1
    return quotas
