"""Full text search inside a snapshot: which documents hold a word or a phrase, and which clips those belong to."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.records import SegmentSource
from vfindex.storage.scripts import index_form

# A statement and its parameters -> its rows; a key and what computes a count -> the count as of the snapshot.
Rows = Callable[[str, tuple[Any, ...]], list[Any]]
Remembered = Callable[[str, Callable[[], int]], int]
# Subtitles break a sentence where the line is full; what follows later than this is another sentence.
CONTINUES_S = 2.0
# Documents compared by BM25, 20 times the time that it takes to find them; and of a commoner word, how many are looked
# at to choose so many.
MAX_RANKED = 400
MAX_HOLDERS = 2000
# Multiplied with these, numbers that follow each other stand far apart (Knuth 1973, section 6.4).
_SHUFFLE, _SHUFFLED = 2654435761, 1 << 32
_OF_DOCUMENT = "SELECT d.id, d.video_id, d.kind, d.text, {bm25}, s.start_s, s.end_s, s.source"
_BESIDE = " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
_COLUMNS = (
    f"{_OF_DOCUMENT} FROM document_fts JOIN document d ON d.id = document_fts.rowid{_BESIDE}"
    " WHERE document_fts MATCH ? AND v.state IN ('indexed', 'partial')"
)
# CROSS JOIN goes through the list in its order, and no further than the limit asks.
_CHOSEN = (
    f"{_OF_DOCUMENT.format(bm25='0.0')} FROM json_each(?) j CROSS JOIN document d ON d.id = j.value{_BESIDE}"
    " WHERE v.state IN ('indexed', 'partial')"
)
_AMONG_VIDEOS = " AND d.video_id IN (SELECT value FROM json_each(?))"
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
        self._counts: dict[str, int] = {}

    def match(self, phrases: Sequence[str], limit: int, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return the documents that hold any of the words or phrases, best first by BM25 (Robertson and Zaragoza 2009).

        videos: the only ones looked at. Every phrase is quoted, so that no character of a question is syntax.
        Where more than MAX_RANKED documents hold one, those come first whose words are the rarest together, equals in
        no order: BM25 reads the length of every document. Of a word in more than MAX_HOLDERS documents the oldest are
        looked at, and those that hold another word.
        """
        total, counts = self.document_frequencies(phrases)
        if sum(counts) > MAX_RANKED:
            worth = np.log1p(total / np.maximum(counts, 1))
            chosen = self._rarest([quoted(phrase) for phrase in phrases], worth, videos)
            found = self._rows(_CHOSEN + " LIMIT ?", (_listed(chosen), limit))
            return [WordMatch(*row) for row in found]
        query = _COLUMNS.format(bm25="-bm25(document_fts) AS bm25") + (_AMONG_VIDEOS if videos is not None else "")
        parameters: tuple[Any, ...] = (" OR ".join(map(quoted, phrases)),)
        parameters += () if videos is None else (_listed(videos),)
        rows = self._rows(query + " ORDER BY bm25 DESC, d.id LIMIT ?", (*parameters, limit))
        return [WordMatch(*row) for row in rows]

    def _rarest(
        self, expressions: Sequence[str], worth: NDArray[np.float64], videos: Collection[int] | None
    ) -> list[int]:
        """Return MAX_RANKED documents, those first that match what is worth most together; worth: one an expression."""
        among = () if videos is None else (_listed(videos),)
        one = (
            "SELECT * FROM (SELECT ?, document_fts.rowid FROM document_fts"
            f"{' JOIN document d ON d.id = document_fts.rowid' if among else ''} WHERE document_fts MATCH ?"
            f"{_AMONG_VIDEOS if among else ''} LIMIT {MAX_HOLDERS})"
        )
        parameters = (value for n, expression in enumerate(expressions) for value in (n, expression, *among))
        rows = np.array(self._rows(" UNION ALL ".join([one] * len(expressions)), tuple(parameters)), np.int64)
        if not rows.size:
            return []
        ids, places = np.unique(rows[:, 1], return_inverse=True)
        together = np.bincount(places, worth[rows[:, 0]])
        order = np.lexsort((ids * _SHUFFLE % _SHUFFLED, -together))
        return [int(id_) for id_ in ids[order[:MAX_RANKED]]]

    def holding(self, phrase: str, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return all documents that hold the words of a phrase, in any form, one behind the other."""
        return self._all(quoted(phrase), "", videos)

    def _all(self, expression: str, condition: str, videos: Collection[int] | None) -> list[WordMatch]:
        query = _COLUMNS.format(bm25="0.0") + condition + (_AMONG_VIDEOS if videos is not None else "")
        parameters = (expression,) if videos is None else (expression, _listed(videos))
        return [WordMatch(*row) for row in self._rows(query, parameters)]

    def broken(self, head: str, tail: str, videos: Collection[int] | None = None) -> list[tuple[WordMatch, WordMatch]]:
        """Return neighbouring segments of which the first holds `head` and the second begins with `tail`."""
        later = {m.document_id: m for m in self._all(f"^ {quoted(tail)}", " AND d.kind = 'speech'", videos)}
        if not later:
            return []
        before = {match.document_id: match for match in self.holding(head, {m.video_id for m in later.values()})}
        pairs = self._rows(
            "SELECT d.id, (SELECT e.id FROM segment p JOIN document e ON e.segment_id = p.id"
            " WHERE p.video_id = s.video_id AND (p.start_s, p.id) < (s.start_s, s.id)"
            " AND p.end_s >= s.start_s - ? ORDER BY p.start_s DESC, p.id DESC LIMIT 1)"
            " FROM document d JOIN segment s ON s.id = d.segment_id"
            " WHERE d.id IN (SELECT value FROM json_each(?))",
            (CONTINUES_S, _listed(later)),
        )
        return [(before[first], later[second]) for second, first in pairs if first in before]

    def documents_with(self, words: Sequence[str], among: Collection[int]) -> list[set[int]]:
        """Return for each word which of the documents `among` hold it, or another form of it."""
        found: list[set[int]] = [set() for _ in words]
        if words and among:
            one = "SELECT ?, rowid FROM document_fts WHERE document_fts MATCH ?" + _AMONG
            ids = _listed(among)
            parameters = (value for n, word in enumerate(words) for value in (n, quoted(word), ids))
            for n, document_id in self._rows(" UNION ALL ".join([one] * len(words)), tuple(parameters)):
                found[n].add(document_id)
        return found

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = self._remembered("documents", lambda: int(self._rows("SELECT count(*) FROM document", ())[0][0]))
        new = [word for word in dict.fromkeys(words) if word not in self._counts]
        if new:
            one = "SELECT ?, count(*) FROM document_fts WHERE document_fts MATCH ?"
            parameters = (value for word in new for value in (word, quoted(word)))
            self._counts |= dict(self._rows(" UNION ALL ".join([one] * len(new)), tuple(parameters)))
        return total, [self._counts[word] for word in words]

    def clips_during(self, document_ids: Collection[int]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips during which a document is said, in order of time."""
        if not document_ids:
            return []
        return self._rows(
            "SELECT d.id, c.id FROM document d JOIN segment s ON s.id = d.segment_id"
            " JOIN clip c ON c.video_id = d.video_id AND c.start_s <= s.end_s AND c.end_s > s.start_s"
            " AND c.start_ms <= 1000 * s.end_s + 1"  # says nothing new, but this column is in an index
            " WHERE d.id IN (SELECT value FROM json_each(?)) ORDER BY d.id, c.start_s",
            (_listed(document_ids),),
        )


def quoted(phrase: str) -> str:
    """Return words as an FTS5 string in the form of the index, in which nothing is syntax."""
    return '"' + index_form(phrase).replace('"', '""').replace("\0", " ") + '"'


def _listed(ids: Collection[int]) -> str:
    return json.dumps(list(ids))
