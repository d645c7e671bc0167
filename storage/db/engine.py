"""Connections to library.db: WAL, foreign keys, one explicit transaction at a time."""

from __future__ import annotations

import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool, StaticPool

from vfindex.storage.db.integrity import register
from vfindex.storage.errors import DatabaseLost, LibraryChanged, LibraryDamaged, LibraryError, QueryTimeout
from vfindex.storage.files.file_systems import is_on_shared
from vfindex.storage.files.permissions import is_allowed, share_log
from vfindex.storage.files.regular import regular
from vfindex.storage.files.resources import has_room, least_room, temporary_folder
from vfindex.storage.state_cache import StateCache, States

# A reader waits this long at most for the moments in which SQLite must lock (a checkpoint, a recovery).
BUSY_TIMEOUT_S = 20
# The least size of a log's shared memory: SQLite makes it in regions of this size.
SHARED_BYTES = 32 << 10
# The log's header: its salts change whenever the log begins again (sqlite.org/fileformat2.html#walformat).
_LOG_HEADER_BYTES = 32
# How most messages about damage end; `verify` leaves it out.
RUN_VERIFY = "; run: vfindex verify"
# Keys in SQLAlchemy's `info` of a connection: how it was opened, and the states that its engine has seen.
_OPENED, _STATES = "opened", "states"
# Snapshots at one time whose connections stay open for the next ones.
_POOLED = 8
# Steps of SQLite's virtual machine between two looks at the clock: about a millisecond.
_STEPS = 100_000
# Attribute of sqlite3 errors: the folder of the database.
FOLDER = "folder"


def connect(path: Path | None, *, write: bool) -> Engine:
    """Return an engine for the database at `path` (None: in memory), its transactions explicit.

    write: transactions begin by taking the write lock. A reader's transaction is one snapshot from its first read on.
    """

    def creator() -> sqlite3.Connection:
        opened = None if path is None or write else opening(path)
        makes_log = opened and opened.is_locked and not _size_bytes(opened.path.with_name(f"{opened.path.name}-shm"))
        connection: DatabaseConnection = sqlite3.connect(
            ":memory:" if path is None else opened.uri if opened else f"{file_uri(path)}?mode=rwc",
            uri=path is not None,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            factory=DatabaseConnection,
        )
        connection.opened, connection.folder = opened, path.parent if path else None
        register(connection)
        for pragma in _pragmas(write, is_locked=opened is None or opened.is_locked):
            connection.execute(f"PRAGMA {pragma}")
        if opened and makes_log:
            with suppress(sqlite3.Error):  # the first read says it
                connection.execute("PRAGMA user_version")
            share_log(opened.path)
        return connection

    if path is None or write:
        # A database in memory lives as long as its one connection.
        engine = create_engine("sqlite://", creator=creator, poolclass=StaticPool)
    else:
        # Connections outlive their snapshots: opening another costs as much as five statements. Snapshots at one time
        # have one each.
        engine = create_engine("sqlite://", creator=creator, poolclass=QueuePool, pool_size=_POOLED, max_overflow=-1)
        _keep_while_true(engine, path, creator)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@dataclass(frozen=True, slots=True)
class Opened:
    """How a reader opened the database at `path`, and the files that were there.

    is_locked: SQLite's locks protect the snapshot. They need the shared memory file of the log, which a reader without
    permission to write, or without disk space, cannot create, and which machines do not share. Without locks, a read is
    valid only if `files` is unchanged afterwards: it then has the size and times of the database, and of its log the
    identity, header and size.
    """

    path: Path
    uri: str
    is_locked: bool
    files: tuple[object, ...]

    def has_changed(self) -> bool:
        """Return whether reads since then may mix several states of the library.

        Commits append to the log, and a snapshot ends where the log ended when it began. Only a checkpoint writes to
        the database, and the log's header changes before its first frame is overwritten.
        """
        if self.is_locked:
            return False
        now = opening(self.path)
        return self != now and (now.is_locked or self.files[:-1] != now.files[:-1])


