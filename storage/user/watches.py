"""Watched questions in `user.db`: which videos have been seen, what each watch has judged, and its hits.

`arrival` is a log: one row a run that found new videos, with a token of 8 bytes for each. A token is of a content, as a
preview or read fully; so a path may change, a video may be read again, and neither is an arrival. 100,000 videos are
0.8 MB. A watch has judged the rows up to `done`; rows up to `since` are older than it.
"""

from __future__ import annotations

import shlex
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import blake2b
from pathlib import Path
from typing import Any, Self

import numpy as np
from filelock import FileLock, Timeout
from numpy.typing import NDArray

from vfindex.storage.errors import LibraryError, LibraryLocked, UsageError
from vfindex.storage.files.file_systems import refuse_network_folder
from vfindex.storage.files.permissions import permission_wanted, share
from vfindex.storage.user.data import UserData, user_name
from vfindex.storage.user.database import TABLES, compact, damaged, reading, row_seal, tables_of, user_database, writing
from vfindex.storage.user.records import Moment, NewHit, Watch, WatchHit

Tokens = NDArray[np.uint64]
_LOCK = "watch.lock"


def token(fingerprint: str, *, preview: bool = False) -> int:
    """Return what the log has of a video: 64 bits of its fingerprint, others for its preview.

    Of a million videos, two share a token with a probability of 3e-8.
    """
    return int.from_bytes(blake2b(fingerprint.encode(), digest_size=8, person=b"preview" * preview).digest(), "little")


@dataclass(frozen=True, slots=True)
class Present:
    """Fingerprints of the videos that a search finds now: those that are read fully, and previews."""

    full: Collection[str]
    previews: Collection[str]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The log. ids: of each token's row, increasing. last: the newest id so far. is_whole: no row is lost."""

    ids: NDArray[np.int64]
    tokens: Tokens
    last: int
    is_whole: bool

    def between(self, after: int, until: int) -> Tokens:
        """Return the tokens of the rows after one, up to another, increasing."""
        return np.unique(self.tokens[(self.ids > after) & (self.ids <= until)])


