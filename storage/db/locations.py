"""Locations of videos, and tombstones of missing files.

A tombstone is a location whose file was found missing. A video with tombstones only has the state `vanished`: searches
do not see it, a purge deletes it, and it is searchable again when its file is back.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from sqlalchemy import ColumnElement, Connection, Select, delete, func, select, text, update
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.integrity import count_again
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import delete_videos
from vfindex.storage.errors import LibraryError
from vfindex.storage.files.names import resolve
from vfindex.storage.records import FileStamp, Location

_COPIED = "path, video_id, size_bytes, mtime_ns, inode, beside"
_IS_CHOSEN = "path IN (SELECT path FROM temp.chosen)"


def below(column: ColumnElement[bytes], path: bytes) -> ColumnElement[bool]:
    """Return the SQL condition of `is_below`."""
    folder = path.rstrip(b"/")
    # A range, so that SQLite uses the index: "0" is the character after "/".
    return (column == path) | ((column >= folder + b"/") & (column < folder + b"0"))


def is_below(path: bytes, folder: bytes) -> bool:
    """Return whether a path is `folder` or lies below it."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def exclude_path(connection: Connection, path: bytes, when: str) -> bool:
    """Exclude `path` from later runs if a folder above it is a source; return whether one is."""
    roots = connection.scalars(select(schema.root.c.path)).all()
    covered = any(root != path and is_below(path, root) for root in roots)
    if covered:
        statement = upsert(schema.exclusion).values(path=path, added_at=when).on_conflict_do_nothing()
        if connection.execute(statement).rowcount:  # it may be the one that was lost
            count_again(connection, schema.exclusion)
    return covered


def move_location(
    connection: Connection, video_id: int, location: Location, *, moved_from: bytes | None = None
) -> list[str]:
    """Give `location` to this video and restore it if it was missing; delete videos that are orphaned by this.

    moved_from: the path that the file had before. Returns thumbnails no longer needed.
    """
    paths = [path for path in (location.path, moved_from) if path is not None]
    owners: set[int] = set()
    for table in (schema.location, schema.tombstone):
        owners.update(connection.scalars(select(table.c.video_id).where(table.c.path.in_(paths))))
    if moved_from is not None:
        connection.execute(delete(schema.location).where(schema.location.c.path == moved_from))
    connection.execute(delete(schema.tombstone).where(schema.tombstone.c.path.in_(paths)))
    values = {
        "video_id": video_id,
        "size_bytes": location.size_bytes,
        "mtime_ns": location.mtime_ns,
        "inode": location.inode,
        "beside": location.sidecar_state,
    }
    statement = upsert(schema.location).values(path=location.path, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["path"], set_=values))
    _return(connection, [video_id])
    return forget_orphaned(connection, owners - {video_id})[1]


def forget_orphaned(connection: Connection, videos: Collection[int] | None) -> tuple[int, list[str]]:
    """Set videos that have only tombstones to `vanished`, and delete orphaned ones, which have neither a location nor
    a tombstone; return (number, thumbnails) of the deleted.

    videos: those that lost a location, so that the cost does not grow with the library; None for all. Videos that are
    being indexed have no location yet and are left alone.
    """
    if videos is not None and not videos:
        return 0, []
    v = schema.video.c
    nowhere = (v.state != "indexing") & ~_has(schema.location.c.video_id)
    if videos is not None:
        nowhere &= v.id.in_(_among(videos))
    gone = nowhere & (v.state != "vanished") & _has(schema.tombstone.c.video_id)
    connection.execute(update(schema.video).where(gone).values(state_before=v.state, state="vanished"))
    orphaned = connection.scalars(select(v.id).where(nowhere, ~_has(schema.tombstone.c.video_id))).all()
    if not orphaned:
        return 0, []
    named = select(schema.clip.c.thumbnail).where(schema.clip.c.video_id.in_(_among(orphaned)))
    thumbnails = [name for name in connection.scalars(named) if name]
    return delete_videos(connection, v.id.in_(_among(orphaned))), thumbnails


