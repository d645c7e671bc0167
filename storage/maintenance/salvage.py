"""Salvage: copies the readable rows of a damaged library.db into a new one."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from sqlalchemy import Connection, Table, text
from sqlalchemy.exc import IntegrityError, InterfaceError, ProgrammingError

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.documents import insert_document
from vfindex.storage.db.engine import DatabaseConnection, decoded, opening, translated
from vfindex.storage.db.integrity import (
    HELD,
    HELD_NOW,
    SEAL,
    begin_counts,
    count_frames,
    count_rows_of,
    is_broken,
    keep_no_counts,
    paths_of,
    put,
    register,
)
from vfindex.storage.db.migrations import BREAKING, EVERY_COLUMN, MIGRATIONS, MIN_READER, refuse_newer, temporary_tables
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged, LibraryVersion
from vfindex.storage.files.permissions import has_file
from vfindex.storage.joint.codecs import checksum
from vfindex.storage.maintenance.damage import EVERY_PART, damaged_videos, lost_parts
from vfindex.storage.modalities import MODALITIES
from vfindex.storage.settings_backup import read_backup, restore

_AGAIN = "; put back library.db from a backup, or move the library away and make it again with: vfindex ingest VIDEOS"
# Keys tried one by one after the last readable row: a page holds fewer rows. Beyond them, the steps grow.
NEAR_KEYS = 4096
STEP_GROWTH = 1.2
MAX_KEY = 2**62
# Table -> its columns of vectors and times, which `crc32` is of.
_BLOBS: Mapping[Table, tuple[str, ...]] = {schema.embedding: ("vector",), schema.frame: ("times", "vectors")}
# Not copied: documents are made from titles and segments, migrations by opening the new database.
_DERIVED = ("document", "migration")
# Tables whose rows go into the new database.
_NAMES = schema.metadata.tables.keys() - {"migration"}
# Videos that may have lost rows of a table in a range of keys: a unit's rows were written one after the other, so that
# those of a lost range belong to its neighbours, or to what has none at all of its own any more.
_NEIGHBOURS = (
    "SELECT video_id FROM (SELECT video_id FROM {table} WHERE id < :first ORDER BY id DESC LIMIT 1)"
    " UNION SELECT video_id FROM (SELECT video_id FROM {table} WHERE id > :last ORDER BY id LIMIT 1)"
)
_CHILDLESS = {
    "unit": "SELECT v.id FROM video v WHERE NOT EXISTS (SELECT 1 FROM unit u WHERE u.video_id = v.id)"
    " AND (v.state IN ('indexed', 'partial') OR v.state_before IN ('indexed', 'partial'))",
    "clip": "SELECT u.video_id FROM unit u WHERE u.state = 'done' AND u.error IS NULL"
    " AND NOT EXISTS (SELECT 1 FROM clip c WHERE c.unit_id = u.id)",
    "segment": "SELECT DISTINCT c.video_id FROM clip c JOIN embedding e ON e.clip_id = c.id"
    " WHERE e.modality IN (SELECT value FROM json_each(:worded))"
    " AND NOT EXISTS (SELECT 1 FROM segment s WHERE s.video_id = c.video_id AND s.track = e.modality)",
}
_VECTORLESS = "SELECT DISTINCT video_id FROM clip WHERE id BETWEEN :first AND :last"


@dataclass(slots=True)
class Salvage:
    """The result. lost: table -> inclusive ranges of keys that could not be read.

    videos: ids of those that may lack rows. paths: of files whose video is lost. rows: number of copied rows.
    """

    rows: int = 0
    lost: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    videos: set[int] = field(default_factory=set)
    paths: list[bytes] = field(default_factory=list)


def salvage(damaged: Path, target: Path) -> Salvage:
    """Copy the readable rows of the database `damaged` into a new one, `target`, a single file when this returns.

    Tables are read by their keys; indexes and the full text index are rebuilt. Raises LibraryDamaged if the list of
    tables or the library's settings cannot be read, LibraryVersion for a library of a newer vfindex.
    """
    catalog = Catalog.open(target)
    try:
        found = _copy_all(damaged, catalog, blobs=True)
    finally:
        catalog.close()
    with closing(sqlite3.connect(target)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")  # the log goes into the file
    return found


def survey(damaged: Path) -> list[bytes]:
    """Return the paths of the videos that a salvage would leave to be indexed again, in order. Raises as `salvage`."""
    catalog = Catalog.open(None)
    try:
        found = _copy_all(damaged, catalog, blobs=False)
        snapshot = Snapshot(catalog.engine)
        videos = found.videos | {video.id for video in damaged_videos(snapshot)}
        return sorted({*found.paths, *(path for paths in paths_of(snapshot.stream, videos).values() for path in paths)})
    finally:
        catalog.close()


def _copy_all(damaged: Path, catalog: Catalog, *, blobs: bool) -> Salvage:
    """Copy all tables. blobs: vectors too; without them only the result of their checksum is copied."""
    found = Salvage()
    with closing(_open(damaged) or sqlite3.connect(":memory:")) as source, catalog.transaction() as connection:
        is_before = _show_as_today(source)
        found.lost = {table: [(0, MAX_KEY)] for table in _lost_tables(source)}
        keep_no_counts(connection)
        # Generations come last: before the first of them no vector is recorded as changed. So do labels: a vector that
        # is inserted deletes those of its clip.
        last = (schema.label, schema.generation)
        for table in sorted(schema.metadata.sorted_tables, key=lambda table: table in last):
            if table.name not in _DERIVED:
                _copy(source, connection, table, found, blobs=blobs)
        if is_before:
            count_frames(connection)
        count_rows_of(connection)
        begin_counts(connection)
        restore(connection, damaged.parent)
        _check_settings(connection, damaged)
        _write_words(source, connection, found)
        _keep_counting(source, connection)
        name = schema.index_change.name
        if name in found.lost or not _columns(source, name) or not _records_changes(source):
            # It is unknown which rows of the index are valid: searches scan exactly until the repair publishes.
            connection.execute(text("DELETE FROM generation"))
        put(connection, "changed", "stale")
        found.videos |= _may_lack_rows(
            connection, found, [schema.frame.name, *([schema.embedding.name] if is_before else [])]
        )
    return found


def _open(damaged: Path) -> sqlite3.Connection | None:
    """Return a connection for reading damaged rows; None if there is no file, or nothing of it is readable.

    Raises LibraryDamaged if nothing is readable and there is no settings backup, LibraryError if this user may not read
    the file.
    """
    if not has_file(damaged):
        return None
    opened = opening(damaged)
    source = sqlite3.connect(opened.uri, uri=True, isolation_level=None, factory=DatabaseConnection)
    try:
        if not opened.is_locked:
            source.execute("PRAGMA locking_mode=EXCLUSIVE")
        source.text_factory = decoded
        source.execute("PRAGMA trusted_schema=OFF")
        source.execute("PRAGMA cell_size_check=ON")
        source.execute("PRAGMA writable_schema=ON")  # else nothing is read of a truncated file
        source.execute("SELECT name FROM sqlite_master").fetchall()
    except sqlite3.DatabaseError as exc:
        source.close()
        if not isinstance(error := translated(exc), LibraryDamaged):
            raise error from exc
        if read_backup(damaged.parent) is None:
            raise LibraryDamaged(f"{damaged}: nothing can be read of it any more ({exc}){_AGAIN}") from exc
        return None
    return source


def _show_as_today(source: sqlite3.Connection) -> bool:
    """Show a library as one of today, see `temporary_tables`; return whether its frames are in `embedding`."""
    register(source)
    for statement in temporary_tables(source.execute(EVERY_COLUMN).fetchall(), counts=False):
        source.execute(statement)
    return "frames" in _columns(source, schema.embedding.name)


def _lost_tables(source: sqlite3.Connection) -> list[str]:
    """Return the lost tables whose rows would be copied. Raises LibraryVersion for a library of a newer vfindex."""
    applied: list[str] = []
    with suppress(sqlite3.DatabaseError):
        applied += (name for (name,) in source.execute("SELECT name FROM main.migration"))
    parts = source.execute(EVERY_PART).fetchall()
    if MIGRATIONS.keys() <= set(applied):
        refuse_newer(applied)
    else:  # of an older vfindex, or damaged
        _refuse_unknown(source, parts)
    return [part.name for part in lost_parts(parts, applied) if part.kind == "table" and part.name in _NAMES]


def _refuse_unknown(source: sqlite3.Connection, parts: Collection[Sequence[str]]) -> None:
    """Raise LibraryVersion if a library without a complete list of migrations has what would not be copied."""
    known = {f"{table.name}.{column.name}" for table in schema.metadata.sorted_tables for column in table.columns}
    columns = {f"{table}.{name}" for table, kind, name in parts if kind == "column" and table in _NAMES}
    unknown = sorted(columns - known - {"embedding.frames"})  # these until `BY_COPY`
    least = f"SELECT value FROM meta WHERE key = ? AND NOT ({is_broken(schema.meta)})"
    row = None
    with suppress(sqlite3.DatabaseError):
        row = source.execute(least, (MIN_READER,)).fetchone()
    if unknown or (row and str(row[0]).isdecimal() and int(row[0]) > len(BREAKING)):
        raise LibraryVersion(
            "library.db has lost the rows of its table migration, and was written by a newer vfindex; "
            "upgrade with: pip install --upgrade vfindex, then run: vfindex repair"
        )


def _records_changes(source: sqlite3.Connection) -> bool:
    """Return whether the triggers are there that record changed vectors."""
    names = ", ".join(f"'index_change_{event}'" for event in ("insert", "update", "delete"))
    query = f"SELECT count(*) FROM main.sqlite_master WHERE type = 'trigger' AND name IN ({names})"
    return bool(source.execute(query).fetchone() == (3,))


def _columns(source: sqlite3.Connection, table: str) -> list[str]:
    return [row[1] for row in source.execute(f"PRAGMA main.table_info({table})")]


def _key(source: sqlite3.Connection, table: str) -> str:
    """Return the column by which a table is read, see `migrations.rows_of`."""
    is_before = table == schema.embedding.name and "frames" in _columns(source, table)
    return "clip_id" if is_before or table == schema.frame.name else "rowid"


def _check_settings(connection: Connection, damaged: Path) -> None:
    if connection.scalar(text("SELECT count(*) FROM meta WHERE key IN ('setup', 'priors')")) != 2:
        raise LibraryDamaged(
            f"{damaged}: which models the library was made with cannot be read any more, and without that its vectors "
            f"mean nothing{_AGAIN}"
        )


def _copy(source: sqlite3.Connection, connection: Connection, table: Table, found: Salvage, *, blobs: bool) -> None:
    """Copy a table's rows."""
    columns = [column.name for column in table.columns if column.name != SEAL]
    broken = is_broken(table) if SEAL in table.columns else "0"
    names, marks = ", ".join(columns), ", ".join("?" * len(columns))
    insert = f"INSERT INTO {table.name} ({names}) VALUES ({marks})"
    for is_false, *values in _rows(source, table.name, f"{broken}, {names}", found):
        row = dict(zip(columns, values, strict=True))
        if is_false:
            _lose(connection, table, row, found)
            continue
        if not blobs and table in _BLOBS:
            parts = _BLOBS[table]
            is_sound = checksum(*(row[part] for part in parts)) == row["crc32"]
            row |= dict.fromkeys(parts, b"") | {"crc32": checksum(*[b""] * len(parts)) if is_sound else -1}
        try:
            connection.exec_driver_sql(insert, tuple(row.values()))
            found.rows += 1
        except (IntegrityError, UnicodeEncodeError, InterfaceError, ProgrammingError):
            # Its owner is lost, or it has an impossible value.
            _lose(connection, table, row, found)


