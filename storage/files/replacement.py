"""A database file that takes the place of another one, which is kept."""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing, suppress
from pathlib import Path

from vfindex.storage.errors import LibraryError
from vfindex.storage.files.permissions import share
from vfindex.storage.files.regular import sync_folder
from vfindex.storage.files.writes import keep_as, on_disk


def replace_database(database: Path, new: Path, kept: Path) -> None:
    """Rename the database `new`, one file without a log, to the name of `database`, which is kept as `kept`.

    A missing or empty database is not kept. At every instant one of the two has the name, never with the other's log,
    which SQLite would replay. Readers that have the old one open go on reading it. Raises OSError.
    """
    with new.open("rb+") as file:
        os.fsync(file.fileno())
    share(new)
    log = database.with_name(database.name + "-wal")
    # A message of SQLite that quotes damaged bytes is no UTF-8.
    uri = f"{database.absolute().as_uri()}?mode=rw"  # never a new file, which would replace a missing one
    with suppress(sqlite3.DatabaseError, UnicodeDecodeError), closing(sqlite3.connect(uri, uri=True)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    for path, name in ((database, kept), (log, kept.with_name(kept.name + "-wal"))):
        if path.exists() and path.stat().st_size:  # a log that could not be moved into the database is kept as well
            keep_as(path, name)
    sync_folder(database.parent)
    for suffix in ("-wal", "-shm"):
        database.with_name(database.name + suffix).unlink(missing_ok=True)
    new.replace(database)
    sync_folder(database.parent)


def refuse_linked(database: Path) -> None:
    """Raise LibraryError for a symbolic link: a new file would take its place, and the old one stay where it leads."""
    if database.is_symlink():
        raise LibraryError(
            f"{database} is a symbolic link, so it cannot be replaced by a new file; move the file into its folder, or "
            "the whole library to the other disk and link its folder: nothing has been changed"
        )


def discard_database(database: Path) -> None:
    """Delete a database file with its logs, if there is one. Raises LibraryError if the disk refuses."""
    with on_disk("a database"):
        for suffix in ("", "-wal", "-shm", "-journal"):
            database.with_name(database.name + suffix).unlink(missing_ok=True)
