"""How long a file has been missing, by clocks that may never have been set, or leap.

Absence is counted along what the library recorded: when the file was found to be gone, and when each later `reindex`
ran. Of the time between two of these, and from the last one until now, at most half of what is asked for counts: a
clock that leaps ahead once deletes nothing, and a file was missed in at least two runs before it is forgotten. Times
that lie before one already recorded count nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import Connection, func, select

from vfindex.storage.db import schema
from vfindex.storage.errors import LibraryError

# A clock that is corrected by the network steps back by less.
STEP_BACK = timedelta(minutes=1)


def long_gone(connection: Connection, age: timedelta, now: datetime) -> list[str]:
    """Return the times, as `tombstone.gone_at` has them, of which files have been missing for `age`.

    Raises LibraryError where the clock is behind what the library recorded, so that nothing can be said.
    """
    newest = newest_time(connection)
    if newest is not None and now + STEP_BACK < newest:
        raise LibraryError(
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, but the library was written to at {newest:%Y-%m-%d %H:%M} UTC: "
            "how long files have been missing cannot be known; set the clock, or forget all that is missing with: "
            "vfindex purge --now"
        )
    r = schema.run.c
    looked = select(r.started_at).where(r.command == "reindex", r.finished_at.is_not(None)).order_by(r.id)
    runs = times(connection.scalars(looked))
    gone = connection.scalars(select(schema.tombstone.c.gone_at).distinct()).all()
    return [each for each in gone if (at := time_of(each)) is not None and absence(at, [*runs, now], age / 2) >= age]


def absence(gone_at: datetime, seen: Sequence[datetime], most: timedelta) -> timedelta:
    """Return for how long a file has been missing. seen: when it was missed, as recorded. most: counted of a gap."""
    total, last = timedelta(), gone_at
    for at in seen:
        if at > last:
            total += min(at - last, most)
            last = at
    return total


def newest_time(connection: Connection) -> datetime | None:
    """Return the latest time that the library recorded, None if there is none."""
    columns = (
        schema.run.c.started_at,
        schema.run.c.finished_at,
        schema.tombstone.c.gone_at,
        schema.generation.c.created_at,
        schema.migration.c.applied_at,
    )
    return max(times(connection.scalar(select(func.max(column))) for column in columns), default=None)


def times(texts: Iterable[str | None]) -> list[datetime]:
    """Return the times that can be read, in order."""
    return [at for each in texts if each is not None and (at := time_of(each)) is not None]


def time_of(text: str) -> datetime | None:
    """Return a time of the library, None where it is damaged."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
