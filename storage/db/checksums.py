"""Checksums and counts of rows: what tells a row that is not as it was written, or is gone, whoever did it.

A row's seal is the exclusive or, over its columns, of a CRC-32 of the name and the value. A column that is NULL or at
its default counts 0, so that an additive migration breaks no seal. Temporary triggers on the writer's connection keep
seals; SQLite forgets these with the connection, and no statement can leave a seal out. Rows from before seals have NULL
until the migration that adds the column. Vectors have a checksum of their own, and are too large to be written twice.

A video's column `held` counts the rows of its own: places, tries, units, clips, vectors and segments. Settings count
videos and roots. Temporary triggers keep these too. NULL, as a row has it that was not counted yet, says nothing. Words
of full text search are derived, and compared with what they are derived from.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    DefaultClause,
    Table,
    Text,
    TextClause,
    text,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.errors import LibraryDamaged, counted

SEAL = "seal"
# The column of `video` that counts its rows, and changes with every one of them, so no seal has it.
HELD = "held"
# Stands before text that is handed over as bytes, so that bytes in its place are told apart.
_TEXT = "t"
SEALED: tuple[Table, ...] = tuple(
    table for table in schema.metadata.sorted_tables if SEAL in {column.name for column in table.columns}
)


def register(connection: sqlite3.Connection) -> None:
    """Give a connection the SQL functions `seal_TABLE(columns...)`."""
    for table in SEALED:
        columns = _columns(table)
        keys = [(column.name.encode() + b"\0", _default(column)) for column in columns]
        connection.create_function(f"seal_{table.name}", len(columns), _Seal(keys), deterministic=True)


class _Seal:
    def __init__(self, keys: list[tuple[bytes, bytes | None]]) -> None:
        self._keys = keys

    def __call__(self, *values: object) -> int:
        seal = 0
        for (name, default), value in zip(self._keys, values, strict=True):
            data = value if isinstance(value, bytes) else None if value is None else repr(value).encode()
            if data is not None and data != default:
                seal ^= zlib.crc32(data, zlib.crc32(name))
        return seal


def keep_seals(connection: Connection) -> None:
    """Have every row that this connection writes sealed."""
    for table in SEALED:
        names = ", ".join(f'"{column.name}"' for column in _columns(table))
        update = f"UPDATE {table.name} SET {SEAL} = {seal_of(table, 'NEW.')} WHERE rowid = NEW.rowid"
        for event in ("INSERT", f"UPDATE OF {names}"):
            name = f"seal_{table.name}_{event[:6].lower()}"
            connection.exec_driver_sql(
                f"CREATE TEMP TRIGGER IF NOT EXISTS {name} AFTER {event} ON main.{table.name} BEGIN {update}; END"
            )


def seal_rows(connection: Connection) -> None:
    """Seal every row as it is."""
    for table in SEALED:
        connection.exec_driver_sql(f"UPDATE {table.name} SET {SEAL} = {seal_of(table)}")


def seal_of(table: Table, prefix: str = "") -> str:
    """Return the SQL of what a row's seal must be. Text is taken as bytes, for damaged text may not be UTF-8."""
    as_bytes = "CASE typeof({0}) WHEN 'text' THEN CAST('" + _TEXT + "' || {0} AS BLOB) ELSE {0} END"
    names = (f'{prefix}"{column.name}"' for column in _columns(table))
    return f"seal_{table.name}({', '.join(map(as_bytes.format, names))})"


def is_broken(table: Table) -> str:
    """Return the SQL condition that a row is not as it was written."""
    return f"{table.name}.{SEAL} IS NOT NULL AND {table.name}.{SEAL} IS NOT {seal_of(table, table.name + '.')}"


def setting(connection: Connection, key: str) -> str | None:
    """Return a setting, or None. Raises LibraryDamaged for one that is not as it was written."""
    query = text(f"SELECT value, {is_broken(schema.meta)} AS broken FROM meta WHERE key = :key")
    row = connection.execute(query, {"key": key}).first()
    if row is None:
        return None
    if row.broken:
        raise LibraryDamaged(f"the library's setting '{key}' is not as it was written; run: vfindex repair")
    return str(row.value)


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in (SEAL, HELD)]


def _default(column: Column[Any]) -> bytes | None:
    default = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    mark = _TEXT if isinstance(column.type, Text) else ""
    return None if default is None else f"{mark}{default}".encode()


