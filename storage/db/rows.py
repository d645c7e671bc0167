"""Records as rows: what the catalogue inserts, with the checksums that `verify` compares."""

from __future__ import annotations

import json
from dataclasses import fields
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, insert
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.documents import insert_document
from vfindex.storage.errors import BUG, Problem
from vfindex.storage.joint.codecs import checksum, pack_frames, pack_vector
from vfindex.storage.records import Clip, Segment, Video


def inserted(connection: Connection, statement: Any) -> int:
    """Execute an insert of one row; return its id."""
    (key,) = connection.execute(statement).inserted_primary_key or (0,)
    return int(key)


def video_values(video: Video) -> dict[str, Any]:
    """Return the columns of a video's row that come from the video itself."""
    values = {field.name: getattr(video, field.name) for field in fields(Video)}
    return values | {"tags": json.dumps(dict(video.tags)), "chapters": json.dumps(list(video.chapters))}


def problem_json(problem: Problem | None) -> str | None:
    """Return a problem as it is stored, without its path, a bug with the version that has it; None for none."""
    if problem is None:
        return None
    told = {"stage": problem.stage, "code": problem.code, "reason": problem.reason, "next": problem.next}
    return json.dumps(told | ({"version": version("vfindex")} if problem.code == BUG else {}))


def insert_clip(connection: Connection, video_id: int, unit_id: int, item: Clip, thumbnail: str | None) -> None:
    """Add a clip and its embeddings."""
    start_ms = round(item.start_s * 1000)
    clip_id = inserted(
        connection,
        insert(schema.clip).values(
            video_id=video_id,
            unit_id=unit_id,
            start_ms=start_ms,
            start_s=item.start_s,
            end_s=item.end_s,
            start_uncertainty_s=item.start_uncertainty_s,
            thumbnail=thumbnail,
            crc32=clip_checksum(start_ms, item.start_s, item.end_s),
        ),
    )
    for modality, vector in item.embeddings.items():
        frames = pack_frames(item.frame_vectors, item.frame_times_s) if modality == "visual" else None
        insert_embedding(connection, clip_id, modality, pack_vector(vector), frames)
    connection.execute(upsert(schema.meta).values(key="changed", value="added").on_conflict_do_nothing())


def clip_checksum(start_ms: int, start_s: float, end_s: float) -> int:
    """Return the CRC-32 that a clip's row carries."""
    return checksum(start_ms, start_s, end_s)


def insert_embedding(connection: Connection, clip_id: int, modality: str, vector: bytes, frames: bytes | None) -> None:
    """Add a packed vector of a clip, and packed frames where it is visual."""
    connection.execute(
        insert(schema.embedding).values(
            clip_id=clip_id, modality=modality, vector=vector, frames=frames, crc32=checksum(vector, frames)
        )
    )


def insert_segment(connection: Connection, video_id: int, unit_id: int, segment: Segment) -> None:
    """Add a piece of transcript and its words."""
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
            crc32=checksum(segment.start_s, segment.end_s, segment.text),
        ),
    )
    words = {"video_id": video_id, "segment_id": segment_id, "kind": "speech", "text": segment.text}
    insert_document(connection, words)
