"""Full text documents and transcripts: `document`, `segment` and the FTS5 index, kept equal."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, Text, cast, delete, insert, select, text, update

from vfindex.storage.db import schema
from vfindex.storage.db.clips import insert_embedding
from vfindex.storage.db.integrity import inserted, put
from vfindex.storage.errors import Problem, problem_json
from vfindex.storage.joint.codecs import checksum, pack_vector
from vfindex.storage.modalities import ModalityName, document_modality
from vfindex.storage.records import Chapter, Document, FloatArray, Segment
from vfindex.storage.text.folding import FOLD, FOLD_KEY, fold_of
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

# Documents indexed by one statement.
_BATCH = 10_000
CREATE_WORDS = f"CREATE VIRTUAL TABLE document_fts USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\")"
# The columns of a segment's row that its record has, in the order of its fields.
SEGMENT_COLUMNS = tuple(schema.segment.c[field.name] for field in fields(Segment) if field.name in schema.segment.c)


def set_documents(connection: Connection, video_id: int, documents: Sequence[Document]) -> None:
    """Replace a video's documents of titles and tags."""
    d = schema.document.c
    own = (d.video_id == video_id) & d.segment_id.is_(None)
    unindex_documents(connection, own)
    connection.execute(delete(schema.document).where(own))
    for each in documents:
        insert_document(connection, {"video_id": video_id, "kind": each.kind, "text": each.text})


def insert_document(connection: Connection, values: Mapping[str, Any]) -> None:
    """Insert a document and index its words."""
    document_id = connection.scalar(insert(schema.document).values(**values).returning(schema.document.c.id))
    statement = text("INSERT INTO document_fts(rowid, text) VALUES (:id, :text)")
    connection.execute(statement, {"id": document_id, "text": index_form(values["text"])})


def unindex_documents(connection: Connection, condition: ColumnElement[bool]) -> None:
    """Remove documents from the FTS5 index. It is contentless, so this needs their rows and comes before the delete."""
    d = schema.document.c
    rows = connection.execute(select(d.id, cast(d.text, Text).label("text")).where(condition)).all()  # damaged: bytes
    statement = text("INSERT INTO document_fts(document_fts, rowid, text) VALUES ('delete', :id, :text)")
    for row in rows:
        connection.execute(statement, {"id": row.id, "text": index_form(row.text)})


def rebuild_index(connection: Connection, fold: int = FOLD) -> None:
    """Rebuild the FTS5 index from `document`; the index is contentless, the text is only in `document`."""
    connection.execute(text("DROP TABLE IF EXISTS document_fts"))
    connection.execute(text(CREATE_WORDS))
    statement = text("INSERT INTO document_fts(rowid, text) VALUES (:id, :text)")
    query = text("SELECT id, text FROM document WHERE id > :last ORDER BY id LIMIT :batch")
    last = 0
    while rows := connection.execute(query, {"last": last, "batch": _BATCH}).all():
        connection.execute(statement, [{"id": row.id, "text": index_form(row.text, fold)} for row in rows])
        last = rows[-1].id
    keep = text("INSERT INTO meta (key, value) VALUES (:key, :fold) ON CONFLICT (key) DO UPDATE SET value = :fold")
    connection.execute(keep, {"key": FOLD_KEY, "fold": str(fold)})


def stored_fold(connection: Connection) -> int:
    """Return the version of `folding.folded` that the index was made with."""
    return fold_of(connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == FOLD_KEY)))


def insert_segment(connection: Connection, video_id: int, unit_id: int, segment: Segment) -> None:
    """Insert a segment and its document."""
    segment_id = inserted(
        connection,
        insert(schema.segment).values(
            video_id=video_id,
            unit_id=unit_id,
            language=segment.language,
            confidence=segment.confidence,
            source=segment.source,
            start_s=segment.start_s,
            end_s=segment.end_s,
            text=segment.text,
            track=segment.track,
            box=segment.box,
            word_times=segment.word_times,
            speakers=segment.speakers,
            crc32=checksum(segment.start_s, segment.end_s, segment.text),
        ),
    )
    words = {"video_id": video_id, "segment_id": segment_id, "kind": segment.track, "text": segment.text}
    insert_document(connection, words)


