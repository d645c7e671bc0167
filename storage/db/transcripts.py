"""What is said and written of a video, replaced in one transaction; its clips and pictures stay as they are."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy import Connection, delete, select, update

from vfindex.storage.db import schema
from vfindex.storage.db.documents import set_documents, unindex_documents
from vfindex.storage.db.locations import put
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.rows import insert_embedding, insert_segment, problem_json
from vfindex.storage.errors import Problem
from vfindex.storage.joint.codecs import pack_vector
from vfindex.storage.records import Document, FloatArray, Segment, UnitPlan


@dataclass(frozen=True, slots=True)
class SaidIn:
    """What is said in a unit. vectors: clip id -> (dim,) of the speech modality; silent clips are left out.

    coverage: what of its sound is told by whom, in words.
    """

    unit_id: int
    segments: tuple[Segment, ...]
    vectors: Mapping[int, FloatArray]
    coverage: str


@dataclass(frozen=True, slots=True)
class Wording:
    """What is known of a video in words. text: (dim,) of that modality, or None. problem: None where all is whole."""

    title: str
    tags: Mapping[str, str]
    chapters: tuple[str, ...]
    documents: tuple[Document, ...]
    text: FloatArray | None
    said: tuple[SaidIn, ...]
    problem: Problem | None = None


@dataclass(frozen=True, slots=True)
class UnitWords:
    """A committed unit as its words see it. clips: (id, start_s, end_s) in order of time."""

    id: int
    plan: UnitPlan
    clips: tuple[tuple[int, float, float], ...]
    segments: tuple[Segment, ...]


def unit_words(snapshot: Snapshot, video_id: int) -> list[UnitWords]:
    """Return the units of a video in order, with what is said in each."""
    u, c, s = schema.unit.c, schema.clip.c, schema.segment.c
    clips: dict[int, list[tuple[int, float, float]]] = {}
    query = select(c.unit_id, c.id, c.start_s, c.end_s).where(c.video_id == video_id).order_by(c.start_s)
    for unit_id, *clip in snapshot.stream(query):
        clips.setdefault(unit_id, []).append(tuple(clip))
    said: dict[int, list[Segment]] = {}
    columns = (s.start_s, s.end_s, s.text, s.source, s.language, s.confidence)
    for unit_id, *fields in snapshot.stream(
        select(s.unit_id, *columns).where(s.video_id == video_id).order_by(s.start_s, s.id)
    ):
        said.setdefault(unit_id, []).append(Segment(*fields))
    rows = snapshot.stream(select(u.id, u.number, u.start_s, u.end_s).where(u.video_id == video_id).order_by(u.number))
    return [
        UnitWords(
            row.id,
            UnitPlan(row.number, row.start_s, row.end_s),
            tuple(clips.get(row.id, ())),
            tuple(said.get(row.id, ())),
        )
        for row in rows
    ]


def reword(connection: Connection, video_id: int, words: Wording) -> None:
    """Replace what is said and written of a searchable video."""
    v, e, d = schema.video.c, schema.embedding.c, schema.document.c
    clips = select(schema.clip.c.id).where(schema.clip.c.video_id == video_id)
    unindex_documents(connection, (d.video_id == video_id) & (d.kind == "speech"))
    connection.execute(delete(schema.segment).where(schema.segment.c.video_id == video_id))
    connection.execute(delete(schema.embedding).where(e.modality.in_(("speech", "text")), e.clip_id.in_(clips)))
    for said in words.said:
        _insert_said(connection, video_id, said)
    if words.text is not None:
        packed = pack_vector(words.text)
        for clip_id in connection.scalars(clips).all():
            insert_embedding(connection, clip_id, "text", packed, None)
    set_documents(connection, video_id, words.documents)
    connection.execute(
        update(schema.video)
        .where(v.id == video_id)
        .values(
            title=words.title,
            tags=json.dumps(dict(words.tags)),
            chapters=json.dumps(list(words.chapters)),
            state="partial" if words.problem else "indexed",
            problem=problem_json(words.problem),
        )
    )
    put(connection, "changed", "stale")


def _insert_said(connection: Connection, video_id: int, said: SaidIn) -> None:
    u = schema.unit.c
    for segment in said.segments:
        insert_segment(connection, video_id, said.unit_id, segment)
    for clip_id, vector in said.vectors.items():
        insert_embedding(connection, clip_id, "speech", pack_vector(vector), None)
    coverage = json.loads(connection.scalar(select(u.coverage).where(u.id == said.unit_id)) or "{}")
    told = json.dumps({**coverage, "speech": said.coverage})
    connection.execute(update(schema.unit).where(u.id == said.unit_id).values(coverage=told))
