"""The runs of a library, as they were reported, and what they tell of the next one."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from sqlalchemy import func, select

from vfindex.storage.db import schema
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.records import SEARCHABLE


@dataclass(frozen=True, slots=True)
class StoredRun:
    """A run. Times: ISO 8601, UTC. finished_at, report: None where it was killed, or is still at work."""

    id: int
    command: str
    started_at: str
    finished_at: str | None
    report: Mapping[str, Any] | None


def stored_runs(snapshot: Snapshot) -> list[StoredRun]:
    """Return all runs, the oldest first."""
    r = schema.run.c
    query = select(r.id, r.command, r.started_at, r.finished_at, r.report).order_by(r.id)
    return [
        StoredRun(row.id, row.command, row.started_at, row.finished_at, json.loads(row.report) if row.report else None)
        for row in snapshot.stream(query)
    ]


def measured_speed(runs: Iterable[StoredRun]) -> float | None:
    """Return the seconds of video that were indexed a second, over all runs that indexed any; None before the first."""
    reports = [run.report for run in runs if run.report is not None]
    telling = [report for report in reports if report.get("video_seconds") and report.get("wall_s")]
    wall_s = sum(float(report["wall_s"]) for report in telling)
    return sum(float(report["video_seconds"]) for report in telling) / wall_s if wall_s else None


def extent(snapshot: Snapshot) -> tuple[int, float]:
    """Return the bytes and the seconds of all searchable videos."""
    v = schema.video.c
    query = select(func.sum(v.size_bytes).label("size"), func.sum(v.end_s - v.start_s).label("length"))
    [row] = snapshot.stream(query.where(v.state.in_(SEARCHABLE)))
    return row.size or 0, row.length or 0.0
