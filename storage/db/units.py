"""Work units: planned, committed with all that they add, and read back whole."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import Connection, insert, select, update

from vfindex.storage.db import schema
from vfindex.storage.db.clips import insert_clip
from vfindex.storage.db.documents import SEGMENT_COLUMNS, insert_segment
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.modalities import NOT_READ, ModalityName
from vfindex.storage.records import SEARCHABLE, Clip, Segment, UnitPlan, UnitResult


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A committed unit: its plan and what it added. thumbnails: one file name a clip; its `Clip.thumbnail` is None."""

    plan: UnitPlan
    result: UnitResult
    thumbnails: tuple[str | None, ...]


def committed_plans(snapshot: Snapshot, video_id: int) -> tuple[UnitPlan, ...]:
    """Return the plans of a video's committed units, in order."""
    u = schema.unit.c
    query = select(u.number, u.start_s, u.end_s).where(u.video_id == video_id, u.state == "done").order_by(u.number)
    return tuple(UnitPlan(row.number, row.start_s, row.end_s) for row in snapshot.stream(query))


def stored_unit(snapshot: Snapshot, video_id: int, plan: UnitPlan) -> StoredUnit:
    """Return a committed unit. Raises LibraryDamaged if there is none of this number."""
    u = schema.unit.c
    query = select(u.id, u.error, u.coverage).where(u.video_id == video_id, u.number == plan.number, u.state == "done")
    rows = list(snapshot.stream(query))
    if not rows:
        raise LibraryDamaged(f"a video of the library lacks its unit {plan.number}; run: vfindex verify")
    row = rows[0]
    clips, thumbnails = _clips(snapshot, row.id)
    segments, coverage = tuple(_segments(snapshot, row.id)), json.loads(row.coverage)
    return StoredUnit(plan, UnitResult(clips, segments, coverage, row.error or ""), thumbnails)


def recognised_videos(snapshot: Snapshot) -> frozenset[str]:
    """Return the fingerprints of the videos that were indexed with speech recognition on."""
    v = schema.video.c
    return frozenset(
        row.fingerprint for row in snapshot.stream(select(v.fingerprint).where(v.recognised == 1, v.staged == 0))
    )


def unread_videos(snapshot: Snapshot) -> Mapping[str, frozenset[ModalityName]]:
    """Return fingerprint -> the modalities that runs left out of a searchable video, see `NOT_READ`."""
    found: dict[str, frozenset[ModalityName]] = {}
    u, v = schema.unit.c, schema.video.c
    query = select(v.fingerprint, u.coverage).join_from(schema.unit, schema.video, u.video_id == v.id)
    for row in snapshot.stream(query.where(v.state.in_(SEARCHABLE), u.coverage.contains(NOT_READ, autoescape=True))):
        names = {name for name, words in json.loads(row.coverage).items() if words.startswith(NOT_READ)}
        found[row.fingerprint] = found.get(row.fingerprint, frozenset()) | names
    return found


def preview_videos(snapshot: Snapshot) -> frozenset[str]:
    """Return the fingerprints of the searchable videos that are indexed as a preview."""
    v = schema.video.c
    coarse = select(v.fingerprint).where(v.coarse == 1, v.state.in_(SEARCHABLE))
    return frozenset(row.fingerprint for row in snapshot.stream(coarse))


def searchable_prints(snapshot: Snapshot) -> Mapping[str, int]:
    """Return fingerprint -> id of the searchable videos, cached until the next commit."""
    v = schema.video.c
    query = select(v.fingerprint, v.id).where(v.state.in_(SEARCHABLE))
    return snapshot.remembered("prints", lambda: {row.fingerprint: row.id for row in snapshot.stream(query)})


def _clips(snapshot: Snapshot, unit_id: int) -> tuple[tuple[Clip, ...], tuple[str | None, ...]]:
    c = schema.clip.c
    query = select(c.id, c.start_s, c.end_s, c.start_uncertainty_s, c.thumbnail).where(c.unit_id == unit_id)
    rows = list(snapshot.stream(query.order_by(c.start_s)))
    vectors = snapshot.vectors([row.id for row in rows])
    clips = tuple(
        Clip(
            start_s=row.start_s,
            end_s=row.end_s,
            start_uncertainty_s=row.start_uncertainty_s,
            embeddings=vectors[row.id].embeddings,
            frame_vectors=vectors[row.id].frames,
            frame_times_s=vectors[row.id].frame_times_s,
        )
        for row in rows
    )
    return clips, tuple(row.thumbnail for row in rows)


