"""Checksums of rows: what tells a row that is not as it was written, whoever wrote it.

A row's seal is the exclusive or, over its columns, of a CRC-32 of the name and the value. A column that is NULL or at
its default counts 0, so that an additive migration breaks no seal. Temporary triggers on the writer's connection keep
seals; SQLite forgets these with the connection, and no statement can leave a seal out. Rows from before seals have NULL
until the migration that adds the column. Vectors have a checksum of their own, and are too large to be written twice.
"""

from __future__ import annotations

import sqlite3
import zlib
from typing import Any

from sqlalchemy import (
    Column,
    Connection,
    DefaultClause,
    Table,
    Text,
    text,
)
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.errors import LibraryDamaged

SEAL = "seal"
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
    return [column for column in table.columns if column.name != SEAL]


def _default(column: Column[Any]) -> bytes | None:
    default = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    mark = _TEXT if isinstance(column.type, Text) else ""
    return None if default is None else f"{mark}{default}".encode()


def put(connection: Connection, key: str, value: str) -> None:
    """Store a setting."""
    statement = upsert(schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))