def _lose(connection: Connection, table: Table, row: Mapping[str, Any], found: Salvage) -> None:
    """Note the videos to be indexed again because a row was not copied: its own, and that of its unit."""
    if table is schema.label:
        return  # given again by `label`
    if table in (schema.location, schema.tombstone) and isinstance(row["path"], bytes):
        found.paths.append(row["path"])
    if "video_id" in row and isinstance(row["video_id"], int):
        found.videos.add(row["video_id"])
    if isinstance(row.get("unit_id"), int):
        owner = text("SELECT video_id FROM unit WHERE id = :unit")
        found.videos.update(connection.scalars(owner, {"unit": row["unit_id"]}))


def _rows(source: sqlite3.Connection, table: str, columns: str, found: Salvage) -> Iterator[tuple[Any, ...]]:
    """Yield the readable rows of a table in order of key; note the ranges that are not readable."""
    key = _key(source, table)
    query = f"SELECT {key}, {columns} FROM {table} WHERE {key} >= ? ORDER BY {key}"
    at = 0
    while at <= MAX_KEY:
        last = at - 1
        try:
            for row in source.execute(query, (at,)):
                last = row[0]
                yield row[1:]
            return
        except sqlite3.DatabaseError:
            # If no row came, this key itself is unreadable here, even if a query for it alone succeeds.
            at = _next_readable(source, query, max(last, at) + 1)
            # A clip has several vectors: the one that was read last may not have been its last.
            has_several = key == "clip_id" and table == schema.embedding.name
            lost = (last if has_several else last + 1, at - 1)
            if lost[0] <= lost[1]:
                found.lost.setdefault(table, []).append(lost)


