"""BM25 of a few documents, whatever the size of the library: they are indexed once more, in memory."""

from __future__ import annotations

import math
import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing

from vfindex.storage.text.tokenizer import INDEX_TOKENIZER

# What FTS5's bm25() takes for the inverse document frequency of words in half of all documents or more.
_LEAST_IDF = 1e-6


def saturations(texts: Mapping[int, str], expressions: Sequence[str]) -> list[dict[int, float]]:
    """Return for each FTS5 expression the documents that match it, and the share of frequency and length in their BM25.

    Okapi BM25 of a document is the sum of these, each times the inverse document frequency of its expression (Robertson
    and Zaragoza 2009, section 3.2; k1 = 1.2 and b = 0.75, the average length is that of `texts`). texts: document id ->
    its index form. FTS5's own bm25() over a library reads the documents of every word of the question: 0.6 us each,
    where a document takes 3 us here.
    """
    with closing(sqlite3.connect(":memory:")) as connection:
        connection.execute(f"CREATE VIRTUAL TABLE few USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\")")
        connection.executemany("INSERT INTO few (rowid, text) VALUES (?, ?)", texts.items())
        query = "SELECT rowid, -bm25(few) FROM few WHERE few MATCH ?"
        found = [connection.execute(query, (expression,)).fetchall() for expression in expressions]
    result = []
    for rows in found:
        idf = math.log((len(texts) - len(rows) + 0.5) / (len(rows) + 0.5))
        result.append({id_: value / (idf if idf > 0 else _LEAST_IDF) for id_, value in rows})
    return result
