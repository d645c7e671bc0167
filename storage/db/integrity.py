"""Row integrity: checksums and counts that reveal a changed or lost row, and the checks of all rows against them.

A row's seal is the exclusive or, over its columns, of a CRC-32 of the name and the value. A column that is NULL or at
its default counts 0, so that an additive migration breaks no seal. Temporary triggers on the writer's connection keep
seals; SQLite forgets these with the connection, and no statement can leave a seal out. Rows from before seals have NULL
until the migration that adds the column. Vectors have a checksum of their own, and are too large to be written twice.

A video's column `held` counts the rows of its own: places, tries, units, clips, vectors, rows of frames and segments.
Settings count videos, roots, exclusions, labels and settings. Temporary triggers keep these too. NULL, as a row has it
that was not counted yet, says nothing. Words of full text search are derived, and compared with what they are derived
from.
"""

from __future__ import annotations

import json
import sqlite3
import zlib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any

from sqlalchemy import Column, Connection, DefaultClause, Table, Text, select, text
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.errors import LibraryDamaged, counted
from vfindex.storage.joint.codecs import checksum
from vfindex.storage.modalities import modality_names

SEAL = "seal"
# The column of `video` that counts its rows, and changes with every one of them, so no seal has it.
HELD = "held"
# Prefix of text that is cast to bytes, so that text and bytes have different checksums.
_TEXT = "t"
SEALED: tuple[Table, ...] = tuple(
    table for table in schema.metadata.sorted_tables if SEAL in {column.name for column in table.columns}
)


def register(connection: sqlite3.Connection) -> None:
    """Register the SQL functions `seal_TABLE(columns...)` and `crc32_of(parts...)` on a connection."""
    for table in SEALED:
        columns = _columns(table)
        keys = [(column.name.encode() + b"\0", _default(column)) for column in columns]
        connection.create_function(f"seal_{table.name}", len(columns), _Seal(keys), deterministic=True)
    connection.create_function("crc32_of", -1, checksum, deterministic=True)


class _Seal:
    def __init__(self, keys: list[tuple[bytes, bytes | None]]) -> None:
        self._keys = keys

    def __call__(self, *values: object) -> int:
        seal = 0
        for (name, default), value in zip(self._keys, values, strict=True):
            data = value if isinstance(value, bytes) else None if value is None else repr(value).encode()
            if data is not None and data != default:
                seal ^= zlib.crc32(data, zlib.crc32(name))
        return seal


def keep_seals(connection: Connection) -> None:
    """Create the triggers that seal every row this connection writes."""
    for table in SEALED:
        names = ", ".join(f'"{column.name}"' for column in _columns(table))
        update = f"UPDATE {table.name} SET {SEAL} = {seal_of(table, 'NEW.')} WHERE rowid = NEW.rowid"
        for event in ("INSERT", f"UPDATE OF {names}"):
            name = f"seal_{table.name}_{event[:6].lower()}"
            connection.exec_driver_sql(
                f"CREATE TEMP TRIGGER IF NOT EXISTS {name} AFTER {event} ON main.{table.name} BEGIN {update}; END"
            )


def seal_rows(connection: Connection) -> None:
    """Seal the rows without a seal as they are."""
    for table in SEALED:
        seal = seal_of(table, f"{table.name}.")
        connection.exec_driver_sql(f"UPDATE {table.name} SET {SEAL} = {seal} WHERE {SEAL} IS NULL")


def seal_of(table: Table, prefix: str) -> str:
    """Return the SQL of a row's seal. Text is cast to bytes, because damaged text may not be UTF-8.

    prefix: of columns, the row's name and a dot. SQLite takes a bare name in quotes, of a column that a table lacks,
    for a text.
    """
    as_bytes = "CASE typeof({0}) WHEN 'text' THEN CAST('" + _TEXT + "' || {0} AS BLOB) ELSE {0} END"
    names = (f'{prefix}"{column.name}"' for column in _columns(table))
    return f"seal_{table.name}({', '.join(map(as_bytes.format, names))})"


def is_broken(table: Table) -> str:
    """Return the SQL condition that a row does not match its seal."""
    return f"{table.name}.{SEAL} IS NOT NULL AND {table.name}.{SEAL} IS NOT {seal_of(table, table.name + '.')}"


