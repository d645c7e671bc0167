"""Migration of library.db by copy: its rows, in today's tables, go into a new file, which then takes its place.

The old file is read and never written. Rows are copied in batches in the order of their keys, each batch one
transaction, so that a killed migration goes on where the last batch ended. The new file is compared with the old one,
row by row, before it gets the name; the old one is kept until a run with the new one has succeeded.
"""

from __future__ import annotations

import logging
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from sqlalchemy import Integer, Table
from sqlalchemy.dialects import sqlite
from sqlalchemy.exc import DBAPIError
from sqlalchemy.schema import CreateIndex, CreateTable

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.documents import CREATE_WORDS
from vfindex.storage.db.engine import RUN_VERIFY, DatabaseConnection, connect, file_uri, translated
from vfindex.storage.db.integrity import register
from vfindex.storage.db.migrations import TRIGGERS, is_before_copy, migrate, migrate_in_place, rows_of
from vfindex.storage.errors import LibraryDamaged, LibraryError
from vfindex.storage.files.replacement import discard_database, refuse_linked, replace_database
from vfindex.storage.files.resources import least_room
from vfindex.storage.text.folding import FOLD_KEY

logger = logging.getLogger(__name__)

# The new file until it is complete, and the old one afterwards.
NEW, FORMER = "library.db.migrated", "library.before-migration.db"
# Rows copied in one transaction; of the tables with vectors, rows of the old `embedding`: 20 MB.
BATCH_ROWS, BATCH_VECTORS = 50_000, 8_000
# Room for the new file, in multiples of the old one: mostly it is a third smaller.
ROOM = 1.1
# The index of words, and the columns of its tables: keys, then one value.
_WORDS = "document_fts"
_OF_WORDS = {"data": "id, block", "idx": "segid, term, pgno", "docsize": "id, sz", "config": "k, v"}
# The table of an unfinished new file that says of which old one it is a copy.
_MARK = "copied"
_FIRST_KEY = -(2**63)
_VECTORS = (schema.embedding, schema.frame)
_TABLES = tuple(each for each in schema.metadata.sorted_tables if each not in _VECTORS)


def migrate_by_copy(database: Path) -> None:
    """Give the library in `database` today's tables, if it has those from before `migrations.BY_COPY`.

    The caller holds the library's lock. Raises LibraryError without room for a second file, or on a full disk: then
    the library is as it was.
    """
    if not database.is_file() or not _is_before_copy(database):
        return
    refuse_linked(database)
    new = database.with_name(NEW)
    _check_room(database, new)
    _bring_forward(database)
    logger.warning("library.db is rewritten for this version, once; searches go on meanwhile")
    try:
        _make(database, new)
        replace_database(database, new, database.with_name(FORMER))
    except (LibraryError, OSError, sqlite3.Error) as exc:
        discard_database(new)
        if isinstance(exc, LibraryError):
            raise
        if isinstance(exc, sqlite3.IntegrityError):  # of a damaged row: the tables of before had the same constraints
            raise LibraryDamaged(f"the library's database is damaged ({exc}){RUN_VERIFY}") from exc
        if isinstance(exc, sqlite3.Error):
            raise translated(exc) from exc
        raise LibraryError(
            f"{database} could not be rewritten for this version ({exc.strerror}); see to the disk and run the same "
            "command again: nothing has been changed"
        ) from exc


def discard_former(folder: Path) -> None:
    """Delete what a migration of the library in `folder` left."""
    for name in (NEW, FORMER):
        discard_database(folder / name)


def _is_before_copy(database: Path) -> bool:
    """Return whether a library must be copied; nothing is written. Raises LibraryDamaged."""
    engine = connect(database, write=False)
    try:
        with engine.connect() as connection:
            return is_before_copy(connection)
    except DBAPIError as exc:
        raise translated(exc) from exc
    finally:
        engine.dispose()


def _bring_forward(database: Path) -> None:
    """Apply what comes before the copy. Raises LibraryVersion."""
    catalog = Catalog(connect(database, write=True))
    try:
        with catalog.transaction() as connection:
            migrate_in_place(connection)
    finally:
        catalog.close()


def _check_room(database: Path, new: Path) -> None:
    log = database.with_name(database.name + "-wal")
    wanted = int(ROOM * sum(path.stat().st_size for path in (database, log) if path.exists()))
    wanted -= new.stat().st_size if new.exists() else 0
    found = least_room([database.parent])
    if found is not None and found[1] < wanted:
        raise LibraryError(
            "library.db must be rewritten for this version, in a second file; "
            f"free {wanted / 1e6:,.1f} MB in {found[0]}, "
            f"which has {found[1] / 1e6:,.1f} MB left, and run the same command again: nothing has been changed, and "
            "searches go on"
        )


