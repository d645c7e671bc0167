"""Corrected lines of a transcript: what people wrote, laid over the text of one state of a library.

The full text index of the library is left as it is. The documents of corrected lines, few beside it, are indexed once
more in memory, as the library has them and as they should read.
"""

from __future__ import annotations

import json
import re
import sqlite3
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from difflib import SequenceMatcher
from threading import Lock
from typing import Any

import numpy as np

from vfindex.storage.ids import Ids, in_sorted
from vfindex.storage.records import Line, Segment, WordTimes
from vfindex.storage.text.folding import FOLD
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

# Times in a library are seconds, in a line milliseconds.
_SAME_MS = 0.75
_LINES = (
    "SELECT j.key, s.id, d.id FROM json_each(?) j"
    " CROSS JOIN video v ON v.fingerprint = json_extract(j.value, '$[0]') AND v.staged = 0"
    " CROSS JOIN segment s ON s.video_id = v.id AND s.track = json_extract(j.value, '$[1]')"
    f" AND s.start_s BETWEEN (json_extract(j.value, '$[2]') - {_SAME_MS}) / 1000.0"
    f" AND (json_extract(j.value, '$[2]') + {_SAME_MS}) / 1000.0"
    f" AND abs(1000.0 * s.end_s - json_extract(j.value, '$[3]')) <= {_SAME_MS}"
    " AND s.text = json_extract(j.value, '$[4]') LEFT JOIN document d ON d.segment_id = s.id"
)
_WORD = re.compile(r"\S+")


@dataclass(frozen=True, slots=True)
class Corrections:
    """What people wrote: line -> what it should read. version: differs where these differ, "" for none."""

    lines: Mapping[Line, str] = field(default_factory=dict)
    version: str = ""


NO_CORRECTIONS = Corrections()


class CorrectedText:
    """The corrections that fit the segments of one state of a library, for any number of threads.

    segments, documents: id -> what it should read.
    """

    def __init__(self, found: Mapping[int, tuple[int | None, str, str]], fold: int) -> None:
        """found: segment id -> (document id, its text in the library, what it should read). fold: of the index."""
        self.segments = {segment: text for segment, (_, _, text) in found.items()}
        self.documents = {document: text for document, _, text in found.values() if document is not None}
        self._ids: Ids = np.array(sorted(self.documents), np.int64)
        self._lock = Lock()
        self._words: sqlite3.Connection | None = None
        if self.documents:
            rows = [(id_, before, after) for id_, before, after in found.values() if id_ is not None]
            self._words = _indexed([(id_, index_form(a, fold), index_form(b, fold)) for id_, a, b in rows])

    @classmethod
    def of(
        cls, rows: Callable[[str, tuple[Any, ...]], list[Any]], corrections: Corrections, fold: int
    ) -> CorrectedText:
        """Return the corrections whose lines a library has. rows: run a statement in a snapshot of it."""
        lines = list(corrections.lines)
        # A text that is not UTF-8 in the library fits no line.
        found = rows(_LINES, (json.dumps(lines),))
        return cls({s: (d, lines[n].text, corrections.lines[lines[n]]) for n, s, d in found}, fold)

    def segment(self, id_: int, segment: Segment) -> Segment:
        """Return a segment with this id as it should read."""
        text = self.segments.get(id_)
        if text is None:
            return segment
        times = moved_times(segment.text, text, segment.word_times)
        return replace(segment, text=text, word_times=times, original=segment.text)

    def corrected(self, ids: Ids) -> Ids:
        """Return those of `ids` that are documents of corrected lines."""
        return ids[in_sorted(ids, self._ids)]

    def matching(self, expression: str, ids: Ids, span: tuple[int, int] | None = None) -> Ids:
        """Return the documents that match an FTS5 expression, increasing: `ids` of the library's index, corrected.

        span: first and last of the ids that may be added.
        """
        if self._words is None:
            return ids
        new = self._matching("after", expression)
        if span is not None:
            new = new[(new >= span[0]) & (new <= span[1])]
        return np.union1d(ids[~in_sorted(ids, self._ids)], new)

    def difference(self, expression: str) -> int:
        """Return how many more documents match an FTS5 expression than do in the library's index."""
        if self._words is None:
            return 0
        return len(self._matching("after", expression)) - len(self._matching("before", expression))

    def _matching(self, table: str, expression: str) -> Ids:
        query = f"SELECT rowid FROM {table} WHERE {table} MATCH ? ORDER BY rowid"
        if self._words is None:
            return self._ids[:0]
        with self._lock:
            return np.array([id_ for (id_,) in self._words.execute(query, (expression,))], np.int64)


NOTHING_CORRECTED = CorrectedText({}, FOLD)


def _indexed(rows: list[tuple[int, str, str]]) -> sqlite3.Connection:
    """Return a database in memory with the words of (document id, before, after)."""
    connection = sqlite3.connect(":memory:", check_same_thread=False)
    for number, table in enumerate(("before", "after"), start=1):
        options = f"content='', tokenize=\"{INDEX_TOKENIZER}\""
        connection.execute(f"CREATE VIRTUAL TABLE {table} USING fts5(text, {options})")
        connection.executemany(f"INSERT INTO {table} (rowid, text) VALUES (?, ?)", [(r[0], r[number]) for r in rows])
    return connection


def moved_times(before: str, after: str, times: WordTimes) -> WordTimes:
    """Return when the words of a corrected text begin: those of the words that both texts have, in this order.

    A word in place of another has its time as well, unless none stays.
    """
    if not times:
        return ()
    starts, new = dict(times), [(match.start(), match[0]) for match in _WORD.finditer(after)]
    old = [(match.start(), match[0]) for match in _WORD.finditer(before)]
    alike = SequenceMatcher(None, [_key(word) for _, word in old], [_key(word) for _, word in new], autojunk=False)
    steps, moved = alike.get_opcodes(), list[tuple[int, float]]()
    if all(kind != "equal" for kind, *_ in steps):
        return ()
    for kind, a, b, c, d in steps:
        if kind == "equal" or (kind == "replace" and b - a == d - c):
            pairs = zip(old[a:b], new[c:d], strict=True)
            moved += [(at, starts[was]) for (was, _), (at, _) in pairs if was in starts]
    return tuple(moved)


def _key(word: str) -> str:
    return "".join(filter(str.isalnum, word)).casefold() or word
