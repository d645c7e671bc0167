"""Permanent removal by `remove` and `purge`: everything beyond the rows, in every model version, and its check.

A deleted row may stay readable: in pages that SQLite keeps for reuse, in the write-ahead log, in the full text index,
in the file of a joint index, in other model versions (see `scrubbing`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from sqlalchemy import Connection, func, select, text

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import now
from vfindex.storage.db.engine import connect
from vfindex.storage.db.locations import below, mark_sidecars_unread
from vfindex.storage.db.scrubbing import Scrubbed, forget_removed
from vfindex.storage.errors import IndexUnusable, LibraryError, LibraryLocked, counted
from vfindex.storage.files.permissions import USER_DATABASE
from vfindex.storage.index import model_versions
from vfindex.storage.index.erasure import is_erased
from vfindex.storage.library import Library
from vfindex.storage.maintenance.damage import false_words
from vfindex.storage.maintenance.raw_bytes import files_with
from vfindex.storage.qdrant.index import QdrantGeneration
from vfindex.storage.records import Chapter, Document
from vfindex.storage.user.data import UserData
from vfindex.storage.user.questions import forget_questions
from vfindex.storage.writer import Writer, locked, writing

# Marks named in a report.
MAX_SHOWN = 5
# Removed texts that a report searches for in the bytes of every file: each costs 0.5 s per GB.
MAX_NEEDLES = 24
# Shorter texts have false matches.
MIN_NEEDLE_BYTES = 6
_KEPT_NAME = (
    "the path itself is kept, so that no run indexes it again; to delete it: vfindex remove --forget-exclusion PATH"
)
_READ_AGAIN = "they may be those beside the removed file, until their words are read again by: vfindex reindex"
# The result of `Catalog.remove`.
Removal = Callable[[Writer], tuple[int, int, list[str]]]
# Title and documents of a video from its paths, tags and chapters.
Describe = Callable[[Sequence[bytes], Mapping[str, str], Sequence[Chapter]], tuple[str, Sequence[Document]]]


@dataclass(frozen=True, slots=True)
class Place:
    """A checked place. left: amount of removed data still there. note: why, and what to do."""

    place: str
    looked_at: str
    left: int = 0
    note: str = ""


@dataclass(slots=True)
class Forgotten:
    """The report of a removal. locations, videos: in the version in use. unfinished: unfinished videos.

    roots: ingested paths that are no longer walked. excluded: later runs skip the path, although a folder above it is
    indexed. places: version ("." or "editions/1"), or "library" for shared files -> checked places.
    """

    locations: int = 0
    videos: int = 0
    roots: int = 0
    unfinished: int = 0
    excluded: bool = False
    places: dict[str, list[Place]] = field(default_factory=dict)

    def is_empty(self) -> bool:
        return not (self.locations or self.videos or self.roots or self.unfinished)

    def left(self) -> Iterator[tuple[str, Place]]:
        """Yield (version, place) where something is left."""
        yield from ((name, place) for name, found in self.places.items() for place in found if place.left)

    def to_dict(self) -> dict[str, Any]:
        """Return the report for JSON."""
        return {
            "at": now(),
            "locations": self.locations,
            "videos": self.videos,
            "roots": self.roots,
            "unfinished": self.unfinished,
            "excluded": self.excluded,
            "left": sum(place.left for _, place in self.left()),
            "places": {name: [asdict(place) for place in found] for name, found in self.places.items()},
        }


@dataclass(frozen=True, slots=True)
class RemovalSettings:
    """Settings of a removal. describe: computes title and documents of videos that lose one of several paths.

    cache: the folder of models; if given, every place is checked afterwards.
    """

    describe: Describe
    cache: Path | None = None


@dataclass(slots=True)
class _Contents:
    """Videos affected by a removal: id -> fingerprint, their paths, and texts to search for."""

    prints: dict[int, str]
    paths: set[bytes]
    needles: list[bytes] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)  # fingerprints of those that only lost a path


def forget_path(folder: Path, typed: Sequence[bytes], settings: RemovalSettings) -> tuple[bytes, Forgotten]:
    """Remove the file or folder named by any of `typed`, see `Catalog.path_of`; return its path and a report.

    Nothing changes if the library in `folder` has none. All versions are cleaned. Raises UsageError,
    LibraryNotFound, LibraryLocked, LibraryError.
    """
    Library.open(folder)
    with writing(folder) as writer:
        chosen = writer.catalog.path_of(typed)
        found = Forgotten() if chosen is None else _known(writer, chosen)
        if chosen is None or found.is_empty():
            writer.publish_changes()  # the rest of a killed call
            return typed[0], Forgotten()
        owners = [
            select(table.c.video_id).where(below(table.c.path, chosen))
            for table in (schema.location, schema.tombstone, schema.begun)
        ]
        before = _contents(writer, owners, thorough=settings.cache is not None)
        _forget(folder, writer, (found, before), lambda w: w.catalog.remove(chosen, exclude=w is writer), settings)
        with writer.catalog.transaction() as connection:
            e = schema.exclusion.c
            found.excluded = connection.scalar(select(e.path).where(e.path == chosen)) is not None
        if found.excluded:
            found.places["library"].append(Place("exclusions", "status", 0, _KEPT_NAME))
        return chosen, found


def forget_missing(folder: Path, purge: Removal, settings: RemovalSettings) -> Forgotten:
    """Purge the version in use, and remove the same videos from the others; see `forget_path`."""
    Library.open(folder)
    with writing(folder) as writer:
        found = Forgotten()
        before = _contents(writer, [select(schema.tombstone.c.video_id)], thorough=settings.cache is not None)
        _forget(folder, writer, (found, before), lambda w: purge(w) if w is writer else (0, 0, []), settings)
        return found


def _known(writer: Writer, path: bytes) -> Forgotten:
    """Return the contents of the library at and below a path."""
    with writer.catalog.transaction() as connection:
        location, tombstone, root, begun = (
            connection.scalar(select(func.count()).select_from(table).where(below(table.c.path, path))) or 0
            for table in (schema.location, schema.tombstone, schema.root, schema.begun)
        )
    return Forgotten(location + tombstone, 0, root, begun)


def _forget(
    folder: Path, writer: Writer, known: tuple[Forgotten, _Contents], remove: Removal, settings: RemovalSettings
) -> None:
    """Remove from the version in use, then the same videos from the others, and clean each."""
    result, before = known
    result.locations, result.videos, names = remove(writer)
    gone = _gone(writer, before)
    name = "." if writer.folder == folder else str(writer.folder.relative_to(folder))
    result.places[name] = _cleaned(writer, names, gone, settings)
    for number in model_versions.unused(folder):
        place = model_versions.version_folder(folder, number)
        if (place / "library.db").is_file():
            name = f"editions/{number}" if number else "."
            result.places[name] = _of_other(place, number, (remove, gone), settings)
    model_versions.discard(folder, [])  # the rest of an interrupted --discard
    shared = _shared(folder, settings.cache, _still_foreign(writer, gone))
    result.places["library"] = [*_written(folder, gone), _questions(folder), *shared]


def _of_other(place: Path, number: int, what: tuple[Removal, _Contents], settings: RemovalSettings) -> list[Place]:
    """Remove from a version that is not in use, and clean it."""
    remove, gone = what
    with ExitStack() as locks:
        try:
            if number:
                locks.enter_context(locked(place))
        except LibraryLocked:
            return [Place("edition", str(place), 1, "an upgrade that is at work removes it before it is put in use")]
        other = Writer(place)
        locks.callback(other.close)
        own = replace(gone, prints=_ids_there(other, gone))
        names = remove(other)[2] + _forget_contents(other, gone)
        return _cleaned(other, names, own, settings)


def _ids_there(writer: Writer, gone: _Contents) -> dict[int, str]:
    """Return another version's ids of the deleted videos; every version has its own ids."""
    query = text("SELECT id, fingerprint FROM video WHERE fingerprint IN (SELECT value FROM json_each(:prints))")
    with writer.catalog.transaction() as connection:
        rows = connection.execute(query, {"prints": json.dumps(list(gone.prints.values()))})
        return {row.id: row.fingerprint for row in rows}


