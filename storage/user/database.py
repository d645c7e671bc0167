"""Connections to `user.db`: short transactions outside the library's lock, with a rollback journal.

    <library>/user.db    beside the model versions, which come and go

A rollback journal, not a write-ahead log: a reader needs permission to read one file and nothing else, and a copy of
the file is the data (docs/decisions/user-data.md). Each transaction has a connection of its own, so threads share
nothing and a file that a repair has replaced is never written to.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import tempfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from vfindex.storage.db.engine import DatabaseConnection, room_wanted
from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryVersion
from vfindex.storage.files.file_systems import refuse_network_folder
from vfindex.storage.files.permissions import USER_DATABASE, has_file, permission_wanted, refuse_unreadable, share

# Wait for others' transactions, which take milliseconds.
BUSY_TIMEOUT_S = 20
# The version of the tables; an additive change raises it. Readers of at least `min_reader`, a setting, can read them.
VERSION = 3
READER = 1
_APPLICATION_ID = 0x76666975  # "vfiu"
# Columns of each table; `crc32` is the checksum of the others.
TABLES: dict[str, tuple[str, ...]] = {
    "mark": ("id", "fingerprint", "start_ms", "end_ms", "list", "note", "question", "grade", "by", "at"),
    "saved_query": ("name", "text", "by", "at"),
    "correction": ("id", "fingerprint", "track", "start_ms", "end_ms", "original", "text", "by", "at"),
    "watch": ("name", "least", "since", "done", "by", "at"),
    "arrival": ("id", "tokens", "at"),
    "watch_hit": ("id", "name", "fingerprint", "start_ms", "end_ms", "score", "confidence", "preview", "told", "at"),
}
# The version of the tables that brought a table; the others are in every version.
_SINCE = {"correction": 2, "watch": 3, "arrival": 3, "watch_hit": 3}
# Tables whose rows are counted. The schema must stay within the first page, without which no row is found: a repair of
# half a file reads the rest.
COUNTED = ("mark", "saved_query", "correction")
_CREATE = (
    "CREATE TABLE IF NOT EXISTS meta (key TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID",
    "CREATE TABLE IF NOT EXISTS mark (id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL,"
    " start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, list TEXT NOT NULL, note TEXT NOT NULL,"
    " question TEXT NOT NULL, grade INTEGER, by TEXT NOT NULL, at TEXT NOT NULL, crc32 INTEGER NOT NULL,"
    " CHECK ((question = '') = (grade IS NULL)), UNIQUE (fingerprint, start_ms, list, question, by))",
    "CREATE TABLE IF NOT EXISTS saved_query (name TEXT PRIMARY KEY, text TEXT NOT NULL, by TEXT NOT NULL,"
    " at TEXT NOT NULL, crc32 INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS correction (id INTEGER PRIMARY KEY AUTOINCREMENT, fingerprint TEXT NOT NULL,"
    " track TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, original TEXT NOT NULL,"
    " text TEXT NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL, crc32 INTEGER NOT NULL,"
    " UNIQUE (fingerprint, track, start_ms, end_ms, original))",
    "CREATE TABLE IF NOT EXISTS watch (name TEXT PRIMARY KEY, least TEXT NOT NULL, since INTEGER NOT NULL,"
    " done INTEGER NOT NULL, by TEXT NOT NULL, at TEXT NOT NULL, crc32 INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS arrival (id INTEGER PRIMARY KEY AUTOINCREMENT, tokens BLOB NOT NULL,"
    " at TEXT NOT NULL, crc32 INTEGER NOT NULL)",
    "CREATE TABLE IF NOT EXISTS watch_hit (id INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL,"
    " fingerprint TEXT NOT NULL, start_ms INTEGER NOT NULL, end_ms INTEGER NOT NULL, score REAL NOT NULL,"
    " confidence TEXT NOT NULL, preview INTEGER NOT NULL, told TEXT NOT NULL, at TEXT NOT NULL,"
    " crc32 INTEGER NOT NULL, UNIQUE (name, fingerprint, start_ms))",
    # Lost pages take rows with them, but not their count.
    *(
        f"CREATE TRIGGER IF NOT EXISTS {table}_{event.lower()} AFTER {event} ON {table} BEGIN"
        f" UPDATE meta SET value = value {sign} 1 WHERE key = 'rows of {table}'; END"
        for table in COUNTED
        for event, sign in (("INSERT", "+"), ("DELETE", "-"))
    ),
    *(f"INSERT OR IGNORE INTO meta VALUES ('rows of {table}', 0)" for table in COUNTED),
    f"INSERT OR REPLACE INTO meta VALUES ('min_reader', {READER})",
    f"PRAGMA user_version={VERSION}",
    f"PRAGMA application_id={_APPLICATION_ID}",
)
_PRAGMAS = ("trusted_schema=OFF", "cell_size_check=ON")
# EXTRA: the journal's deletion is on the disk before the commit returns. secure_delete overwrites deleted notes.
_WRITE_PRAGMAS = ("synchronous=EXTRA", "secure_delete=ON")
# A writer was killed in a commit, and this user may not undo that; or the file system has no locks. A private copy of
# the files is read instead.
_READ_A_COPY = {
    sqlite3.SQLITE_READONLY_ROLLBACK,
    sqlite3.SQLITE_READONLY_RECOVERY,
    sqlite3.SQLITE_READONLY_CANTLOCK,
    sqlite3.SQLITE_IOERR_RDLOCK,
    sqlite3.SQLITE_IOERR_LOCK,
    sqlite3.SQLITE_IOERR_CHECKRESERVEDLOCK,
    sqlite3.SQLITE_CANTOPEN,
}
_MOST_TRIES = 5
# In messages without a code of their own.
_FAULTS = ("no such table", "no such column", "malformed", "Could not decode")
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_TOOBIG}


def user_database(folder: Path) -> Path:
    """Return the path of `user.db` of the library in `folder`."""
    return folder / USER_DATABASE


def row_seal(values: Sequence[object]) -> int:
    """Return the checksum of a row: the CRC-32 of its values, in the order of TABLES."""
    parts = (v if isinstance(v, bytes) else b"" if v is None else str(v).encode() for v in values)
    return zlib.crc32(b"\0".join(parts))


@contextmanager
def reading(folder: Path) -> Iterator[sqlite3.Connection | None]:
    """Yield a connection with one read transaction; None if nobody has written anything yet.

    Raises LibraryError, LibraryDamaged, LibraryVersion.
    """
    path = user_database(folder)
    refuse_unreadable(path)
    if not has_file(path):
        yield None
        return
    try:
        with _read_transaction(path) as connection:
            yield connection if _is_readable(connection) else None
    except sqlite3.Error as exc:
        raise translated(exc, path) from exc


@contextmanager
def _read_transaction(path: Path) -> Iterator[sqlite3.Connection]:
    with ExitStack() as opened:
        connection = opened.enter_context(closing(connect(path, "mode=ro")))
        try:
            _begin_read(connection)
        except sqlite3.OperationalError as exc:
            if exc.sqlite_errorcode not in _READ_A_COPY:
                raise
            connection.close()
            copy = _copied(path, opened)
            connection = opened.enter_context(closing(connect(copy, "mode=rw")))  # its journal is rolled back
            _begin_read(connection)
        yield connection


def _begin_read(connection: sqlite3.Connection) -> None:
    connection.execute("BEGIN")
    connection.execute("SELECT count(*) FROM sqlite_master").fetchone()


def _copied(path: Path, opened: ExitStack) -> Path:
    """Return a copy of the database with its journal, of one instant, in a folder that goes with `opened`.

    Raises LibraryError.
    """
    journal = path.with_name(f"{path.name}-journal")
    try:
        folder = Path(opened.enter_context(tempfile.TemporaryDirectory()))
        for _ in range(_MOST_TRIES):
            before = _stamps(path, journal)
            shutil.copyfile(path, folder / path.name)
            with suppress(FileNotFoundError):
                shutil.copyfile(journal, folder / journal.name)
            if _stamps(path, journal) == before:
                return folder / path.name
            (folder / journal.name).unlink(missing_ok=True)
    except OSError as exc:
        raise LibraryError(
            f"{path} must be copied to be read by this user, and could not be ({exc.strerror}); free some space in the "
            "folder for temporary files, or set TMPDIR to another folder"
        ) from exc
    raise LibraryError(f"{path} is being written to all the time; run the same command again")


def _stamps(*paths: Path) -> list[tuple[int, ...] | None]:
    found: list[tuple[int, ...] | None] = []
    for path in paths:
        try:
            stat = path.stat()
        except FileNotFoundError:
            found.append(None)
        else:
            found.append((stat.st_ino, stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns))
    return found


@contextmanager
def writing(folder: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection with one write transaction, committed at the end of the block; the file is made if needed.

    Waits for others' transactions, never for the library's lock. Raises LibraryError, LibraryDamaged, LibraryVersion.
    """
    path = user_database(folder)
    refuse_network_folder(folder)
    refuse_unreadable(path)
    try:
        with closing(_begun(path)) as connection:
            try:
                _bring_up_to_date(connection, path)
                yield connection
                connection.execute("COMMIT")
            except BaseException:  # whose traceback may hold a statement, and with it the lock
                with suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")
                raise
    except sqlite3.Error as exc:
        raise translated(exc, path) from exc


