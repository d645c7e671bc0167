"""Rows of library.db that are not as they were written, and the videos that must be indexed again for it."""

from __future__ import annotations

import json
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain

from sqlalchemy import Engine, select, text
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db import schema
from vfindex.storage.db.checksums import HELD, HELD_NOW, SEALED, is_broken, lost_rows
from vfindex.storage.db.clips import clip_checksum
from vfindex.storage.db.engine import translated
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryDamaged, counted
from vfindex.storage.joint.codecs import checksum
from vfindex.storage.records import MODALITIES
from vfindex.storage.text.folding import FOLD_KEY, fold_of
from vfindex.storage.text.tokenizer import INDEX_TOKENIZER, index_form

_REPAIR = "; run: vfindex repair"
# Documents with wrong words that are counted, so that memory stays bounded.
MANY = 10_000
# Reasons kept of a video: they are shown as one and a number.
_MOST_REASONS = 100


@dataclass(frozen=True, slots=True)
class DamagedVideo:
    """A video with damaged rows. paths: where it lies or, if it has vanished, lay. reasons: one a damaged row."""

    id: int
    paths: tuple[bytes, ...]
    reasons: tuple[str, ...]


def damaged_videos(snapshot: Snapshot) -> list[DamagedVideo]:
    """Return the videos with rows that do not match their checksums, or that lack rows, in order of id.

    Raises LibraryDamaged where SQLite itself cannot read them.
    """
    reasons: dict[int, list[str]] = {}
    checks = (_broken_rows, _false_rows, _bare_clips, _false_vectors, _false_names, _placeless, _short)
    with snapshot.any_text():
        for video_id, reason in chain.from_iterable(check(snapshot) for check in checks):
            told = reasons.setdefault(video_id, [])
            if len(told) < _MOST_REASONS:
                told.append(reason)
    paths = paths_of(snapshot, reasons)
    return [DamagedVideo(id_, tuple(paths.get(id_, ())), tuple(found)) for id_, found in sorted(reasons.items())]


def diagnosis(snapshot: Snapshot) -> LibraryDamaged | None:
    """Return what is wrong with a library that was found to hold what it cannot, None for a sound one."""
    try:
        found = broken_settings(snapshot)
        found += [f"{shown_paths(video.paths, 1)}: {video.reasons[0]}{_REPAIR}" for video in damaged_videos(snapshot)]
    except LibraryDamaged as exc:
        return exc
    return LibraryDamaged(f"the library is damaged: {found[0]}") if found else None


def paths_of(snapshot: Snapshot, video_ids: Iterable[int]) -> dict[int, list[bytes]]:
    """Return video id -> the paths it lies at or lay at, in order of bytes."""
    query = text(
        "SELECT video_id, path FROM location WHERE video_id IN (SELECT value FROM json_each(:ids)) UNION ALL"
        " SELECT video_id, path FROM tombstone WHERE video_id IN (SELECT value FROM json_each(:ids)) ORDER BY 2"
    )
    found: dict[int, list[bytes]] = {}
    for row in snapshot.stream(query.bindparams(ids=json.dumps(list(video_ids)))):
        found.setdefault(row.video_id, []).append(row.path)
    return found