def _make(database: Path, new: Path) -> None:
    """Make the new file complete; begin again if what a killed migration left is not equal to the library."""
    for _ in range(2):
        with _both(database, new) as connection:
            for table in _TABLES:
                _copy_rows(connection, table)
            _copy_vectors(connection)
            _copy_words(connection)
            _copy_sequences(connection)
            different = [*_different(connection)]
        if not different:
            break
        discard_database(new)
    else:
        raise LibraryDamaged(f"{database}: rows of {different[0]} cannot be copied; run: vfindex verify")
    _finish(new)


@contextmanager
def _both(database: Path, new: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to the new file, made here if need be, to which the old one is attached as `old`."""
    stamp = _stamp(database)
    if new.exists() and _copied_from(new) != stamp:
        discard_database(new)
    is_new = not new.exists()
    uri = f"{file_uri(new)}?mode=rwc"
    connection: DatabaseConnection = sqlite3.connect(uri, uri=True, isolation_level=None, factory=DatabaseConnection)
    connection.folder = new.parent
    with closing(connection):
        register(connection)
        # A rollback journal holds the pages that change: of a file that only grows, few.
        for pragma in ("auto_vacuum=INCREMENTAL", "journal_mode=DELETE", "synchronous=FULL", "trusted_schema=OFF"):
            connection.execute(f"PRAGMA {pragma}")
        if is_new:
            connection.execute("BEGIN")
            for statement in _tables():
                connection.execute(statement)
            connection.execute(f"CREATE TABLE {_MARK} (source TEXT NOT NULL)")
            connection.execute(f"INSERT INTO {_MARK} VALUES (?)", (stamp,))
            connection.execute("COMMIT")
        connection.execute("ATTACH ? AS old", (f"{file_uri(database)}?mode=ro",))
        yield connection


def _stamp(database: Path) -> str:
    """Return what changes with every commit to the old file: the identity, size and time of it and of its log."""
    stats = [path.stat() for path in (database, database.with_name(database.name + "-wal")) if path.exists()]
    return repr([(stat.st_ino, stat.st_size, stat.st_mtime_ns) for stat in stats if stat.st_size])


def _copied_from(new: Path) -> str | None:
    """Return the stamp of the file that an unfinished new file is a copy of, None if it says none."""
    try:
        with closing(sqlite3.connect(new)) as connection:
            row = connection.execute(f"SELECT source FROM {_MARK}").fetchone()
    except sqlite3.DatabaseError:
        return None
    return None if row is None else str(row[0])


def _tables() -> Iterator[str]:
    """Yield the statements that create today's tables and indexes. Triggers come after the rows."""
    dialect = sqlite.dialect()
    for table in schema.metadata.sorted_tables:
        yield str(CreateTable(table).compile(dialect=dialect))
        yield from (str(CreateIndex(index).compile(dialect=dialect)) for index in table.indexes)


# --- rows -----------------------------------------------------------------------------------------------------------


def _copy_rows(connection: sqlite3.Connection, table: Table) -> None:
    source = _rows(connection, table)
    if source is None:
        return
    names = _named(table)
    copy = f"INSERT INTO main.{table.name} ({names}) SELECT {names} FROM ({source}) WHERE rowid > ? AND rowid <= ?"
    last = f"SELECT coalesce(max(rowid), {_FIRST_KEY}) FROM main.{table.name}"
    end = f"SELECT max(r) FROM (SELECT rowid r FROM old.{table.name} WHERE rowid > ? ORDER BY rowid LIMIT {BATCH_ROWS})"
    for span in _spans(connection, last, end):
        connection.execute(f"{copy} ORDER BY rowid", span)


def _copy_vectors(connection: sqlite3.Connection) -> None:
    """Copy `embedding` and `frame`, all rows of a clip in one transaction."""
    copies = []
    for table in _VECTORS:
        names = ", ".join(column.name for column in table.columns if column.name != "id")
        order = "clip_id, modality" if table is schema.embedding else "clip_id"
        source = f"SELECT {names} FROM ({_rows(connection, table)}) WHERE clip_id > ? AND clip_id <= ?"
        copies.append(f"INSERT INTO main.{table.name} ({names}) {source} ORDER BY {order}")
    last = f"SELECT coalesce(max(clip_id), {_FIRST_KEY}) FROM main.embedding"
    end = f"SELECT max(r) FROM (SELECT clip_id r FROM old.embedding WHERE clip_id > ? ORDER BY 1 LIMIT {BATCH_VECTORS})"
    for span in _spans(connection, last, end):
        connection.execute("BEGIN")
        for copy in copies:
            connection.execute(copy, span)
        connection.execute("COMMIT")


def _spans(connection: sqlite3.Connection, last: str, end: str) -> Iterator[tuple[int, int]]:
    """Yield (key before the first, last key) of each batch that is not copied yet."""
    while True:
        (first,) = connection.execute(last).fetchone()
        (until,) = connection.execute(end, (first,)).fetchone()
        if until is None:
            return
        yield first, until


def _copy_words(connection: sqlite3.Connection) -> None:
    """Copy the index of words if it was made as today; else `_finish` makes it."""
    if _sql(connection, "old", _WORDS) != CREATE_WORDS or _sql(connection, "main", _WORDS):
        return
    connection.execute("BEGIN")
    connection.execute(CREATE_WORDS)
    for name in _OF_WORDS:
        connection.execute(f"DELETE FROM main.{_WORDS}_{name}")
        connection.execute(f"INSERT INTO main.{_WORDS}_{name} SELECT * FROM old.{_WORDS}_{name}")
    connection.execute("COMMIT")


def _copy_sequences(connection: sqlite3.Connection) -> None:
    """Continue the id sequences: an id in a joint index or a thumbnail name must not be reused."""
    connection.execute("BEGIN")
    connection.execute("DELETE FROM main.sqlite_sequence")
    connection.execute("INSERT INTO main.sqlite_sequence SELECT * FROM old.sqlite_sequence")
    connection.execute("COMMIT")


def _sql(connection: sqlite3.Connection, place: str, table: str) -> str:
    row = connection.execute(f"SELECT sql FROM {place}.sqlite_master WHERE name = ?", (table,)).fetchone()
    return "" if row is None else str(row[0])


def _rows(connection: sqlite3.Connection, table: Table) -> str | None:
    """Return the SELECT of a table's rows in the old file; None if it has none."""
    name = schema.embedding.name if table in _VECTORS else table.name
    stored = [row[1] for row in connection.execute(f"PRAGMA old.table_info({name})")]
    return rows_of(table, stored, True, place="old") if stored else None


def _named(table: Table) -> str:
    """Return the columns to be copied: with the row id, unless a column is the same."""
    (*_, key) = table.primary_key
    row_id = [] if isinstance(key.type, Integer) else ["rowid"]
    return ", ".join([*row_id, *(column.name for column in table.columns)])


# --- check ----------------------------------------------------------------------------------------------------------


def _different(connection: sqlite3.Connection) -> Iterator[str]:
    """Yield the tables whose rows in the new file are not those of the old one."""
    for table in _TABLES:
        names = _named(table).split(", ")
        key = "rowid" if "rowid" in names else next(iter(table.primary_key)).name
        source = _rows(connection, table)
        if source is not None and not _is_equal(connection, source, table.name, [key], names):
            yield table.name
    for table, keys in zip(_VECTORS, (["clip_id", "modality"], ["clip_id"]), strict=True):
        names = [column.name for column in table.columns if column.name != "id"]
        if not _is_equal(connection, str(_rows(connection, table)), table.name, keys, names):
            yield table.name
    for name, columns in _OF_WORDS.items() if _sql(connection, "main", _WORDS) else ():
        source, keys = f"SELECT * FROM old.{_WORDS}_{name}", columns.split(", ")[:-1]
        if not _is_equal(connection, source, f"{_WORDS}_{name}", keys, columns.split(", ")):
            yield _WORDS


def _is_equal(connection: sqlite3.Connection, source: str, table: str, keys: list[str], names: list[str]) -> bool:
    """Return whether a table of the new file has as many rows as `source` selects, and each of them."""
    same_key = " AND ".join(f"n.{key} = o.{key}" for key in keys)
    differs = " OR ".join(f"n.{name} IS NOT o.{name}" for name in names)
    had, has = (f"(SELECT count(*) FROM {rows})" for rows in (f"({source})", f"main.{table}"))
    other = f"EXISTS (SELECT 1 FROM ({source}) o LEFT JOIN main.{table} n ON {same_key} WHERE {differs})"
    (is_equal,) = connection.execute(f"SELECT {had} = {has} AND NOT {other}").fetchone()
    return bool(is_equal)


def _finish(new: Path) -> None:
    """Write what is derived from the rows, check the file and empty its log. Raises LibraryDamaged."""
    engine = connect(new, write=True)
    try:
        with Catalog(engine).transaction() as connection:
            for statement in TRIGGERS:
                connection.exec_driver_sql(statement)
            if not connection.exec_driver_sql(f"PRAGMA main.table_info({_WORDS})").all():
                connection.exec_driver_sql("DELETE FROM meta WHERE key = ?", (FOLD_KEY,))
            migrate(connection)
            connection.exec_driver_sql(f"DROP TABLE {_MARK}")
    finally:
        engine.dispose()
    with closing(sqlite3.connect(new)) as file:
        file.execute("PRAGMA journal_mode=DELETE")  # the log goes into the file
        (found,) = file.execute("PRAGMA integrity_check(1)").fetchone()
    if found != "ok":
        raise LibraryDamaged(
            f"the new {new.name} is not sound ({found}); see to the disk and run the same command again"
        )
