"""Runs with their reports, and failed attempts at videos. An attempt is stored when it fails, so a kill loses none."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any

from sqlalchemy import Connection, Select, func, insert, select, update

from vfindex.storage.db import schema
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import BUG
from vfindex.storage.modalities import spoken_modalities
from vfindex.storage.records import SEARCHABLE, Attempt, RunProgress

# What the report of an unfinished run has instead of counts.
PROGRESS = "progress"


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run. Times: ISO 8601, UTC. finished_at, report: None if it was killed, or is still running.

    progress: of one without a report, once a unit has ended.
    """

    id: int
    command: str
    started_at: str
    finished_at: str | None
    report: Mapping[str, Any] | None
    progress: RunProgress | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the run as JSON fields."""
        return {
            "run_id": self.id,
            "command": self.command,
            "started_at": self.started_at,
            "finished_at": self.finished_at,
            "report": self.report,
        }


def stored_runs(snapshot: Snapshot) -> list[StoredRun]:
    """Return all runs, the oldest first."""
    r = schema.run.c
    query = select(r.id, r.command, r.started_at, r.finished_at, r.report).order_by(r.id)
    return [_stored_run(row) for row in snapshot.stream(query)]


def _stored_run(row: Any) -> StoredRun:
    stored = json.loads(row.report) if row.report else None
    if row.finished_at is not None or stored is None:
        return StoredRun(row.id, row.command, row.started_at, row.finished_at, stored)
    return StoredRun(row.id, row.command, row.started_at, None, None, RunProgress(**stored[PROGRESS]))


def last_run(snapshot: Snapshot) -> StoredRun | None:
    """Return the newest run, None before the first."""
    r = schema.run.c
    query = select(r.id, r.command, r.started_at, r.finished_at, r.report).order_by(r.id.desc()).limit(1)
    return next((_stored_run(row) for row in snapshot.stream(query)), None)


def measured_speed(runs: Iterable[StoredRun]) -> float | None:
    """Return seconds of video indexed per second, over all runs that indexed any; None before the first."""
    reports = [run.report for run in runs if run.report is not None]
    timed = [report for report in reports if report.get("video_seconds") and report.get("wall_s")]
    wall_s = sum(float(report["wall_s"]) for report in timed)
    return sum(float(report["video_seconds"]) for report in timed) / wall_s if wall_s else None


def extent(snapshot: Snapshot) -> tuple[int, float]:
    """Return the bytes and the seconds of all searchable videos."""
    v = schema.video.c
    query = select(func.sum(v.size_bytes).label("size"), func.sum(v.end_s - v.start_s).label("length"))
    [row] = snapshot.stream(query.where(v.state.in_(SEARCHABLE)))
    return row.size or 0, row.length or 0.0


# The newest segments tell the language of a library as well as all of them; reading these takes some 20 ms.
_MAIN_LANGUAGE_SEGMENTS = 100_000


def main_language(snapshot: Snapshot) -> str:
    """Return the commonest language of the newest transcripts, as the first part of its tag; "" if none is known."""
    s = schema.segment.c
    newest = select(s.language, s.track).order_by(s.id.desc()).limit(_MAIN_LANGUAGE_SEGMENTS).subquery()
    n = func.count().label("n")
    spoken = newest.c.track.in_(spoken_modalities())
    query = select(newest.c.language, n).where(newest.c.language != "", spoken).group_by(newest.c.language)
    best = next(iter(snapshot.stream(query.order_by(n.desc(), newest.c.language).limit(1))), None)
    return best.language.partition("-")[0] if best else ""


def runs(snapshot: Snapshot) -> Sequence[Mapping[str, Any]]:
    """Return all runs in order: id, command, started_at, finished_at, report (JSON)."""
    r = schema.run.c
    query = select(r.id, r.command, r.started_at, r.finished_at, r.report).order_by(r.id)
    return [dict(row._mapping) for row in snapshot.stream(query)]


_COLUMNS = tuple(schema.attempt.c[name] for name in ("unit", "care", "code", "reason", "at"))


def insert_attempts(connection: Connection, video_id: int, attempts: Iterable[Attempt]) -> None:
    """Store failed attempts at a video."""
    rows = [{"video_id": video_id, **asdict(attempt)} for attempt in attempts]
    if rows:
        connection.execute(insert(schema.attempt), rows)


def note_attempt(connection: Connection, video_id: int, attempt: Attempt) -> None:
    """Store a failed attempt at one unit of a video that is being indexed, and count it in the unit."""
    u = schema.unit.c
    insert_attempts(connection, video_id, [attempt])
    own = update(schema.unit).where(u.video_id == video_id, u.number == attempt.unit)
    connection.execute(own.values(attempts=u.attempts + 1))


def noted_attempts(connection: Connection, video_id: int) -> list[Attempt]:
    """Return the failed attempts at a video, in order, inside the writer's transaction."""
    return [Attempt(*row) for row in connection.execute(_of(video_id))]


def attempts_of(snapshot: Snapshot, video_id: int) -> list[Attempt]:
    """Return the failed attempts at a video, in order."""
    return [Attempt(*row) for row in snapshot.stream(_of(video_id))]


def attempt_counts(snapshot: Snapshot) -> dict[int, int]:
    """Return video id -> number of failed attempts; videos without any are left out."""
    a = schema.attempt.c
    counted = select(a.video_id, func.count().label("n")).group_by(a.video_id)
    return {row.video_id: row.n for row in snapshot.stream(counted)}


def past_bugs(connection: Connection) -> dict[bytes, int]:
    """Return path -> video id of files that a bug of another vfindex version made fail, fully or in part."""
    v, loc = schema.video.c, schema.location.c
    query = select(loc.path, v.id, v.problem).join_from(schema.location, schema.video)
    rows = connection.execute(query.where(v.state.in_(("failed", "partial")), v.problem.contains(BUG))).all()
    here = version("vfindex")
    problems = ((row.path, row.id, json.loads(row.problem)) for row in rows)
    return {
        path: key for path, key, problem in problems if problem.get("code") == BUG and problem.get("version") != here
    }


def _of(video_id: int) -> Select[Any]:
    return select(*_COLUMNS).where(schema.attempt.c.video_id == video_id).order_by(schema.attempt.c.id)
