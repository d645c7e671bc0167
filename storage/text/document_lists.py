"""Lists of documents that match a full text expression, increasing: whole, or the newest where there are too many.

SQLite returns each list as one text, in a fifth of the time of one row a document. Lists are combined as sorted arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, MutableMapping, Sequence, Sized
from dataclasses import dataclass
from heapq import nlargest
from threading import Lock
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import FEW_VIDEOS, Ids, in_sorted, listed
from vfindex.storage.text.corrected import CorrectedText
from vfindex.storage.text.id_ranges import Spans, around, newest_part, outside, runs

# A statement and its parameters -> its rows; a key and what computes something -> that, as of the snapshot.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]
Remembered = Callable[[str, Callable[[], Any]], Any]
K = TypeVar("K")
V = TypeVar("V", bound=Sized)
# Results of one kind that are cached until the next commit, and how many ids they may hold together (32 MB): paging
# and refined queries ask for the same lists again.
KEPT = 32
KEPT_IDS = 4_000_000
# Documents of a word that are listed; of more, the newest: 35 ms.
MAX_WHOLE = 200_000
# Documents of the rarest word of an expression that are passed for those that match: 0.1 us each.
MAX_PASSED = 500_000
# Stretches of document ids that one statement searches for a common word, and how many documents of a list take as long
# as one of them: 65 us, and 0.15 us.
MAX_RUNS, PER_RUN = 1000, 400
# Runs of documents of unsearchable videos that a search in all videos leaves out.
MAX_HOLES = 3
_NEWEST = (
    "SELECT group_concat(id, ' ') FROM (SELECT rowid AS id FROM document_fts WHERE document_fts MATCH ?"
    " AND rowid BETWEEN ? AND ? ORDER BY rowid DESC LIMIT ?)"
)
_LISTED = "SELECT ?, group_concat(id, ' ') FROM (SELECT rowid AS id FROM document_fts WHERE document_fts MATCH ?)"
_IN_SPANS = (
    "SELECT group_concat(f.rowid, ' ') FROM json_each(?) j CROSS JOIN document_fts f WHERE f.document_fts MATCH ?"
    " AND f.rowid BETWEEN json_extract(j.value, '$[0]') AND json_extract(j.value, '$[1]')"
)
# CROSS JOIN goes through the list in its order.
_SEARCHABLE = (
    "SELECT group_concat(d.id, ' '), group_concat(d.video_id, ' ') FROM json_each(?) j"
    " CROSS JOIN document d ON d.id = j.value JOIN video v ON v.id = d.video_id"
    " WHERE v.state IN ('indexed', 'partial')"
)
_OF_KINDS = " AND d.kind IN (SELECT value FROM json_each(?))"
# Held while a cache of `kept` changes: several threads search one library.
_KEEPING = Lock()


@dataclass(frozen=True, slots=True, eq=False)
class Holders:
    """The documents that hold a word or phrase. ids: increasing. is_whole: whether these are all that do."""

    ids: Ids
    is_whole: bool = True


class DocumentLists:
    """The lists of one snapshot."""

    def __init__(self, rows: Rows, remembered: Remembered, corrected: Callable[[], CorrectedText]) -> None:
        self._rows = rows
        self._remembered = remembered
        self._corrected = corrected
        self._whole: dict[str, Ids] = {}

    def all_of(self, expressions: Sequence[str]) -> list[Ids]:
        """Return for each expression all documents that match it."""
        new = [each for each in dict.fromkeys(expressions) if each not in self._whole]
        if new:
            parameters = tuple(value for number, each in enumerate(new) for value in (number, each))
            rows = dict(self._rows(" UNION ALL ".join([_LISTED] * len(new)), parameters))
            self._whole |= {
                each: self._corrected().matching(each, listed(rows[number])) for number, each in enumerate(new)
            }
        return [self._whole[each] for each in expressions]

    def holding(self, expression: str, passed: int, videos: Collection[int] | None, *, every: bool = False) -> Holders:
        """Return the documents that match an expression: in `videos` if these are few, else in all.

        passed: how many documents hold the rarest word of it. Of more than MAX_WHOLE, or with more than MAX_RUNS runs
        of documents in the videos, the newest are listed, unless every one is asked for.
        """
        if videos is not None and not are_many(videos):
            inside = self.of_videos(videos)
            stretches = runs(inside)
            if passed <= PER_RUN * len(stretches) and (every or passed <= MAX_PASSED):
                found = self.all_of([expression])[0]
                return Holders(found[in_sorted(found, inside)])
            chosen = stretches if every else stretches[-MAX_RUNS:]
            found = self.in_spans(expression, chosen)
            return Holders(found[in_sorted(found, inside)], len(chosen) == len(stretches))
        if passed <= MAX_WHOLE or every:
            return Holders(self.all_of([expression])[0])
        spans = self.spans(None)
        newest = newest_part(spans, MAX_PASSED / passed)
        found, is_whole = self.newest(expression, newest, MAX_WHOLE)
        return Holders(found, is_whole and newest == spans)

    def newest(self, expression: str, spans: Spans, each: int) -> tuple[Ids, bool]:
        """Return the newest `each` documents in each span that match an expression, and whether these are all."""
        parameters = tuple(value for span in spans for value in (expression, *span, each))
        rows = self._rows(" UNION ALL ".join([_NEWEST] * len(spans)), parameters) if spans else []
        found = [listed(ids)[::-1] for (ids,) in rows]
        corrected = [self._corrected().matching(expression, *of_span) for of_span in zip(found, spans, strict=True)]
        return np.concatenate([np.zeros(0, np.int64), *corrected]), all(len(ids) < each for ids in found)

    def in_spans(self, expression: str, spans: Spans) -> Ids:
        """Return all documents in increasing spans that match an expression; corrected ones also outside them."""
        rows = self._rows(_IN_SPANS, (json.dumps(list(spans)), expression)) if spans else [(None,)]
        return self._corrected().matching(expression, listed(rows[0][0]))

    def spans(self, videos: Collection[int] | None, most: int = 1) -> Spans:
        """Return stretches of ids, increasing, that hold the documents of few videos and few others, see `around`.

        None: of all videos, but for the longest stretches of documents that no search may return, as of a video that is
        being indexed, whose words are the newest.
        """
        if videos is None:
            return outside(self._hidden(), self._remembered("last document", self._last), MAX_HOLES)
        return around(self.of_videos(videos), most)

    def _hidden(self) -> Ids:
        """Return the documents of videos that are not searchable; once a commit."""
        query = (
            "SELECT group_concat(d.id, ' ') FROM video v CROSS JOIN document d ON d.video_id = v.id"
            " WHERE NOT v.state IN ('indexed', 'partial')"
        )
        return self._remembered("hidden documents", lambda: np.sort(listed(self._rows(query, ())[0][0])))  # type: ignore[no-any-return]

    def visible(self, ids: Ids) -> Ids:
        """Return the documents that belong to searchable videos."""
        return ids[~in_sorted(ids, self._hidden())]

    def _last(self) -> int:
        return int(self._rows("SELECT coalesce(max(id), 1) FROM document", ())[0][0])

    def within(self, ids: Ids, videos: Collection[int] | None) -> Ids:
        """Return the documents that belong to `videos`, if these are few; else all of `ids`."""
        if videos is None or not len(ids) or are_many(videos):
            return ids
        return ids[in_sorted(ids, self.of_videos(videos))]

    def of_videos(self, videos: Collection[int]) -> Ids:
        """Return the documents of few videos; cached."""
        known: dict[frozenset[int], Ids] = self._remembered("documents of videos", dict)
        return kept(known, frozenset(videos), lambda: self._documents_of(videos))

    def _documents_of(self, videos: Collection[int]) -> Ids:
        of_video = "SELECT group_concat(d.id, ' ') FROM json_each(?) j CROSS JOIN document d ON d.video_id = j.value"
        return np.sort(listed(self._rows(of_video, (as_json(videos),))[0][0]))

    def searchable(
        self, ids: Ids, videos: Collection[int] | None = None, kinds: Collection[str] | None = None
    ) -> NDArray[np.int64]:
        """Return (2, n): those documents that are of searchable `videos` and of these kinds, and their videos."""
        if not len(ids):
            return np.zeros((2, 0), np.int64)
        limits = () if kinds is None else (as_json(sorted(kinds)),)
        [row] = self._rows(_SEARCHABLE + (_OF_KINDS if limits else ""), (as_json(ids), *limits))
        found = np.stack([listed(column) for column in row])
        return found if videos is None else found[:, np.isin(found[1], list(videos))]

    def of_kinds(self, ids: Ids, kinds: Collection[str]) -> Ids:
        """Return the documents of these kinds. These, or all others if they are fewer, are listed once a commit."""
        names = as_json(sorted(kinds))
        found: tuple[Ids, bool] = self._remembered(f"documents of {names}", lambda: self._read_kinds(names))
        listed_ids, inside = found
        kept_ids: Ids = ids[in_sorted(ids, listed_ids) == inside]
        return kept_ids

    def _read_kinds(self, names: str) -> tuple[Ids, bool]:
        among = "kind IN (SELECT value FROM json_each(?))"
        [(n, total)] = self._rows(f"SELECT total({among}), count(*) FROM document", (names,))
        inside = 2 * n <= total
        query = f"SELECT group_concat(id, ' ') FROM document WHERE ({among}) = ?"
        return np.sort(listed(self._rows(query, (names, inside))[0][0])), inside


def are_many(videos: Collection[int] | None) -> bool:
    """Return whether videos are so many that their documents are not listed."""
    return videos is not None and len(videos) > FEW_VIDEOS


def newest_of(videos: Collection[int] | None) -> Collection[int] | None:
    """Return the newest of many videos, few enough for their documents to be listed."""
    return nlargest(FEW_VIDEOS, videos) if videos is not None and are_many(videos) else videos


def kept(known: MutableMapping[K, V], key: K, compute: Callable[[], V]) -> V:
    """Return the cached value of a key, or compute it; the newest stay cached, up to KEPT and KEPT_IDS."""
    found = known.get(key)
    if found is None:
        found = compute()
        with _KEEPING:
            while known and (len(known) >= KEPT or sum(map(len, known.values())) + len(found) > KEPT_IDS):
                known.pop(next(iter(known)))
            known[key] = found
    return found


def by_worth(lists: Mapping[str, Ids], worth: Mapping[str, float]) -> Ids:
    """Return documents, those first that hold what is worth most together, of equals the newest."""
    ids, places = merged(list(lists.values()))
    values = np.repeat([worth[phrase] for phrase in lists], [len(ids_of) for ids_of in lists.values()])
    together = np.bincount(places, values, len(ids))
    return np.asarray(ids[::-1][np.argsort(-together[::-1], kind="stable")])


def merged(lists: Sequence[Ids]) -> tuple[Ids, NDArray[np.int64]]:
    """Return the ids of increasing lists, each once and increasing, and the place there of each id of the lists.

    Three times as fast as numpy's `unique`, which does not know that the lists are sorted.
    """
    every = np.concatenate(lists)
    order = np.argsort(every, kind="stable")
    ordered = every[order]
    new = np.append(True, ordered[1:] != ordered[:-1])[: len(every)]
    places = np.empty(len(every), np.int64)
    places[order] = np.cumsum(new) - 1
    return ordered[new], places


def as_json(values: Collection[int | str] | Ids) -> str:
    """Return a list of values as a parameter of `json_each`."""
    return json.dumps(values.tolist() if isinstance(values, np.ndarray) else list(values))
