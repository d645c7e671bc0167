"""Videos: as rows, as records, and the staged re-index of one that searches still see.

A staged video is a second row with the same fingerprint, which no search sees; one transaction puts it in the place of
the old one, with all its paths.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, fields
from typing import Any

from sqlalchemy import ColumnElement, Connection, delete, select, update

from vfindex.storage.db import schema
from vfindex.storage.db.clips import Rows, check_times
from vfindex.storage.db.documents import chapters_json, unindex_documents
from vfindex.storage.db.integrity import put
from vfindex.storage.records import SEARCHABLE, Chapter, Location, Video, VideoState


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredVideo(Video):
    """A video as stored, with its id, its state and problem, and the locations of its copies.

    added_run: the run that first began the content; None before that was recorded, and outside runs.
    """

    id: int
    state: VideoState
    problem: Mapping[str, str] | None
    locations: tuple[Location, ...]
    added_run: int | None = None


def stored_video(row: Any, locations: list[Location]) -> StoredVideo:
    check_times(row.start_s, row.last_s, row.end_s)
    values = {field.name: getattr(row, field.name) for field in fields(Video)}
    values |= {
        "has_audio": bool(row.has_audio),
        "tags": json.loads(row.tags),
        "chapters": tuple(Chapter.parse(each) for each in json.loads(row.chapters)),
    }
    return StoredVideo(
        **values,
        id=row.id,
        state=row.state,
        problem=json.loads(row.problem) if row.problem else None,
        locations=tuple(sorted(locations, key=lambda location: location.path)),
        added_run=row.added_run,
    )


def video_values(video: Video) -> dict[str, Any]:
    """Return the columns of a video's row that its record has."""
    values = {field.name: getattr(video, field.name) for field in fields(Video)}
    return values | {"tags": json.dumps(dict(video.tags)), "chapters": chapters_json(video.chapters)}


def has_videos(connection: Connection) -> bool:
    """Return whether there is any video, searchable or not."""
    return connection.scalar(select(schema.video.c.id).limit(1)) is not None


def delete_videos(connection: Connection, condition: ColumnElement[bool]) -> int:
    """Delete videos and all their rows; return how many."""
    chosen = select(schema.video.c.id).where(condition)
    unindex_documents(connection, schema.document.c.video_id.in_(chosen))
    count = connection.execute(delete(schema.video).where(condition)).rowcount
    if count:
        put(connection, "changed", "stale")
    return count


def discard_replaced(connection: Connection, fingerprint: str) -> int:
    """Return whether a new row is staged, because the video is searchable, and delete the row that it replaces."""
    v = schema.video.c
    staged = int(_searchable(connection, fingerprint) is not None)
    delete_videos(connection, (v.fingerprint == fingerprint) & (v.staged == staged))
    return staged


def _searchable(connection: Connection, fingerprint: str) -> int | None:
    v = schema.video.c
    query = select(v.id).where(v.fingerprint == fingerprint, v.staged == 0, v.state.in_(SEARCHABLE))
    return connection.scalar(query)


def is_unfinished(fingerprint: str) -> ColumnElement[bool]:
    """Return the SQL condition that a video is being indexed, staged or not."""
    v = schema.video.c
    return (v.fingerprint == fingerprint) & (v.state == "indexing")


def replace_with_staged(connection: Connection, video_id: int) -> list[str]:
    """Replace the video that a finished staged one was made for, if any, and give it the paths.

    Returns thumbnails no longer needed.
    """
    v = schema.video.c
    staged = select(v.fingerprint).where(v.id == video_id, v.staged == 1).scalar_subquery()
    if connection.scalar(select(staged)) is None:
        return []
    old = connection.execute(select(v.id, v.added_run).where(v.fingerprint == staged, v.staged == 0)).first()
    names: list[str] = []
    changes: dict[str, Any] = {"staged": 0}
    if old is not None:
        for table in (schema.location, schema.tombstone):
            connection.execute(update(table).where(table.c.video_id == old.id).values(video_id=video_id))
        names = thumbnails(connection, v.id == old.id)
        delete_videos(connection, v.id == old.id)
        changes["added_run"] = old.added_run
    connection.execute(update(schema.video).where(v.id == video_id).values(changes))
    used = set(thumbnails(connection, v.id == video_id))
    return [name for name in names if name not in used]


def discard_staged(connection: Connection, fingerprint: str) -> int | None:
    """Delete the staged row of a searchable video; return the id of that video, None if there is none."""
    v = schema.video.c
    video_id = _searchable(connection, fingerprint)
    if video_id is not None:
        delete_videos(connection, (v.fingerprint == fingerprint) & (v.staged == 1))
    return video_id


def delete_orphaned_staged(connection: Connection) -> list[str]:
    """Delete staged rows whose video is gone; return thumbnails no longer needed."""
    v, old = schema.video.c, schema.video.alias()
    kept = select(old.c.id).where(old.c.fingerprint == v.fingerprint, old.c.staged == 0).correlate(schema.video)
    gone = list(connection.scalars(select(v.id).where(v.staged == 1, ~kept.exists())))
    names = thumbnails(connection, v.id.in_(gone))
    delete_videos(connection, v.id.in_(gone))
    return names


def delete_unfinished(connection: Connection, is_removed: Callable[[bytes], bool]) -> list[str]:
    """Delete unfinished videos whose file was removed; return thumbnails no longer needed.

    One without a recorded file is deleted too: older versions recorded none, and its words must not stay.
    """
    v, b = schema.video.c, schema.begun.c
    query = select(v.id, b.path).select_from(schema.video).outerjoin(schema.begun).where(v.state == "indexing")
    rows = connection.execute(query.where(v.staged == 0)).all()
    gone = [row.id for row in rows if row.path is None or is_removed(row.path)]
    names = thumbnails(connection, v.id.in_(gone))
    delete_videos(connection, v.id.in_(gone))
    return names


def searchable_ids(rows: Rows) -> list[int]:
    """Return the ids of the searchable videos, in order of their first path."""
    query = (
        "SELECT v.id FROM video v JOIN location l ON l.video_id = v.id WHERE v.state IN ('indexed', 'partial')"
        " GROUP BY v.id ORDER BY min(l.path)"
    )
    return [id_ for (id_,) in rows(query, ())]


def named(rows: Rows, video_ids: Collection[int]) -> dict[int, tuple[str, list[bytes]]]:
    """Return video id -> (fingerprint, its paths in order of bytes)."""
    query = (
        "SELECT v.id, v.fingerprint, l.path FROM video v LEFT JOIN location l ON l.video_id = v.id"
        " WHERE v.id IN (SELECT value FROM json_each(?)) ORDER BY l.path"
    )
    found: dict[int, tuple[str, list[bytes]]] = {}
    for id_, fingerprint, path in rows(query, (json.dumps(list(video_ids)),)):
        found.setdefault(id_, (fingerprint, []))[1].extend([path] if path is not None else [])
    return found


def thumbnails(connection: Connection, videos: ColumnElement[bool]) -> list[str]:
    """Return the thumbnail names of these videos."""
    name = schema.clip.c.thumbnail
    query = select(name).join_from(schema.clip, schema.video).where(videos, name.is_not(None))
    return list(connection.scalars(query))