def _forget_contents(writer: Writer, gone: _Contents) -> list[str]:
    """Delete videos at all locations in another version; return thumbnails no longer needed."""
    chosen = "IN (SELECT id FROM video WHERE fingerprint IN (SELECT value FROM json_each(:prints)))"
    prints = json.dumps(list(gone.prints.values()))
    with writer.catalog.transaction() as connection:
        for table in ("location", "tombstone"):
            connection.execute(text(f"DELETE FROM {table} WHERE video_id {chosen}"), {"prints": prints})
        return forget_removed(connection, gone.paths.__contains__)[1]


# --- what is removed -------------------------------------------------------------------------------------------------


def _contents(writer: Writer, owners: Iterable[Any], *, thorough: bool) -> _Contents:
    """Return the videos that a removal may delete. owners: queries of their ids. thorough: with needles."""
    v = schema.video.c
    found = _Contents({}, set())
    with writer.catalog.transaction() as connection:
        for query in owners:
            rows = connection.execute(select(v.id, v.fingerprint).where(v.id.in_(query)))
            found.prints.update({row.id: row.fingerprint for row in rows})
        ids = json.dumps(list(found.prints))
        for table in ("location", "tombstone", "begun"):
            paths = f"SELECT path FROM {table} WHERE video_id IN (SELECT value FROM json_each(:ids))"
            found.paths.update(connection.scalars(text(paths), {"ids": ids}))
        if thorough:
            found.needles = _needles(connection, ids, found.paths)
    return found


