"""Where videos lie, and where they did: locations, and tombstones of those that are gone.

A tombstone is a location that was found to be no longer there. A video that has tombstones only is `vanished`: searches
do not see it, nothing of it is deleted before a purge, and it returns when its file does.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

from sqlalchemy import ColumnElement, Connection, delete, func, insert, select, update
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage import schema
from vfindex.storage.documents import unindex_documents
from vfindex.storage.names import resolve
from vfindex.storage.records import KnownStat, Location

_COPIED = ("path", "video_id", "size_bytes", "mtime_ns", "inode", "beside")


def below(column: ColumnElement[bytes], path: bytes) -> ColumnElement[bool]:
    """Return the condition that a path is `path` or lies below it."""
    prefix = path.rstrip(b"/") + b"/"
    return (column == path) | (func.substr(column, 1, len(prefix)) == prefix)


def is_below(path: bytes, folder: bytes) -> bool:
    """Return whether a path is `folder` or lies below it; the test of `below`."""
    return path == folder or path.startswith(folder.rstrip(b"/") + b"/")


def exclude_path(connection: Connection, path: bytes, when: str) -> bool:
    """Skip `path` from now on if a folder above it is indexed; return whether one is."""
    roots = connection.scalars(select(schema.root.c.path)).all()
    covered = any(root != path and is_below(path, root) for root in roots)
    if covered:
        connection.execute(upsert(schema.exclusion).values(path=path, added_at=when).on_conflict_do_nothing())
    return covered


def delete_videos(connection: Connection, condition: ColumnElement[bool]) -> int:
    """Delete videos and all that belongs to them; return how many."""
    chosen = select(schema.video.c.id).where(condition)
    unindex_documents(connection, schema.document.c.video_id.in_(chosen))
    count = connection.execute(delete(schema.video).where(condition)).rowcount
    if count:
        put(connection, "changed", "stale")
    return count


def put(connection: Connection, key: str, value: str) -> None:
    """Store a setting."""
    statement = upsert(schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


def move_location(connection: Connection, video_id: int, location: Location) -> list[str]:
    """Let `location` belong to this video, which returns if it had vanished; forget the videos that then lie nowhere.

    Returns thumbnails no longer needed.
    """
    values = {
        "video_id": video_id,
        "size_bytes": location.size_bytes,
        "mtime_ns": location.mtime_ns,
        "inode": location.inode,
        "beside": location.beside,
    }
    statement = upsert(schema.location).values(path=location.path, **values)
    connection.execute(statement.on_conflict_do_update(index_elements=["path"], set_=values))
    connection.execute(delete(schema.tombstone).where(schema.tombstone.c.path == location.path))
    _return(connection, schema.video.c.id == video_id)
    return forget_homeless(connection)[1]


def forget_homeless(connection: Connection) -> tuple[int, list[str]]:
    """Let videos without a location vanish, and delete those without a tombstone too; return number and thumbnails.

    Videos that are still being indexed have no location yet.
    """
    v = schema.video.c
    nowhere = ~_has(schema.location.c.video_id)
    gone = nowhere & v.state.not_in(("indexing", "vanished")) & _has(schema.tombstone.c.video_id)
    connection.execute(update(schema.video).where(gone).values(state_before=v.state, state="vanished"))
    homeless = select(v.id).where(v.state != "indexing", nowhere, ~_has(schema.tombstone.c.video_id))
    thumbnails = connection.scalars(select(schema.clip.c.thumbnail).where(schema.clip.c.video_id.in_(homeless))).all()
    count = delete_videos(connection, v.id.in_(homeless))
    return count, [name for name in thumbnails if name]


def vanish(connection: Connection, paths: Collection[bytes], when: str) -> None:
    """Turn locations into tombstones. when: as `catalog.now` writes times."""
    loc = schema.location.c
    for path in paths:
        row = connection.execute(select(*(loc[name] for name in _COPIED)).where(loc.path == path)).first()
        if row is not None:
            connection.execute(insert(schema.tombstone).values(**row._mapping, gone_at=when))
            connection.execute(delete(schema.location).where(loc.path == path))
    forget_homeless(connection)


def come_back(connection: Connection, paths: Collection[bytes]) -> None:
    """Turn tombstones into locations again: the files are there, and as they were."""
    t = schema.tombstone.c
    for path in paths:
        row = connection.execute(select(*(t[name] for name in _COPIED)).where(t.path == path)).first()
        if row is not None:
            connection.execute(insert(schema.location).values(**row._mapping))
            connection.execute(delete(schema.tombstone).where(t.path == path))
            _return(connection, schema.video.c.id == row.video_id)


def tombstones(connection: Connection) -> dict[bytes, KnownStat]:
    """Return path -> what the file there was before it vanished."""
    t, v = schema.tombstone.c, schema.video.c
    query = select(t.path, t.size_bytes, t.mtime_ns, v.state, v.state_before, v.recognised, t.beside, v.coarse)
    rows = connection.execute(query.join_from(schema.tombstone, schema.video)).all()
    return {
        row.path: KnownStat(
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


def besides(connection: Connection, video_id: int) -> set[str]:
    """Return the states of the files beside a video, at each place where it lies or lay."""
    found: set[str] = set()
    for table in (schema.location, schema.tombstone):
        found.update(connection.scalars(select(table.c.beside).where(table.c.video_id == video_id)))
    return found


def fingerprint_at(connection: Connection, path: bytes) -> str | None:
    """Return the fingerprint of what lies at `path` as far as the library knows."""
    query = select(schema.video.c.fingerprint).join_from(schema.location, schema.video)
    return connection.scalar(query.where(schema.location.c.path == path))


def known_path(connection: Connection, typed: Sequence[bytes]) -> bytes | None:
    """Return which known path, of a file or a folder, is meant by any of `typed`, see `names.resolve`."""
    tables = (schema.location, schema.tombstone, schema.root, schema.begun)

    def is_known(path: bytes) -> bool:
        query = (select(table.c.path).where(below(table.c.path, path)).limit(1) for table in tables)
        return any(connection.scalar(each) is not None for each in query)

    def known() -> list[bytes]:
        return [path for table in tables for path in connection.scalars(select(table.c.path))]

    return resolve(typed, is_known, known)


def _has(owner: ColumnElement[int]) -> ColumnElement[bool]:
    return select(owner).where(owner == schema.video.c.id).correlate(schema.video).exists()


def _return(connection: Connection, chosen: ColumnElement[bool]) -> None:
    v = schema.video.c
    connection.execute(update(schema.video).where(chosen, v.state == "vanished").values(state=v.state_before))


def sample_below(connection: Connection, folder: bytes, most: int) -> list[Location]:
    """Return up to `most` of the files known below a folder, spread evenly."""
    loc = schema.location.c
    query = select(loc.path, loc.size_bytes, loc.mtime_ns, loc.inode).where(below(loc.path, folder))
    rows = connection.execute(query.order_by(loc.path)).all()
    return [Location(*row) for row in rows[:: -(-len(rows) // most) or 1]]


def unsettle(connection: Connection, video_id: int) -> None:
    """Have the next run redo a video's words, as if what lies beside it had changed."""
    loc = schema.location.c
    connection.execute(update(schema.location).where(loc.video_id == video_id).values(beside="?"))