def _segments(snapshot: Snapshot, unit_id: int) -> Iterator[Segment]:
    s = schema.segment.c
    query = select(*SEGMENT_COLUMNS).where(s.unit_id == unit_id)
    for row in snapshot.stream(query.order_by(s.start_s, s.id)):
        yield Segment(*row)


@dataclass(frozen=True, slots=True)
class IndexedUnit:
    """A committed unit and its transcript. clips: (id, start_s, end_s) in order of time."""

    id: int
    plan: UnitPlan
    clips: tuple[tuple[int, float, float], ...]
    segments: tuple[Segment, ...]


def indexed_units(snapshot: Snapshot, video_id: int) -> list[IndexedUnit]:
    """Return the units of a video in order, with their segments."""
    u, c, s = schema.unit.c, schema.clip.c, schema.segment.c
    clips: dict[int, list[tuple[int, float, float]]] = {}
    query = select(c.unit_id, c.id, c.start_s, c.end_s).where(c.video_id == video_id).order_by(c.start_s)
    for unit_id, *clip in snapshot.stream(query):
        clips.setdefault(unit_id, []).append(tuple(clip))
    said: dict[int, list[Segment]] = {}
    rows = select(s.unit_id, *SEGMENT_COLUMNS).where(s.video_id == video_id).order_by(s.start_s, s.id)
    for unit_id, *fields in snapshot.stream(rows):
        said.setdefault(unit_id, []).append(Segment(*fields))
    units = snapshot.stream(select(u.id, u.number, u.start_s, u.end_s).where(u.video_id == video_id).order_by(u.number))
    return [
        IndexedUnit(
            row.id,
            UnitPlan(row.number, row.start_s, row.end_s),
            tuple(clips.get(row.id, ())),
            tuple(said.get(row.id, ())),
        )
        for row in units
    ]


def insert_units(connection: Connection, video_id: int, units: Sequence[UnitPlan]) -> None:
    """Insert the units of a video as pending."""
    connection.execute(
        insert(schema.unit),
        [
            {
                "video_id": video_id,
                "number": u.number,
                "start_s": u.start_s,
                "end_s": u.end_s,
                "state": "pending",
                "attempts": 0,
                "coverage": "{}",
            }
            for u in units
        ],
    )


def insert_result(
    connection: Connection, video_id: int, unit_id: int, result: UnitResult, thumbnails: Sequence[str | None] = ()
) -> None:
    """Commit what a unit adds, and mark it done. thumbnails: file names below `thumbs/`, one a clip, or none."""
    for number, item in enumerate(result.clips):
        name = thumbnails[number] if thumbnails else None
        insert_clip(connection, video_id, unit_id, item, name)
    for segment in result.segments:
        insert_segment(connection, video_id, unit_id, segment)
    connection.execute(
        update(schema.unit)
        .where(schema.unit.c.id == unit_id)
        .values(
            state="done",
            attempts=schema.unit.c.attempts + 1,
            error=result.error or None,
            coverage=json.dumps(dict(result.coverage)),
        )
    )


def unit_errors(connection: Connection, video_id: int) -> list[str]:
    """Return the errors of a video's units, in order."""
    u = schema.unit.c
    query = select(u.error).where(u.video_id == video_id, u.error.is_not(None)).order_by(u.number)
    return [str(error) for error in connection.scalars(query)]


def pending_units(connection: Connection, video_id: int) -> list[tuple[int, UnitPlan]]:
    """Return (unit id, plan) of the pending units, in order."""
    u = schema.unit.c
    query = select(u.id, u.number, u.start_s, u.end_s).where(u.video_id == video_id, u.state == "pending")
    rows = connection.execute(query.order_by(u.number)).all()
    return [(row.id, UnitPlan(row.number, row.start_s, row.end_s)) for row in rows]