def false_words(engine: Engine) -> list[str]:
    """Return what is wrong with the words of full text search, which are derived from titles and segments.

    The index is compared with one made anew of all documents, in a temporary file, word by word: what is missing, and
    what should be gone. 1 s for 40,000 segments of ten words.
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
    connection.execute(f"CREATE VIRTUAL TABLE temp.wanted USING fts5(text, content='', tokenize=\"{INDEX_TOKENIZER}\")")
    stored = connection.execute("SELECT value FROM meta WHERE key = ?", (FOLD_KEY,)).fetchone()
    fold = fold_of(stored and stored[0])
    rows = connection.execute("SELECT id, text FROM document ORDER BY id")
    connection.executemany(
        "INSERT INTO temp.wanted(rowid, text) VALUES (?, ?)", ((id_, index_form(words, fold)) for id_, words in rows)
    )
    held = _instances(connection, "main", "document_fts")
    missing, extra = _differences(_instances(connection, "temp", "wanted"), held)
    sizes = "SELECT id FROM document_fts_docsize"
    strangers = connection.execute(f"{sizes} WHERE id NOT IN (SELECT id FROM document) LIMIT {MANY}")
    extra.update(id_ for (id_,) in strangers)
    lengths = "main.document_fts_docsize a JOIN temp.wanted_docsize b ON a.id = b.id"
    extra.update(
        id_ for (id_,) in connection.execute(f"SELECT a.id FROM {lengths} WHERE a.sz IS NOT b.sz LIMIT {MANY}")
    )
    absent = connection.execute(f"SELECT id FROM document WHERE id NOT IN ({sizes}) LIMIT {MANY}")
    missing.update(id_ for (id_,) in absent)
    total = connection.execute("SELECT count(*) FROM document").fetchone()[0]
    faults = []
    if missing:
        faults.append(f"{len(missing)} of {total} titles, tags and segments are missing from full text search{_REPAIR}")
    if extra:
        what = "titles, tags and segments that are gone or say something else"
        faults.append(f"full text search still finds words of {len(extra)} {what}{_REPAIR}")
    totals = [
        connection.execute(f"SELECT block FROM {name}_data WHERE id = 1").fetchone()
        for name in ("main.document_fts", "temp.wanted")
    ]
    if not faults and _counts(totals[0]) != _counts(totals[1]):
        faults.append(f"full text search counts other numbers of words and documents than there are{_REPAIR}")
    return faults


def _counts(row: tuple[bytes] | None) -> bytes:
    """Return the totals of a full text index: those of one that never held anything are empty, of an emptied one 0."""
    block = row[0] if row else b""
    return block if any(block) else b""


def _instances(connection: sqlite3.Connection, database: str, table: str) -> Iterator[tuple[str, int, int]]:
    """Yield (word, document, place in it) of a full text index, increasing."""
    name = f"temp.instances_of_{table}"
    connection.execute(f"CREATE VIRTUAL TABLE {name} USING fts5vocab('{database}', '{table}', 'instance')")
    yield from connection.execute(f"SELECT term, doc, offset FROM {name}")


def _differences(
    wanted: Iterator[tuple[str, int, int]], found: Iterator[tuple[str, int, int]]
) -> tuple[set[int], set[int]]:
    """Return (documents of words in `wanted` only, those of words in `found` only), up to MANY of either."""
    missing: set[int] = set()
    extra: set[int] = set()
    end = (chr(0x10FFFF), 0, 0)  # behind every word
    left, right = next(wanted, end), next(found, end)
    while (left, right) != (end, end) and len(missing) < MANY and len(extra) < MANY:
        if left < right:
            missing.add(left[1])
        elif right < left:
            extra.add(right[1])
        behind = (left <= right, right <= left)
        left = next(wanted, end) if behind[0] else left
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


def broken_settings(snapshot: Snapshot) -> list[str]:
    """Return what is wrong with rows that no video owns: settings, roots, runs, generations, and lost videos."""
    names = {"meta": "key", "root": "path", "run": "id", "generation": "id"}
    found = []
    with snapshot.any_text():
        for table, column in names.items():
            condition = is_broken(schema.metadata.tables[table])
            for row in snapshot.stream(text(f"SELECT CAST({column} AS TEXT) AS name FROM {table} WHERE {condition}")):
                found.append(f"the row '{row.name}' of {table} does not match its checksum{_REPAIR}")
        found += [sentence for _, sentence in lost_rows(snapshot.stream).values()]
    return found


def _broken_rows(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield the videos with rows that are not sealed as they are."""
    for table in SEALED:
        if table is schema.video or "video_id" in table.columns:
            owner = "id" if table is schema.video else "video_id"
            # The owner itself may be what is wrong: what has a unit is that of its video too.
            other = "(SELECT u.video_id FROM unit u WHERE u.id = unit_id)" if "unit_id" in table.columns else "NULL"
            query = f"SELECT {owner} AS owner, {other} AS other FROM {table.name} WHERE {is_broken(table)}"
            for row in snapshot.stream(text(query)):
                for video_id in {row.owner, row.other}:
                    if isinstance(video_id, int):
                        yield video_id, f"its row in the table {table.name} does not match its checksum"