def mark_missing(connection: Connection, paths: Collection[bytes], when: str) -> None:
    """Turn locations into tombstones. when: ISO 8601, UTC."""
    _choose(connection, paths)
    videos = _chosen_videos(connection, "location")
    connection.execute(
        text(f"INSERT INTO tombstone ({_COPIED}, gone_at) SELECT {_COPIED}, :when FROM location WHERE {_IS_CHOSEN}"),
        {"when": when},
    )
    connection.execute(text(f"DELETE FROM location WHERE {_IS_CHOSEN}"))
    forget_orphaned(connection, videos)


def restore_missing(connection: Connection, paths: Collection[bytes]) -> None:
    """Turn tombstones back into locations."""
    _choose(connection, paths)
    videos = _chosen_videos(connection, "tombstone")
    connection.execute(text(f"INSERT INTO location ({_COPIED}) SELECT {_COPIED} FROM tombstone WHERE {_IS_CHOSEN}"))
    connection.execute(text(f"DELETE FROM tombstone WHERE {_IS_CHOSEN}"))
    _return(connection, videos)


def missing_files(connection: Connection) -> dict[bytes, FileStamp]:
    """Return path -> the stamp that a missing file had."""
    t, v = schema.tombstone.c, schema.video.c
    query = select(t.path, t.size_bytes, t.mtime_ns, v.state, v.state_before, v.recognised, t.beside, v.coarse)
    rows = connection.execute(query.join_from(schema.tombstone, schema.video)).all()
    return {
        row.path: FileStamp(
            row.path,
            row.size_bytes,
            row.mtime_ns,
            row.state_before if row.state == "vanished" else row.state,
            row.recognised,
            row.beside,
            row.coarse,
        )
        for row in rows
    }


def former_paths(connection: Connection, video_id: int) -> Sequence[bytes]:
    """Return the paths of a video's tombstones, in order of bytes."""
    t = schema.tombstone.c
    return connection.scalars(select(t.path).where(t.video_id == video_id).order_by(t.path)).all()


def sidecar_states(connection: Connection, video_id: int) -> set[str]:
    """Return the sidecar states of a video at all its locations and former locations."""
    found: set[str] = set()
    for table in (schema.location, schema.tombstone):
        found.update(connection.scalars(select(table.c.beside).where(table.c.video_id == video_id)))
    return found


def paths_by_fingerprint(snapshot: Snapshot, fingerprints: Iterable[str]) -> dict[str, bytes | None]:
    """Return fingerprint -> first path of the video, None if all its files are missing; without those not there."""
    v, loc = schema.video.c, schema.location.c
    chosen = select(func.json_each(json.dumps(list(fingerprints))).table_valued("value").c.value)
    query = select(v.fingerprint, func.min(loc.path).label("path")).join_from(
        schema.video, schema.location, loc.video_id == v.id, isouter=True
    )
    rows = snapshot.stream(query.where(v.fingerprint.in_(chosen), v.staged == 0).group_by(v.fingerprint))
    return {row.fingerprint: row.path for row in rows}


def fingerprint_at(connection: Connection, path: bytes) -> str | None:
    """Return the fingerprint of the video at `path`, None if there is none."""
    query = select(schema.video.c.fingerprint).join_from(schema.location, schema.video)
    return connection.scalar(query.where(schema.location.c.path == path))


def known_path(connection: Connection, typed: Sequence[bytes]) -> bytes | None:
    """Return the path in the library, of a file or a folder, that `typed` names, see `names.resolve`.

    Missing files and every ingested path count. Raises UsageError.
    """
    tables = (schema.location, schema.tombstone, schema.root, schema.begun)

    def is_known(path: bytes) -> bool:
        query = (select(table.c.path).where(below(table.c.path, path)).limit(1) for table in tables)
        return any(connection.scalar(each) is not None for each in query)

    def known() -> list[bytes]:
        return [path for table in tables for path in connection.scalars(select(table.c.path))]

    return resolve(typed, is_known, known)


def _has(owner: ColumnElement[int]) -> ColumnElement[bool]:
    return select(owner).where(owner == schema.video.c.id).correlate(schema.video).exists()


def _return(connection: Connection, videos: Collection[int]) -> None:
    v = schema.video.c
    vanished = v.id.in_(_among(videos)) & (v.state == "vanished")
    connection.execute(update(schema.video).where(vanished).values(state=v.state_before))


