"""Full text search inside a snapshot: which documents hold a word or a phrase, and which clips those belong to."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select, text

from vfindex.storage import schema
from vfindex.storage.records import SegmentSource
from vfindex.storage.scripts import index_form

Rows = Callable[[Any, Mapping[str, Any] | None], Sequence[Any]]
# Subtitles break a sentence where the line is full; what follows later than this is another sentence.
CONTINUES_S = 2.0
_COLUMNS = (
    "SELECT d.id AS document_id, d.video_id, d.kind, d.text, {bm25}, s.start_s, s.end_s, s.source"
    " FROM document_fts JOIN document d ON d.id = document_fts.rowid"
    " JOIN video v ON v.id = d.video_id LEFT JOIN segment s ON s.id = d.segment_id"
    " WHERE document_fts MATCH :expression AND v.state IN ('indexed', 'partial')"
)
_AMONG_VIDEOS = " AND d.video_id IN (SELECT value FROM json_each(:videos))"


@dataclass(frozen=True, slots=True)
class WordMatch:
    """A document that holds words of the question: a segment, a title or a tag.

    bm25: Okapi BM25, higher is better; 0 where all that match are wanted. start_s, end_s, source: of a segment only.
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

    def __init__(self, rows: Rows) -> None:
        self._rows = rows

    def match(self, phrases: Sequence[str], limit: int, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return the documents that hold any of the words or phrases, best first by BM25 (Robertson and Zaragoza 2009).

        videos: the only ones looked at. Every phrase is quoted, so that no character of a question is syntax.
        """
        query = _COLUMNS.format(bm25="-bm25(document_fts) AS bm25")
        query += (_AMONG_VIDEOS if videos is not None else "") + " ORDER BY bm25 DESC, d.id LIMIT :limit"
        parameters = {"expression": " OR ".join(map(quoted, phrases)), "limit": limit} | _among(videos)
        return [WordMatch(*row) for row in self._rows(text(query), parameters)]

    def holding(self, phrase: str, videos: Collection[int] | None = None) -> list[WordMatch]:
        """Return all documents that hold the words of a phrase, in any form, one behind the other."""
        query = _COLUMNS.format(bm25="0.0") + (_AMONG_VIDEOS if videos is not None else "")
        parameters = {"expression": quoted(phrase)} | _among(videos)
        return [WordMatch(*row) for row in self._rows(text(query), parameters)]

    def broken(self, head: str, tail: str, videos: Collection[int] | None = None) -> list[tuple[WordMatch, WordMatch]]:
        """Return neighbouring segments of which the first holds `head` and the second begins with `tail`."""
        query = _COLUMNS.format(bm25="0.0") + " AND d.kind = 'speech'"
        query += _AMONG_VIDEOS if videos is not None else ""
        found = self._rows(text(query), {"expression": f"^ {quoted(tail)}"} | _among(videos))
        later = {row.document_id: WordMatch(*row) for row in found}
        before = {match.document_id: match for match in self.holding(head, {m.video_id for m in later.values()})}
        pairs = self._rows(
            text(
                "SELECT d.id AS later, (SELECT e.id FROM segment p JOIN document e ON e.segment_id = p.id"
                " WHERE p.video_id = s.video_id AND (p.start_s, p.id) < (s.start_s, s.id)"
                " AND p.end_s >= s.start_s - :gap ORDER BY p.start_s DESC, p.id DESC LIMIT 1) AS before"
                " FROM document d JOIN segment s ON s.id = d.segment_id"
                " WHERE d.id IN (SELECT value FROM json_each(:later))"
            ),
            {"later": json.dumps(list(later)), "gap": CONTINUES_S},
        )
        return [(before[pair.before], later[pair.later]) for pair in pairs if pair.before in before]

    def documents_with(self, word: str, among: Collection[int]) -> set[int]:
        """Return which of the documents `among` hold the word, or another form of it."""
        query = text(
            "SELECT rowid FROM document_fts WHERE document_fts MATCH :word"
            " AND rowid IN (SELECT value FROM json_each(:among))"
        )
        return {row.rowid for row in self._rows(query, {"word": quoted(word), "among": json.dumps(list(among))})}

    def document_frequencies(self, words: Sequence[str]) -> tuple[int, list[int]]:
        """Return (documents in all, for each word the number of documents that hold it)."""
        total = int(self._rows(select(func.count().label("n")).select_from(schema.document), None)[0].n)
        query = text("SELECT count(*) AS n FROM document_fts WHERE document_fts MATCH :word")
        return total, [int(self._rows(query, {"word": quoted(word)})[0].n) for word in words]

    def clips_during(self, document_ids: Collection[int]) -> list[tuple[int, int]]:
        """Return (document id, clip id) of the clips during which a document is said, in order of time."""
        query = text(
            "SELECT d.id AS document_id, c.id AS clip_id FROM document d JOIN segment s ON s.id = d.segment_id"
            " JOIN clip c ON c.video_id = d.video_id AND c.start_s <= s.end_s AND c.end_s > s.start_s"
            " WHERE d.id IN (SELECT value FROM json_each(:documents)) ORDER BY d.id, c.start_s"
        )
        rows = self._rows(query, {"documents": json.dumps(list(document_ids))})
        return [(row.document_id, row.clip_id) for row in rows]


def quoted(phrase: str) -> str:
    """Return words as an FTS5 string in the form of the index, in which nothing is syntax."""
    return '"' + index_form(phrase).replace('"', '""').replace("\0", " ") + '"'


def _among(videos: Collection[int] | None) -> dict[str, str]:
    return {} if videos is None else {"videos": json.dumps(list(videos))}
