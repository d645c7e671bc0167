"""Full text search inside a snapshot: which documents hold a word or a phrase, and which clips those belong to.

Lists of documents come out of SQLite as one text each, a fifth of the time that a row a document takes, and meet one
another as sorted arrays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, MutableMapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.ids import Ids, held_in
from vfindex.storage.records import SegmentSource
from vfindex.storage.scripts import index_form
from vfindex.storage.spans import FEW_VIDEOS, listed

# A statement and its parameters -> its rows; a key and what computes something -> that, as of the snapshot.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]
Remembered = Callable[[str, Callable[[], Any]], Any]
K = TypeVar("K")
V = TypeVar("V", bound=Sized)
# Answers of one kind that are remembered until somebody commits, and how many ids they hold together, 32 MB of them:
# who pages through hits, or asks once more with another word, asks for the same again.
KEPT = 32
KEPT_IDS = 4_000_000
# Subtitles break a sentence where the line is full; what follows later than this is another sentence.
CONTINUES_S = 2.0
# Documents compared by BM25, 20 times the time that it takes to find them.
MAX_RANKED = 400
# Of a commoner word, how many are looked at to choose so many: the oldest. 20,000 take 3 ms.
MAX_LISTED = 20_000
# Of documents of any videos, how many are read to find those of many videos, which are not listed.
MOST_READ = 10 * MAX_RANKED
# Multiplied with these, numbers that follow each other stand far apart (Knuth 1973, section 6.4).
_SHUFFLE, _SHUFFLED = 2654435761, 1 << 32
_OF_DOCUMENT = "SELECT d.id, d.video_id, d.kind, d.text, {bm25}, s.start_s, s.end_s, s.source"
_BESIDE = " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
_SEARCHABLE = " v.state IN ('indexed', 'partial')"
_RANKED = (
    f"{_OF_DOCUMENT.format(bm25='-bm25(document_fts) AS bm25')} FROM document_fts"
    f" JOIN document d ON d.id = document_fts.rowid{_BESIDE}"
    f" WHERE document_fts MATCH ? AND{_SEARCHABLE} ORDER BY bm25 DESC, d.id"
)
# CROSS JOIN goes through the list in its order, and no further than the limit asks.
_CHOSEN = (
    f"{_OF_DOCUMENT.format(bm25='0.0')} FROM json_each(?) j CROSS JOIN document d ON d.id = j.value{_BESIDE}"
    f" WHERE{_SEARCHABLE} LIMIT ?"
)
# The clips of a segment lie between the last that begins before it and the last that begins within it: the rows of the
# others are not read, however long the video is. Milliseconds are rounded, so that one more is allowed for.
_DURING = (
    "clip c ON c.video_id = d.video_id AND c.start_s <= s.end_s AND c.end_s > s.start_s"
    " AND c.start_ms <= 1000 * s.end_s + 1 AND c.start_ms >= coalesce((SELECT max(b.start_ms) FROM clip b"
    " WHERE b.video_id = d.video_id AND b.start_ms <= 1000 * s.start_s - 1), -9e15)"
)
_LISTED = "SELECT ?, group_concat(id, ' ') FROM (SELECT rowid AS id FROM document_fts WHERE document_fts MATCH ?"
# The plus keeps SQLite from looking for each document in the list of all that hold the word, from its beginning: one
# pass over that list is 50 to 250 times as fast.
_AMONG = " AND +document_fts.rowid IN (SELECT value FROM json_each(?))"


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A document that holds words of the question: a segment, a title or a tag.

    bm25: Okapi BM25, higher is better; 0 where all that match are wanted, or too many match. start_s, end_s, source: of
    a segment only.
    """

    document_id: int
    video_id: int
    kind: str
    text: str
    bm25: float
    start_s: float | None
    end_s: float | None
    source: SegmentSource | None