def _needles(connection: Connection, ids: str, paths: Iterable[bytes]) -> list[bytes]:
    """Return texts that may be unique to these videos: file names, titles, and the longest segments."""
    words = text(
        "SELECT text FROM document WHERE video_id IN (SELECT value FROM json_each(:ids))"
        " ORDER BY segment_id IS NULL DESC, length(text) DESC LIMIT :most"
    )
    names = (path.rpartition(b"/")[2] for path in paths)
    texts = (each.encode(errors="surrogateescape") for each in connection.scalars(words, {"ids": ids, "most": 200}))
    unique = [each for each in dict.fromkeys([*names, *texts]) if len(each) >= MIN_NEEDLE_BYTES]
    return unique[: 4 * MAX_NEEDLES]


def _gone(writer: Writer, before: _Contents) -> _Contents:
    """Return the part of `before` that the library no longer has."""
    with writer.catalog.transaction() as connection:
        ids = json.dumps(list(before.prints))
        query = text("SELECT id FROM video WHERE id IN (SELECT value FROM json_each(:ids))")
        kept = set(connection.scalars(query, {"ids": ids}))
        known = "SELECT 1 FROM {} WHERE path = ?"
        paths = {
            path
            for path in before.paths
            if not any(
                connection.exec_driver_sql(known.format(table), (path,)).first() for table in ("location", "tombstone")
            )
        }
    gone = {id_: key for id_, key in before.prints.items() if id_ not in kept}
    renamed = [key for id_, key in before.prints.items() if id_ in kept] if paths else []
    return _Contents(gone, paths, before.needles, renamed)


def _rename(writer: Writer, fingerprints: Iterable[str], describe: Describe) -> None:
    """Give videos the documents of their remaining names; the next `reindex` updates their text vector."""
    for fingerprint in fingerprints:
        found = writer.catalog.find(fingerprint)
        paths, tags, chapters = writer.catalog.names(found[0]) if found else ([], {}, [])
        if found and paths:
            title, documents = describe(paths, tags, chapters)
            writer.catalog.retitle(found[0], title, documents, None)
            with writer.catalog.transaction() as connection:
                mark_sidecars_unread(connection, found[0])