def put(connection: Connection, key: str, value: str) -> None:
    """Store a setting."""
    statement = upsert(schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


# --- counts ---------------------------------------------------------------------------------------------------------

OWNED: tuple[Table, ...] = tuple(
    table for table in SEALED if "video_id" in table.columns and table is not schema.document
)
# Tables that nothing owns -> what a row is, and what to do where one is lost.
COUNTED: Mapping[Table, tuple[str, str]] = {
    schema.video: ("video", "run: vfindex repair"),
    schema.root: ("indexed folder", "run: vfindex repair, or name the folder again: vfindex ingest FOLDER"),
}
COUNTS: Mapping[str, Table] = {f"rows of {table.name}": table for table in COUNTED}
_IS_COUNT = f"key IN ({', '.join(map(repr, COUNTS))})"
# SQL of how many rows a video has.
HELD_NOW = " + ".join(
    [f"(SELECT count(*) FROM {table.name} o WHERE o.video_id = video.id)" for table in OWNED]
    + ["(SELECT count(*) FROM clip c JOIN embedding e ON e.clip_id = c.id WHERE c.video_id = video.id)"]
)


def _triggers() -> Iterator[tuple[str, str]]:
    """Yield (event, statement)."""
    for table in OWNED:
        # The vectors of a clip go after it, and no longer find their video.
        vectors = " + (SELECT count(*) FROM embedding e WHERE e.clip_id = {}.id)" if table is schema.clip else ""
        fewer, more = (_add(f"{sign} (1{vectors.format(row)})", f"{row}.video_id") for sign, row in _CHANGES)
        yield f"AFTER INSERT ON main.{table.name}", more
        yield f"BEFORE DELETE ON main.{table.name}", fewer
        yield f"AFTER UPDATE OF video_id ON main.{table.name}", f"{fewer}; {more}"
    for (sign, row), event in zip(_CHANGES, ("AFTER DELETE", "AFTER INSERT"), strict=True):
        yield f"{event} ON main.embedding", _add(f"{sign} 1", f"(SELECT video_id FROM clip WHERE id = {row}.clip_id)")
        for key, table in COUNTS.items():
            change = f"UPDATE meta SET value = CAST(value {sign} 1 AS TEXT) WHERE key = '{key}'"
            yield f"{event} ON main.{table.name}", change


_CHANGES = (("-", "OLD"), ("+", "NEW"))


def _add(change: str, video_id: str) -> str:
    return f"UPDATE video SET {HELD} = {HELD} {change} WHERE id = {video_id}"


_TRIGGERS = {"count_" + event.lower().replace(" ", "_").replace(".", "_"): (event, do) for event, do in _triggers()}


def keep_counts(connection: Connection) -> None:
    """Have every row counted that this connection writes or deletes."""
    for name, (event, statement) in _TRIGGERS.items():
        connection.exec_driver_sql(f"CREATE TEMP TRIGGER IF NOT EXISTS {name} {event} BEGIN {statement}; END")


def keep_no_counts(connection: Connection) -> None:
    """Have no row counted, and forget the counts of tables: they come with the rows from another database."""
    for name in _TRIGGERS:
        connection.exec_driver_sql(f"DROP TRIGGER temp.{name}")
    connection.exec_driver_sql(f"DELETE FROM meta WHERE {_IS_COUNT}")


def begin_counts(connection: Connection) -> None:
    """Count the tables that are not counted yet, or whose count is not as it was written; then keep the counts."""
    connection.execute(text(f"DELETE FROM meta WHERE {_IS_COUNT} AND {is_broken(schema.meta)}"))
    for table in COUNTED:
        if _count(connection, table) is None:
            count_again(connection, table)
    keep_counts(connection)


def count_rows_of(connection: Connection, video_ids: Collection[int] | None = None) -> None:
    """Let the counts of videos be those of the rows that are there. video_ids: None for those not counted yet."""
    chosen = f"{HELD} IS NULL" if video_ids is None else "id IN (SELECT value FROM json_each(:ids))"
    values = {} if video_ids is None else {"ids": json.dumps(list(video_ids))}
    connection.execute(text(f"UPDATE video SET {HELD} = {HELD_NOW} WHERE {chosen}"), values)


def count_again(connection: Connection, table: Table, at_least: int = 0) -> None:
    """Let a table's count be that of the rows that are there, or `at_least`."""
    query = (
        f"INSERT OR REPLACE INTO meta (key, value) SELECT :key, CAST(max(count(*), :least) AS TEXT) FROM {table.name}"
    )
    connection.execute(text(query), {"key": f"rows of {table.name}", "least": at_least})


def _count(connection: Connection, table: Table) -> int | None:
    stored = connection.scalar(text("SELECT value FROM meta WHERE key = :key"), {"key": f"rows of {table.name}"})
    return int(stored) if isinstance(stored, str) and stored.isdecimal() else None


def lost_rows(run: Callable[[TextClause], Iterable[Any]]) -> dict[Table, tuple[int, str]]:
    """Return the tables that have lost rows -> how many they had, and a sentence. run: executes a query."""
    found = {}
    for key, table in COUNTS.items():
        query = text(f"SELECT value, (SELECT count(*) FROM {table.name}) AS now FROM meta WHERE key = :key")
        for row in run(query.bindparams(key=key)):
            had = int(row.value) if str(row.value).isdecimal() else 0
            if had > row.now:
                noun, step = COUNTED[table]
                found[table] = had, f"the library has lost {counted(had - row.now, noun)}; {step}"
    return found
