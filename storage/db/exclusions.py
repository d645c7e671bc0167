"""Paths that a user has removed from folders that are still indexed: no run indexes them until they are named."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from os import fsdecode, fsencode

from sqlalchemy import Connection, delete, select

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.files.names import composed


def exclusion_key(path: bytes) -> bytes:
    """Return one form of a path for all forms of its accents."""
    return path if path.isascii() else fsencode(composed(fsdecode(path)))


def exclusions(catalog: Catalog) -> frozenset[bytes]:
    """Return the `exclusion_key` of every path that was removed."""
    with catalog.transaction() as connection:
        return frozenset(map(exclusion_key, _stored(connection)))


def stored_exclusions(snapshot: Snapshot) -> tuple[bytes, ...]:
    """Return the paths that were removed, in order of bytes."""
    e = schema.exclusion.c
    return tuple(row.path for row in snapshot.stream(select(e.path).order_by(e.path)))


def forget_exclusions(catalog: Catalog, paths: Iterable[bytes]) -> list[bytes]:
    """Let runs take up again the paths that were removed by one of these names; return them, in order."""
    keys = {exclusion_key(path) for path in paths}
    with catalog.transaction() as connection:
        found = sorted(path for path in _stored(connection) if exclusion_key(path) in keys)
        connection.execute(delete(schema.exclusion).where(schema.exclusion.c.path.in_(found)))
    return found


def replace_exclusions(catalog: Catalog, paths: Collection[bytes], when: str) -> None:
    """Have exactly these exclusions, those of another edition."""
    e = schema.exclusion
    with catalog.transaction() as connection:
        connection.execute(e.delete())
        if paths:
            connection.execute(e.insert(), [{"path": path, "added_at": when} for path in paths])


def _stored(connection: Connection) -> list[bytes]:
    return list(connection.scalars(select(schema.exclusion.c.path)))
