"""The words that full text search finds: `document` and its FTS5 index, kept equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, cast, delete, insert, select, text

from vfindex.storage.db import schema
from vfindex.storage.records import Document
from vfindex.storage.text.folding import FOLD, FOLD_KEY, fold_of
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

# Documents that are indexed at a time.
_BATCH = 10_000


def set_documents(connection: Connection, video_id: int, documents: Sequence[Document]) -> None:
    """Let `documents` be the words of a video's titles and tags."""
    d = schema.document.c
    own = (d.video_id == video_id) & (d.kind != "speech")
    unindex_documents(connection, own)
    connection.execute(delete(schema.document).where(own))
    for each in documents:
        insert_document(connection, {"video_id": video_id, "kind": each.kind, "text": each.text})


def insert_document(connection: Connection, values: Mapping[str, Any]) -> None:
    """Add a row to `document` and its words to the index."""
    document_id = connection.scalar(insert(schema.document).values(**values).returning(schema.document.c.id))
    statement = text("INSERT INTO document_fts(rowid, text) VALUES (:id, :text)")
    connection.execute(statement, {"id": document_id, "text": index_form(values["text"])})


def unindex_documents(connection: Connection, condition: ColumnElement[bool]) -> None:
    """Take documents out of the full text index, which must happen before their rows go."""
    d = schema.document.c
    rows = connection.execute(select(d.id, cast(d.text, Text).label("text")).where(condition)).all()  # damaged: bytes
    statement = text("INSERT INTO document_fts(document_fts, rowid, text) VALUES ('delete', :id, :text)")
    for row in rows:
        connection.execute(statement, {"id": row.id, "text": index_form(row.text)})


def rebuild_index(connection: Connection, fold: int = FOLD) -> None:
    """Make the index again from `document`; it keeps no text, `document` has it as it was written."""
    connection.execute(text("DROP TABLE IF EXISTS document_fts"))
    connection.execute(
        text(f"CREATE VIRTUAL TABLE document_fts USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\")")
    )
    statement = text("INSERT INTO document_fts(rowid, text) VALUES (:id, :text)")
    query = text("SELECT id, text FROM document WHERE id > :last ORDER BY id LIMIT :batch")
    last = 0
    while rows := connection.execute(query, {"last": last, "batch": _BATCH}).all():
        connection.execute(statement, [{"id": row.id, "text": index_form(row.text, fold)} for row in rows])
        last = rows[-1].id
    keep = text("INSERT INTO meta (key, value) VALUES (:key, :fold) ON CONFLICT (key) DO UPDATE SET value = :fold")
    connection.execute(keep, {"key": FOLD_KEY, "fold": str(fold)})


def stored_fold(connection: Connection) -> int:
    """Return the fold of the words in the index."""
    return fold_of(connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == FOLD_KEY)))
