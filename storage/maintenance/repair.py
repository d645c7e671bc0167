"""Repair of library.db without opening a video; damaged videos are set aside, to be indexed again."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import Text, case, cast, delete, func, select, text, update

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.documents import rebuild_index, set_documents, unindex_documents
from vfindex.storage.db.engine import any_text, check_integrity, connect
from vfindex.storage.db.integrity import count_rows_of, is_broken, put
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import delete_videos, video_values
from vfindex.storage.errors import LibraryError
from vfindex.storage.files.permissions import DATABASE, has_file
from vfindex.storage.files.replacement import discard_database, refuse_linked, replace_database
from vfindex.storage.maintenance.damage import damaged_videos, indexed_documents, lost_schema
from vfindex.storage.maintenance.salvage import Salvage, salvage
from vfindex.storage.records import Document, Video
from vfindex.storage.settings_backup import INODE, restore

# Problem code of a video that is set aside, to be indexed again.
LOST_ROWS = "lost_rows"
# Setting of a library with an unfinished repair: a video that was being indexed again at a kill is no longer set aside,
# and is found by a scan of all files.
UNFINISHED = "repairing"
_REASON = "its rows in the library were damaged"
_NEXT = "run: vfindex repair"
_NEW = "library.db.repaired"


@dataclass(frozen=True, slots=True)
class Waiting:
    """A video that is set aside, and its paths."""

    id: int
    paths: tuple[bytes, ...]


def salvage_database(place: Path) -> tuple[Salvage, Path | None] | None:
    """Replace a library.db that is missing, that SQLite finds damaged, or that lost tables, by a salvaged one.

    place: folder of a model version, locked by the caller. Return the salvage and the path of the old one, None for a
    missing or empty one; None for a sound database. The new file is complete and synced before it gets the name;
    the old one is kept. Raises LibraryDamaged, LibraryError.
    """
    database = place / DATABASE
    if has_file(database) and _is_sound(database):
        return None
    refuse_linked(database)
    new = place / _NEW
    discard_database(new)
    try:
        found = salvage(database, new)
        _set_aside_in(new, found, database)
        kept = database.with_name(f"library.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}.db")
        replace_database(database, new, kept)
        return found, kept if kept.exists() else None
    except OSError as exc:
        raise LibraryError(
            f"{database} could not be replaced ({exc.strerror}); see to the disk and run `vfindex repair` again: "
            "nothing has been changed"
        ) from exc
    finally:
        discard_database(new)


def _is_sound(database: Path) -> bool:
    """Return whether SQLite finds no fault, and nothing of the schema is lost.

    A full text index that cannot be read cannot be dropped either.
    """
    engine = connect(database, write=False)
    try:
        return not (check_integrity(engine) or lost_schema(engine)) and indexed_documents(engine) is not None
    finally:
        engine.dispose()


def _set_aside_in(new: Path, found: Salvage, old: Path) -> None:
    """Set damaged videos aside in the new database itself, so that a kill does not lose them."""
    catalog = Catalog.open(new)
    try:
        with closing(Snapshot(catalog.engine)) as snapshot:
            found.videos |= {video.id for video in damaged_videos(snapshot)}
        set_aside(catalog, found.videos)
        inode = catalog.get(INODE)  # None if that was not salvaged
        if inode and inode == str(old.stat().st_ino):  # else a copy of another library, as before
            catalog.put(INODE, str(new.stat().st_ino))
    finally:
        catalog.close()
    with closing(sqlite3.connect(new)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # the log goes into the file


# --- rows -----------------------------------------------------------------------------------------------------------


def set_aside(catalog: Catalog, video_ids: Collection[int]) -> None:
    """Delete the rows of videos, so that they are indexed again.

    A video with a location keeps its row, with the problem LOST_ROWS; an orphaned one is deleted.
    """
    problem = json.dumps({"stage": "commit", "code": LOST_ROWS, "reason": _REASON, "next": _NEXT})
    v, d = schema.video.c, schema.document.c
    chosen = select(func.json_each(json.dumps(list(video_ids))).table_valued("value").c.value)
    nothing = Video("", 0, "", "", 0, 0, 0, 0.0, 0.0, 0.0, None, has_audio=False)
    values = video_values(nothing) | {"state": "failed", "recognised": 0, "state_before": "failed", "problem": problem}
    values["coarse"] = 0
    # A damaged row may have the fingerprint of another content; the file at the path gives the right one.
    named = case((text(is_broken(schema.video)), "damaged " + cast(v.id, Text)), else_=v.fingerprint)
    with catalog.transaction() as connection, any_text(connection):
        for owned in (schema.location, schema.tombstone, schema.attempt):
            connection.execute(text(f"DELETE FROM {owned.name} WHERE {is_broken(owned)}"))
        unindex_documents(connection, d.video_id.in_(chosen))
        for table in (schema.document, schema.segment, schema.unit):  # clips go with units, and vectors with clips
            connection.execute(delete(table).where(table.c.video_id.in_(chosen)))
        connection.execute(update(schema.video).where(v.id.in_(chosen)).values(values | {"fingerprint": named}))
        count_rows_of(connection, video_ids)
        orphaned = ~select(schema.location.c.path).where(schema.location.c.video_id == v.id).exists()
        delete_videos(connection, v.id.in_(chosen) & orphaned)
        put(connection, "changed", "stale")
        put(connection, UNFINISHED, "1")


def restore_settings(catalog: Catalog, folder: Path) -> bool:
    """Restore lost or damaged settings and sources from the backup in `folder`. Return whether there were any.

    If so, the repair scans all sources again for lost videos.
    """
    with catalog.transaction() as connection:
        if not restore(connection, folder):
            return False
        put(connection, "changed", "stale")
        put(connection, UNFINISHED, "1")
    return True


def waiting(catalog: Catalog) -> list[Waiting]:
    """Return the videos that are set aside, in order of id."""
    v, loc = schema.video.c, schema.location.c
    query = select(v.id, loc.path).join_from(schema.video, schema.location).where(v.problem.like(f'%"{LOST_ROWS}"%'))
    paths: dict[int, list[bytes]] = {}
    with catalog.transaction() as connection:
        for row in connection.execute(query.order_by(v.id, loc.path)):
            paths.setdefault(row.id, []).append(row.path)
    return [Waiting(id_, tuple(found)) for id_, found in paths.items()]


def delete_orphans(catalog: Catalog) -> int:
    """Delete rows whose owner is gone, which only damage leaves; return how many."""
    with catalog.transaction() as connection:
        found = connection.exec_driver_sql("PRAGMA foreign_key_check").all()
        for table, row_id, *_ in found:
            if row_id is not None:
                connection.exec_driver_sql(f"DELETE FROM {table} WHERE rowid = ?", (row_id,))
        for table in ("embedding", "frame"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE clip_id NOT IN (SELECT id FROM clip)")
    return len(found)


def rewrite_words(catalog: Catalog, titles: Mapping[int, Sequence[Document]]) -> None:
    """Rebuild full text search from the existing segments, titles and tags.

    titles: video id -> its titles and tags.
    """
    with catalog.transaction() as connection:
        for video_id, documents in titles.items():
            set_documents(connection, video_id, documents)
        connection.execute(text("DELETE FROM document WHERE segment_id IS NOT NULL"))
        connection.execute(
            text(
                "INSERT INTO document (video_id, segment_id, kind, text)"
                " SELECT video_id, id, track, text FROM segment ORDER BY id"
            )
        )
        rebuild_index(connection)