def opening(path: Path) -> Opened:
    """Return how a reader must open the database at `path` now."""
    log, shared = (path.with_name(path.name + suffix) for suffix in ("-wal", "-shm"))
    is_remote = is_on_shared(path.parent)
    if is_remote:  # neither locks nor shared memory reach a writer on another machine
        is_locked = False
    elif log.exists() and _size_bytes(shared) >= SHARED_BYTES:  # if it is smaller, a writer had no disk space for it
        is_locked = is_allowed(shared, os.R_OK)
    else:
        # A reader without locks would delete, on closing, a log that its user may write to.
        # A full disk must not lock readers out.
        is_locked = is_allowed(path.parent, os.W_OK | os.X_OK) and (
            _size_bytes(log) > 0 or has_room(path.parent, 2 * SHARED_BYTES)
        )
    how = "mode=ro"
    if not is_locked:
        # Without locks SQLite keeps the log's index in private memory; without a log it needs none.
        how += "&vfs=unix-none" if _size_bytes(log) else "&immutable=1"
    if is_locked:
        return Opened(path, f"{file_uri(path)}?{how}", is_locked, (_stamp(path),))
    if is_remote:
        _revalidate(path)
    files = _stamp(path, with_times=True), *_log_stamp(log)
    return Opened(path, f"{file_uri(path)}?{how}", is_locked, files)


def _size_bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


class Unchanged(AbstractContextManager["Unchanged"]):
    """A block that ends with LibraryChanged if the library changed during it and no lock protected the reads."""

    def __init__(self, opened: Opened | None) -> None:
        self._opened = opened

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if self._opened is None or not self._opened.has_changed():
            return
        if exc is None or isinstance(exc, Exception):
            raise LibraryChanged(
                "the library was changed while it was read by a user who cannot write to its folder; "
                "run the same command again"
            ) from exc


class DatabaseConnection(sqlite3.Connection):
    """A connection whose errors carry the database's folder, and are sqlite3 errors even if their text is not UTF-8."""

    opened: Opened | None = None
    folder: Path | None = None

    def cursor(self, factory: Any = None) -> Any:
        return super().cursor(_Cursor)

    def execute(self, *arguments: Any) -> Any:
        return self.cursor().execute(*arguments)

    def executemany(self, *arguments: Any) -> Any:
        return self.cursor().executemany(*arguments)

    def commit(self) -> None:
        with _OwnErrors(self):
            super().commit()


class _Cursor(sqlite3.Cursor):
    def execute(self, *arguments: Any) -> Self:
        with _OwnErrors(self.connection):
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Self:
        with _OwnErrors(self.connection):
            return super().executemany(*arguments)

    def fetchall(self) -> list[Any]:
        with _OwnErrors(self.connection):
            return super().fetchall()

    def fetchmany(self, *arguments: Any) -> list[Any]:
        with _OwnErrors(self.connection):
            return super().fetchmany(*arguments)


