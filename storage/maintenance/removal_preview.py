"""Preview of a removal; changes nothing."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from sqlalchemy import Connection, select, text
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db import schema
from vfindex.storage.db.engine import translated
from vfindex.storage.db.locations import below, expired_times, known_path
from vfindex.storage.library import Library


@dataclass(frozen=True, slots=True)
class RemovalPreview:
    """A preview. paths: files that would be removed, in order of bytes. videos: those without a copy.

    kept_missing: missing files that stay, as they have not been missing for long enough.
    """

    paths: tuple[bytes, ...] = ()
    videos: int = 0
    kept_missing: int = 0


def preview_path(folder: Path, typed: Sequence[bytes]) -> tuple[bytes | None, RemovalPreview]:
    """Return the known path named by any of `typed`, None if there is none, and the preview of its removal.

    Raises UsageError if several known paths match, LibraryNotFound, LibraryError.
    """
    with _reading(folder) as connection:
        path = known_path(connection, typed)
        if path is None:
            return None, RemovalPreview()
        rows = []
        for table in (schema.location, schema.tombstone, schema.begun):
            query = select(table.c.path, table.c.video_id).where(below(table.c.path, path))
            rows += [(row.path, row.video_id) for row in connection.execute(query)]
        return path, _preview(connection, rows, 0)


def preview_missing(folder: Path, age: timedelta | None, now: datetime) -> RemovalPreview:
    """Return the preview of a purge at the time `now`: files missing for `age`; None: all missing files.

    Raises LibraryNotFound, LibraryError for a clock that is behind the library.
    """
    t = schema.tombstone.c
    with _reading(folder) as connection:
        query = select(t.path, t.video_id, t.gone_at)
        rows = [(row.path, row.video_id, row.gone_at) for row in connection.execute(query)]
        due = None if age is None else set(expired_times(connection, age, now))
        chosen = [(path, video_id) for path, video_id, gone_at in rows if due is None or gone_at in due]
        return _preview(connection, chosen, len(rows) - len(chosen))


def _preview(connection: Connection, rows: Sequence[tuple[bytes, int]], kept_missing: int) -> RemovalPreview:
    paths, videos = {path for path, _ in rows}, {video_id for _, video_id in rows}
    elsewhere = set()
    for table in ("location", "tombstone"):
        query = text(f"SELECT path, video_id FROM {table} WHERE video_id IN (SELECT value FROM json_each(:ids))")
        found = connection.execute(query, {"ids": json.dumps(list(videos))})
        elsewhere |= {row.video_id for row in found if row.path not in paths}
    return RemovalPreview(tuple(sorted(paths)), len(videos - elsewhere), kept_missing)


@contextmanager
def _reading(folder: Path) -> Iterator[Connection]:
    try:
        with Library.open(folder).snapshot() as snapshot:
            yield snapshot.connection
    except DBAPIError as exc:
        raise translated(exc) from exc
