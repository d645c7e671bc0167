"""Connections to library.db: WAL, foreign keys, one explicit transaction at a time."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from sqlalchemy import Connection, Engine, create_engine, event, text
from sqlalchemy.exc import DBAPIError, DisconnectionError
from sqlalchemy.pool import QueuePool, StaticPool

from vfindex.storage.errors import LibraryDamaged

# A reader waits this long at most for the moments in which SQLite must lock (a checkpoint, a recovery).
BUSY_TIMEOUT_S = 20
# How most sentences about damage end; `verify` itself leaves it out.
RUN_VERIFY = "; run: vfindex verify"
# Where a connection has its memory among what SQLAlchemy keeps of it.
_MEMORY = "memory"


def connect(path: Path | None, *, write: bool) -> Engine:
    """Return an engine for the database at `path` (None: in memory), its transactions explicit.

    write: transactions begin by taking the write lock. A reader's transaction is one snapshot from its first read on.
    """

    def creator() -> sqlite3.Connection:
        connection = sqlite3.connect(
            ":memory:" if path is None else _uri(path, write),
            uri=path is not None,
            timeout=BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        for pragma in _pragmas(write):
            connection.execute(f"PRAGMA {pragma}")
        return connection

    if path is None or write:
        # A database in memory lives as long as its one connection.
        engine = create_engine("sqlite://", creator=creator, poolclass=StaticPool)
    else:
        # One connection outlives its snapshot: opening another costs as much as five statements. Snapshots at one time
        # have one each.
        engine = create_engine("sqlite://", creator=creator, poolclass=QueuePool, pool_size=1, max_overflow=-1)
        _keep_while_true(engine, path)

    @event.listens_for(engine, "begin")
    def begin(connection: Any) -> None:
        connection.exec_driver_sql("BEGIN IMMEDIATE" if write else "BEGIN")

    return engine


@dataclass(slots=True)
class Memory:
    """What a reader's connection knows of the library as of `version`, SQLite's counter of commits by others.

    opened: the file that it was opened on, and how.
    """

    opened: object
    version: int = -1
    known: dict[Hashable, Any] = field(default_factory=dict)


def memory_of(connection: Connection) -> Memory | None:
    """Return what the connection may remember from one snapshot to the next, None for a writer's.

    SQLite counts only what others commit: a writer would not see what it changed itself.
    """
    memory: Memory | None = connection.info.get(_MEMORY)
    if memory is not None:
        version = int(connection.exec_driver_sql("PRAGMA data_version").scalar_one())
        if version != memory.version:
            memory.version, memory.known = version, {}
    return memory


def _keep_while_true(engine: Engine, path: Path) -> None:
    """Give the engine's connections a memory, and drop one once another file lies at its path.

    So it does after a repair; and a library that was opened without a log, for nobody wrote, may have a writer now.
    """

    def opened() -> object:
        try:
            stat = path.stat()
        except OSError:
            return None
        return stat.st_dev, stat.st_ino, _uri(path, write=False)

    @event.listens_for(engine, "connect")
    def connected(_: Any, record: Any) -> None:
        record.info[_MEMORY] = Memory(opened())

    @event.listens_for(engine, "checkout")
    def checked_out(_: Any, record: Any, __: Any) -> None:
        if record.info[_MEMORY].opened != opened():
            raise DisconnectionError(f"{path} is another file now")


def _uri(path: Path, write: bool) -> str:
    name = quote(os.fsencode(path.absolute()))
    if write:
        return f"file:{name}?mode=rwc"
    # A library on a read-only medium has no log to share; `immutable` lets SQLite open it without one.
    frozen = not os.access(path.parent, os.W_OK) and not path.with_name(path.name + "-wal").exists()
    return f"file:{name}?mode=ro" + ("&immutable=1" if frozen else "")


def _pragmas(write: bool) -> list[str]:
    # trusted_schema: the schema of a library that came from elsewhere must not call functions with side effects.
    pragmas = ["trusted_schema=OFF", "foreign_keys=ON", "cell_size_check=ON", "mmap_size=2147418112"]
    if write:
        # FULL: a commit is on the disk before the next unit starts, so a power cut costs at most the open unit.
        pragmas += ["journal_mode=WAL", "synchronous=FULL"]
    return pragmas


def check_integrity(engine: Engine) -> list[str]:
    """Return what SQLite's own checks find wrong: an empty list for a sound database."""
    try:
        with engine.connect() as connection:
            found = [str(row[0]) for row in connection.execute(text("PRAGMA integrity_check(20)"))]
            broken = [
                f"{row[0]} row {row[1]} has no {row[2]}" for row in connection.execute(text("PRAGMA foreign_key_check"))
            ]
    except DBAPIError as exc:
        return [str(exc.orig)]
    return [line for line in found if line != "ok"] + broken


def damaged(exc: DBAPIError | sqlite3.Error) -> LibraryDamaged:
    """Return SQLite's complaint as a sentence."""
    complaint = str(exc.orig if isinstance(exc, DBAPIError) else exc)
    if "not a database" in complaint:
        return LibraryDamaged(
            "the file library.db in the library's folder is no library of vfindex; "
            "put back the one that was there, or name another folder with --library DIR"
        )
    return LibraryDamaged(f"the library's database cannot be read ({complaint}){RUN_VERIFY}")
