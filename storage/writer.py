"""Writer: the writing side of a library folder (settings, units, thumbnails, generations of the joint index)."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from sqlalchemy import func, insert, select

from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.engine import checkpoint, translated
from vfindex.storage.db.migrations import MIGRATIONS, applied_migrations
from vfindex.storage.db.reader import Generation
from vfindex.storage.db.scrubbing import SCRUB, Scrubbed, scrub
from vfindex.storage.errors import (
    LibraryDamaged,
    LibraryError,
    LibraryLocked,
    LibraryNotFound,
    LibraryVersion,
    NotPublished,
)
from vfindex.storage.files.file_systems import refuse_network_folder
from vfindex.storage.files.permissions import (
    BACKUP,
    DATABASE,
    FOLDERS,
    has_file,
    permission_wanted,
    refuse_unreadable,
    share,
)
from vfindex.storage.files.replacement import discard_database
from vfindex.storage.files.writes import copy_folder, make_folder, on_disk, write_file
from vfindex.storage.index.model_versions import in_use
from vfindex.storage.joint.fusion import Fusion
from vfindex.storage.joint.shared import SharedSpec
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.library import Library, refuse_torn
from vfindex.storage.meta import LibraryMeta, become_another, no_videos, put_query_models, put_setup
from vfindex.storage.migration import discard_former, migrate_by_copy
from vfindex.storage.modalities import ModalityName
from vfindex.storage.next_index import LeftS
from vfindex.storage.publication import Publisher
from vfindex.storage.records import Setup, UnitResult
from vfindex.storage.settings_backup import INODE, lost_database, lost_setup, read_backup, write_backup


@contextmanager
def writing(folder: Path, *, migrates: bool = True) -> Iterator[Writer]:
    """Yield the one writer of the library in `folder`, of its model version in use; a missing folder is made.

    A folder made here is deleted again if no setup was installed, as when a model is missing. migrates: False raises
    LibraryVersion for a library of an older vfindex, which is brought up to date otherwise. Raises LibraryLocked if
    another process writes, LibraryError on a network file system, DatabaseLost if a repair has to come first.
    """
    is_new = not os.path.lexists(folder)
    with ExitStack() as locks:
        locks.enter_context(locked(folder))
        place = in_use(folder)
        if place != folder:
            locks.enter_context(locked(place))  # a writer that was given the version's own folder
        refuse_unreadable(place / DATABASE)
        if has_file(place / DATABASE):
            with closing(Library.open(place)) as library:
                refuse_torn(library)
                _refuse_lost(library)
                if not migrates:
                    _refuse_older(library)
        elif fault := lost_database(place, "is missing"):
            raise fault
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
        writer.complete_backup()


def _refuse_lost(library: Library) -> None:
    """Raise LibraryDamaged for an empty database, or none, of which there is a backup: a writer would replace both."""
    with suppress(LibraryNotFound, LibraryVersion):  # a new library, or one that a writer brings up to date
        library.snapshot().close()


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
        is_folder = (folder / "lock").is_dir()
        advice = f"move {folder / 'lock'} away" if is_folder else permission_wanted("its files")
        raise LibraryError(f"the library {folder} cannot be written ({exc.strerror}); {advice}") from exc
    try:
        share(folder / "lock")
        yield
    finally:
        lock.release()


class Writer:
    """The writing side of a library. `writing` makes it and holds the lock."""

    def __init__(self, folder: Path) -> None:
        with on_disk("a folder"):
            for name in FOLDERS:
                make_folder(folder / name)
        self.folder = folder
        for suffix in ("", "-wal", "-shm"):
            refuse_unreadable(folder / f"{DATABASE}{suffix}")
        before = (folder / DATABASE).stat().st_ino if has_file(folder / DATABASE) else None
        migrate_by_copy(folder / DATABASE)
        self.catalog = Catalog.open(folder / DATABASE)
        for suffix in ("", "-wal", "-shm"):
            share(folder / (DATABASE + suffix))
        self.library = Library(folder)
        self.publisher = Publisher(self.catalog, self.library)
        inode = str((folder / DATABASE).stat().st_ino)
        if LibraryMeta(self.catalog).library_id and self.catalog.get(INODE) not in (inode, str(before)):
            become_another(self.catalog)
        if self.catalog.get(INODE) != inode:
            self.catalog.put(INODE, inode)
        self._scrubbed: Scrubbed | None = None

    def close(self) -> None:
        self.library.close()
        self.catalog.close()  # last, so that it moves the log into the database

    # --- settings -----------------------------------------------------------------------------------------------

    def setup(self) -> Setup | None:
        """Return the library's setup, None in a new library.

        Raises LibraryDamaged for one that has lost it, or another setting, without which a run would go on otherwise.
        """
        found = LibraryMeta(self.catalog).setup
        if found is None and (fault := lost_setup(self.catalog, self.folder)):
            raise fault
        if found is not None and (lost := self.catalog.lost_settings()):
            raise LibraryDamaged(f"{self.folder / DATABASE}: {lost}")
        return found

    def existing_setup(self) -> Setup:
        """Return the setup. Raises LibraryNotFound for a library without videos, and as `setup` does."""
        found = self.setup()
        if found is None:
            raise LibraryNotFound(no_videos(self.folder))
        return found

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

    def complete_backup(self) -> None:
        """Write the settings backup if a killed command has left an older one, or a part of the next."""
        with on_disk("the copy of the settings"):
            stored = read_backup(self.folder)
        with self.catalog.transaction() as connection:
            newest = connection.scalar(select(func.max(schema.generation.c.id))) or 0
        was_begun = (self.folder / f"{BACKUP}.part").exists()
        if stored is not None and (stored.generation < newest or (was_begun and stored.generation == newest)):
            self.write_backup()

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
            self.publisher.erase_deleted()
            self.library.close()
            discard_database(self.folder / "library.db.repaired")
            discard_former(self.folder)
            self.write_backup()  # of sources and file hashes; a kill from here on leaves no part of it
            try:
                database = self.folder / "library.db"
                self._scrubbed = scrub(self.catalog.engine, database, self.publisher.left())
            except sqlite3.DatabaseError as exc:
                raise translated(exc) from exc
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

    def publish(self, fusion: Fusion | None = None, server: str | None = None) -> Generation:
        """See `Publisher.publish`."""
        return self.publisher.publish(fusion, server)

    def merge(self, left_s: LeftS, say: Callable[[str], None] = lambda _: None) -> bool:
        """See `Publisher.merge`."""
        return self.publisher.merge(left_s, say)

    def measure_recall(self, left_s: LeftS, say: Callable[[str], None] = lambda _: None) -> None:
        """See `Publisher.measure_recall`."""
        self.publisher.measure_recall(left_s, say)

    def publish_shared(self, shared: SharedSpec | None) -> Generation:
        """See `Publisher.publish_shared`."""
        return self.publisher.publish_shared(shared)