@dataclass(frozen=True, slots=True)
class WatchData:
    """The watches of the library in `folder`. Each call is one short transaction, as of `UserData`."""

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the watches of a library."""
        return cls(folder)

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Hold the lock of the one process that judges and reports; a kill releases it. Raises LibraryLocked."""
        refuse_network_folder(self.folder)
        lock = FileLock(self.folder / _LOCK)
        try:
            lock.acquire(timeout=0)
        except Timeout as exc:
            raise LibraryLocked("another vfindex runs the watched questions; wait until it ends") from exc
        except OSError as exc:
            raise LibraryError(
                f"{self.folder / _LOCK} cannot be written ({exc.strerror}); {permission_wanted(_LOCK)}"
            ) from exc
        try:
            share(self.folder / _LOCK)
            yield
        finally:
            lock.release()

    def watches(self) -> list[Watch]:
        """Return the watches, by name. Raises LibraryDamaged."""
        texts = {each.name: each.text for each in UserData.open(self.folder).saved_queries()}
        rows = self._read("watch", "ORDER BY name")
        return [Watch(name, texts[name], *rest) for name, *rest in rows if name in texts]

    def add(self, name: str, least: str, present: Present) -> Watch:
        """Begin to watch a saved question; what is present is not new. Raises UsageError if it is watched already.

        least: the label that a hit needs.
        """
        with writing(self.folder) as connection:
            if connection.execute("SELECT 1 FROM watch WHERE name = ?", (name,)).fetchone():
                raise UsageError(f"{name} is watched already; to begin anew: vfindex watch remove {shlex.quote(name)}")
            last = _note(connection, present)
            _insert(connection, "watch", (name, least, last, last, user_name(), _now()))
        return next(each for each in self.watches() if each.name == name)

    def remove(self, name: str) -> bool:
        """Delete a watch and its hits, not its question; return whether there was one."""
        with writing(self.folder) as connection:
            found = connection.execute("DELETE FROM watch WHERE name = ?", (name,)).rowcount
            connection.execute("DELETE FROM watch_hit WHERE name = ?", (name,))
        compact(self.folder)
        return bool(found)

    def note(self, present: Present) -> Arrivals:
        """Add to the log, as one row, what it lacks of the videos that are present; return it. is_whole: as before."""
        with writing(self.folder) as connection:
            was_whole = _arrivals(connection).is_whole
            _note(connection, present)
            return replace(_arrivals(connection), is_whole=was_whole)

    def keep(self, watch: Watch, hits: Iterable[NewHit], done: int | None = None) -> None:
        """Store hits of a watch that it has not had, and that it has judged up to the row `done`; None: not yet.

        Nothing of one that was removed meanwhile, though another question may have its name now.
        """
        with writing(self.folder) as connection:
            row = connection.execute(
                f"SELECT {', '.join(TABLES['watch'])} FROM watch WHERE name = ?", (watch.name,)
            ).fetchone()
            text = connection.execute("SELECT text FROM saved_query WHERE name = ?", (watch.name,)).fetchone()
            own = (watch.name, watch.least, watch.since, watch.by, watch.at)
            if row is None or (*row[:3], *row[4:]) != own or text is None or text[0] != watch.text:
                return
            for each in hits:
                _keep(connection, watch.name, each)
            if done is not None:
                newest = connection.execute("SELECT max(id) FROM arrival").fetchone()[0] or 0
                connection.execute("DELETE FROM watch WHERE name = ?", (watch.name,))
                _insert(connection, "watch", (*row[:3], min(done, newest), *row[4:]))  # a new log is shorter

    def hits(
        self, names: Collection[str] | None = None, *, untold: bool = False, newest: int | None = None
    ) -> list[WatchHit]:
        """Return the hits of these watches, of all by default, the oldest first. Raises LibraryDamaged.

        untold: only those that were not reported. newest: at most so many, of which alone rows are read.
        """
        conditions = [] if names is None else [f"name IN ({', '.join('?' * len(names))})"]
        where = " AND ".join([*conditions, *(["told = ''"] if untold else [])]) or "1"
        limit = -1 if newest is None else newest
        rows = self._read("watch_hit", f"WHERE {where} ORDER BY id DESC LIMIT ?", (*(names or ()), limit))
        return [_hit(row) for row in reversed(rows)]

    def counts(self) -> dict[str, tuple[int, int]]:
        """Return name of a watch -> (its hits, those of them that were not reported); none without hits."""
        with reading(self.folder) as connection:
            if connection is None or "watch_hit" not in tables_of(connection):
                return {}
            counted = "SELECT name, count(*), sum(told = '') FROM watch_hit GROUP BY name"
            return {name: (hits, new) for name, hits, new in connection.execute(counted)}

    def tell(self, ids: Collection[int]) -> None:
        """Store that hits have been reported."""
        columns, now = ", ".join(TABLES["watch_hit"]), _now()
        with writing(self.folder) as connection:
            for id_ in ids:
                row = connection.execute(f"SELECT {columns} FROM watch_hit WHERE id = ?", (id_,)).fetchone()
                if row is not None and not row[8]:
                    told = (*row[:8], now, row[9])
                    connection.execute(
                        "UPDATE watch_hit SET told = ?, crc32 = ? WHERE id = ?", (now, row_seal(told), id_)
                    )

    def _read(self, table: str, rest: str, parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        with reading(self.folder) as connection:
            return [] if connection is None else _rows(connection, self.folder, table, rest, parameters)


def _rows(
    connection: sqlite3.Connection, folder: Path, table: str, rest: str, parameters: Sequence[object] = ()
) -> list[tuple[Any, ...]]:
    if table not in tables_of(connection):
        return []
    rows = connection.execute(f"SELECT {', '.join(TABLES[table])}, crc32 FROM {table} {rest}", parameters).fetchall()
    if any(row_seal(row[:-1]) != row[-1] for row in rows):
        raise damaged(user_database(folder), "a row is not as written")
    return [row[:-1] for row in rows]


def _arrivals(connection: sqlite3.Connection) -> Arrivals:
    """Return the log, inside a transaction. Rows that are not as written count as lost."""
    rows = connection.execute("SELECT id, tokens, at, crc32 FROM arrival ORDER BY id").fetchall()
    sound = [row for row in rows if row_seal(row[:3]) == row[3]]
    sequence = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'arrival'").fetchone()[0] or 0
    parts = [np.frombuffer(row[1], "<u8") for row in sound]
    ids = np.repeat(np.array([row[0] for row in sound], np.int64), [len(part) for part in parts])
    tokens = np.concatenate([np.zeros(0, "<u8"), *parts]).astype(np.uint64)
    return Arrivals(ids, tokens, int(sequence), len(sound) == sequence)


def _note(connection: sqlite3.Connection, present: Present) -> int:
    """Add what the log lacks; return the newest id.

    Of a log with lost rows nobody can say what is new: every watch takes all that is present for seen.
    """
    known = _arrivals(connection)
    full, previews = (np.fromiter(map(token, each), np.uint64, len(each)) for each in (present.full, present.previews))
    marks = np.fromiter((token(each, preview=True) for each in present.previews), np.uint64, len(previews))
    new = np.setdiff1d(np.concatenate([full, marks[~np.isin(previews, known.tokens)]]), known.tokens)
    if known.is_whole:
        if len(new):
            _insert(connection, "arrival", (known.last + 1, new.astype("<u8").tobytes(), _now()))
        return known.last + bool(len(new))
    connection.execute("DELETE FROM arrival")
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'arrival'")  # a damaged one may be any number
    last = 1
    _insert(connection, "arrival", (last, np.union1d(known.tokens, new).astype("<u8").tobytes(), _now()))
    for name, least, _, _, *rest in connection.execute(f"SELECT {', '.join(TABLES['watch'])} FROM watch").fetchall():
        connection.execute("DELETE FROM watch WHERE name = ?", (name,))
        _insert(connection, "watch", (name, least, last, last, *rest))
    return last


def _keep(connection: sqlite3.Connection, name: str, new: NewHit) -> None:
    moment = new.moment
    key = (name, moment.fingerprint, moment.start_ms)
    had = "SELECT 1 FROM watch_hit WHERE name = ? AND fingerprint = ? AND start_ms = ?"
    if connection.execute(had, key).fetchone():
        return
    row = connection.execute("SELECT max(seq) FROM sqlite_sequence WHERE name = 'watch_hit'").fetchone()
    values = (*key, moment.end_ms, float(new.score), new.confidence, int(new.preview), "", _now())
    _insert(connection, "watch_hit", ((row[0] or 0) + 1, *values))


def _hit(row: Sequence[Any]) -> WatchHit:
    id_, name, fingerprint, start_ms, end_ms, score, confidence, preview, told, at = row
    return WatchHit(
        id_, name, NewHit(Moment(fingerprint, start_ms, end_ms), score, confidence, bool(preview)), told, at
    )


def _insert(connection: sqlite3.Connection, table: str, values: Sequence[object]) -> None:
    marks = ", ".join("?" * (len(values) + 1))
    columns = ", ".join(TABLES[table])
    connection.execute(f"INSERT INTO {table} ({columns}, crc32) VALUES ({marks})", (*values, row_seal(values)))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