def _next_readable(source: sqlite3.Connection, query: str, first: int) -> int:
    """Return the first key from `first` at which a row or the end of the table can be read, else MAX_KEY + 1."""

    def is_readable(key: int) -> bool:
        try:
            source.execute(f"{query} LIMIT 1", (key,)).fetchone()
        except sqlite3.DatabaseError:
            return False
        return True

    bad, step, tries = first - 1, 1, 0
    while bad + step <= MAX_KEY:
        if is_readable(bad + step):
            good = bad + step
            while good - bad > 1:
                middle = (good + bad) // 2
                bad, good = (bad, middle) if is_readable(middle) else (middle, good)
            return good
        bad, tries = bad + step, tries + 1
        if tries > NEAR_KEYS:
            step = int(step * STEP_GROWTH) + 1
    return MAX_KEY + 1


def _write_words(source: sqlite3.Connection, connection: Connection, found: Salvage) -> None:
    """Insert the documents of salvaged titles, tags and segments."""
    videos = set(connection.scalars(text("SELECT id FROM video")))
    columns = f"rowid, {is_broken(schema.document)}, video_id, segment_id, kind, text"
    for id_, is_false, video_id, segment_id, kind, words in _rows(source, "document", columns, found):
        if is_false or not (isinstance(kind, str) and isinstance(words, str)):
            found.lost.setdefault("document", []).append((id_, id_))
        elif segment_id is None and video_id in videos:
            insert_document(connection, {"video_id": video_id, "kind": kind, "text": words})
    for row in connection.execute(text("SELECT video_id, id, track, text FROM segment ORDER BY id")).all():
        values = {"video_id": row.video_id, "segment_id": row.id, "kind": row.track, "text": row.text}
        insert_document(connection, values)


