"""Damage in library.db: lost tables, damaged rows of videos, a full text index that differs from its documents."""

from __future__ import annotations

import re
import sqlite3
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from typing import NamedTuple

from sqlalchemy import Engine, text
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.engine import any_text, translated
from vfindex.storage.db.integrity import damaged_rows, paths_of
from vfindex.storage.db.migrations import BY_COPY, LOST_LIST, MIGRATIONS, applied_migrations, has_lost_list
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged, counted
from vfindex.storage.text.folding import FOLD_KEY, fold_of
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

_REPAIR = "; run: vfindex repair"
# At most this many documents with wrong words are counted, so that memory stays bounded.
MANY = 10_000
# At most this many reasons are kept of a video; one is shown, with the number of the others.
_MOST_REASONS = 100
# Lost parts named in a sentence.
_NAMED = 5
# Selects the parts of a database; columns not of the virtual table of full text, which may be damaged.
EVERY_PART = (
    "SELECT tbl_name, type, name FROM main.sqlite_master WHERE type != 'view' AND name NOT LIKE 'sqlite_%'"
    " UNION ALL SELECT m.name, 'column', c.name FROM main.sqlite_master m JOIN pragma_table_info(m.name, 'main') c"
    " WHERE m.type = 'table' AND m.rootpage > 0 AND m.name NOT LIKE 'sqlite_%'"
)
_MAKES = re.compile(
    r"CREATE (?:TABLE|INDEX|TRIGGER) IF NOT EXISTS (\w+)|ALTER TABLE (\w+) (?:ADD COLUMN|RENAME COLUMN \w+ TO) (\w+)"
)
# What the migration by copy makes: a table, and columns.
_MADE_BY_COPY = ("frame", "video.staged", "embedding.id")


class Part(NamedTuple):
    """A table, a column, an index or a trigger, and the table that it is of."""

    table: str
    kind: str
    name: str


@dataclass(frozen=True, slots=True)
class DamagedVideo:
    """A video with damaged rows. paths: of its locations and tombstones. reasons: one a damaged row."""

    id: int
    paths: tuple[bytes, ...]
    reasons: tuple[str, ...]


def lost_parts(stored: Iterable[Sequence[str]], applied: Collection[str]) -> list[Part]:
    """Return what a library has lost of the tables of its version, in order; of a lost table the table alone.

    stored: rows of EVERY_PART. applied: its migrations. [] for a database without tables, and for a library of a newer
    vfindex, whose tables are not known.
    """
    there = {Part(*row) for row in stored}
    is_empty = schema.metadata.tables.keys().isdisjoint(part.name for part in there)
    if is_empty or MIGRATIONS.keys() < set(applied):
        return []
    later = set(_made_by(MIGRATIONS.keys() - set(applied)))
    lost = {part for part in _parts_of_today() - there if later.isdisjoint(_names(part))}
    tables = {part.table for part in lost if part.kind == "table"}
    return sorted(part for part in lost if part.kind == "table" or part.table not in tables)


def lost_schema(engine: Engine) -> list[str]:
    """Return what a library has lost of its tables, as sentences.

    [] also where SQLite cannot read the list of tables, which its own check reports.
    """
    try:
        with engine.connect() as connection, any_text(connection):
            stored = [Part(*row) for row in connection.exec_driver_sql(EVERY_PART)]
            has_list = Part(schema.migration.name, "column", "name") in stored
            applied = applied_migrations(connection) if has_list else []
            faults = [LOST_LIST] if has_lost_list(connection, applied) else []
            parts = lost_parts(stored, applied)
    except DBAPIError as exc:
        if not isinstance(error := translated(exc), LibraryDamaged):
            raise error from exc
        return []
    lost = [part for part in parts if part.name != schema.migration.name]  # already said
    if lost:
        words = [f"{kind} {name}" if kind != "column" else f"column {table}.{name}" for table, kind, name in lost]
        more = f" and {len(words) - _NAMED} more" if len(words) > _NAMED else ""
        faults.append(f"library.db has lost: {', '.join(words[:_NAMED])}{more}{_REPAIR}")
    return faults


@cache
def _parts_of_today() -> frozenset[Part]:
    catalog = Catalog.open(None)
    try:
        with catalog.transaction() as connection:
            return frozenset(Part(*row) for row in connection.exec_driver_sql(EVERY_PART))
    finally:
        catalog.close()


def _made_by(migrations: Collection[str]) -> Iterator[str]:
    """Yield the names of tables, indexes, triggers and, as TABLE.COLUMN, of columns that migrations make."""
    for statement in (statement for name in migrations for statement in MIGRATIONS[name]):
        if made := _MAKES.match(statement):
            yield made[1] or f"{made[2]}.{made[3]}"
    if BY_COPY in migrations:
        yield from _MADE_BY_COPY


def _names(part: Part) -> set[str]:
    """Return the names in `_made_by` under which a part, or its table, may be made."""
    return {part.table, f"{part.table}.{part.name}" if part.kind == "column" else part.name}


def damaged_videos(snapshot: Snapshot) -> list[DamagedVideo]:
    """Return the videos with rows that do not match their checksums, or that lack rows, in order of id.

    Raises LibraryDamaged if SQLite cannot read them.
    """
    reasons: dict[int, list[str]] = {}
    with snapshot.any_text():
        for video_id, reason in damaged_rows(snapshot.stream):
            of_video = reasons.setdefault(video_id, [])
            if len(of_video) < _MOST_REASONS:
                of_video.append(reason)
    paths = paths_of(snapshot.stream, reasons)
    return [DamagedVideo(id_, tuple(paths.get(id_, ())), tuple(found)) for id_, found in sorted(reasons.items())]


