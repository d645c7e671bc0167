"""Writer: the writing side of a library folder (settings, units, thumbnails, generations of the joint index)."""

from __future__ import annotations

import logging
import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import delete, insert, select

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog, now
from vfindex.storage.db.engine import checkpoint, translated
from vfindex.storage.db.migrations import MIGRATIONS, applied_migrations
from vfindex.storage.db.reader import Generation, Snapshot
from vfindex.storage.db.scrubbing import SCRUB, Scrubbed, scrub
from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryLocked, LibraryVersion, NotPublished
from vfindex.storage.files.file_systems import refuse_network_folder
from vfindex.storage.files.permissions import DATABASE, has_file, refuse_unreadable, share
from vfindex.storage.files.writes import copy_folder, make_folder, on_disk, write_file
from vfindex.storage.index.builder import Source, build, extend
from vfindex.storage.index.gate import View, refusal
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec, spec_hash
from vfindex.storage.joint.vector import JointSpec, ModalityPrior, estimate_spec
from vfindex.storage.library import INDEX_SUFFIX, Library, refuse_torn
from vfindex.storage.meta import LibraryMeta, put_fusion, put_query_models, put_setup, put_shared_spec
from vfindex.storage.migration import discard_former, migrate_by_copy
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Setup, UnitResult
from vfindex.storage.settings_backup import INODE, write_backup

logger = logging.getLogger(__name__)

# Size of the delta (unindexed clips, scanned exactly) at which a run publishes a generation before its end.
MAX_DELTA_CLIPS = 50_000
# The current generation and the one before it: a reader that has just read the pointer still finds its file.
KEPT_GENERATIONS = 2
_FOLDERS = ("index", "query", "thumbs")
# The published generation and its index, None where that cannot be used; None before the first is published.
_Before = tuple[Generation, JointIndex | None] | None
# What a maker has written: the source, the size and the SHA-256 of the file; and with the file's name, as published.
_Built = tuple[Source, int, str]
_Made = tuple[Source, tuple[str, int, str]]


@dataclass(frozen=True, slots=True)
class _Plan:
    """What a generation is to be. fusion: the library's own. shared: takes its place, with a JointSpec; None: no."""

    fusion: Fusion
    shared: SharedSpec | None

    def keeps(self, spec: JointSpec) -> bool:
        """Return whether an index with this JointSpec may be extended."""
        return self.shared is None or spec_hash(self.shared.setup, spec) == self.shared.hash


_Maker = Callable[[Snapshot, _Before, _Plan, str], _Built | None]


@contextmanager
def writing(folder: Path, *, migrates: bool = True) -> Iterator[Writer]:
    """Yield the one writer of the library in `folder`, of its model version in use; a missing folder is made.

    A folder made here is deleted again if no setup was installed, as when a model is missing. Raises LibraryLocked at
    once if another process writes, LibraryError on a network file system. migrates: False raises LibraryVersion for a
    library of an older vfindex, which is brought up to date otherwise.
    """
    is_new = not os.path.lexists(folder)
    with ExitStack() as locks:
        locks.enter_context(locked(folder))
        place = in_use(folder)
        if place != folder:
            locks.enter_context(locked(place))  # a writer that was given the version's own folder
        if has_file(place / DATABASE):
            with closing(Library.open(place)) as library:
                refuse_torn(library)
                if not migrates:
                    _refuse_older(library)
        writer = Writer(place)
        locks.callback(writer.close)
        try:
            yield writer
        except BaseException:
            if is_new and writer.setup() is None:
                shutil.rmtree(folder, ignore_errors=True)
            raise
        discard_former(place)
        writer.scrub()


def _refuse_older(library: Library) -> None:
    """Raise LibraryVersion for a library that a writer would bring up to date."""
    with library.snapshot() as snapshot:
        if not MIGRATIONS.keys() <= set(applied_migrations(snapshot.connection)):
            raise LibraryVersion(
                "this library was written by an older vfindex, and would have to be rewritten for this version; a "
                "command that changes it does that, such as `vfindex reindex`"
            )


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the lock of a library or of one of its model versions, making the folder. Raises as `writing` does."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise LibraryError(f"the library folder {folder} cannot be made ({exc.strerror}); use --library DIR") from exc
    for made in (folder.parent, folder):
        if "editions" in (made.name, made.parent.name):
            share(made)
    refuse_network_folder(folder)
    lock = FileLock(folder / "lock")
    try:
        lock.acquire(timeout=0)
    except Timeout as exc:
        raise LibraryLocked(
            f"another vfindex is writing to the library {folder}; wait until it ends, or use another --library"
        ) from exc
    except OSError as exc:
        raise LibraryError(f"the library {folder} cannot be written ({exc.strerror})") from exc
    try:
        share(folder / "lock")
        yield
    finally:
        lock.release()


