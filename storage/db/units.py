"""Units out of a library, whole as they were committed, so that another edition may take them over."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from sqlalchemy import select

from vfindex.storage.db import schema
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.sources import Root
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.records import SEARCHABLE, Clip, Segment, UnitPlan, UnitResult


@dataclass(frozen=True, slots=True)
class StoredUnit:
    """A committed unit: its plan and what it added. The clips carry no pictures but their file names, one a clip."""

    plan: UnitPlan
    result: UnitResult
    thumbnails: tuple[str | None, ...]


def committed_plans(snapshot: Snapshot, video_id: int) -> tuple[UnitPlan, ...]:
    """Return the plans of a video's committed units, in order."""
    u = schema.unit.c
    query = select(u.number, u.start_s, u.end_s).where(u.video_id == video_id, u.state == "done").order_by(u.number)
    return tuple(UnitPlan(row.number, row.start_s, row.end_s) for row in snapshot.stream(query))


def stored_unit(snapshot: Snapshot, video_id: int, plan: UnitPlan) -> StoredUnit:
    """Return a committed unit of a video. Raises LibraryDamaged if there is none of this number."""
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
    return frozenset(row.fingerprint for row in snapshot.stream(select(v.fingerprint).where(v.recognised == 1)))


def coarse_videos(snapshot: Snapshot) -> frozenset[str]:
    """Return the fingerprints of the searchable videos that were only looked at in passing."""
    v = schema.video.c
    coarse = select(v.fingerprint).where(v.coarse == 1, v.state.in_(SEARCHABLE))
    return frozenset(row.fingerprint for row in snapshot.stream(coarse))


def stored_roots(snapshot: Snapshot) -> tuple[Root, ...]:
    """Return every path that was ingested, in order of bytes."""
    r = schema.root.c
    rows = snapshot.stream(select(r.path, r.exclude).order_by(r.path))
    return tuple(Root(row.path, tuple(json.loads(row.exclude))) for row in rows)


def runs(snapshot: Snapshot) -> Sequence[Mapping[str, str | None]]:
    """Return all runs in order: command, started_at, finished_at, report (JSON)."""
    r = schema.run.c
    query = select(r.command, r.started_at, r.finished_at, r.report).order_by(r.id)
    return [dict(row._mapping) for row in snapshot.stream(query)]


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
    query = select(s.start_s, s.end_s, s.text, s.source, s.language, s.confidence).where(s.unit_id == unit_id)
    for row in snapshot.stream(query.order_by(s.start_s, s.id)):
        yield Segment(*row)
