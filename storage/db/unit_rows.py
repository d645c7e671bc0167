"""The units of a video as rows: planned, committed with all that they add, and what is still to come."""

from __future__ import annotations

import json
from collections.abc import Sequence

from sqlalchemy import Connection, insert, select, update

from vfindex.storage.db import schema
from vfindex.storage.db.rows import insert_clip, insert_segment
from vfindex.storage.records import UnitPlan, UnitResult


def insert_units(connection: Connection, video_id: int, units: Sequence[UnitPlan]) -> None:
    """Enter the units of a video, all of them still to come."""
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
    connection: Connection, video_id: int, unit_id: int, result: UnitResult, thumbnails: Sequence[str | None]
) -> None:
    """Enter all that a unit adds, and that it is done. thumbnails: file names below `thumbs/`, one a clip, or none."""
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
    """Return what was lost in a video's units, in order."""
    u = schema.unit.c
    query = select(u.error).where(u.video_id == video_id, u.error.is_not(None)).order_by(u.number)
    return [str(error) for error in connection.scalars(query)]


def pending_units(connection: Connection, video_id: int) -> list[tuple[int, UnitPlan]]:
    """Return (unit id, plan) of the units that are not committed yet, in order."""
    u = schema.unit.c
    query = select(u.id, u.number, u.start_s, u.end_s).where(u.video_id == video_id, u.state == "pending")
    rows = connection.execute(query.order_by(u.number)).all()
    return [(row.id, UnitPlan(row.number, row.start_s, row.end_s)) for row in rows]
