"""Scrubbing library.db after a removal, so that neither its pages nor its log hold what was removed.

SQLite overwrites what it deletes (`secure_delete`), but not the copies that it leaves in a page when rows move to
another one: only VACUUM rewrites every page. FTS5 keeps the words of deleted rows until its segments are merged.
The setting SCRUB is committed together with a removal and cleared when the scrubbing is complete, so that the next
writer finishes what a kill or a reader prevented. It stays while a video's sidecars are still to be read again because
one of its copies was removed.
"""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Engine, select, text, update

from vfindex.storage.db import schema
from vfindex.storage.db.engine import room_wanted
from vfindex.storage.db.integrity import put
from vfindex.storage.db.locations import forget_orphaned
from vfindex.storage.db.videos import delete_orphaned_staged, delete_unfinished

SCRUB = "scrub"
# Up to this size the database is rewritten at every removal: 10 s on a slow disk. A larger one with auto_vacuum has its
# free pages overwritten and cut off.
COMPACT_BYTES = 512 << 20
# Free pages cut off at a time: 200 MB of 4 KB take 1 s.
CUT_PAGES = 50_000
# Wait for a reader that still needs the log.
READER_WAIT_MS = 2000
# Replaces a removed path in the reports of runs.
REMOVED = "(removed)"
_INCREMENTAL = 2
# Whether the sidecars of a video are still to be read, see `locations.mark_sidecars_unread`.
_UNREAD = "SELECT 1 FROM location WHERE beside = '?' LIMIT 1"


@dataclass(frozen=True, slots=True)
class Scrubbed:
    """The result. log_bytes: left in the log because a reader holds it. free_pages: overwritten, not cut off.

    fault: why the database could not be rewritten, else "". in_index: why the joint index still holds some, else "".
    """

    log_bytes: int = 0
    free_pages: int = 0
    fault: str = ""
    in_index: str = ""

    @property
    def is_complete(self) -> bool:
        return not (self.log_bytes or self.fault or self.in_index)


def scrub(engine: Engine, database: Path, in_index: str = "") -> Scrubbed:
    """Scrub the database of a writer's `engine`. Raises sqlite3.DatabaseError if it is damaged.

    in_index: why the joint index still holds what was removed; the next writer scrubs again then.
    """
    pooled = engine.raw_connection()
    try:
        connection = pooled.driver_connection
        if not isinstance(connection, sqlite3.Connection):
            return Scrubbed()
        connection.execute("INSERT INTO document_fts(document_fts) VALUES ('optimize')")
        fault = _compact(connection, database.parent)
        log_bytes = _empty_log(connection, database)
        done = Scrubbed(log_bytes, _pragma(connection, "freelist_count"), fault, in_index)
        if done.is_complete and not connection.execute(_UNREAD).fetchone():
            connection.execute("DELETE FROM meta WHERE key = ?", (SCRUB,))
            _empty_log(connection, database)
        return done
    finally:
        pooled.close()


def _compact(connection: sqlite3.Connection, folder: Path) -> str:
    """Rewrite the database, or cut off its free pages; return why that failed, else ""."""
    size_bytes = _pragma(connection, "page_count") * _pragma(connection, "page_size")
    try:
        if size_bytes <= COMPACT_BYTES or _pragma(connection, "auto_vacuum") != _INCREMENTAL:
            connection.execute(f"PRAGMA auto_vacuum={_INCREMENTAL}")
            connection.execute("VACUUM")
        else:
            connection.execute(f"PRAGMA incremental_vacuum({CUT_PAGES})").fetchall()
    except sqlite3.OperationalError as exc:
        return f"library.db could not be rewritten ({exc}); {room_wanted(folder, size_bytes)} and remove anything again"
    return ""


def _empty_log(connection: sqlite3.Connection, database: Path) -> int:
    """Move the log into the database and truncate it; return the bytes left in it."""
    wait_ms = _pragma(connection, "busy_timeout")
    connection.execute(f"PRAGMA busy_timeout={READER_WAIT_MS}")
    try:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    finally:
        connection.execute(f"PRAGMA busy_timeout={wait_ms}")
    log = database.with_name(database.name + "-wal")
    return log.stat().st_size if log.exists() else 0


def _pragma(connection: sqlite3.Connection, name: str) -> int:
    return int(connection.execute(f"PRAGMA {name}").fetchone()[0])


# --- rows that name what was removed ---------------------------------------------------------------------------------


def forget_removed(connection: Connection, is_removed: Callable[[bytes], bool]) -> tuple[int, list[str]]:
    """Delete orphaned and unfinished videos, and what names removed paths; return (number, thumbnails)."""
    names = delete_unfinished(connection, is_removed)
    videos, lost = forget_orphaned(connection, None)
    names += delete_orphaned_staged(connection)
    forget_traces(connection, is_removed)
    return videos, [*lost, *names]


def forget_traces(connection: Connection, is_removed: Callable[[bytes], bool]) -> None:
    """Delete what outlives a video's row: the hash of its file, and its name in the reports of runs. Sets SCRUB.

    is_removed: whether a path was removed.
    """
    put(connection, SCRUB, "1")
    connection.execute(
        text("DELETE FROM meta WHERE key GLOB 'sha256 *' AND substr(key, 8) NOT IN (SELECT fingerprint FROM video)")
    )
    r = schema.run.c
    last = 0
    query = select(r.id, r.report).where(r.report.is_not(None)).order_by(r.id).limit(1)
    while (row := connection.execute(query.where(r.id > last)).first()) is not None:
        last = row.id
        try:
            report = json.loads(row.report)
            cleaned = _without(report, is_removed)
        except ValueError:
            report, cleaned = row.report, None  # nobody can say whom a damaged report names
        if cleaned != report:
            connection.execute(update(schema.run).where(r.id == row.id).values(report=cleaned and json.dumps(cleaned)))


def _without(value: Any, is_removed: Callable[[bytes], bool]) -> Any:
    """Return a report with REMOVED in the place of paths that were removed, and of their names in its sentences."""
    if isinstance(value, dict):
        path = value.get("path")
        if isinstance(path, str) and is_removed(os.fsencode(path)):
            names = (path, os.path.basename(path))
            return {key: _unnamed(each, names) for key, each in value.items()}
        return {key: _without(each, is_removed) for key, each in value.items()}
    if isinstance(value, list):
        return [_without(each, is_removed) for each in value]
    return REMOVED if isinstance(value, str) and value.startswith("/") and is_removed(os.fsencode(value)) else value


def _unnamed(value: Any, names: tuple[str, ...]) -> Any:
    if isinstance(value, str):
        for name in filter(None, names):
            value = value.replace(name, REMOVED)
    return value