class _OwnErrors(AbstractContextManager["_OwnErrors"]):
    """A block that turns errors into those of `DatabaseConnection`; as a generator it would be three times as slow."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def __exit__(self, _: object, exc: BaseException | None, __: object) -> None:
        if isinstance(exc, UnicodeDecodeError):
            # SQLite's message quotes bytes of the file that Python cannot decode.
            complaint = exc.object.decode(errors="replace")
            error = sqlite3.DatabaseError(complaint)
            error.sqlite_errorcode = sqlite3.SQLITE_CORRUPT
            raise error from exc
        if isinstance(exc, sqlite3.Error):
            setattr(exc, FOLDER, getattr(self._connection, FOLDER, None))


def begin_reading(engine: Engine) -> tuple[Connection, StateCache[Opened] | None]:
    """Return a connection with a read transaction, and the cache of the state that it reads. Raises LibraryError.

    Connections of the writer have no cache: SQLite counts only commits by others.

    Tried twice: files of the first try may go with the last writer, and the second opens without them.
    """
    try:
        return _begin_reading(engine)
    except DBAPIError:
        try:
            return _begin_reading(engine)
        except DBAPIError as exc:
            raise translated(exc) from exc


def _begin_reading(engine: Engine) -> tuple[Connection, StateCache[Opened] | None]:
    connection = engine.connect()
    opened, states = connection.info.get(_OPENED), connection.info.get(_STATES)
    try:
        if states is None:
            connection.begin()
            return connection, None

        def begin() -> None:
            connection.exec_driver_sql("PRAGMA data_version").scalar_one()

        return connection, states.begin(opened, begin, connection.rollback)
    except DBAPIError:
        if opened is not None:
            connection.invalidate()
        connection.close()
        raise


def _keep_while_true(engine: Engine, path: Path, creator: Callable[[], Any]) -> None:
    """Give the engine's connections a shared cache, and drop one when the file at its path is another one.

    A repair replaces the file; and a library opened without locks, because nobody wrote, may have a writer now.
    """
    states: States[Opened] = States(creator, lambda opened: opened.is_locked)

    @event.listens_for(engine, "connect")
    def connected(connection: Any, record: Any) -> None:
        record.info[_OPENED], record.info[_STATES] = connection.opened, states

    @event.listens_for(engine, "checkout")
    def checked_out(_: Any, record: Any, __: Any) -> None:
        if record.info[_OPENED] != opening(path):
            raise DisconnectionError(f"{path} is another file now")

    @event.listens_for(engine, "engine_disposed")
    def disposed(_: Engine) -> None:
        states.close()


@contextmanager
def time_limit(connection: Connection, until_s: float | None) -> Iterator[None]:
    """Interrupt the statements of a connection inside this block from a time of `time.monotonic` on."""
    if until_s is None:
        yield
        return
    driver: Any = connection.connection.driver_connection
    driver.set_progress_handler(lambda: time.monotonic() > until_s, _STEPS)
    try:
        yield
    finally:
        driver.set_progress_handler(None, 0)


def file_uri(path: Path) -> str:
    return f"file:{quote(os.fsencode(path.absolute()))}"


def _stamp(path: Path, *, with_times: bool = False) -> tuple[int, ...] | None:
    """Return the identity of a file, with its size and times if asked; None if there is no file."""
    try:
        stat = path.stat()
    except OSError:
        return None
    times = (stat.st_size, stat.st_mtime_ns, stat.st_ctime_ns) if with_times else ()
    return stat.st_dev, stat.st_ino, *times


def _log_stamp(log: Path) -> tuple[tuple[int, bytes] | None, int]:
    """Return (identity and header of the log, its size); (None, 0) without a log or with an empty one."""
    try:
        with open(log, "rb", opener=regular) as file:
            found, header = os.fstat(file.fileno()), file.read(_LOG_HEADER_BYTES)
    except OSError:
        return None, 0
    return ((found.st_ino, header), found.st_size) if header else (None, 0)


def _revalidate(path: Path) -> None:
    """Make a network file system ask its server for the file's size and times, as it does whenever a file is opened.

    Only where nobody locks: closing a file drops all of this process's locks on it.
    """
    with suppress(OSError):
        os.close(regular(path, os.O_RDONLY))


def _pragmas(write: bool, *, is_locked: bool) -> list[str]:
    # trusted_schema: a foreign library's schema must not call functions with side effects. mmap_size: a mapped file
    # that is truncated kills the process; `cell_size_check` would check its pages at every access. cache_size: in KiB.
    pragmas = ["trusted_schema=OFF", "foreign_keys=ON", "cell_size_check=ON", "mmap_size=0", "cache_size=-8000"]
    if not is_locked:
        pragmas.insert(0, "locking_mode=EXCLUSIVE")  # needs no shared memory
    if write:
        # FULL: a commit is on the disk before the next unit starts, so a power cut costs at most the open unit.
        # secure_delete overwrites deleted rows, auto_vacuum lets the file shrink (see scrubbing.py). auto_vacuum must
        # be set before the first page is written, and changes nothing in an existing database.
        pragmas += ["auto_vacuum=INCREMENTAL", "journal_mode=WAL", "synchronous=FULL", "secure_delete=ON"]
    return pragmas


@contextmanager
def any_text(connection: Connection) -> Iterator[None]:
    """Read text that is not UTF-8 with replacement characters inside this block, so that damaged rows can be found."""
    driver: Any = connection.connection.driver_connection
    before, driver.text_factory = driver.text_factory, decoded
    try:
        yield
    finally:
        driver.text_factory = before


def decoded(data: bytes) -> str:
    return data.decode(errors="replace")


def checkpoint(engine: Engine) -> bool:
    """Move the log into the database, truncate it, sync both; return False if a reader held it. Raises LibraryError."""
    try:
        with engine.connect() as connection:
            driver: Any = connection.connection.driver_connection  # SQLite refuses a checkpoint in a transaction
            busy, _, _ = driver.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    except (DBAPIError, sqlite3.Error) as exc:
        raise translated(exc) from exc
    return not busy


def check_integrity(engine: Engine) -> list[str]:
    """Return the faults that SQLite's own checks find, one line each, none in a sound database.

    Raises LibraryError if this user may not read it.
    """
    try:
        with engine.connect() as connection:
            found = "\n".join(connection.scalars(text("PRAGMA integrity_check(20)")))
            broken = [
                f"{row[0]} row {row[1]} has no {row[2]}" for row in connection.execute(text("PRAGMA foreign_key_check"))
            ]
    except DBAPIError as exc:
        error = translated(exc)
        if not isinstance(error, LibraryDamaged):
            raise error from exc
        return [str(exc.orig)]
    return [line for line in found.splitlines() if line != "ok" and not line.startswith("*** in database")] + broken


# Messages of SQLite without an error code of their own that none of our statements causes in a sound library.
_DAMAGE = re.compile(
    "could not decode|no such (fts5 table|table|column|index|module|tokenizer)|has no column|malformed"
    "|constructor failed|error in (table|view|index)|unrecognized token|file format|logic error|foreign key mismatch",
    re.IGNORECASE,
)
_DAMAGE_CODES = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_TOOBIG, sqlite3.SQLITE_FORMAT}
_READ_FAULTS = {
    sqlite3.SQLITE_IOERR_READ,
    sqlite3.SQLITE_IOERR_SHORT_READ,
    sqlite3.SQLITE_IOERR_CORRUPTFS,
    sqlite3.SQLITE_IOERR_DATA,
}
_BUSY = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_PROTOCOL}
_READ_ONLY = {sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_AUTH}


def room_wanted(folder: Path | None, bytes_: int = 0) -> str:
    """Return the advice for a full disk: in which folder to free space, and how much if `bytes_` is given.

    SQLite does not say which file did not fit, and has deleted its temporary files by now.
    """
    temporary = temporary_folder()
    found = least_room([temporary] if folder is None else [folder, temporary])
    wanted = f"{bytes_ / 1e9:.1f} GB" if bytes_ else "some space"
    if found is None:
        return f"free {wanted}"
    where = f"{found[0]}, which has {found[1] / 1e6:,.1f} MB left"
    if found[0] == temporary:
        return f"free {wanted} in the folder for temporary files, {where}, or set TMPDIR to another folder,"
    return f"free {wanted} in {where},"


def translated(exc: DBAPIError | sqlite3.Error) -> LibraryError | QueryTimeout:
    """Return SQLite's error as a sentence. An error that only a bug of vfindex can cause is raised unchanged."""
    error = exc.orig if isinstance(exc, DBAPIError) else exc
    complaint, extended = str(error), getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    code = extended & 0xFF
    if code == sqlite3.SQLITE_NOTADB:
        return DatabaseLost(
            "the file library.db in the library's folder is no library of vfindex; "
            "put back the one that was there, or name another folder with --library DIR"
        )
    if code in _DAMAGE_CODES or extended in _READ_FAULTS or (code == 1 and _DAMAGE.search(complaint)):
        return LibraryDamaged(f"the library's database cannot be read ({complaint}){RUN_VERIFY}")
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return LibraryError(
            f"the library could not be written ({complaint}); {room_wanted(getattr(error, FOLDER, None))} and run the "
            "same command again: nothing that was committed is lost"
        )
    if code in _BUSY:
        return LibraryError(
            f"another program holds the library's database ({complaint}); run the same command again when it has ended"
        )
    if code == sqlite3.SQLITE_CANTOPEN:
        return LibraryError(
            f"the library's database cannot be opened ({complaint}); this user needs permission to enter the library's "
            "folder and to read library.db and library.db-wal"
        )
    if code in _READ_ONLY:
        return LibraryError(
            f"the library's database cannot be written ({complaint}); this user needs permission to write library.db "
            "and the library's folder, and the disk must not be mounted read-only"
        )
    if code == sqlite3.SQLITE_INTERRUPT:
        return QueryTimeout()
    if code == sqlite3.SQLITE_NOMEM:
        return LibraryError("there is not enough memory to read the library's database; close other programs")
    raise exc
