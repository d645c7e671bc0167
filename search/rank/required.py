"""The documents in which required keywords are checked: all of a rare one, of a common one the newest and a sample."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import reduce

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Keyword
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.ids import Ids, in_sorted
from vfindex.storage.modalities import get_modality, word_modalities
from vfindex.storage.text.document_lists import are_many, newest_of
from vfindex.storage.text.full_text import MAX_LISTED
from vfindex.storage.text.tokenizer import plain_words

# Documents checked for a required keyword, 10 us each.
MAX_VERIFIED = 2000


@dataclass(frozen=True, slots=True, eq=False)
class Chosen:
    """Documents that contain a keyword, increasing. is_cut: whether others were left out that may answer.

    is_narrowed: whether it was looked up in the videos of rarer keywords alone.
    """

    ids: Ids
    is_cut: bool = False
    is_narrowed: bool = False


def documents_to_check(snapshot: Snapshot, keywords: Sequence[Keyword], videos: Collection[int] | None) -> list[Chosen]:
    """Return for each required keyword at most MAX_VERIFIED documents, of `videos` that contain all of them.

    The first half are those with the most keywords, then the newest; the second half is spread evenly over the rest.
    """
    words = snapshot.words
    if all(words.rarity(keyword.text) <= MAX_LISTED for keyword in keywords):
        lists = [words.holders(keyword.text, videos).ids for keyword in keywords]
        if all(len(ids) <= MAX_VERIFIED for ids in lists):
            return [*map(Chosen, lists)]
    lookup = _Lookup(snapshot, keywords, videos)
    found = [ids for ids, _ in lookup.in_shared_videos()]
    result = []
    for number, ids in enumerate(found):
        is_cut = len(ids) > MAX_VERIFIED
        if is_cut:
            ids = _limited(ids, np.sum([in_sorted(ids, other) for other in found], axis=0), MAX_VERIFIED)
        result.append(Chosen(ids, is_cut or number in lookup.cut, number in lookup.narrowed))
    return result


class _Lookup:
    """Looks keywords up, the rarest first, and the others in its videos.

    cut: the numbers of those of which some documents were left out; narrowed: of those looked up in some videos.
    """

    def __init__(self, snapshot: Snapshot, keywords: Sequence[Keyword], videos: Collection[int] | None) -> None:
        self._snapshot, self._keywords = snapshot, keywords
        self.cut, self.narrowed = set[int](), set[int]()
        self._placed: dict[int, NDArray[np.int64]] = {}
        self._among, self._narrows = videos, False
        order = sorted(range(len(keywords)), key=lambda number: snapshot.words.rarity(keywords[number].text))
        for number in order:
            self._look(number)
        for number in order:
            if number in self.cut and self._narrows and not are_many(self._among):
                self._look(number)
        if len(keywords) > 1 and self.cut:
            self._add_those_with_all()

    def in_shared_videos(self) -> list[NDArray[np.int64]]:
        """Return for each keyword (2, n): documents of videos that contain all keywords, and their videos."""
        placed = [self._placed[number] for number in range(len(self._keywords))]
        complete = [each for number, each in enumerate(placed) if self._is_complete(number)]
        if not complete:
            return placed
        shared = reduce(np.intersect1d, [np.unique(owners) for _, owners in complete])
        return [each[:, in_sorted(each[1], shared)] for each in placed]

    def _is_complete(self, number: int) -> bool:
        """Return whether a video without a document of this keyword cannot answer.

        A phrase may continue into the next segment, so that no single document of a video contains all of it.
        """
        keyword = self._keywords[number]
        return len(self._keywords) > 1 and not (keyword.exact and len(plain_words(keyword.text)) > 1)

    def _look(self, number: int) -> None:
        self._placed[number], is_cut = _placed(self._snapshot, self._keywords[number], self._among)
        if self._narrows:
            self.narrowed.add(number)
        self.cut = self.cut | {number} if is_cut else self.cut - {number}
        if not is_cut and self._is_complete(number):
            self._among, self._narrows = set(self._placed[number][1].tolist()), True

    def _add_those_with_all(self) -> None:
        both = self._snapshot.words.together([keyword.text for keyword in self._keywords])
        for number in self.cut:
            first = self._snapshot.words.lists.searchable(both, self._among, kinds_of(self._keywords[number]))
            self._placed[number] = np.unique(np.concatenate([first, self._placed[number]], axis=1), axis=1)


def _placed(snapshot: Snapshot, keyword: Keyword, videos: Collection[int] | None) -> tuple[NDArray[np.int64], bool]:
    """Return (2, n): documents of a keyword's modalities and of searchable `videos`, and their videos; and whether some
    were left out.

    Of more than MAX_LISTED documents twice as many as are checked are looked at. Where most of these are of other
    modalities or videos, so many of its modalities, or of the newest of `videos`, are.
    """
    words, kinds = snapshot.words, kinds_of(keyword)
    found = words.holders(keyword.text, videos)
    ids = words.lists.visible(found.ids) if len(found.ids) > MAX_LISTED else found.ids
    first = _few(ids)
    placed, is_whole = words.lists.searchable(first, videos, kinds), found.is_whole and len(first) == len(ids)
    if not is_whole and len(placed[0]) < MAX_VERIFIED and are_many(videos):
        ids = words.lists.visible(words.holders(keyword.text, newest_of(videos)).ids)
        placed = words.lists.searchable(_few(ids), videos, kinds)
    if not is_whole and len(placed[0]) < MAX_VERIFIED and keyword.modalities != word_modalities():
        ids = words.lists.of_kinds(ids, kinds)
        first = _few(ids)
        placed = words.lists.searchable(first, videos, kinds)
        is_whole = found.is_whole and not are_many(videos) and len(first) == len(ids)
    return placed, not is_whole


def _few(ids: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the documents, of more than MAX_LISTED some."""
    return ids if len(ids) <= MAX_LISTED else _limited(ids, np.zeros(len(ids), np.int64), 2 * MAX_VERIFIED)


def _limited(ids: NDArray[np.int64], counts: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Return at most `most` of more documents, increasing. counts: the number of keywords in each."""
    ordered, half = ids[np.lexsort((-ids, -counts))], most // 2
    spread = np.linspace(half, len(ids) - 1, most - half).astype(np.int64)
    return np.asarray(np.sort(np.append(ordered[:half], ordered[spread])))


def kinds_of(keyword: Keyword) -> frozenset[str]:
    """Return the kinds of documents that a keyword may occur in."""
    return frozenset(kind for modality in keyword.modalities for kind in get_modality(modality).document_kinds)