def _keep_counting(source: sqlite3.Connection, connection: Connection) -> None:
    """Continue the id sequences: an id in a joint index or a thumbnail name must not be reused."""
    counted: dict[str, int] = {}
    with suppress(sqlite3.DatabaseError):  # then the watermark is enough
        rows = source.execute("SELECT name, seq FROM sqlite_sequence").fetchall()
        counted.update((name, seq) for name, seq in rows if isinstance(name, str) and isinstance(seq, int))
    watermark = connection.scalar(text("SELECT max(watermark) FROM generation")) or 0
    counted["clip"] = max(counted.get("clip", 0), watermark)
    for name, last in counted.items():
        so_far = connection.scalar(text("SELECT seq FROM sqlite_sequence WHERE name = :name"), {"name": name}) or 0
        connection.execute(text("DELETE FROM sqlite_sequence WHERE name = :name"), {"name": name})
        values = {"name": name, "last": max(last, so_far)}
        connection.execute(text("INSERT INTO sqlite_sequence (name, seq) VALUES (:name, :last)"), values)


def _may_lack_rows(connection: Connection, found: Salvage, by_clip: Collection[str]) -> set[int]:
    """Return the ids of the videos that may have had rows in the lost ranges.

    by_clip: tables read by the ids of clips. Vectors lost by their own ids show in the counts of their videos.
    """
    videos: set[int] = set()
    for table, ranges in found.lost.items():
        if table in _CHILDLESS:
            worded = [each.name for each in MODALITIES if each.has_segments and not each.has_documents]
            videos.update(connection.scalars(text(_CHILDLESS[table]), {"worded": json.dumps(worded)}))
        query = _VECTORLESS if table in by_clip else _NEIGHBOURS.format(table=table)
        if table in _CHILDLESS or table in by_clip:
            for first, last in ranges:
                videos.update(connection.scalars(text(query), {"first": first, "last": last}))
        elif table == schema.embedding.name:
            videos.update(connection.scalars(text(f"SELECT id FROM video WHERE {HELD} IS NOT {HELD_NOW}")))
    return videos