def _begun(path: Path) -> sqlite3.Connection:
    """Return a connection that holds the write lock of the file that is at `path` now."""
    for _ in range(_MOST_TRIES):
        _create(path)
        before = path.stat()
        connection = connect(path, "mode=rw")
        try:
            for pragma in _WRITE_PRAGMAS:
                connection.execute(f"PRAGMA {pragma}")
            connection.execute("BEGIN IMMEDIATE")
            if has_file(path) and os.path.samestat(before, path.stat()):
                return connection
        except BaseException:
            connection.close()
            raise
        connection.close()  # a repair has replaced the file
    raise LibraryError(f"{path} is being replaced all the time; run the same command again")


def _create(path: Path) -> None:
    """Make the file, with the mode and group of the library's."""
    try:
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
    except FileExistsError:
        return
    except OSError as exc:
        raise LibraryError(f"{path} cannot be made ({exc.strerror}); {permission_wanted(path.name)}") from exc
    share(path)


def connect(path: Path, how: str) -> sqlite3.Connection:
    """Return a connection without a transaction. how: parameters of SQLite's URI."""
    connection = sqlite3.connect(
        f"file:{quote(os.fsencode(path.absolute()))}?{how}",
        uri=True,
        timeout=BUSY_TIMEOUT_S,
        isolation_level=None,
        check_same_thread=False,
        factory=DatabaseConnection,
    )
    for pragma in _PRAGMAS:
        connection.execute(f"PRAGMA {pragma}")
    return connection