def _still_foreign(writer: Writer, gone: _Contents) -> list[bytes]:
    """Return the needles that no other video, path or setting of the library contains."""
    query = text(
        "SELECT EXISTS (SELECT 1 FROM document WHERE instr(CAST(text AS BLOB), :n))"
        " OR EXISTS (SELECT 1 FROM video WHERE instr(CAST(title || tags || chapters AS BLOB), :n))"
        " OR EXISTS (SELECT 1 FROM location WHERE instr(path, :n)) OR EXISTS (SELECT 1 FROM root WHERE instr(path, :n))"
        " OR EXISTS (SELECT 1 FROM tombstone WHERE instr(path, :n))"
        " OR EXISTS (SELECT 1 FROM exclusion WHERE instr(path, :n))"
    )
    foreign: list[bytes] = []
    with writer.catalog.transaction() as connection:
        for needle in gone.needles:
            if len(foreign) < MAX_NEEDLES and not connection.scalar(query, {"n": needle}):
                foreign.append(needle)
    return foreign


# --- what is cleaned and looked at -----------------------------------------------------------------------------------


def _cleaned(writer: Writer, names: list[str], gone: _Contents, settings: RemovalSettings) -> list[Place]:
    """Clean one version after the deletion of rows, and check it."""
    _rename(writer, gone.renamed, settings.describe)
    writer.discard_thumbnails(names)
    writer.discard_thumbnails_of(gone.prints.values())
    fault = ""
    try:
        fault = writer.publish_changes()
    except LibraryError as exc:
        fault = str(exc)
    scrubbed = writer.scrub()
    if scrubbed.in_index and not fault:
        fault = scrubbed.in_index
    quick = [Place("index", "index/", int(bool(fault)), fault), *_pages(writer, scrubbed), *_beside(writer, gone)]
    if settings.cache is None:
        return quick
    return [
        _tables(writer, gone),
        _words(writer),
        _vectors(writer, gone, quick[0]),
        _pictures(writer, gone),
        *quick[1:],
    ]


def _pages(writer: Writer, scrubbed: Scrubbed) -> list[Place]:
    note = f"a reader holds {counted(scrubbed.log_bytes, 'byte')} of the log; the next command that writes empties it"
    free = f"{counted(scrubbed.free_pages, 'free page')} of library.db, overwritten"
    return [
        Place("write-ahead log", "library.db-wal", scrubbed.log_bytes, note if scrubbed.log_bytes else ""),
        Place("free pages", free, int(bool(scrubbed.fault)), scrubbed.fault),
    ]


def _beside(writer: Writer, gone: _Contents) -> list[Place]:
    """Check for subtitle segments of videos that only lost a path: they may come from a sidecar of it."""
    query = text(
        "SELECT count(*) FROM video v WHERE fingerprint IN (SELECT value FROM json_each(:prints))"
        " AND EXISTS (SELECT 1 FROM segment s WHERE s.video_id = v.id AND s.source = 'sidecar')"
    )
    with writer.catalog.transaction() as connection:
        left = connection.scalar(query, {"prints": json.dumps(gone.renamed)}) or 0
    if not left:
        return []
    return [Place("subtitles", f"{counted(left, 'video')} that also lies elsewhere", left, _READ_AGAIN)]


def _tables(writer: Writer, gone: _Contents) -> Place:
    """Check for rows of the videos and of their paths, and for orphaned rows."""
    ids = json.dumps(list(gone.prints))
    left = 0
    with writer.catalog.transaction() as connection:
        for table in schema.metadata.sorted_tables:
            owner = "video_id" if "video_id" in table.c else "id" if table is schema.video else None
            if owner is not None:
                query = f"SELECT count(*) FROM {table.name} WHERE {owner} IN (SELECT value FROM json_each(:ids))"
                left += connection.scalar(text(query), {"ids": ids}) or 0
        left += len(connection.exec_driver_sql("PRAGMA foreign_key_check").all())
    return Place("tables", f"{len(schema.metadata.sorted_tables)} tables of library.db", left)


def _words(writer: Writer) -> Place:
    engine = connect(writer.folder / "library.db", write=False)
    try:
        faults = false_words(engine)
    finally:
        engine.dispose()
    return Place("full text", "every word of every document", len(faults), "; ".join(faults))


