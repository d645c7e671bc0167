"""How a library.db of any age becomes one of today: statements of SQL, run in order, each list recorded by its name.

A new library gets the tables of `schema.py`. To change the tables, change `schema.py` and append to `MIGRATIONS` the
SQL that does the same to a library of before. What is released is never edited, and calls no code, which would change.
`migrate` then derives what is derived: checksums and counts of rows, the index of words.

- An additive migration adds a table or a column whose rows older readers may ignore. A new column has a server default
  or may be NULL. Nothing else is needed: older readers ignore what they do not know, and `completing_statements` give a
  reader of an older library an empty table, or the default as a column, so that its queries need not ask.
- A breaking migration changes the meaning of what readers read. It is appended to `BREAKING` too: older readers then
  refuse the library, for its setting `min_reader` is above theirs. If today's reader cannot read a library without it,
  it is appended to `REQUIRED`.
- A migration that changes rows sets their `seal` to NULL.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Connection, DefaultClause, Table, insert, select, text

from vfindex.storage.db import schema
from vfindex.storage.db.documents import rebuild_index, stored_fold
from vfindex.storage.db.integrity import begin_counts, count_rows_of, is_broken, keep_seals, seal_rows, setting
from vfindex.storage.errors import LibraryDamaged, LibraryNotFound, LibraryVersion
from vfindex.storage.text.folding import FOLD, FOLD_KEY

_NEWEST = "(SELECT watermark FROM generation ORDER BY id DESC LIMIT 1)"
_CHANGED = "BEGIN INSERT OR IGNORE INTO index_change VALUES"
# Earlier versions copied the vectors of changed clips from one large index (more than 50,000 clips) to the next. Such
# an index, and one that was older than its clips, is not trusted: all of its clips count as changed, so searches scan
# them exactly until the next run has built an index from nothing.
_UNTRUSTED = (
    "(SELECT clips > 50000 OR EXISTS (SELECT 1 FROM meta WHERE key = 'changed' AND value = 'stale')"
    " FROM generation ORDER BY id DESC LIMIT 1)"
)
MIGRATIONS: Mapping[str, Sequence[str]] = {
    # The first release had these.
    "create_tables": (),
    "create_full_text_index": (),
    # `migrate` rebuilds the index of words where that was made in an older way.
    "index_every_script": (),
    "create_roots": (
        "CREATE TABLE IF NOT EXISTS root (path BLOB NOT NULL PRIMARY KEY, exclude TEXT NOT NULL,"
        " added_at TEXT NOT NULL)",
    ),
    # SQLite cannot change the check of a column, and replacing the table would delete the clips of its rows (cascade).
    # So the old column becomes `state_before`, with its check, and `state` is a new column.
    "let_videos_vanish": (
        "CREATE TABLE IF NOT EXISTS tombstone (path BLOB NOT NULL PRIMARY KEY,"
        " video_id INTEGER NOT NULL REFERENCES video (id) ON DELETE CASCADE, size_bytes INTEGER NOT NULL,"
        " mtime_ns INTEGER NOT NULL, inode INTEGER NOT NULL, gone_at TEXT NOT NULL)",
        "CREATE INDEX IF NOT EXISTS tombstone_by_video ON tombstone (video_id)",
        "ALTER TABLE video RENAME COLUMN state TO state_before",
        "ALTER TABLE video ADD COLUMN state TEXT NOT NULL DEFAULT 'indexing' CHECK (state IN"
        " ('indexing', 'indexed', 'partial', 'failed', 'quarantined', 'vanished'))",
        "UPDATE video SET state = state_before WHERE state = 'indexing'",
    ),
    # Of earlier failures only the last reason is known.
    "create_attempts": (
        "CREATE TABLE IF NOT EXISTS attempt (id INTEGER NOT NULL PRIMARY KEY,"
        " video_id INTEGER NOT NULL REFERENCES video (id) ON DELETE CASCADE, unit INTEGER, care TEXT NOT NULL,"
        " code TEXT NOT NULL, reason TEXT NOT NULL, at TEXT NOT NULL)",
        "CREATE INDEX IF NOT EXISTS attempt_by_video ON attempt (video_id)",
    ),
    # The sidecar state; for "" the sidecars are read once more.
    "remember_what_lies_beside": (
        "ALTER TABLE location ADD COLUMN beside TEXT NOT NULL DEFAULT ''",
        "ALTER TABLE tombstone ADD COLUMN beside TEXT NOT NULL DEFAULT ''",
    ),
    "mark_coarse_videos": ("ALTER TABLE video ADD COLUMN coarse INTEGER NOT NULL DEFAULT 0",),
    "fold_words": (),
    "record_index_changes": (
        "CREATE TABLE IF NOT EXISTS index_change (clip_id INTEGER NOT NULL PRIMARY KEY)",
        "CREATE INDEX IF NOT EXISTS video_unsearchable ON video (id) WHERE state NOT IN ('indexed', 'partial')",
        f"CREATE TRIGGER IF NOT EXISTS index_change_insert AFTER INSERT ON embedding WHEN NEW.clip_id <= {_NEWEST}"
        f" {_CHANGED} (NEW.clip_id); END",
        f"CREATE TRIGGER IF NOT EXISTS index_change_update AFTER UPDATE ON embedding WHEN NEW.clip_id <= {_NEWEST}"
        f" {_CHANGED} (NEW.clip_id); END",
        f"CREATE TRIGGER IF NOT EXISTS index_change_delete AFTER DELETE ON embedding WHEN OLD.clip_id <= {_NEWEST}"
        f" {_CHANGED} (OLD.clip_id); END",
        f"INSERT OR IGNORE INTO index_change SELECT id FROM clip WHERE id <= {_NEWEST} AND {_UNTRUSTED}",
        f"INSERT OR REPLACE INTO meta (key, value) SELECT 'changed', 'stale' WHERE {_UNTRUSTED}",
    ),
    # Paths that were removed, and the paths of unfinished videos.
    "remember_removals": (
        "CREATE TABLE IF NOT EXISTS exclusion (path BLOB NOT NULL PRIMARY KEY, added_at TEXT NOT NULL)",
        "CREATE TABLE IF NOT EXISTS begun (video_id INTEGER NOT NULL PRIMARY KEY"
        " REFERENCES video (id) ON DELETE CASCADE, path BLOB NOT NULL)",
        "CREATE INDEX IF NOT EXISTS begun_by_path ON begun (path)",
    ),
    "seal_all_rows": tuple(
        f"ALTER TABLE {table} ADD COLUMN seal INTEGER"
        for table in (
            *("meta", "video", "location", "tombstone", "root", "exclusion", "unit", "attempt", "clip", "segment"),
            *("document", "generation", "run"),
        )
    ),
    "count_rows": ("ALTER TABLE video ADD COLUMN held INTEGER",),
    # Before it, all segments were speech.
    "give_segments_a_track": ("ALTER TABLE segment ADD COLUMN track TEXT NOT NULL DEFAULT 'speech'",),
    "record_runs_and_rates": (
        "ALTER TABLE video ADD COLUMN added_run INTEGER",
        "ALTER TABLE video ADD COLUMN fps TEXT",
        "ALTER TABLE video ADD COLUMN time_base TEXT",
        "ALTER TABLE video ADD COLUMN start_timecode TEXT",
        "ALTER TABLE clip ADD COLUMN indexed_run INTEGER",
    ),
    # Vectors and frames get tables of their own, and a staged video a column instead of a plus sign before its
    # fingerprint. `storage/migration.py` copies the library for it, with the rows that `rows_of` selects.
    "separate_frames": (),
    # Where the text of a segment stands on the picture.
    "give_segments_a_box": ("ALTER TABLE segment ADD COLUMN box TEXT",),
    # When the words of a segment begin.
    "give_segments_word_times": ("ALTER TABLE segment ADD COLUMN word_times TEXT",),
    # Who says a segment; few segments have names, and the index holds these alone.
    "give_segments_speakers": (
        "ALTER TABLE segment ADD COLUMN speakers TEXT",
        "CREATE INDEX IF NOT EXISTS segment_by_speakers ON segment (speakers, video_id) WHERE speakers IS NOT NULL",
    ),
    # A generation's file may be a list of segments, which earlier readers take for a damaged index, and scan all clips.
    "list_index_segments": (),
    # Filters by language read all segments without it.
    "index_languages": ("CREATE INDEX IF NOT EXISTS segment_by_language ON segment (language, track, video_id)",),
    # A label tells what the vectors of a clip were when it was given, so it goes when they change.
    "store_labels": (
        "CREATE TABLE IF NOT EXISTS label (id INTEGER NOT NULL PRIMARY KEY,"
        " video_id INTEGER NOT NULL REFERENCES video (id) ON DELETE CASCADE,"
        " clip_id INTEGER REFERENCES clip (id) ON DELETE CASCADE, classes TEXT NOT NULL, name TEXT NOT NULL,"
        " probability FLOAT NOT NULL, seal INTEGER)",
        "CREATE INDEX IF NOT EXISTS label_by_name ON label (name, video_id, clip_id)",
        "CREATE INDEX IF NOT EXISTS label_by_video ON label (video_id, clip_id)",
        "CREATE INDEX IF NOT EXISTS label_by_clip ON label (clip_id)",
        *(
            f"CREATE TRIGGER IF NOT EXISTS label_{event.lower()} AFTER {event} ON embedding BEGIN DELETE FROM label"
            f" WHERE clip_id = {row}.clip_id; DELETE FROM label WHERE clip_id IS NULL AND video_id ="
            f" (SELECT video_id FROM clip WHERE id = {row}.clip_id); END"
            for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD"))
        ),
    ),
}
# Of a new library, too.
TRIGGERS = tuple(
    statement
    for name in ("record_index_changes", "store_labels")
    for statement in MIGRATIONS[name]
    if statement.startswith("CREATE TRIGGER")
)
# What older readers must know of to read a library: one that knows no tracks takes the text of all for speech.
BREAKING = (
    *("create_tables", "create_full_text_index", "index_every_script", "give_segments_a_track", "separate_frames"),
    "list_index_segments",
)
# Without these, today's reader cannot read a library.
REQUIRED = frozenset({"create_tables", "create_full_text_index", "index_every_script"})
# The setting that says how many of BREAKING a reader must know to read the library.
MIN_READER = "min_reader"
# Selects the tables of a library with their columns, in order; not the virtual one of full text, which may be damaged.
EVERY_COLUMN = (
    "SELECT m.name, c.name FROM main.sqlite_master m JOIN pragma_table_info(m.name, 'main') c"
    " WHERE m.type = 'table' AND m.rootpage > 0 ORDER BY m.name, c.cid"
)
# Without it nobody knows the version of a library: its tables must not be taken for those of today.
LOST_LIST = "library.db has lost the rows of its table migration; run: vfindex repair"
# Keys in SQLAlchemy's `info` of a connection: the statements of `complete` whose tables and views it has, and of those
# that its transaction has made.
_COMPLETED, _COMPLETING = "completed", "completing"
# Done by a copy, not by statements in place.
BY_COPY = "separate_frames"
# Before it, the times and vectors of a clip's frames stood behind each other in a column of its row in `embedding`,
# after their number in 4 bytes, and `crc32` was of both columns.
_COUNT = "((length(e.frames) - 4) / (8 + length(e.vector)))"
_TIMES, _VECTORS = f"substr(e.frames, 5, 8 * {_COUNT})", f"substr(e.frames, 5 + 8 * {_COUNT})"
# A damaged row stays one: no checksum is negative. Damaged text may not be UTF-8.
_CHECKED = "CASE WHEN e.crc32 = crc32_of(CAST(e.vector AS BLOB), CAST(e.frames AS BLOB)) THEN crc32_of({}) ELSE -1 END"
_STAGED = "substr(e.fingerprint, 1, 1) = '+'"
# Column -> its value where it was another one, as `MIGRATIONS` make it too; `e` is the row.
_FORMER = {"state_before": "e.state"}
# Table -> column -> its value in a library from before the copy; `e` is the row.
_EARLIER: Mapping[str, Mapping[str, str]] = {
    "embedding": {"crc32": _CHECKED.format("e.vector")},
    "frame": {"times": _TIMES, "vectors": _VECTORS, "crc32": _CHECKED.format(f"{_TIMES}, {_VECTORS}")},
    "video": {
        "fingerprint": f"CASE WHEN {_STAGED} THEN substr(e.fingerprint, 2) ELSE e.fingerprint END",
        "staged": _STAGED,
        "seal": f"CASE WHEN {_STAGED} THEN NULL ELSE e.seal END",
        "held": "e.held + (SELECT count(*) FROM {place}.clip c JOIN {place}.embedding o ON o.clip_id = c.id"
        " WHERE c.video_id = e.id AND o.frames IS NOT NULL)",
    },
}


def migrate(connection: Connection) -> None:
    """Bring the database up to date inside the caller's transaction.

    Raises LibraryVersion if it holds migrations that this vfindex does not know, LibraryDamaged if it has lost their
    list.
    """
    if is_before_copy(connection):
        raise LibraryVersion("this library was written by an older vfindex; run `vfindex ingest` once to update it")
    lacking = _lacking(connection)
    if len(lacking) == len(MIGRATIONS):
        create_tables(connection)
    elif lacking:
        _apply(connection, lacking)
        seal_rows(connection)
        count_rows_of(connection)
    _record(connection, lacking)
    keep_seals(connection)
    begin_counts(connection)
    connection.execute(
        text(f"DELETE FROM meta WHERE key IN ('{MIN_READER}', '{FOLD_KEY}') AND {is_broken(schema.meta)}")
    )  # both are known without it, or made again
    if min_reader(connection) != len(BREAKING):
        values = {"key": MIN_READER, "value": str(len(BREAKING))}
        connection.execute(text("INSERT OR REPLACE INTO meta (key, value) VALUES (:key, :value)"), values)
    held = stored_fold(connection)
    if held > FOLD:
        raise LibraryVersion(
            "this library was written by a newer vfindex (its words are folded in another way); "
            "upgrade with: pip install --upgrade vfindex"
        )
    if held < FOLD:
        rebuild_index(connection)


def migrate_in_place(connection: Connection) -> None:
    """Bring a library from before `BY_COPY` to where the copy begins, which makes that and all later migrations."""
    names = list(MIGRATIONS)
    lacking = [name for name in _lacking(connection) if names.index(name) < names.index(BY_COPY)]
    _apply(connection, lacking)
    _record(connection, lacking)
    if lacking:
        values = {"key": MIN_READER, "value": str(len(BREAKING) - 1)}
        connection.execute(text("INSERT OR REPLACE INTO meta (key, value) VALUES (:key, :value)"), values)


def is_before_copy(connection: Connection) -> bool:
    """Return whether a library has the layout from before `BY_COPY`."""
    return "frames" in _columns(connection, "embedding")


def _lacking(connection: Connection) -> list[str]:
    """Return the migrations that the database lacks, in order. Raises as `refuse_newer`, LibraryDamaged."""
    applied = applied_migrations(connection)
    if has_lost_list(connection, applied):
        raise LibraryDamaged(LOST_LIST)
    refuse_newer(applied)
    return [name for name in MIGRATIONS if name not in applied]


def refuse_newer(applied: Iterable[str]) -> None:
    """Raise LibraryVersion if a library has had a migration that this vfindex does not know."""
    newer = sorted(set(applied) - MIGRATIONS.keys())
    if newer:
        raise LibraryVersion(
            f"this library was written by a newer vfindex (it has the migration '{newer[0]}'); "
            "upgrade with: pip install --upgrade vfindex"
        )


def has_lost_list(connection: Connection, applied: Collection[str]) -> bool:
    """Return whether a library has lost its list of migrations, or names in it are damaged.

    applied: the list. A newer library has had all of today's migrations.
    """
    known = MIGRATIONS.keys() & set(applied)
    is_damaged = len(known) < len(MIGRATIONS) and len(known) < len(applied)
    return is_damaged or (not applied and _has_tables(connection))


def _has_tables(connection: Connection) -> bool:
    """Return whether a database has a table of a library."""
    tables = connection.scalars(text("SELECT name FROM main.sqlite_master WHERE type = 'table'"))
    return not schema.metadata.tables.keys().isdisjoint(tables)


def _apply(connection: Connection, names: Sequence[str]) -> None:
    for statement in (statement for name in names for statement in MIGRATIONS[name]):
        _execute(connection, statement)


def _record(connection: Connection, names: Sequence[str]) -> None:
    now = datetime.now(UTC).isoformat(timespec="seconds")
    for name in names:
        connection.execute(insert(schema.migration).values(name=name, applied_at=now))


def _execute(connection: Connection, statement: str) -> None:
    """Execute a statement, unless it adds a column that is there: a damaged table of migrations may lack a row."""
    added = re.match(r"ALTER TABLE (\w+) (?:ADD COLUMN|RENAME COLUMN \w+ TO) (\w+)", statement)
    if added is None or added[2] not in _columns(connection, added[1]):
        connection.exec_driver_sql(statement)


def _columns(connection: Connection, table: str) -> list[str]:
    return [row.name for row in connection.execute(text(f"PRAGMA main.table_info({table})"))]


def create_tables(connection: Connection) -> None:
    """Create today's tables, and the triggers that record changed vectors, in an empty database.

    `migrate` creates the index of words.
    """
    schema.metadata.create_all(connection)
    for statement in TRIGGERS:
        connection.exec_driver_sql(statement)


def min_reader(connection: Connection) -> int:
    """Return how many breaking migrations a reader of this library must know; 0 before that was recorded."""
    stored = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == MIN_READER))
    return int(stored) if isinstance(stored, str) and stored.isdecimal() else 0


def completing_statements(connection: Connection) -> tuple[str, ...]:
    """Return the SQL that gives a reader of an older library the tables and columns that it lacks; () if it lacks none.

    It makes temporary tables and views, which come before those of the library under the same names, see `complete`.
    Raises LibraryNotFound for a database without tables, LibraryDamaged for one that has lost its list of migrations,
    LibraryVersion for one that needs a newer reader or lacks a breaking migration.
    """
    applied = set(applied_migrations(connection))
    if not applied and _has_tables(connection):
        raise LibraryDamaged(LOST_LIST)
    if not applied:
        raise LibraryNotFound("the library is empty: its making was broken off; run `vfindex ingest` again")
    if "seal_all_rows" in applied:
        setting(connection, MIN_READER)  # a damaged one does not tell of a newer vfindex
    if min_reader(connection) > len(BREAKING):
        raise LibraryVersion(
            "this library was written by a newer vfindex and cannot be read by this one; "
            "upgrade with: pip install --upgrade vfindex"
        )
    if not applied >= REQUIRED:
        raise LibraryVersion(
            "this library was written by an older vfindex; run `vfindex ingest` once with this version to update it"
        )
    return (
        () if applied >= MIGRATIONS.keys() else tuple(temporary_tables(connection.exec_driver_sql(EVERY_COLUMN).all()))
    )


def complete(connection: Connection, statements: Sequence[str]) -> None:
    """Execute the `completing_statements` of a snapshot, unless its connection has their tables and views."""
    made = connection.info.get(_COMPLETED, ())
    connection.info.pop(_COMPLETING, None)  # of a transaction that failed
    if made == statements:
        return
    kinds = "SELECT type, name FROM temp.sqlite_master WHERE type IN ('table', 'view')"
    for kind, name in connection.exec_driver_sql(kinds).all() if made else ():
        if name in schema.metadata.tables:
            connection.exec_driver_sql(f"DROP {kind} temp.{name}")
    for statement in statements:
        connection.exec_driver_sql(statement)
    connection.info[_COMPLETING] = statements


def keep_completed(connection: Connection) -> None:
    """End a snapshot in which nothing failed so that its connection keeps the tables and views of `complete`.

    Otherwise every snapshot would make them, and SQLite would compile every statement anew: 2 ms of a search.
    """
    statements = connection.info.pop(_COMPLETING, None)
    if statements is not None:
        connection.commit()
        connection.info[_COMPLETED] = statements


def temporary_tables(columns: Iterable[Iterable[str]], *, counts: bool = True) -> Iterator[str]:
    """Yield the statements that show an older library as one of today.

    Temporary tables and views come before those of the library under the same names. columns: rows of EVERY_COLUMN.
    counts: see `rows_of`.
    """
    columns_of: dict[str, list[str]] = {}
    for table_name, column_name in columns:
        columns_of.setdefault(table_name, []).append(column_name)
    is_before = "frames" in columns_of.get("embedding", ())
    for table in schema.metadata.sorted_tables:
        names = [column.name for column in table.columns]
        stored = columns_of.get(_source(table, is_before))
        if stored is None:
            yield f"CREATE TEMP TABLE {table.name} ({', '.join(names)})"
        elif not set(names) <= set(stored):
            yield f"CREATE TEMP VIEW {table.name} AS {rows_of(table, stored, is_before, counts=counts)}"


def rows_of(table: Table, stored: Sequence[str], is_before: bool, *, place: str = "main", counts: bool = True) -> str:
    """Return the SELECT of a table's rows, with today's columns, in an older library; the row is `e`.

    They have their row ids too, except those of the old `embedding`. stored: the columns that the library has.
    is_before: it has the layout from before `BY_COPY`. place: the database's name. counts: frames count among the rows
    of a video, which reads other tables.
    """
    earlier = _EARLIER.get(table.name, {}) if is_before else {}

    def value(column: Column[Any]) -> str:
        name = column.name
        is_known = name in stored or name not in ("seal", "held")
        if name in earlier and is_known and (counts or name != "held"):
            return f"{earlier[name].format(place=place)} AS {name}"
        return f"e.{name}" if name in stored else f"{_FORMER.get(name) or _default(column)} AS {name}"

    has_row_ids = not (is_before and _source(table, is_before) == schema.embedding.name)
    shown = ", ".join([*(["e.rowid AS rowid"] if has_row_ids else []), *map(value, table.columns)])
    source = f"SELECT {shown} FROM {place}.{_source(table, is_before)} e"
    return f"{source} WHERE e.frames IS NOT NULL" if is_before and table is schema.frame else source


def _source(table: Table, is_before: bool) -> str:
    """Return the table of an older library that has the rows of `table`."""
    return schema.embedding.name if is_before and table is schema.frame else table.name


def _default(column: Column[Any]) -> str:
    default = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    return "NULL" if default is None else f"CAST('{default}' AS {column.type})"


def applied_migrations(connection: Connection) -> list[str]:
    """Return the names of the migrations that this database has had."""
    known = text("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'migration'")
    if not connection.scalar(known):
        return []
    return list(connection.scalars(select(schema.migration.c.name)))
