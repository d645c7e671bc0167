"""A backup of a library, complete and of one instant, also while a run writes to it."""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from vfindex.storage.db.engine import DatabaseConnection, Unchanged, opening, translated
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryChanged, LibraryDamaged, LibraryError, UsageError
from vfindex.storage.files.permissions import BACKUP, DATABASE, share
from vfindex.storage.files.regular import sync_folder
from vfindex.storage.heads import FOLDER as HEADS
from vfindex.storage.heads import SUFFIX
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import SEARCHABLE
from vfindex.storage.user.database import reading, user_database

# Copies tried while runs publish one generation of the joint index after the other.
_MOST_TRIES = 5


@dataclass(frozen=True, slots=True)
class Backup:
    """A finished backup. videos, clips: searchable ones. bytes: of all files."""

    folder: Path
    videos: int
    clips: int
    bytes: int


def back_up(folder: Path, target: Path) -> Backup:
    """Copy the model version in use and the user data to a new folder, and return what it holds.

    The copy is a library of one model version. It gets its name when it is complete. Takes no lock of the library.
    Raises UsageError if `target` is taken, LibraryNotFound, LibraryDamaged, LibraryError.
    """
    library = Library.open(folder)
    library.snapshot().close()  # a database that cannot be read is no copy
    if os.path.lexists(target) and (not target.is_dir() or any(target.iterdir())):
        raise UsageError(f"{target} exists already; name a new folder")
    if folder.resolve() in (target.resolve(), *target.resolve().parents):
        raise UsageError(f"{target} is inside the library; name a folder elsewhere")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_MOST_TRIES):
            with tempfile.TemporaryDirectory(prefix=f"{target.name}.", dir=target.parent) as spare:
                made = Path(spare) / "library"
                made.mkdir()
                with suppress(LibraryChanged):
                    _copy(library, made)
                    done = _counted(made, target)
                    made.rename(target)
                    sync_folder(target.parent)
                    return done
    except OSError as exc:
        raise LibraryError(f"{target} could not be written ({exc.strerror}); see to the disk, and try again") from exc
    finally:
        library.close()
    raise LibraryError(f"{folder} was changed by runs all the time; run the same command again")


def _copy(library: Library, made: Path) -> None:
    """Copy a library into `made`. Raises LibraryChanged if files of the copied state are replaced meanwhile."""
    made.chmod(stat.S_IMODE(library.folder.stat().st_mode))
    if (
        library.folder / BACKUP
    ).is_file():  # first: one that is newer than the database would say that commits are lost
        shutil.copyfile(library.folder / BACKUP, made / BACKUP)
    _copy_database(library.folder / DATABASE, made / DATABASE)
    with reading(library.root) as source:
        if source is not None:
            with _new_database(user_database(made), user_database(library.root)) as copy:
                source.backup(copy)
    with closing(Library(made)) as copied, copied.snapshot() as snapshot:
        generation = snapshot.generation()
        if generation is not None:
            for file in library.index_files(generation.stored):
                _copy_file(library.index / file.name, copied.index / file.name)
            # A newer one may have deleted files, or a removal erased vectors in them after they were listed again.
            if _newest(library) != generation.id and copied.load_index(generation, thorough=True) is None:
                raise LibraryChanged("its joint index has been replaced meanwhile")
        for name in snapshot.thumbnails():
            source_file = library.thumbnail(name)
            if source_file is not None:
                _copy_file(source_file, copied.thumbs / name[:2] / name)
        _copy_heads(library, snapshot, made)
    if (library.folder / "query").is_dir():
        shutil.copytree(library.folder / "query", made / "query", copy_function=shutil.copyfile)
    for path in made.rglob("*"):
        share(path)


def _copy_heads(library: Library, snapshot: Snapshot, made: Path) -> None:
    """Copy temporal heads. snapshot: of the copy. Raises LibraryChanged if one that it names has been replaced."""
    for path in (library.folder / HEADS).glob(f"*{SUFFIX}"):
        _copy_file(path, made / HEADS / path.name)
    copied = {path.name.removesuffix(SUFFIX) for path in (made / HEADS).glob(f"*{SUFFIX}")}
    with suppress(LibraryDamaged), library.snapshot() as now:  # `verify` tells what is damaged
        lacking = set(LibraryMeta(snapshot).temporal_heads.values()) - copied
        if lacking - set(LibraryMeta(now).temporal_heads.values()):
            raise LibraryChanged("a temporal head has been replaced meanwhile")


def _newest(library: Library) -> int:
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
        return 0 if generation is None else generation.id


def _copy_database(source: Path, target: Path) -> None:
    """Copy library.db with its log into one file, as of one instant. Raises LibraryChanged, LibraryDamaged."""
    opened = opening(source)
    try:
        with (
            Unchanged(opened),
            closing(sqlite3.connect(opened.uri, uri=True, factory=DatabaseConnection)) as connection,
            _new_database(target, source) as copy,
        ):
            if not opened.is_locked:
                connection.execute("PRAGMA locking_mode=EXCLUSIVE")  # needs no shared memory
            connection.backup(copy)  # in one step, so in one read transaction
    except sqlite3.Error as exc:
        raise translated(exc) from exc


@contextmanager
def _new_database(path: Path, model: Path) -> Iterator[sqlite3.Connection]:
    """Yield a connection to a new file with the mode of `model`; it has no log when the block has ended."""
    path.touch()
    shutil.copymode(model, path)
    with closing(sqlite3.connect(path)) as connection:
        yield connection
        connection.execute("PRAGMA journal_mode=DELETE")


def _copy_file(source: Path, target: Path) -> None:
    """Copy a file, unless it is gone."""
    target.parent.mkdir(parents=True, exist_ok=True)
    with suppress(FileNotFoundError):
        shutil.copyfile(source, target)


def _counted(made: Path, target: Path) -> Backup:
    size_bytes = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
    with closing(Library(made)) as copied, copied.snapshot() as snapshot:
        counts = snapshot.counts()
        videos = sum(counts.get(state, 0) for state in SEARCHABLE)
        return Backup(target, videos, len(snapshot.clip_ids()), size_bytes)