def setting(connection: Connection, key: str) -> str | None:
    """Return a setting, or None. Raises LibraryDamaged if its row does not match its seal."""
    query = text(f"SELECT value, {is_broken(schema.meta)} AS broken FROM meta WHERE key = :key")
    row = connection.execute(query, {"key": key}).first()
    if row is None:
        return None
    if row.broken:
        raise LibraryDamaged(f"the library's setting '{key}' is not as it was written; run: vfindex repair")
    return str(row.value)


def _columns(table: Table) -> list[Column[Any]]:
    return [column for column in table.columns if column.name not in (SEAL, HELD)]


def _default(column: Column[Any]) -> bytes | None:
    default = column.server_default.arg if isinstance(column.server_default, DefaultClause) else None
    mark = _TEXT if isinstance(column.type, Text) else ""
    return None if default is None else f"{mark}{default}".encode()


def inserted(connection: Connection, statement: Any) -> int:
    """Execute an insert of one row; return its id."""
    (key,) = connection.execute(statement).inserted_primary_key or (0,)
    return int(key)


def put(connection: Connection, key: str, value: str) -> None:
    """Store a setting."""
    statement = upsert(schema.meta).values(key=key, value=value)
    connection.execute(statement.on_conflict_do_update(index_elements=["key"], set_={"value": value}))


# --- counts ---------------------------------------------------------------------------------------------------------

OWNED: tuple[Table, ...] = tuple(
    table
    for table in SEALED
    if "video_id" in table.columns and table not in (schema.document, schema.label)  # an older vfindex knows no labels
)
# Tables that nothing owns -> what a row is, and what to do where one is lost.
COUNTED: Mapping[Table, tuple[str, str]] = {
    schema.video: ("video", "run: vfindex repair"),
    schema.root: ("indexed folder", "run: vfindex repair, or name the folder again: vfindex ingest FOLDER"),
    schema.exclusion: (
        "removed path",
        "run: vfindex repair, or remove the path again, so that no run indexes it: vfindex remove PATH",
    ),
    schema.label: ("label", "run: vfindex repair, and label again: vfindex label CLASSES"),
    schema.meta: ("setting", "run: vfindex repair"),
}
COUNTS: Mapping[str, Table] = {f"rows of {table.name}": table for table in COUNTED}
_IS_COUNT = f"key IN ({', '.join(map(repr, COUNTS))})"
# Settings that come and go, as do the hashes of files. All others stay once they are there; an older vfindex deletes
# only these, and counts none.
PASSING = frozenset({"changed", "fold", "live_recall", "min_reader", "scrub", *COUNTS})
# Tables whose rows go with a clip.
_OF_CLIPS = (schema.embedding.name, schema.frame.name)
# SQL of how many rows a video has.
HELD_NOW = " + ".join(
    [f"(SELECT count(*) FROM {table.name} o WHERE o.video_id = video.id)" for table in OWNED]
    + [f"(SELECT count(*) FROM clip c JOIN {t} e ON e.clip_id = c.id WHERE c.video_id = video.id)" for t in _OF_CLIPS]
)


def _stays(prefix: str = "") -> str:
    """Return the SQL condition that a setting stays. prefix: of its column."""
    return f"{prefix}key NOT IN ({', '.join(map(repr, sorted(PASSING)))}) AND {prefix}key NOT GLOB 'sha256 *'"