def _vectors(writer: Writer, gone: _Contents, quick: Place) -> Place:
    """Check for deleted clips in the joint index, for vectors that are left of them, and for older index files."""
    with writer.library.snapshot() as snapshot:
        generation, stored = snapshot.generation(), set(snapshot.clip_ids(searchable=False))
    files = [path for path in writer.library.index.iterdir() if path.is_file()]
    opened = writer.library.load_index(generation) if generation else None
    if isinstance(opened, QdrantGeneration):
        return _points(opened, stored, gone, quick)
    index = opened
    left = len(set(index.ids().tolist()) - stored) if index is not None else 0
    if gone.prints:
        left += sum(not is_erased(each) for each in index.segments) if index is not None else 0
        kept = [] if generation is None else [each.name for each in writer.library.index_files(generation.stored)]
        left += len([path for path in files if path.name not in kept])
    return Place("index", f"{counted(len(files), 'file')} below index/", left + quick.left, quick.note)


def _points(generation: QdrantGeneration, stored: set[int], gone: _Contents, quick: Place) -> Place:
    """Check for points of deleted clips and videos in Qdrant."""
    looked = generation.facts.collection
    try:
        collection = generation.collection()
        left = len(set(generation.ids().tolist()) - stored) + collection.clips_of(np.array(list(gone.prints), np.int64))
    except IndexUnusable as exc:
        return Place("index", looked, 1 + quick.left, str(exc))
    return Place("index", f"collection {looked} of Qdrant", left + quick.left, quick.note)


def _pictures(writer: Writer, gone: _Contents) -> Place:
    left = sum(1 for _ in writer.thumbnails_of(gone.prints.values()))
    return Place("thumbnails", "thumbs/", left, "they could not be deleted" if left else "")


def _written(folder: Path, gone: _Contents) -> list[Place]:
    """Check for what people have written about the videos, which a removal leaves to them."""
    data, prints = UserData.open(folder), set(gone.prints.values())
    try:
        marks = [mark.id for mark in data.marks_of(prints)]
        corrections = sorted(each.id for each in data.corrections() if each.line.fingerprint in prints)
    except LibraryError as exc:
        return [Place("marks", USER_DATABASE, 1, str(exc))]
    return [_left(ids, noun) for ids, noun in ((marks, "mark"), (corrections, "correction"))]


def _questions(folder: Path) -> Place:
    """Delete the questions that are kept for a measurement: a search for clips alike holds vectors of its clip."""
    try:
        forget_questions(folder)
    except LibraryError as exc:
        return Place("questions", "questions/", 1, str(exc))
    return Place("questions", "questions/")


def _left(ids: Sequence[int], noun: str) -> Place:
    few = " ".join(f"--remove {id_}" for id_ in ids[:MAX_SHOWN])
    more = " ..." if len(ids) > MAX_SHOWN else ""
    made = f"{counted(len(ids), noun)} {'was' if len(ids) == 1 else 'were'} made in it"
    note = f"{made}; to delete: vfindex {noun}s {few}{more}" if ids else ""
    return Place(f"{noun}s", USER_DATABASE, len(ids), note)


def _shared(folder: Path, cache: Path | None, needles: list[bytes]) -> list[Place]:
    """Check files outside the versions: databases kept by a repair and, with `cache`, the bytes of every file."""
    names = ("library.damaged-*", "editions/*/library.damaged-*", "user.damaged-*")
    kept = sorted(path.name for name in names for path in folder.glob(name))
    note = f"a repair kept {', '.join(kept)}, which may hold what was removed; delete it" if kept else ""
    places = [Place("damaged databases", "library.damaged-*, user.damaged-*", len(kept), note)]
    if cache is not None:
        for name, root in (("bytes of the library", folder), ("bytes of the cache", cache)):
            files, found = files_with(root, needles, passed_over=tuple(kept))
            looked = f"{counted(len(needles), 'name')} and texts in {counted(files, 'file')}"
            note = f"found in {', '.join(found[:5])}; another file may hold the same text" if found else ""
            places.append(Place(name, looked, len(found), note))
    return places
