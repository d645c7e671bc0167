"""The words that full text search finds: `document` and its FTS5 index, kept equal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, insert, select, text

from vfindex.storage import schema
from vfindex.storage.records import Document
from vfindex.storage.scripts import index_form


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
    rows = connection.execute(select(d.id, d.text).where(condition)).all()
    statement = text("INSERT INTO document_fts(document_fts, rowid, text) VALUES ('delete', :id, :text)")
    for row in rows:
        connection.execute(statement, {"id": row.id, "text": index_form(row.text)})