def chapters_json(chapters: Sequence[Chapter]) -> str:
    """Return chapters as the column `video.chapters` holds them."""
    return json.dumps([chapter.stored() for chapter in chapters])


@dataclass(frozen=True, slots=True)
class UnitTranscript:
    """The text of one track of a unit. vectors: clip id -> (dim,) of this modality; clips without text are left out.

    coverage: a sentence on which of its audio has a transcript, and its source.
    """

    unit_id: int
    segments: tuple[Segment, ...]
    vectors: Mapping[int, FloatArray]
    coverage: str
    track: ModalityName = "speech"


@dataclass(frozen=True, slots=True)
class TranscriptUpdate:
    """A video's new title, tags and documents, and its new text by unit and track. problem: or None.

    text: (dim,) of the modality with documents, for the clips to which `said` gives no other vector of it, or None.
    others: modality -> clip id -> its new vector, or None for none, of tracks whose segments stay.
    """

    title: str
    tags: Mapping[str, str]
    chapters: tuple[Chapter, ...]
    documents: tuple[Document, ...]
    text: FloatArray | None
    said: tuple[UnitTranscript, ...]
    problem: Problem | None = None
    others: Mapping[ModalityName, Mapping[int, FloatArray | None]] = field(default_factory=dict)


def update_transcript(connection: Connection, video_id: int, words: TranscriptUpdate) -> None:
    """Replace title, tags, documents and the tracks of `words.said` of a searchable video."""
    v, e, d, s = schema.video.c, schema.embedding.c, schema.document.c, schema.segment.c
    clips = select(schema.clip.c.id).where(schema.clip.c.video_id == video_id)
    tracks, titled = {said.track for said in words.said}, document_modality()
    unindex_documents(connection, (d.video_id == video_id) & d.segment_id.is_not(None) & d.kind.in_(tracks))
    connection.execute(delete(schema.segment).where(s.video_id == video_id, s.track.in_(tracks)))
    connection.execute(delete(schema.embedding).where(e.modality.in_(tracks | {titled}), e.clip_id.in_(clips)))
    for said in words.said:
        _insert_said(connection, video_id, said)
    for modality, vectors in words.others.items():
        _replace_vectors(connection, modality, vectors)
    if words.text is not None:
        others = {clip_id for said in words.said if said.track == titled for clip_id in said.vectors}
        packed = pack_vector(words.text)
        for clip_id in connection.scalars(clips).all():
            if clip_id not in others:
                insert_embedding(connection, clip_id, titled, packed)
    set_documents(connection, video_id, words.documents)
    connection.execute(
        update(schema.video)
        .where(v.id == video_id)
        .values(
            title=words.title,
            tags=json.dumps(dict(words.tags)),
            chapters=chapters_json(words.chapters),
            state="partial" if words.problem else "indexed",
            problem=problem_json(words.problem),
        )
    )
    put(connection, "changed", "stale")


def _replace_vectors(connection: Connection, modality: ModalityName, vectors: Mapping[int, FloatArray | None]) -> None:
    e = schema.embedding.c
    for clip_id, vector in vectors.items():
        connection.execute(delete(schema.embedding).where(e.modality == modality, e.clip_id == clip_id))
        if vector is not None:
            insert_embedding(connection, clip_id, modality, pack_vector(vector))


def _insert_said(connection: Connection, video_id: int, said: UnitTranscript) -> None:
    u = schema.unit.c
    for segment in said.segments:
        insert_segment(connection, video_id, said.unit_id, segment)
    for clip_id, vector in said.vectors.items():
        insert_embedding(connection, clip_id, said.track, pack_vector(vector))
    coverage = json.loads(connection.scalar(select(u.coverage).where(u.id == said.unit_id)) or "{}")
    updated = json.dumps({**coverage, said.track: said.coverage})
    connection.execute(update(schema.unit).where(u.id == said.unit_id).values(coverage=updated))
