"""What a run scans: the ingested paths, the excluded ones, and the scan cache of files at their paths.

The scan cache keeps the stamps of unchanged files in one set, so that 100,000 of them cost no Python step each.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Iterator, MutableSet, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from os import fsdecode, fsencode
from typing import Any

from sqlalchemy import Connection, delete, select
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog, now
from vfindex.storage.db.integrity import count_again
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.files.names import composed
from vfindex.storage.records import FileStamp, FileState, KnownFile, Location


@dataclass(frozen=True, slots=True)
class Root:
    """A folder or file given to `ingest`: absolute, links resolved. exclude: globs, see `scan.walk`."""

    path: bytes
    exclude: tuple[str, ...] = ()


def roots(catalog: Catalog) -> list[Root]:
    """Return every source, in order of bytes."""
    r = schema.root.c
    with catalog.transaction() as connection:
        rows = connection.execute(select(r.path, r.exclude).order_by(r.path)).all()
    return [Root(row.path, tuple(json.loads(row.exclude))) for row in rows]


def remember(catalog: Catalog, given: Iterable[Root]) -> None:
    """Store sources; the globs of one that is there already are replaced."""
    with catalog.transaction() as connection:
        for root in given:
            is_new = connection.scalar(select(schema.root.c.path).where(schema.root.c.path == root.path)) is None
            exclude = json.dumps(list(root.exclude))
            statement = upsert(schema.root).values(path=root.path, exclude=exclude, added_at=now())
            connection.execute(statement.on_conflict_do_update(index_elements=["path"], set_={"exclude": exclude}))
            if is_new:  # it may be the one that was lost
                count_again(connection, schema.root)


def stored_roots(snapshot: Snapshot) -> tuple[Root, ...]:
    """Return every source, in order of bytes."""
    r = schema.root.c
    rows = snapshot.stream(select(r.path, r.exclude).order_by(r.path))
    return tuple(Root(row.path, tuple(json.loads(row.exclude))) for row in rows)


def exclusion_key(path: bytes) -> bytes:
    """Return the path with accents composed (NFC), so that every form of it compares equal."""
    return path if path.isascii() else fsencode(composed(fsdecode(path)))


def exclusions(catalog: Catalog) -> frozenset[bytes]:
    """Return the `exclusion_key` of every excluded path."""
    with catalog.transaction() as connection:
        return frozenset(map(exclusion_key, _stored(connection)))


def stored_exclusions(snapshot: Snapshot) -> tuple[bytes, ...]:
    """Return the excluded paths, in order of bytes."""
    e = schema.exclusion.c
    return tuple(row.path for row in snapshot.stream(select(e.path).order_by(e.path)))


def forget_exclusions(catalog: Catalog, paths: Iterable[bytes]) -> list[bytes]:
    """Delete the exclusions of these paths, whatever their form; return them in order."""
    keys = {exclusion_key(path) for path in paths}
    with catalog.transaction() as connection:
        found = sorted(path for path in _stored(connection) if exclusion_key(path) in keys)
        connection.execute(delete(schema.exclusion).where(schema.exclusion.c.path.in_(found)))
    return found


def replace_exclusions(catalog: Catalog, paths: Collection[bytes], when: str) -> None:
    """Replace all exclusions by those of another model version."""
    e = schema.exclusion
    with catalog.transaction() as connection:
        connection.execute(e.delete())
        if paths:
            connection.execute(e.insert(), [{"path": path, "added_at": when} for path in paths])


def _stored(connection: Connection) -> list[bytes]:
    return list(connection.scalars(select(schema.exclusion.c.path)))


_FROM = "FROM location l JOIN video v ON v.id = l.video_id WHERE"
# Chapters of a library from before they had times: a list of titles. The file says when they are.
_HAS_TITLES_ALONE = "v.chapters LIKE '[\"%'"
_IS_UP_TO_DATE = (
    f"(v.state IN ('indexed', 'partial') AND v.coarse = 0 AND v.recognised >= ? AND NOT {_HAS_TITLES_ALONE})"
)
# The sidecar state of a file whose sidecars are still to be read; `sidecars.signature` never returns it.
UNREAD = "?"


class ScanCache:
    """The files of a library, for comparison with a scan.

    up_to_date: stamps of the files that are searchable and fully indexed; a scan skips files with an equal stamp.
    others: path -> stamp of the rest.
    """

    def __init__(self, up_to_date: MutableSet[FileState], others: dict[bytes, FileStamp]) -> None:
        self.up_to_date = up_to_date
        self._others = others

    @cached_property
    def _by_path(self) -> dict[bytes, FileState]:
        return {state[0]: state for state in self.up_to_date}

    def __contains__(self, path: bytes) -> bool:
        return path in self._others or path in self._by_path

    def __iter__(self) -> Iterator[bytes]:
        """Yield every path once."""
        yield from self._by_path
        yield from self._others

    def get(self, path: bytes) -> FileStamp | None:
        """Return the stamp of the file at `path`; one that is up to date counts as recognised."""
        if path in self._others:
            return self._others[path]
        state = self._by_path.get(path)
        return state and FileStamp(*state[:3], "indexed", recognised=1, sidecar_state=state[3])

    def add(self, known: FileStamp) -> None:
        """Add a file."""
        self._others[known.path] = known

    def mark_preview(self, path: bytes) -> None:
        """Mark a file that is up to date as a preview, so that it is indexed fully."""
        state = self._by_path.pop(path, None)
        if state is not None:
            self.up_to_date.discard(state)
            self.add(FileStamp(*state[:3], "partial", recognised=1, sidecar_state=state[3], coarse=1))

    def unseen(self, seen: Set[bytes], up_to_date_seen: int) -> set[bytes]:
        """Return the paths that are not in `seen`. up_to_date_seen: how many of `up_to_date` the scan has met."""
        paths = self._others if up_to_date_seen == len(self.up_to_date) else self
        return {path for path in paths if path not in seen}


def read_scan_cache(catalog: Catalog, *, recognised: bool) -> ScanCache:
    """Return the scan cache. recognised: files without speech recognition are not up to date."""
    with catalog.transaction() as connection:
        return _scan_cache(connection, recognised=recognised)


def _scan_cache(connection: Connection, *, recognised: bool) -> ScanCache:
    up_to_date = _rows(connection, "l.path, l.size_bytes, l.mtime_ns, l.beside", _IS_UP_TO_DATE, recognised)
    sidecars = f"iif({_HAS_TITLES_ALONE}, '{UNREAD}', l.beside)"
    columns = f"l.path, l.size_bytes, l.mtime_ns, v.state, v.recognised, {sidecars}, v.coarse"
    others = map(FileStamp._make, _rows(connection, columns, f"NOT {_IS_UP_TO_DATE}", recognised))
    return ScanCache(set(up_to_date), {each.path: each for each in others})


def known_files(catalog: Catalog) -> dict[bytes, KnownFile]:
    """Return path -> the file there, of all videos."""
    v, loc = schema.video.c, schema.location.c
    file = (loc.path, loc.size_bytes, loc.mtime_ns, loc.inode, loc.beside)
    query = select(*file, v.id, v.fingerprint, v.state, v.recognised, v.problem)
    with catalog.transaction() as connection:
        rows = connection.execute(query.join_from(schema.location, schema.video)).all()
    return {
        row.path: KnownFile(
            video_id=row.id,
            fingerprint=row.fingerprint,
            location=Location(row.path, row.size_bytes, row.mtime_ns, row.inode, row.beside),
            state=row.state,
            recognised=bool(row.recognised),
            problem=json.loads(row.problem) if row.problem else None,
        )
        for row in rows
    }


def _rows(connection: Connection, columns: str, condition: str, recognised: bool) -> Sequence[Any]:
    """Return rows of the driver; SQLAlchemy's rows take twice as long as the rest of the query."""
    cursor = connection.exec_driver_sql(f"SELECT {columns} {_FROM} {condition}", (int(recognised),)).cursor
    return cursor.fetchall() if cursor else []