def _false_vectors(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield the videos with vectors of modalities that there are not."""
    c, e = schema.clip.c, schema.embedding.c
    query = select(c.video_id, e.clip_id).join_from(schema.embedding, schema.clip).where(e.modality.not_in(MODALITIES))
    for row in snapshot.stream(query):
        yield row.video_id, f"a vector of clip {row.clip_id} is of no modality"


def _false_rows(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield (video id, what is wrong) of each row of a clip, vector or segment that does not match its checksum."""
    for what, video_id, stored, found in chain(_clips(snapshot), _embeddings(snapshot), _segments(snapshot)):
        if stored != found:
            yield video_id, f"{what} does not match its checksum"


# What, of which video, the checksum stored, the checksum of what is stored.
_Checked = Iterator[tuple[str, int, int, int]]


def _clips(snapshot: Snapshot) -> _Checked:
    c = schema.clip.c
    for row in snapshot.stream(select(c.id, c.video_id, c.start_ms, c.start_s, c.end_s, c.crc32)):
        yield f"clip {row.id}", row.video_id, row.crc32, clip_checksum(row.start_ms, row.start_s, row.end_s)


def _embeddings(snapshot: Snapshot) -> _Checked:
    c, e = schema.clip.c, schema.embedding.c
    query = select(e.clip_id, c.video_id, e.modality, e.vector, e.frames, e.crc32)
    for row in snapshot.stream(query.join_from(schema.embedding, schema.clip)):
        what = f"the {row.modality} vector of clip {row.clip_id}"
        yield what, row.video_id, row.crc32, checksum(row.vector, row.frames)


def _segments(snapshot: Snapshot) -> _Checked:
    s = schema.segment.c
    for row in snapshot.stream(select(s.id, s.video_id, s.start_s, s.end_s, s.text, s.crc32)):
        yield f"segment {row.id}", row.video_id, row.crc32, checksum(row.start_s, row.end_s, row.text)


def _bare_clips(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    c, e = schema.clip.c, schema.embedding.c
    for row in snapshot.stream(select(c.id, c.video_id).where(~select(e.clip_id).where(e.clip_id == c.id).exists())):
        yield row.video_id, f"clip {row.id} has no vector at all"


def _placeless(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield the videos that lie nowhere, which writers forget; one that is being indexed has no place yet."""
    v, owner = schema.video.c, schema.location.c.video_id
    query = select(v.id).where(v.state.not_in(("indexing", "vanished")))
    for row in snapshot.stream(query.where(~select(owner).where(owner == v.id).exists())):
        yield row.id, "the row of its place is lost"
    owner = schema.tombstone.c.video_id
    query = select(v.id).where(v.state == "vanished")
    for row in snapshot.stream(query.where(~select(owner).where(owner == v.id).exists())):
        yield row.id, "the row of its former place is lost"


def _short(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield the videos that have lost rows."""
    counts = f"SELECT id, {HELD} AS held, {HELD_NOW} AS now FROM video WHERE {HELD} IS NOT NULL"
    for row in snapshot.stream(text(f"SELECT * FROM ({counts}) WHERE held IS NOT now")):
        yield row.id, f"it has {counted(row.now, 'row')} in the library and should have {row.held}"


def _false_names(snapshot: Snapshot) -> Iterator[tuple[int, str]]:
    """Yield the videos whose tags, chapters or problem are no JSON any more."""
    v = schema.video.c
    for row in snapshot.stream(select(v.id, v.tags, v.chapters, v.problem)):
        if not all(_is_json(value) for value in (row.tags, row.chapters, row.problem or "{}")):
            yield row.id, "its tags or chapters cannot be read"


def _is_json(value: str) -> bool:
    try:
        json.loads(value)
    except ValueError:
        return False
    return True


def shown_paths(paths: Sequence[bytes], most: int = 5) -> str:
    """Return paths as a sentence tells them: the first few, and how many more."""
    words = ", ".join(path.decode(errors="surrogateescape") for path in paths[:most])
    return f"{words} and {len(paths) - most} more" if len(paths) > most else words