def _among(ids: Collection[int]) -> Select[tuple[int]]:
    """Return ids as a subquery with one parameter, however many they are."""
    return select(func.json_each(json.dumps(list(ids))).table_valued("value").c.value)


def _choose(connection: Connection, paths: Collection[bytes]) -> None:
    """Make `_IS_CHOSEN` true for these paths. JSON cannot carry bytes, so they go into a temporary table."""
    connection.execute(text("CREATE TEMP TABLE IF NOT EXISTS chosen (path BLOB PRIMARY KEY) WITHOUT ROWID"))
    connection.execute(text("DELETE FROM temp.chosen"))
    if paths:
        connection.execute(text("INSERT OR IGNORE INTO temp.chosen VALUES (:path)"), [{"path": path} for path in paths])


def _chosen_videos(connection: Connection, table: str) -> Sequence[int]:
    return connection.scalars(text(f"SELECT DISTINCT video_id FROM {table} WHERE {_IS_CHOSEN}")).all()


def sample_below(connection: Connection, folder: bytes, most: int) -> list[Location]:
    """Return up to `most` locations below a folder, evenly spaced in order of path."""
    loc = schema.location.c
    query = select(loc.path, loc.size_bytes, loc.mtime_ns, loc.inode).where(below(loc.path, folder))
    rows = connection.execute(query.order_by(loc.path)).all()
    return [Location(*row) for row in rows[:: -(-len(rows) // most) or 1]]


def mark_sidecars_unread(connection: Connection, video_id: int) -> None:
    """Make the next run read a video's sidecars and metadata again."""
    loc = schema.location.c
    connection.execute(update(schema.location).where(loc.video_id == video_id).values(beside="?"))


# A clock that is corrected by the network steps back by less.
STEP_BACK = timedelta(minutes=1)


def expired_times(connection: Connection, age: timedelta, now: datetime) -> list[str]:
    """Return the values of `tombstone.gone_at` of files that have been missing for `age`.

    Raises LibraryError if the clock is behind the library's latest recorded time.
    """
    newest = latest_time(connection)
    if newest is not None and now + STEP_BACK < newest:
        raise LibraryError(
            f"the clock says {now:%Y-%m-%d %H:%M} UTC, but the library was written to at {newest:%Y-%m-%d %H:%M} UTC: "
            "how long files have been missing cannot be known; set the clock, or forget all that is missing with: "
            "vfindex purge --now"
        )
    r = schema.run.c
    # Not those that an error ended, perhaps before they had looked.
    has_ended = r.finished_at.is_not(None) & (func.coalesce(func.json_extract(r.report, "$.error"), "") == "")
    looked = select(r.started_at).where(r.command == "reindex", has_ended).order_by(r.id)
    runs = times(connection.scalars(looked))
    gone = connection.scalars(select(schema.tombstone.c.gone_at).distinct()).all()
    return [each for each in gone if (at := time_of(each)) is not None and absence(at, [*runs, now], age / 2) >= age]


def absence(gone_at: datetime, seen: Sequence[datetime], most: timedelta) -> timedelta:
    """Return for how long a file has been missing, by clocks that may be wrong or leap.

    Counted from `gone_at` along the times `seen` at which it was still missing, with at most `most` for one gap: a
    clock that leaps ahead once deletes nothing, because a file must be missing in two runs. Earlier times count 0.
    """
    total, last = timedelta(), gone_at
    for at in seen:
        if at > last:
            total += min(at - last, most)
            last = at
    return total


def latest_time(connection: Connection) -> datetime | None:
    """Return the latest time recorded in the library, None if there is none."""
    columns = (
        schema.run.c.started_at,
        schema.run.c.finished_at,
        schema.tombstone.c.gone_at,
        schema.generation.c.created_at,
        schema.migration.c.applied_at,
    )
    return max(times(connection.scalar(select(func.max(column))) for column in columns), default=None)


def times(texts: Iterable[str | None]) -> list[datetime]:
    """Parse times, leaving out None and damaged ones."""
    return [at for each in texts if each is not None and (at := time_of(each)) is not None]


def time_of(text: str) -> datetime | None:
    """Parse a time, None if it is damaged."""
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        return None
    return at if at.tzinfo is not None else at.replace(tzinfo=UTC)
