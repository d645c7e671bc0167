"""Checks of `user.db`, and its repair: what can be read is copied into a new file, and the damaged one is kept."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Iterator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from vfindex.storage.db.engine import decoded
from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryVersion, counted
from vfindex.storage.files.permissions import USER_DATABASE, share
from vfindex.storage.files.regular import sync_folder
from vfindex.storage.files.writes import keep_as
from vfindex.storage.user.database import (
    COUNTED,
    TABLES,
    VERSION,
    connect,
    newer,
    reading,
    row_seal,
    stored_version,
    tables_of,
    user_database,
    writing,
)

_NOUNS = {
    **{"mark": "mark", "saved_query": "saved question", "correction": "correction"},
    **{"watch": "watched question", "arrival": "arrival record", "watch_hit": "watch hit"},
}
# Tables with ids, none of which may come to mean another row.
_NUMBERED = ("mark", "correction", "arrival", "watch_hit")
# Rows tried one by one after the last that could be read: a page holds fewer.
_NEAR_ROWS = 4096
# Higher ids are damage.
_MOST_ROWS = 2**31


@dataclass(frozen=True, slots=True)
class UserRepair:
    """A repair. kept: the damaged file. rows: table -> copied. lost: table -> lost, None where that is unknown."""

    kept: Path
    rows: dict[str, int]
    lost: dict[str, int | None]

    def sentence(self) -> str:
        """Return what was saved and what was lost, in words."""
        *most, last = (counted(n, _NOUNS[table]) for table, n in self.rows.items())
        saved = f"{', '.join(most)} and {last}"
        known = [counted(n, _NOUNS[table]) for table, n in self.lost.items() if n]
        lost = f"{' and '.join(known)} lost" if known else "none known to be lost"
        if None in self.lost.values():
            lost = "how many were lost is unknown"
        return f"{saved} saved, {lost}"


def user_faults(folder: Path) -> list[str]:
    """Return what is wrong with `user.db`, as sentences; a library without it has no fault.

    Raises LibraryError if this user may not read it.
    """
    try:
        with reading(folder) as connection:
            return [] if connection is None else [f"{USER_DATABASE}: {each}" for each in _faults(connection)]
    except LibraryDamaged as exc:
        return [str(exc)]


def _faults(connection: sqlite3.Connection) -> Iterator[str]:
    repair = "; run: vfindex repair"
    connection.text_factory = decoded  # a changed byte may not be UTF-8
    found = [row[0] for row in connection.execute("PRAGMA integrity_check(5)")]
    yield from (f"{line}{repair}" for line in found if line != "ok")
    for table, columns in tables_of(connection).items():
        rows = connection.execute(f"SELECT {', '.join(columns)}, crc32 FROM {table}").fetchall()
        broken = sum(row_seal(row[:-1]) != row[-1] for row in rows)
        if broken:
            yield f"{counted(broken, _NOUNS[table])} not as written{repair}"
        had = _counted_rows(connection, table)
        if had is None:
            yield f"the number of its {_NOUNS[table]}s is lost{repair}"
        elif had > len(rows):
            yield f"{counted(had - len(rows), _NOUNS[table])} lost{repair}"


def _counted_rows(connection: sqlite3.Connection, table: str) -> int | None:
    """Return how many rows a table should have, None if that is lost."""
    if table not in COUNTED:
        return int(connection.execute(f"SELECT count(*) FROM {table}").fetchone()[0])
    row = connection.execute("SELECT value FROM meta WHERE key = ?", (f"rows of {table}",)).fetchone()
    return int(row[0]) if row is not None and str(row[0]).isdecimal() else None


def repair_user_data(folder: Path) -> UserRepair | None:
    """Replace a damaged `user.db`; return None if it is sound.

    The new file is complete and synced before it gets the name. Writers wait, then write into the new one. Raises
    LibraryError, LibraryVersion: one of a newer vfindex that is damaged.
    """
    path = user_database(folder)
    try:
        if not user_faults(folder):
            return None
    except LibraryVersion:  # no damage; it does not prevent the repair of the rest
        return None
    made = folder / "repaired.part"
    shutil.rmtree(made, ignore_errors=True)
    try:
        made.mkdir()
        with closing(_locked(path)) as source:
            _refuse_newer(source)
            done = _Copy(source)
            done.copy_into(made)
            share(user_database(made))
            return UserRepair(_swap(path, user_database(made)), done.rows, done.lost)
    except OSError as exc:
        raise LibraryError(
            f"{path} could not be replaced ({exc.strerror}); see to the disk and run `vfindex repair` again: nothing "
            "has been changed"
        ) from exc
    finally:
        shutil.rmtree(made, ignore_errors=True)


def _locked(path: Path) -> sqlite3.Connection:
    """Return a connection to a damaged file, with its write lock if SQLite can still take it."""
    connection = connect(path, "mode=rw")
    connection.text_factory = decoded
    connection.execute("PRAGMA writable_schema=ON")  # else nothing is read of a truncated file
    with suppress(sqlite3.DatabaseError):  # then no other writer can begin either
        connection.execute("BEGIN IMMEDIATE")
    return connection


def _refuse_newer(source: sqlite3.Connection) -> None:
    """Raise LibraryVersion for a file with columns that this version does not know: a copy would lack them."""
    with suppress(sqlite3.DatabaseError):
        if stored_version(source) > VERSION:
            raise newer()


class _Copy:
    """Copies the readable, sound rows. rows: copied. lost: broken, or missing by the count of their table."""

    def __init__(self, source: sqlite3.Connection) -> None:
        self.rows: dict[str, int] = {}
        self.lost: dict[str, int | None] = {}
        self._source = source

    def copy_into(self, folder: Path) -> None:
        """Make a `user.db` of these rows in `folder`."""
        with writing(folder) as target:
            for table, columns in self._tables().items():
                had, copied = self._had(table), self._copy_table(target, table, columns)
                if had or copied or table in COUNTED:
                    self.rows[table] = copied
                    self.lost[table] = None if had is None else max(0, had - copied)
            for table in _NUMBERED:
                self._keep_counting(target, table)

    def _tables(self) -> dict[str, tuple[str, ...]]:
        try:
            return tables_of(self._source) or TABLES
        except sqlite3.DatabaseError:
            return TABLES

    def _keep_counting(self, target: sqlite3.Connection, table: str) -> None:
        """Continue the ids of a table: one that was deleted, or is lost, must not come to mean another row."""
        last_id = "SELECT max(seq) FROM sqlite_sequence WHERE name = ?"
        with suppress(sqlite3.DatabaseError):
            query = f"{last_id} AND typeof(seq) = 'integer' AND seq < ?"
            (last,) = self._source.execute(query, (table, _MOST_ROWS)).fetchone()
            had = target.execute(last_id, (table,)).fetchone()[0]
            if last is not None and last > (had or 0):
                target.execute("DELETE FROM sqlite_sequence WHERE name = ?", (table,))
                target.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, last))

    def _had(self, table: str) -> int | None:
        try:
            return _counted_rows(self._source, table)
        except sqlite3.DatabaseError:
            return None

    def _copy_table(self, target: sqlite3.Connection, table: str, columns: Sequence[str]) -> int:
        """Copy a table; return how many rows."""
        copied = 0
        marks = ", ".join("?" * (len(columns) + 1))
        for row in self._readable(table, f"{', '.join(columns)}, crc32"):
            if row_seal(row[:-1]) == row[-1]:
                statement = f"INSERT OR IGNORE INTO {table} ({', '.join(columns)}, crc32) VALUES ({marks})"
                copied += target.execute(statement, row).rowcount
        return copied

    def _readable(self, table: str, columns: str) -> Iterator[tuple[object, ...]]:
        """Yield the rows of a table that can be read, in order of rowid."""
        query = f"SELECT rowid, {columns} FROM {table} NOT INDEXED WHERE rowid >= ? ORDER BY rowid"
        at, tries = 0, 0
        while tries <= _NEAR_ROWS:
            try:
                for rowid, *row in self._source.execute(query, (at,)):
                    yield tuple(row)
                    at, tries = rowid + 1, 0
                return
            except sqlite3.DatabaseError:
                at, tries = at + 1, tries + 1


def _swap(path: Path, new: Path) -> Path:
    """Give the new file the name; return the path of the old one."""
    kept = path.with_name(f"user.damaged-{datetime.now(UTC):%Y%m%d-%H%M%S}.db")
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    keep_as(path, kept)
    # A journal of the old file would be rolled back into the new one.
    path.with_name(f"{USER_DATABASE}-journal").unlink(missing_ok=True)
    new.replace(path)
    sync_folder(path.parent)
    return kept