class Writer:
    """The writing side of a library. `writing` makes it and holds the lock."""

    def __init__(self, folder: Path) -> None:
        with on_disk("a folder"):
            for name in _FOLDERS:
                make_folder(folder / name)
        self.folder = folder
        for suffix in ("", "-wal", "-shm"):
            refuse_unreadable(folder / f"{DATABASE}{suffix}")
        migrate_by_copy(folder / DATABASE)
        self.catalog = Catalog.open(folder / DATABASE)
        for suffix in ("", "-wal", "-shm"):
            share(folder / (DATABASE + suffix))
        self.library = Library(folder)
        inode = str((folder / DATABASE).stat().st_ino)
        if self.catalog.get(INODE) != inode:
            self.catalog.put(INODE, inode)
        self._scrubbed: Scrubbed | None = None

    def close(self) -> None:
        self.library.close()
        self.catalog.close()  # last, so that it moves the log into the database

    # --- settings -----------------------------------------------------------------------------------------------

    def setup(self) -> Setup | None:
        """Return the library's setup, None in a new library."""
        return LibraryMeta(self.catalog).setup

    def install(
        self, setup: Setup, priors: Mapping[ModalityName, ModalityPrior], query_models: Mapping[str, Path]
    ) -> None:
        """Store the setup, the priors and copies of the query encoders (name -> folder) in a new library.

        The setup is stored last, so an interrupted installation is repeated.
        """
        with on_disk("a query encoder"):
            for name, source in query_models.items():
                copy_folder(source, self.folder / "query" / name)
        put_query_models(self.catalog, query_models)
        put_setup(self.catalog, setup, priors)
        self.write_backup()

    def renew_query_encoders(self, query_models: Mapping[str, Path]) -> None:
        """Replace damaged query encoders by copies of others (name -> folder)."""
        with on_disk("a query encoder"):
            for name, source in query_models.items():
                shutil.rmtree(self.folder / "query" / name, ignore_errors=True)
                copy_folder(source, self.folder / "query" / name)
        here = {path.name: path for path in (self.folder / "query").iterdir() if path.is_dir()}
        put_query_models(self.catalog, here)

    def write_backup(self) -> None:
        """Write the settings backup, library.json."""
        with self.catalog.transaction() as connection, on_disk("the copy of the settings"):
            write_backup(connection, self.folder)

    def checkpoint(self) -> bool:
        """Move the write-ahead log into the database, so that one file holds all; return whether it does.

        A reader may prevent it for BUSY_TIMEOUT_S. What is committed is on the disk either way.
        """
        return checkpoint(self.catalog.engine)

    # --- units --------------------------------------------------------------------------------------------------

    def commit_unit(self, video_id: int, fingerprint: str, unit_id: int, result: UnitResult) -> None:
        """Write the thumbnails of a unit, then commit it."""
        names: list[str | None] = []
        for clip in result.clips:
            name = None
            if clip.thumbnail is not None:
                name = f"{fingerprint[1:33]}-{round(clip.start_s * 1000)}.webp"
                self.write_thumbnail(name, clip.thumbnail)
            names.append(name)
        self.catalog.commit_unit(video_id, unit_id, result, names)

    def write_thumbnail(self, name: str, picture: bytes) -> None:
        """Write a thumbnail file atomically."""
        with on_disk("a thumbnail"):
            write_file(self.library.thumbs / name[:2] / name, picture)

    def link_thumbnails(self, other: Library, names: Iterable[str]) -> None:
        """Take over thumbnails of another model version as hard links, or copies where the file system has none."""
        for name in names:
            source, target = other.thumbnail(name), self.library.thumbs / name[:2] / name
            if source is None or target.exists():
                continue
            with on_disk("a thumbnail"):
                make_folder(target.parent)
                try:
                    os.link(source, target)
                except OSError:
                    write_file(target, source.read_bytes())

    def discard_thumbnails(self, names: Sequence[str]) -> None:
        """Delete the files of thumbnails whose clips are gone."""
        for name in names:
            path = self.library.thumbnail(name)
            if path is not None:
                with on_disk("the thumbnails"):
                    path.unlink(missing_ok=True)

    def thumbnails_of(self, fingerprints: Iterable[str]) -> Iterator[Path]:
        """Yield the thumbnail files of videos, also those of uncommitted units, which no clip names."""
        by_folder: dict[str, set[str]] = {}
        for prefix in (each[1:33] for each in fingerprints):
            by_folder.setdefault(prefix[:2], set()).add(prefix)
        for name, prefixes in by_folder.items():
            folder = self.library.thumbs / name
            for path in folder.iterdir() if folder.is_dir() else ():
                if path.name.rpartition("-")[0] in prefixes:
                    yield path

    def discard_thumbnails_of(self, fingerprints: Iterable[str]) -> None:
        """Delete every thumbnail of videos that are gone."""
        with on_disk("the thumbnails"):
            for path in self.thumbnails_of(fingerprints):
                path.unlink(missing_ok=True)

    def scrub(self) -> Scrubbed:
        """Scrub the database if a removal left that to do, see `scrubbing`; at most once a writer."""
        if self._scrubbed is None and self.catalog.get(SCRUB) is not None:
            self.library.close()
            for part in self.folder.glob("library.db.repaired*"):
                part.unlink(missing_ok=True)
            discard_former(self.folder)
            try:
                self._scrubbed = scrub(self.catalog.engine, self.folder / "library.db")
            except sqlite3.DatabaseError as exc:
                raise translated(exc) from exc
            self.write_backup()  # which has the sources and the file hashes
        return self._scrubbed or Scrubbed()

    # --- runs ---------------------------------------------------------------------------------------------------

    def adopt_runs(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Insert the runs of another model version, see `runs.runs`, with their ids; later runs follow them."""
        if rows:
            with self.catalog.transaction() as connection:
                connection.execute(insert(schema.run), [dict(row) for row in rows])

    # --- generations --------------------------------------------------------------------------------------------

    def publish_changes(self) -> str:
        """Publish a generation if clips have changed; return why it was refused, "" where it was not."""
        try:
            if self.catalog.change():
                self.publish()
        except NotPublished as exc:
            return str(exc)
        return ""

    def publish(self, fusion: Fusion | None = None) -> Generation:
        """Build an index of all committed clips and make it the current generation.

        It extends the index before if little has changed. If `gate` refuses that, it is built from nothing, and if it
        refuses the new statistics too, from nothing with the old statistics. The file is synced before the pointer is
        committed; the last KEPT_GENERATIONS files are kept. fusion: replaces the library's; None keeps it. Raises
        UsageError if it does not fit the models, NotPublished if no index passes: the old one stays, and readers scan
        the delta.
        """
        meta = LibraryMeta(self.catalog)
        plan = _Plan(meta.own_fusion if fusion is None else fusion, meta.shared_spec)
        with self.library.snapshot() as snapshot:
            newest = snapshot.generation()
            # A new fusion is a user's choice and may give other hits, so it is not compared with the old one.
            before = newest if fusion is None else None
            extends = before is not None and plan.keeps(before.spec)
            made = self._made(snapshot, before, plan, self._makers if extends else self._makers[1:])
        return self._publish(made, plan)

    def publish_shared(self, shared: SharedSpec | None) -> Generation:
        """Publish with a spec that other libraries share, as all later generations do; None: with one of its own.

        The gate compares a shared spec with the generation in use; a spec of the library's own is taken as it is.
        Raises as `publish` does.
        """
        plan = _Plan(LibraryMeta(self.catalog).own_fusion, shared)
        with self.library.snapshot() as snapshot:
            before = None if shared is None else snapshot.generation()
            made = self._made(snapshot, before, plan, (self._built,))
        return self._publish(made, plan)

    def _publish(self, made: _Made, plan: _Plan) -> Generation:
        self._point_to(made, plan)
        self._drop_old_files()
        self.write_backup()
        with self.library.snapshot() as snapshot:
            generation = snapshot.generation()
        if generation is None:
            raise LibraryDamaged("the generation just published cannot be read back; run: vfindex verify")
        return generation

    def _made(self, snapshot: Snapshot, before: Generation | None, plan: _Plan, makers: Sequence[_Maker]) -> _Made:
        """Return the new file by the first maker whose index passes the gate. Raises as `publish` does."""
        newest = snapshot.generation()
        name = f"{(newest.id if newest else 0) + 1:08d}{INDEX_SUFFIX}"
        reason = ""
        old = None if before is None else (before, self.library.load_index(before))
        published = None if old is None else View.published(snapshot, *old)
        for make in makers:
            try:
                made = make(snapshot, old, plan, name)
            except (OSError, RuntimeError, MemoryError) as exc:
                raise LibraryError(
                    f"the joint index could not be written ({exc}); free some space and run the same command again: "
                    "searches go on with the index before it"
                ) from exc
            if made is None:
                continue
            source, size_bytes, sha256 = made
            index = JointIndex.load(self.library.index / name, size_bytes=size_bytes, sha256=sha256)
            refused = refusal(snapshot, source.spec, index, published, self.library.query_folder)
            if refused is None:
                return source, (name, size_bytes, sha256)
            reason = refused
            logger.info("a new joint index was not published: %s", reason)
            (self.library.index / name).unlink(missing_ok=True)
        raise NotPublished(
            f"the new joint index was not published: {reason}; searches stay right, but scan exactly what the one "
            "before lacks; run: vfindex verify"
        )

    @property
    def _makers(self) -> tuple[_Maker, ...]:
        return self._extended, self._built, self._rebuilt

    def _extended(self, snapshot: Snapshot, before: _Before, _: _Plan, name: str) -> _Built | None:
        """Extend the index before; None if too much has changed since it was built."""
        generation, index = before or (None, None)
        if generation is None or index is None:
            return None
        source = Source(snapshot, generation.spec, LibraryMeta(snapshot).priors, snapshot.clip_ids(searchable=False))
        made = extend(index, source, snapshot.changed(generation.watermark), self.library.index / name)
        return None if made is None else (source, *made)

    def _built(self, snapshot: Snapshot, _: _Before, plan: _Plan, name: str) -> _Built:
        """Build an index of all clips with the shared JointSpec, or a new one."""
        priors = LibraryMeta(snapshot).priors
        ids = snapshot.clip_ids(searchable=False)
        if plan.shared is not None:
            spec = plan.shared.spec
        else:
            dims = {m: len(p.mean) for m, p in priors.items()}
            spec = estimate_spec(priors, (rows for _, rows in snapshot.batches(ids, dims)), plan.fusion)
        source = Source(snapshot, spec, priors, ids)
        return source, *build(source, self.library.index / name)

    def _rebuilt(self, snapshot: Snapshot, before: _Before, plan: _Plan, name: str) -> _Built | None:
        """Build an index of all clips with the JointSpec of the one before; None if there is none, or no other."""
        if before is None or plan.shared is not None:
            return None
        source = Source(snapshot, before[0].spec, LibraryMeta(snapshot).priors, snapshot.clip_ids(searchable=False))
        return source, *build(source, self.library.index / name)

    def _point_to(self, made: _Made, plan: _Plan) -> None:
        """Commit the pointer to a file together with its fusion and shared spec."""
        source, file = made
        with self.catalog.transaction() as connection:
            connection.execute(
                insert(schema.generation).values(
                    **dict(zip(("file", "size_bytes", "sha256"), file, strict=True)),
                    spec=source.spec.to_json(),
                    watermark=max(source.ids, default=0),
                    clips=len(source.ids),
                    created_at=now(),
                )
            )
            put_fusion(connection, plan.fusion)
            put_shared_spec(connection, plan.shared)
            connection.execute(delete(schema.index_change))
            connection.execute(schema.meta.delete().where(schema.meta.c.key == "changed"))

    def _drop_old_files(self) -> None:
        g = schema.generation.c
        # After a removal, the old file must not keep the removed vectors.
        most = KEPT_GENERATIONS if self.catalog.get(SCRUB) is None else 1
        with self.catalog.transaction() as connection:
            kept = connection.scalars(select(g.file).order_by(g.id.desc()).limit(most)).all()
            oldest = connection.scalars(select(g.id).order_by(g.id.desc()).limit(most)).all()[-1]
            connection.execute(schema.generation.delete().where(g.id < oldest))
        with on_disk("the joint index"):
            for path in self.library.index.iterdir():
                if path.name not in kept:
                    path.unlink(missing_ok=True)