def false_words(engine: Engine) -> list[str]:
    """Return the faults of the full text index.

    It is compared, word by word, with an index of all documents in a temporary file: missing words, and words that
    should be gone. 1 s for 40,000 segments of ten words.
    """
    query = text(
        "SELECT count(*) FROM segment s LEFT JOIN document d ON d.segment_id = s.id"
        " WHERE d.text IS NULL OR d.text != s.text"
    )
    try:
        with engine.connect() as connection:
            if strays := connection.execute(query).scalar_one():
                return [f"full text search has other words for {counted(strays, 'segment')} of transcript{_REPAIR}"]
            driver = connection.connection.driver_connection
            return _compared_words(driver) if isinstance(driver, sqlite3.Connection) else []
    except (DBAPIError, sqlite3.Error) as exc:
        if not isinstance(error := translated(exc), LibraryDamaged):
            raise error from exc
        return [f"the words of full text search cannot be read ({getattr(exc, 'orig', exc)}){_REPAIR}"]


def _compared_words(connection: sqlite3.Connection) -> list[str]:
    """Return how the full text index differs from one made of the documents."""
    connection.execute(
        f"CREATE VIRTUAL TABLE temp.expected USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\")"
    )
    stored = connection.execute("SELECT value FROM meta WHERE key = ?", (FOLD_KEY,)).fetchone()
    fold = fold_of(stored and stored[0])
    rows = connection.execute("SELECT id, text FROM document ORDER BY id")
    connection.executemany(
        "INSERT INTO temp.expected(rowid, text) VALUES (?, ?)", ((id_, index_form(words, fold)) for id_, words in rows)
    )
    found = _instances(connection, "main", "document_fts")
    missing, extra = _differences(_instances(connection, "temp", "expected"), found)
    sizes = "SELECT id FROM document_fts_docsize"
    orphans = connection.execute(f"{sizes} WHERE id NOT IN (SELECT id FROM document) LIMIT {MANY}")
    extra.update(id_ for (id_,) in orphans)
    lengths = "main.document_fts_docsize a JOIN temp.expected_docsize b ON a.id = b.id"
    extra.update(
        id_ for (id_,) in connection.execute(f"SELECT a.id FROM {lengths} WHERE a.sz IS NOT b.sz LIMIT {MANY}")
    )
    absent = connection.execute(f"SELECT id FROM document WHERE id NOT IN ({sizes}) LIMIT {MANY}")
    missing.update(id_ for (id_,) in absent)
    total = connection.execute("SELECT count(*) FROM document").fetchone()[0]
    faults = []
    if missing:
        faults.append(f"titles, tags or segments are missing from full text search: {len(missing)} of {total}{_REPAIR}")
    if extra:
        what = "titles, tags or segments that are gone or say something else"
        faults.append(f"full text search still finds words of {what}: {len(extra)}{_REPAIR}")
    totals = [
        connection.execute(f"SELECT block FROM {name}_data WHERE id = 1").fetchone()
        for name in ("main.document_fts", "temp.expected")
    ]
    if not faults and _counts(totals[0]) != _counts(totals[1]):
        faults.append(f"full text search counts other numbers of words and documents than there are{_REPAIR}")
    return faults


def _counts(row: tuple[bytes] | None) -> bytes:
    """Return the totals of a full text index, b"" for zeros: a new index has none, an emptied one zeros."""
    block = row[0] if row else b""
    return block if any(block) else b""


def _instances(connection: sqlite3.Connection, database: str, table: str) -> Iterator[tuple[str, int, int]]:
    """Yield (word, document, position) of a full text index, increasing."""
    name = f"temp.instances_of_{table}"
    connection.execute(f"CREATE VIRTUAL TABLE {name} USING fts5vocab('{database}', '{table}', 'instance')")
    yield from connection.execute(f"SELECT term, doc, offset FROM {name}")


def _differences(
    expected: Iterator[tuple[str, int, int]], found: Iterator[tuple[str, int, int]]
) -> tuple[set[int], set[int]]:
    """Return (documents of words in `expected` only, those of words in `found` only), up to MANY of either."""
    missing: set[int] = set()
    extra: set[int] = set()
    end = (chr(0x10FFFF), 0, 0)  # behind every word
    left, right = next(expected, end), next(found, end)
    while (left, right) != (end, end) and len(missing) < MANY and len(extra) < MANY:
        if left < right:
            missing.add(left[1])
        elif right < left:
            extra.add(right[1])
        behind = (left <= right, right <= left)
        left = next(expected, end) if behind[0] else left
        right = next(found, end) if behind[1] else right
    return missing, extra


def indexed_documents(engine: Engine) -> int | None:
    """Return how many documents full text search has words of, all of it read; None where it cannot be read.

    SQLite's own check of such an index needs a writer, and its general check looks into none before version 3.44.
    """
    walk = text("CREATE VIRTUAL TABLE IF NOT EXISTS temp.indexed USING fts5vocab('main', 'document_fts', 'instance')")
    try:
        with engine.connect() as connection:
            connection.execute(walk)
            return int(connection.execute(text("SELECT count(DISTINCT doc) FROM temp.indexed")).scalar_one())
    except DBAPIError as exc:
        if not isinstance(error := translated(exc), LibraryDamaged):
            raise error from exc
        return None