def _triggers() -> Iterator[tuple[str, str]]:
    """Yield (event, statement)."""
    for table in OWNED:
        # The vectors of a clip go after it, and no longer find their video.
        count = " + (SELECT count(*) FROM {} e WHERE e.clip_id = {}.id)"
        vectors = [count.format(each, "{0}") for each in _OF_CLIPS] if table is schema.clip else []
        ones = "1" + "".join(vectors)
        fewer, more = (_add(f"{sign} ({ones.format(row)})", f"{row}.video_id") for sign, row in _CHANGES)
        yield f"AFTER INSERT ON main.{table.name}", more
        yield f"BEFORE DELETE ON main.{table.name}", fewer
        yield f"AFTER UPDATE OF video_id ON main.{table.name}", f"{fewer}; {more}"
    for (sign, row), event in zip(_CHANGES, ("AFTER DELETE", "AFTER INSERT"), strict=True):
        for name in _OF_CLIPS:
            yield f"{event} ON main.{name}", _add(f"{sign} 1", f"(SELECT video_id FROM clip WHERE id = {row}.clip_id)")
        for key, table in COUNTS.items():
            change = f"UPDATE meta SET value = CAST(value {sign} 1 AS TEXT) WHERE key = '{key}'"
            yield (
                f"{event} ON main.{table.name}",
                change + (f" AND {_stays(f'{row}.')}" if table is schema.meta else ""),
            )


_CHANGES = (("-", "OLD"), ("+", "NEW"))


def _add(change: str, video_id: str) -> str:
    return f"UPDATE video SET {HELD} = {HELD} {change} WHERE id = {video_id}"


_TRIGGERS = {"count_" + event.lower().replace(" ", "_").replace(".", "_"): (event, do) for event, do in _triggers()}


def keep_counts(connection: Connection) -> None:
    """Create the triggers that count every row this connection inserts or deletes."""
    for name, (event, statement) in _TRIGGERS.items():
        connection.exec_driver_sql(f"CREATE TEMP TRIGGER IF NOT EXISTS {name} {event} BEGIN {statement}; END")


def keep_no_counts(connection: Connection) -> None:
    """Drop the triggers and the counts of tables, which are copied from another database with its rows."""
    for name in _TRIGGERS:
        connection.exec_driver_sql(f"DROP TRIGGER temp.{name}")
    connection.exec_driver_sql(f"DELETE FROM meta WHERE {_IS_COUNT}")


def begin_counts(connection: Connection) -> None:
    """Count the tables without a valid count, and settings that an older vfindex has added; then keep the counts."""
    connection.execute(text(f"DELETE FROM meta WHERE {_IS_COUNT} AND {is_broken(schema.meta)}"))
    for table in COUNTED:
        if row_count(connection, table) is None:
            count_again(connection, table)
    settings = connection.scalar(text(f"SELECT count(*) FROM {_counted(schema.meta)}")) or 0
    if settings > (row_count(connection, schema.meta) or 0):
        count_again(connection, schema.meta)
    keep_counts(connection)


def count_rows_of(connection: Connection, video_ids: Collection[int] | None = None) -> None:
    """Set the counts of videos to the rows that are there. video_ids: None for videos without a count."""
    chosen = f"{HELD} IS NULL" if video_ids is None else "id IN (SELECT value FROM json_each(:ids))"
    values = {} if video_ids is None else {"ids": json.dumps(list(video_ids))}
    connection.execute(text(f"UPDATE video SET {HELD} = {HELD_NOW} WHERE {chosen}"), values)


def count_frames(connection: Connection) -> None:
    """Add the frames to the counts of videos from a library that had them in its vectors' rows."""
    frames = "SELECT count(*) FROM clip c JOIN frame f ON f.clip_id = c.id WHERE c.video_id = video.id"
    connection.execute(text(f"UPDATE video SET {HELD} = {HELD} + ({frames})"))


def count_again(connection: Connection, table: Table, at_least: int = 0) -> None:
    """Set a table's count to the rows that are there, or `at_least`."""
    rows = f"SELECT :key, CAST(max(count(*), :least) AS TEXT) FROM {_counted(table)}"
    values = {"key": f"rows of {table.name}", "least": at_least}
    connection.execute(text(f"INSERT OR REPLACE INTO meta (key, value) {rows}"), values)


def row_count(connection: Connection, table: Table) -> int | None:
    """Return how many rows a table should have, None where it is not counted."""
    stored = connection.scalar(text("SELECT value FROM meta WHERE key = :key"), {"key": f"rows of {table.name}"})
    return int(stored) if isinstance(stored, str) and stored.isdecimal() else None