def _is_readable(connection: sqlite3.Connection) -> bool:
    """Return whether it has tables; a writer that was killed at the first write leaves an empty file."""
    if not stored_version(connection):
        return False
    row = connection.execute("SELECT value FROM meta WHERE key = 'min_reader'").fetchone()
    if row is not None and str(row[0]).isdecimal() and int(row[0]) > READER:
        raise newer()
    return True


def _bring_up_to_date(connection: sqlite3.Connection, path: Path) -> None:
    stored = stored_version(connection)
    if stored > VERSION:
        raise newer()
    if not stored and connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
        raise LibraryError(f"{path} was not made by vfindex; move it away and run the same command again")
    if stored < VERSION:
        for statement in _CREATE:
            connection.execute(statement)


def compact(folder: Path) -> None:
    """Rewrite the file, so that no page holds what was deleted. Raises LibraryError, LibraryDamaged."""
    path = user_database(folder)
    try:
        with closing(connect(path, "mode=rw")) as connection:
            connection.execute("VACUUM")
    except sqlite3.Error as exc:
        raise translated(exc, path) from exc


def stored_version(connection: sqlite3.Connection) -> int:
    """Return the version of the tables, 0 where there are none."""
    return int(connection.execute("PRAGMA user_version").fetchone()[0])


def tables_of(connection: sqlite3.Connection) -> dict[str, tuple[str, ...]]:
    """Return the tables of TABLES that a file has, by its version: an older vfindex made fewer."""
    stored = stored_version(connection)
    return {table: columns for table, columns in TABLES.items() if stored >= _SINCE.get(table, 1)}


def newer() -> LibraryVersion:
    """Return the error for a file that this version must not change."""
    return LibraryVersion(
        f"{USER_DATABASE} was written by a newer vfindex and cannot be used by this one; "
        "upgrade with: pip install --upgrade vfindex"
    )


def damaged(path: Path, fault: object) -> LibraryDamaged:
    """Return the error for a damaged file."""
    held = "marks, saved questions and corrections"
    return LibraryDamaged(f"{path}, which holds {held}, is damaged ({fault}); run: vfindex repair")


def translated(exc: sqlite3.Error, path: Path) -> LibraryError:
    """Return SQLite's error as a sentence. An error that only a bug can cause is raised unchanged."""
    extended = getattr(exc, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code in _DAMAGE or any(fault in str(exc) for fault in _FAULTS):
        return damaged(path, exc)
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        advice = f"{room_wanted(path.parent)} and run the same command again: nothing that was committed is lost"
        return LibraryError(f"{path} could not be read or written ({exc}); {advice}")
    if code in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL):
        return LibraryError(f"another program holds {path} ({exc}); run the same command again when it has ended")
    if code in (sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH, sqlite3.SQLITE_CANTOPEN):
        return LibraryError(f"{path} cannot be written ({exc}); {permission_wanted(path.name)}")
    raise exc