class Words:
    """The words of a library as of one instant; `Snapshot.words`."""

    def __init__(self, rows: Rows, remembered: Remembered) -> None:
        self._rows = rows
        self._remembered = remembered
        self._lists: dict[str, Ids] = {}  # of the oldest
        self._whole: dict[str, Ids] = {}

    def match(self, phrases: Sequence[str], limit: int, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return the documents that hold any of the words or phrases, best first by BM25 (Robertson and Zaragoza 2009).

        videos: the only ones looked at. Every phrase is quoted, so that no character of a question is syntax.
        Where more than MAX_RANKED documents hold one, those come first whose words are the rarest together, equals in
        no order: BM25 reads the length of every document. Of a word in more than MAX_LISTED documents the oldest are
        looked at.
        """
        total, counts = self.document_frequencies(phrases)
        if sum(counts) <= MAX_RANKED:
            rows = self._rows(_RANKED, (" OR ".join(map(quoted, phrases)),))
            return [WordMatch(*row) for row in rows if videos is None or row[1] in videos][:limit]
        ordered = self._rarest(phrases, np.log1p(total / np.maximum(counts, 1)), videos)
        found: list[WordMatch] = []
        # Of many videos the documents are not listed: those of others fall out as they are read.
        for first in range(0, MOST_READ if are_many(videos) else MAX_RANKED, MAX_RANKED):
            found += self.documents(ordered[first : first + MAX_RANKED], limit, videos)
            if len(found) >= limit:
                break
        return found[:limit]

    def _rarest(self, phrases: Sequence[str], worth: NDArray[np.float64], videos: Collection[int] | None) -> Ids:
        """Return documents, those first that hold what is worth most together; worth: one a phrase."""
        lists = [self._within(held, videos) for held in self._listed(phrases)]
        ids, places = np.unique(np.concatenate(lists), return_inverse=True)
        together = np.bincount(places, np.repeat(worth, [len(held) for held in lists]), len(ids))
        order = np.lexsort((ids * _SHUFFLE % _SHUFFLED, -together))
        return np.asarray(ids[order])

    def _listed(self, phrases: Sequence[str]) -> list[Ids]:
        """Return for each phrase the oldest MAX_LISTED documents that hold it, increasing."""
        new = [phrase for phrase in dict.fromkeys(phrases) if phrase not in self._lists]
        if new:
            one = f"SELECT * FROM ({_LISTED} LIMIT {MAX_LISTED}))"
            parameters = (value for n, phrase in enumerate(new) for value in (n, quoted(phrase)))
            rows = self._rows(" UNION ALL ".join([one] * len(new)), tuple(parameters))
            self._lists |= {new[n]: listed(told) for n, told in rows}
        return [self._lists[phrase] for phrase in phrases]

    def _within(self, ids: Ids, videos: Collection[int] | None) -> Ids:
        """Return those documents that are of videos, unless these are many; those of some videos are remembered."""
        if videos is None or are_many(videos) or not len(ids):
            return ids
        known: dict[frozenset[int], Ids] = self._remembered("documents of videos", dict)
        return ids[held_in(ids, kept(known, frozenset(videos), lambda: self._documents_of(videos)))]

    def _documents_of(self, videos: Collection[int]) -> Ids:
        of_video = "SELECT group_concat(d.id, ' ') FROM json_each(?) j CROSS JOIN document d ON d.video_id = j.value"
        return np.sort(listed(self._rows(of_video, (_json(videos),))[0][0]))

    def holders(self, phrase: str, videos: Collection[int] | None = None) -> Ids:
        """Return all documents that hold the words of a phrase, in any form, one behind the other; increasing.

        videos: the only ones looked at, unless these are many: then the documents of all.
        """
        return self._within(self._holding(quoted(phrase)), videos)

    def _holding(self, expression: str) -> Ids:
        if expression not in self._whole:
            self._whole[expression] = listed(self._rows(f"{_LISTED})", (0, expression))[0][1])
        return self._whole[expression]

    def documents(
        self, ids: Collection[int] | Ids, limit: int = -1, videos: Collection[int] | None = None
    ) -> list[WordMatch]:
        """Return documents of searchable videos in the order given, the first `limit`, or all; videos: of these."""
        rows = self._rows(_CHOSEN, (_json(ids), limit if videos is None else -1)) if len(ids) else []
        return [WordMatch(*row) for row in rows if videos is None or row[1] in videos]

    def broken(self, head: str, tail: str, videos: Collection[int] | None = None) -> list[tuple[WordMatch, WordMatch]]:
        """Return neighbouring segments of which the first holds `head` and the second begins with `tail`."""
        before = self.holders(head, videos)
        later = self._within(self._holding(f"^ {quoted(tail)}"), videos)
        if not len(before) or not len(later):
            return []
        pairs = self._rows(
            "SELECT d.id, (SELECT e.id FROM segment p JOIN document e ON e.segment_id = p.id"
            " WHERE p.video_id = s.video_id AND (p.start_s, p.id) < (s.start_s, s.id)"
            " AND p.end_s >= s.start_s - ? ORDER BY p.start_s DESC, p.id DESC LIMIT 1)"
            " FROM document d JOIN segment s ON s.id = d.segment_id"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (CONTINUES_S, _json(later)),
        )
        known = set(before.tolist())
        found = {second: first for second, first in pairs if first in known}
        told = {match.document_id: match for match in self.documents([*found, *found.values()], videos=videos)}
        return [(told[first], told[second]) for second, first in found.items() if first in told and second in told]

    def documents_with(self, words: Sequence[str], among: Collection[int]) -> list[set[int]]:
        """Return for each word which of the documents `among` hold it, or another form of it."""
        if not words or not among:
            return [set() for _ in words]
        asked = np.array(sorted(among), np.int64)
        lists = self._listed(words)
        found = {word: set(asked[held_in(asked, held)].tolist()) for word, held in zip(words, lists, strict=True)}
        cut = [word for word, held in zip(words, lists, strict=True) if len(held) >= MAX_LISTED]
        if cut:
            one = "SELECT ?, rowid FROM document_fts WHERE document_fts MATCH ?" + _AMONG
            parameters = (value for word in cut for value in (word, quoted(word), _json(asked)))
            for word, document_id in self._rows(" UNION ALL ".join([one] * len(cut)), tuple(parameters)):
                found[word].add(document_id)
        return [found[word] for word in words]

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = self._remembered("documents", lambda: int(self._rows("SELECT count(*) FROM document", ())[0][0]))
        counts: dict[str, int] = self._remembered("document frequencies", dict)
        new = [word for word in dict.fromkeys(words) if word not in counts]
        if new:
            one = "SELECT ?, count(*) FROM document_fts WHERE document_fts MATCH ?"
            parameters = (value for word in new for value in (word, quoted(word)))
            counts |= dict(self._rows(" UNION ALL ".join([one] * len(new)), tuple(parameters)))
        return total, [counts[word] for word in words]

    def clips_during(self, document_ids: Collection[int]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips during which a document is said, in order of time."""
        if not document_ids:
            return []
        return self._rows(
            f"SELECT d.id, c.id FROM document d JOIN segment s ON s.id = d.segment_id JOIN {_DURING}"
            " WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.id, c.start_s",
            (_json(document_ids),),
        )

    def places(self, document_ids: Ids) -> NDArray[np.int64]:
        """Return (4, n): document, its video, whether it is of a segment, and a clip during which that is said, 0 for
        none; of searchable videos.
        """
        if not len(document_ids):
            return np.zeros((4, 0), np.int64)
        found = self._rows(
            "SELECT d.id, d.video_id, d.segment_id IS NOT NULL, coalesce(c.id, 0) FROM json_each(?) j"
            f" CROSS JOIN document d ON d.id = j.value{_BESIDE} LEFT JOIN {_DURING} WHERE{_SEARCHABLE}",
            (_json(document_ids),),
        )
        return np.array(found, np.int64).reshape(-1, 4).T


def are_many(videos: Collection[int] | None) -> bool:
    """Return whether to list all documents of videos takes longer than to look at some and drop those of others."""
    return videos is not None and len(videos) > FEW_VIDEOS


def kept(known: MutableMapping[K, V], key: K, compute: Callable[[], V]) -> V:
    """Return what is known by a key, else what `compute` gives; the newest stay known, up to KEPT and KEPT_IDS."""
    if key not in known:
        found = compute()
        while known and (len(known) >= KEPT or sum(map(len, known.values())) + len(found) > KEPT_IDS):
            known.pop(next(iter(known)))
        known[key] = found
    return known[key]


def quoted(phrase: str) -> str:
    """Return words as an FTS5 string in the form of the index, in which nothing is syntax."""
    return '"' + index_form(phrase).replace('"', '""').replace("\0", " ") + '"'


def _json(ids: Collection[int] | Ids) -> str:
    return json.dumps(ids.tolist() if isinstance(ids, np.ndarray) else list(ids))