def lost_rows(stream: Stream, tables: Iterable[Table] = COUNTED) -> dict[Table, str]:
    """Return which of these tables have lost rows -> a sentence."""
    found = {}
    for table in tables:
        query = text(f"SELECT value, (SELECT count(*) FROM {_counted(table)}) AS now FROM meta WHERE key = :key")
        for row in stream(query.bindparams(key=f"rows of {table.name}")):
            had = int(row.value) if str(row.value).isdecimal() else 0
            if had > row.now:
                noun, step = COUNTED[table]
                found[table] = f"the library has lost {counted(had - row.now, noun)}; {step}"
    return found


def lost_settings(connection: Connection) -> str | None:
    """Return a sentence if settings are lost."""
    return lost_rows(connection.execute, [schema.meta]).get(schema.meta)


def _counted(table: Table) -> str:
    """Return the SQL of the rows of a table that are counted."""
    return f"{table.name} WHERE {_stays()}" if table is schema.meta else table.name


# --- checks ---------------------------------------------------------------------------------------------------------

# Executes a query and yields its rows.
Stream = Callable[[Any], Iterable[Any]]
_REPAIR = "; run: vfindex repair"


def diagnosis(stream: Stream) -> LibraryDamaged | None:
    """Return the first damage of a library whose rows could not be parsed; None if none is found."""
    try:
        faults = broken_settings(stream)
        first = None if faults else min(damaged_rows(stream), key=lambda row: row[0], default=None)
        if first is not None:
            video_id, reason = first
            faults = [f"{shown_paths(paths_of(stream, [video_id]).get(video_id, ()), 1)}: {reason}{_REPAIR}"]
    except LibraryDamaged as exc:
        return exc
    return LibraryDamaged(f"the library is damaged: {faults[0]}") if faults else None


def broken_settings(stream: Stream) -> list[str]:
    """Return what is wrong with rows that no video owns, and how many of them, or of videos, are lost."""
    keys = {"meta": "key", "root": "path", "exclusion": "path", "run": "id", "generation": "id", "label": "id"}
    faults = []
    for table, column in keys.items():
        condition = is_broken(schema.metadata.tables[table])
        for row in stream(text(f"SELECT CAST({column} AS TEXT) AS name FROM {table} WHERE {condition}")):
            faults.append(f"the row '{row.name}' of {table} does not match its checksum{_REPAIR}")
    return [*faults, *lost_rows(stream).values()]


def damaged_rows(stream: Stream) -> Iterator[tuple[int, str]]:
    """Yield (video id, what is wrong) of each damaged row, and of each video that lacks rows.

    Text that is not UTF-8 must be readable, see `engine.any_text`.
    """
    for check in (
        _broken_seals,
        _false_checksums,
        _clips_without_vectors,
        _unknown_modalities,
        _broken_json,
        _without_location,
        _lost_rows_of_videos,
    ):
        yield from check(stream)


def paths_of(stream: Stream, video_ids: Iterable[int]) -> dict[int, list[bytes]]:
    """Return video id -> the paths of its locations and tombstones, in order of bytes."""
    query = text(
        "SELECT video_id, path FROM location WHERE video_id IN (SELECT value FROM json_each(:ids)) UNION ALL"
        " SELECT video_id, path FROM tombstone WHERE video_id IN (SELECT value FROM json_each(:ids)) ORDER BY 2"
    )
    paths: dict[int, list[bytes]] = {}
    for row in stream(query.bindparams(ids=json.dumps(list(video_ids)))):
        paths.setdefault(row.video_id, []).append(row.path)
    return paths


def shown_paths(paths: Sequence[bytes], most: int = 5) -> str:
    """Return paths as text for a sentence: the first few, and how many more."""
    words = ", ".join(path.decode(errors="surrogateescape") for path in paths[:most])
    return f"{words} and {len(paths) - most} more" if len(paths) > most else words


def _broken_seals(stream: Stream) -> Iterator[tuple[int, str]]:
    for table in SEALED:
        if table is schema.video or table in (*OWNED, schema.document):
            owner = "id" if table is schema.video else "video_id"
            # The column with the owner may be the damaged one; the video of the row's unit is damaged too.
            other = "(SELECT u.video_id FROM unit u WHERE u.id = unit_id)" if "unit_id" in table.columns else "NULL"
            query = f"SELECT {owner} AS owner, {other} AS other FROM {table.name} WHERE {is_broken(table)}"
            for row in stream(text(query)):
                for video_id in {row.owner, row.other}:
                    if isinstance(video_id, int):
                        yield video_id, f"its row in the table {table.name} does not match its checksum"


