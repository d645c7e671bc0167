"""How a library.db of any age becomes one of today: named functions, run in order, each recorded by its name.

To change the tables, change `schema.py` and append a function to `MIGRATIONS`. It is never edited once released, and
begins with a test of whether its table or column is there, for `create_tables` makes today's tables in a new library.
One that changes rows ends with `seal_rows`.

- An additive migration adds a table or a column whose rows older readers may ignore. A new column has a server default
  or may be NULL. Nothing else is needed: older readers ignore what they do not know, and `complete_schema` gives a
  reader of an older library an empty table, or the default as a column, so that its queries need not ask.
- A breaking migration changes the meaning of what readers read. It is appended to `BREAKING` too. Older readers then
  refuse the library (its setting `min_reader` is above theirs), and today's refuse a library without the migration.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from sqlalchemy import Column, Connection, DefaultClause, insert, select, text

from vfindex.storage.db import schema
from vfindex.storage.db.documents import rebuild_index, stored_fold
from vfindex.storage.db.integrity import (
    HELD,
    SEAL,
    SEALED,
    begin_counts,
    count_rows_of,
    is_broken,
    keep_seals,
    seal_rows,
    setting,
)
from vfindex.storage.errors import LibraryNotFound, LibraryVersion
from vfindex.storage.text.folding import FOLD, FOLD_KEY


def create_tables(connection: Connection) -> None:
    """Create every table of the first release."""
    schema.metadata.create_all(connection)


def create_full_text_index(connection: Connection) -> None:
    """Create `document_fts` over `document`. The catalogue keeps the two equal, not triggers: `trusted_schema=OFF`
    forbids triggers that write to virtual tables.

    Porter's stemmer lets "dogs" find "dog"; unicode61 folds case and accents.
    """
    connection.execute(
        text(
            "CREATE VIRTUAL TABLE document_fts USING fts5(text, content='document', content_rowid='id',"
            " tokenize='porter unicode61 remove_diacritics 2')"
        )
    )


def index_every_script(connection: Connection) -> None:
    """Rebuild `document_fts` from `tokenizer.index_form` of each document, so that words of scripts without spaces
    are found.
    """
    rebuild_index(connection)


def create_roots(connection: Connection) -> None:
    """Create `root`; a library from before it learns its roots from the next `vfindex ingest` of them."""
    schema.root.create(connection, checkfirst=True)


def let_videos_vanish(connection: Connection) -> None:
    """Create `tombstone`, and give `video` the state `vanished` and a column for the state before it.

    SQLite cannot change the check of a column, and replacing the table would delete the clips of its rows (cascade). So
    the old column becomes `state_before`, with its check, and `state` is a new column.
    """
    schema.tombstone.create(connection, checkfirst=True)
    columns = [row.name for row in connection.execute(text("PRAGMA table_info(video)"))]
    if "state_before" in columns:
        return
    connection.execute(text("ALTER TABLE video RENAME COLUMN state TO state_before"))
    connection.execute(
        text(
            "ALTER TABLE video ADD COLUMN state TEXT NOT NULL DEFAULT 'indexing' CHECK (state IN"
            " ('indexing', 'indexed', 'partial', 'failed', 'quarantined', 'vanished'))"
        )
    )
    connection.execute(text("UPDATE video SET state = state_before"))


def create_attempts(connection: Connection) -> None:
    """Create `attempt`; of earlier failures only the last reason is known."""
    schema.attempt.create(connection, checkfirst=True)


def remember_what_lies_beside(connection: Connection) -> None:
    """Give locations and tombstones a column for the sidecar state; for "" the sidecars are read once more."""
    for table in ("location", "tombstone"):
        _add_column(connection, table, "beside TEXT NOT NULL DEFAULT ''")


def mark_coarse_videos(connection: Connection) -> None:
    """Give `video` a column for previews; before it, all videos were indexed fully."""
    _add_column(connection, "video", "coarse INTEGER NOT NULL DEFAULT 0")


def fold_words(connection: Connection) -> None:
    """Index words again in one form for case, accents and widths (`folding.folded`); its version is a setting."""
    if stored_fold(connection) != FOLD:
        rebuild_index(connection)


def record_index_changes(connection: Connection) -> None:
    """Create `index_change`, the triggers that fill it, and an index of the videos that are not searchable.

    Earlier versions copied the vectors of changed clips from one large index (more than 50,000 clips) to the next.
    Such an index, and one that was older than its clips, is not trusted: all of its clips count as changed, so
    searches scan them exactly until the next run has built an index from nothing.
    """
    schema.index_change.create(connection, checkfirst=True)
    connection.execute(
        text("CREATE INDEX IF NOT EXISTS video_unsearchable ON video (id) WHERE state NOT IN ('indexed', 'partial')")
    )
    newest = "(SELECT watermark FROM generation ORDER BY id DESC LIMIT 1)"
    for event, row in (("INSERT", "NEW"), ("UPDATE", "NEW"), ("DELETE", "OLD")):
        connection.execute(
            text(
                f"CREATE TRIGGER IF NOT EXISTS index_change_{event.lower()} AFTER {event} ON embedding"
                f" WHEN {row}.clip_id <= {newest}"
                f" BEGIN INSERT OR IGNORE INTO index_change VALUES ({row}.clip_id); END"
            )
        )
    trusted = text(
        "SELECT clips <= 50000 AND NOT EXISTS (SELECT 1 FROM meta WHERE key = 'changed' AND value = 'stale')"
        " FROM generation ORDER BY id DESC LIMIT 1"
    )
    if connection.scalar(trusted) == 0:
        connection.execute(text(f"INSERT OR IGNORE INTO index_change SELECT id FROM clip WHERE id <= {newest}"))
        connection.execute(text("INSERT OR REPLACE INTO meta (key, value) VALUES ('changed', 'stale')"))


def remember_removals(connection: Connection) -> None:
    """Create `exclusion`, for paths that were removed, and `begun`, for the paths of unfinished videos."""
    schema.exclusion.create(connection, checkfirst=True)
    schema.begun.create(connection, checkfirst=True)


def _add_column(connection: Connection, table: str, column: str) -> None:
    columns = [row.name for row in connection.execute(text(f"PRAGMA table_info({table})"))]
    if column.split()[0] not in columns:
        connection.execute(text(f"ALTER TABLE {table} ADD COLUMN {column}"))


def seal_all_rows(connection: Connection) -> None:
    """Give rows a checksum: a column `seal`, of all that is there as it is."""
    give_segments_a_track(connection)  # a seal is of today's columns
    for table in SEALED:
        _add_column(connection, table.name, f"{SEAL} INTEGER")
    seal_rows(connection)


def count_rows(connection: Connection) -> None:
    """Give `video` a column for the number of its rows, and count them."""
    _add_column(connection, "video", f"{HELD} INTEGER")
    count_rows_of(connection)


def give_segments_a_track(connection: Connection) -> None:
    """Give `segment` a column for its modality; before it, all segments were speech."""
    _add_column(connection, "segment", "track TEXT NOT NULL DEFAULT 'speech'")


MIGRATIONS: tuple[Callable[[Connection], None], ...] = (
    create_tables,
    create_full_text_index,
    index_every_script,
    create_roots,
    let_videos_vanish,
    create_attempts,
    remember_what_lies_beside,
    mark_coarse_videos,
    fold_words,
    record_index_changes,
    remember_removals,
    seal_all_rows,
    count_rows,
    give_segments_a_track,
)
# Without these a reader cannot read a library; all others are additive.
BREAKING: tuple[Callable[[Connection], None], ...] = (create_tables, create_full_text_index, index_every_script)
# The setting that says how many of BREAKING a reader must know to read the library.
MIN_READER = "min_reader"


def migrate(connection: Connection) -> None:
    """Bring the database up to date inside the caller's transaction.

    Raises LibraryVersion if it holds migrations that this vfindex does not know.
    """
    known = [function.__name__ for function in MIGRATIONS]
    applied = applied_migrations(connection)
    newer = sorted(set(applied) - set(known))
    if newer:
        raise LibraryVersion(
            f"this library was written by a newer vfindex (it has the migration '{newer[0]}'); "
            "upgrade with: pip install --upgrade vfindex"
        )
    schema.migration.create(connection, checkfirst=True)
    for function in MIGRATIONS:
        if function.__name__ not in applied:
            function(connection)
            now = datetime.now(UTC).isoformat(timespec="seconds")
            connection.execute(insert(schema.migration).values(name=function.__name__, applied_at=now))
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


def min_reader(connection: Connection) -> int:
    """Return how many breaking migrations a reader of this library must know; 0 before that was recorded."""
    stored = connection.scalar(select(schema.meta.c.value).where(schema.meta.c.key == MIN_READER))
    return int(stored) if isinstance(stored, str) and stored.isdecimal() else 0


def check_readable(connection: Connection) -> bool:
    """Return whether the library has today's tables and columns, or `complete_schema` must be called.

    Raises LibraryNotFound for a database without tables, LibraryVersion for one that needs a newer reader or lacks a
    breaking migration.
    """
    applied = set(applied_migrations(connection))
    if not applied:
        raise LibraryNotFound("the library is empty: its making was broken off; run `vfindex ingest` again")
    if seal_all_rows.__name__ in applied:
        setting(connection, MIN_READER)  # a damaged one does not tell of a newer vfindex
    if min_reader(connection) > len(BREAKING):
        raise LibraryVersion(
            "this library was written by a newer vfindex and cannot be read by this one; "
            "upgrade with: pip install --upgrade vfindex"
        )
    if not applied.issuperset(function.__name__ for function in BREAKING):
        raise LibraryVersion(
            "this library was written by an older vfindex; run `vfindex ingest` once with this version to update it"
        )
    return applied.issuperset(function.__name__ for function in MIGRATIONS)


def complete_schema(connection: Connection) -> None:
    """Give a reader of an older library the tables and columns that it lacks, until its transaction ends.

    Temporary tables and views come before those of the library under the same names.
    """
    for table in schema.metadata.sorted_tables:
        stored = [row.name for row in connection.execute(text(f"PRAGMA main.table_info({table.name})"))]
        if not stored:
            columns = ", ".join(column.name for column in table.columns)
            connection.execute(text(f"CREATE TEMP TABLE {table.name} ({columns})"))
        elif missing := [column for column in table.columns if column.name not in stored]:
            shown = ", ".join([*stored, *(f"{_default(column)} AS {column.name}" for column in missing)])
            connection.execute(text(f"CREATE TEMP VIEW {table.name} AS SELECT {shown} FROM main.{table.name}"))


def _default(column: Column[Any]) -> str:
    default = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    return "NULL" if default is None else f"CAST('{default}' AS {column.type})"


def applied_migrations(connection: Connection) -> list[str]:
    """Return the names of the migrations that this database has had."""
    known = text("SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'migration'")
    if not connection.scalar(known):
        return []
    return list(connection.scalars(select(schema.migration.c.name)))
