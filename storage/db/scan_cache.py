"""What a library knows of the files at their paths, quick to ask where nothing has changed.

Of 100,000 files most are as they were. They stand in one set, which is filled and asked without a step of Python each.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, MutableSet, Sequence, Set
from functools import cached_property
from typing import Any

from sqlalchemy import Connection, select

from vfindex.storage.db import schema
from vfindex.storage.records import FileState, KnownFile, KnownStat, Location

_FROM = "FROM location l JOIN video v ON v.id = l.video_id WHERE"
_IS_SETTLED = "(v.state IN ('indexed', 'partial') AND v.coarse = 0 AND v.recognised >= ?)"


class Known:
    """The files that a library knows.

    settled: those that are searchable, and read as wholly as is asked for; nothing is to be done while they are so.
    others: path -> what is to be known of the rest.
    """

    def __init__(self, settled: MutableSet[FileState], others: dict[bytes, KnownStat]) -> None:
        self.settled = settled
        self._others = others

    @cached_property
    def _by_path(self) -> dict[bytes, FileState]:
        return {state[0]: state for state in self.settled}

    def __contains__(self, path: bytes) -> bool:
        return path in self._others or path in self._by_path

    def __iter__(self) -> Iterator[bytes]:
        """Yield every path once."""
        yield from self._by_path
        yield from self._others

    def get(self, path: bytes) -> KnownStat | None:
        """Return what is known of the file at `path`; a settled one counts as recognised, asked or not."""
        if path in self._others:
            return self._others[path]
        state = self._by_path.get(path)
        return state and KnownStat(*state[:3], "indexed", recognised=1, beside=state[3])

    def add(self, known: KnownStat) -> None:
        """Let one more file be known."""
        self._others[known.path] = known

    def unsettle(self, path: bytes) -> None:
        """Let a settled file count as one that must be read wholly."""
        state = self._by_path.pop(path, None)
        if state is not None:
            self.settled.discard(state)
            self.add(KnownStat(*state[:3], "partial", recognised=1, beside=state[3], coarse=1))

    def unseen(self, seen: Set[bytes], settled_seen: int) -> set[bytes]:
        """Return the paths that are not in `seen`. settled_seen: of how many in `settled` it is known that they are."""
        paths = self._others if settled_seen == len(self.settled) else self
        return {path for path in paths if path not in seen}


def known(connection: Connection, *, recognised: bool) -> Known:
    """Return what is known of all files. recognised: whether it is asked for that speech was."""
    settled = _rows(connection, "l.path, l.size_bytes, l.mtime_ns, l.beside", _IS_SETTLED, recognised)
    columns = "l.path, l.size_bytes, l.mtime_ns, v.state, v.recognised, l.beside, v.coarse"
    others = map(KnownStat._make, _rows(connection, columns, f"NOT {_IS_SETTLED}", recognised))
    return Known(set(settled), {each.path: each for each in others})


def known_files(connection: Connection, video_id: int | None) -> dict[bytes, KnownFile]:
    """Return everything that is remembered of paths, or of one video's."""
    v, loc = schema.video.c, schema.location.c
    query = select(
        loc.path,
        loc.size_bytes,
        loc.mtime_ns,
        loc.inode,
        loc.beside,
        v.id,
        v.fingerprint,
        v.state,
        v.recognised,
        v.problem,
    ).join_from(schema.location, schema.video)
    if video_id is not None:
        query = query.where(v.id == video_id)
    rows = connection.execute(query).all()
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
    """Return rows as SQLite's driver gives them: SQLAlchemy's take twice as long as all the rest of it."""
    cursor = connection.exec_driver_sql(f"SELECT {columns} {_FROM} {condition}", (int(recognised),)).cursor
    return cursor.fetchall() if cursor else []