def _false_checksums(stream: Stream) -> Iterator[tuple[int, str]]:
    """Yield the videos whose clips, vectors or segments do not match their column `crc32`."""
    c, e, f, s = schema.clip.c, schema.embedding.c, schema.frame.c, schema.segment.c
    fault = "does not match its checksum"
    for row in stream(select(c.id, c.video_id, c.start_ms, c.start_s, c.end_s, c.crc32)):
        if row.crc32 != checksum(row.start_ms, row.start_s, row.end_s):
            yield row.video_id, f"clip {row.id} {fault}"
    embeddings = select(e.clip_id, c.video_id, e.modality, e.vector, e.crc32)
    for row in stream(embeddings.join_from(schema.embedding, schema.clip)):
        if row.crc32 != checksum(row.vector):
            yield row.video_id, f"the {row.modality} vector of clip {row.clip_id} {fault}"
    frames = select(f.clip_id, c.video_id, f.times, f.vectors, f.crc32)
    for row in stream(frames.join_from(schema.frame, schema.clip)):
        if row.crc32 != checksum(row.times, row.vectors):
            yield row.video_id, f"the row of frames of clip {row.clip_id} {fault}"
    for row in stream(select(s.id, s.video_id, s.start_s, s.end_s, s.text, s.crc32)):
        if row.crc32 != checksum(row.start_s, row.end_s, row.text):
            yield row.video_id, f"segment {row.id} {fault}"


def _clips_without_vectors(stream: Stream) -> Iterator[tuple[int, str]]:
    c, e = schema.clip.c, schema.embedding.c
    for row in stream(select(c.id, c.video_id).where(~select(e.clip_id).where(e.clip_id == c.id).exists())):
        yield row.video_id, f"clip {row.id} has no vector at all"


def _unknown_modalities(stream: Stream) -> Iterator[tuple[int, str]]:
    c, e = schema.clip.c, schema.embedding.c
    known = {*modality_names(), *_modalities_of_setup(stream)}
    query = select(c.video_id, e.clip_id).join_from(schema.embedding, schema.clip).where(e.modality.not_in(known))
    for row in stream(query):
        yield row.video_id, f"a vector of clip {row.clip_id} is of no modality"


def _modalities_of_setup(stream: Stream) -> list[str]:
    """Return the modalities that the library has models for; those of a newer version are not in the table."""
    models = "SELECT j.key FROM meta m, json_each(m.value, '$.models') j WHERE m.key = 'setup' AND json_valid(m.value)"
    return [row.key for row in stream(text(models))]


def _broken_json(stream: Stream) -> Iterator[tuple[int, str]]:
    v = schema.video.c
    for row in stream(select(v.id, v.tags, v.chapters, v.problem)):
        if not all(_is_json(value) for value in (row.tags, row.chapters, row.problem or "{}")):
            yield row.id, "its tags or chapters cannot be read"


def _without_location(stream: Stream) -> Iterator[tuple[int, str]]:
    """Yield the videos without a location, or missing ones without a tombstone; unfinished ones have none yet."""
    v = schema.video.c
    for table, states, fault in (
        (schema.location, v.state.not_in(("indexing", "vanished")), "the row of its place is lost"),
        (schema.tombstone, v.state == "vanished", "the row of its former place is lost"),
    ):
        owner = table.c.video_id
        for row in stream(select(v.id).where(states, ~select(owner).where(owner == v.id).exists())):
            yield row.id, fault


def _lost_rows_of_videos(stream: Stream) -> Iterator[tuple[int, str]]:
    counts = f"SELECT id, {HELD} AS held, {HELD_NOW} AS now FROM video WHERE {HELD} IS NOT NULL"
    for row in stream(text(f"SELECT * FROM ({counts}) WHERE held IS NOT now")):
        yield row.id, f"it has {counted(row.now, 'row')} in the library and should have {row.held}"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True
