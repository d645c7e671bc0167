"""library.json: a backup of a library's settings, sources and removed paths, and of how many clips it had.

    library.json: {"crc32": of the other, "held": JSON of a SettingsBackup}

It is written after the database at each publication. A database with an older generation than the backup has lost
commits, as when its log was truncated; a database that lost its settings gets them from here.
"""

from __future__ import annotations

import errno
import json
import os
import zlib
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from sqlalchemy import Connection, func, insert, select, text
from sqlalchemy.dialects.sqlite import insert as upsert

from vfindex.storage.db import schema
from vfindex.storage.db.integrity import COUNTS, count_again, is_broken, lost_rows, row_count
from vfindex.storage.errors import DatabaseLost, LibraryDamaged, LibraryNotFound
from vfindex.storage.files.permissions import BACKUP, DATABASE, unreadable
from vfindex.storage.files.regular import read_file
from vfindex.storage.files.writes import replacing
from vfindex.storage.meta import COLLECTIONS, LIBRARY_ID, LibraryMeta, no_videos
from vfindex.storage.records import Setup
from vfindex.storage.text.folding import FOLD_KEY

if TYPE_CHECKING:
    from vfindex.storage.db.catalog import Catalog
    from vfindex.storage.db.reader import Snapshot

_SOUND = f"NOT ({is_broken(schema.exclusion)})"
# Setting: the inode of library.db when a writer opened it last. Another one is that of a copy.
INODE = "inode"
# Settings without which the vectors of a library mean nothing.
_NEEDED = {"setup", "priors"}
# Keys of this database's current state, invalid in another one. With the collections in Qdrant, the repair of a copy
# would take those of the first library for its own.
_NOT_KEPT = {INODE, LIBRARY_ID, COLLECTIONS, "changed", "repairing", "min_reader", "scrub", FOLD_KEY, *COUNTS}


@dataclass(frozen=True, slots=True)
class SettingsBackup:
    """The backup, as of the last publication. roots: (path in hex, JSON of its globs). exclusions: paths in hex."""

    settings: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[tuple[str, str], ...] = ()
    exclusions: tuple[str, ...] = ()
    generation: int = 0
    clips: int = 0


def write_backup(connection: Connection, folder: Path) -> None:
    """Write the backup of the library in `folder`. Raises OSError."""
    m, r, e, g = schema.meta.c, schema.root.c, schema.exclusion.c, schema.generation.c
    settings = {row.key: row.value for row in connection.execute(select(m.key, m.value)) if row.key not in _NOT_KEPT}
    roots = {row.path.hex(): row.exclude for row in connection.execute(select(r.path, r.exclude))}
    removed = {path.hex() for path in connection.scalars(select(e.path).where(text(_SOUND)))}
    lacks_roots = schema.root in lost_rows(connection.execute)
    lacks_removed = len(removed) < (row_count(connection, schema.exclusion) or 0)
    lacks_settings = not settings.keys() >= _NEEDED
    if lacks_roots or lacks_removed or lacks_settings:  # they still have to be restored
        before = read_backup(folder) or SettingsBackup()
        settings = dict(before.settings) | settings if lacks_settings else settings
        roots = dict(before.roots) | roots if lacks_roots else roots
        removed |= set(before.exclusions) if lacks_removed else set()
    clips = connection.scalar(select(func.count()).select_from(schema.clip)) or 0
    generation = connection.scalar(select(func.max(g.id))) or 0
    held = json.dumps(asdict(SettingsBackup(settings, tuple(roots.items()), tuple(sorted(removed)), generation, clips)))
    with replacing(folder / BACKUP) as file:
        file.write(json.dumps({"crc32": zlib.crc32(held.encode()), "held": held}).encode())


def restore(connection: Connection, folder: Path) -> bool:
    """Restore lost or damaged settings, roots and exclusions of the database in `folder` from the backup.

    Return whether anything but exclusions was restored or dropped: then all roots must be scanned again.
    """
    had = {table: row_count(connection, table) or 0 for table in (schema.root, schema.exclusion)}
    for table in (schema.exclusion, schema.label):
        connection.execute(text(f"DELETE FROM {table.name} WHERE {is_broken(table)}"))
    broken = 0
    for table in (schema.meta, schema.root, schema.run, schema.generation):
        broken += connection.execute(text(f"DELETE FROM {table.name} WHERE {is_broken(table)}")).rowcount
    m, r = schema.meta.c, schema.root.c
    spare = read_backup(folder) or SettingsBackup()
    known = set(connection.scalars(select(m.key)))
    lost = {key: value for key, value in spare.settings.items() if key not in known}
    for key, value in lost.items():
        connection.execute(insert(schema.meta).values(key=key, value=value))
    paths = set(connection.scalars(select(r.path)))
    newest = connection.scalar(select(func.max(schema.generation.c.id))) or 0
    short = lost_rows(connection.execute).keys() - {schema.exclusion, schema.label}  # no scan finds these
    is_short = bool(lost or broken or short) or newest < spare.generation
    for path, globs in spare.roots if is_short else ():  # else a missing one was removed by the user
        if bytes.fromhex(path) not in paths:
            values = {"path": bytes.fromhex(path), "exclude": globs, "added_at": ""}
            connection.execute(insert(schema.root).values(values))
    held = connection.scalar(select(func.count()).select_from(schema.exclusion)) or 0
    if is_short or held < had[schema.exclusion]:
        for removed in spare.exclusions:
            statement = upsert(schema.exclusion).values(path=bytes.fromhex(removed), added_at="")
            connection.execute(statement.on_conflict_do_nothing())
    count_again(connection, schema.video)
    count_again(connection, schema.label)
    for table, least in had.items():  # what could not be restored stays lost until it is named again
        count_again(connection, table, least)
    return is_short


def lost_database(folder: Path, what: str) -> LibraryDamaged | None:
    """Return the error of a library whose database is lost; None in a folder without a backup, as of a new library.

    what: became of library.db. DatabaseLost if a repair can restore it; LibraryDamaged if the backup cannot be read,
    as one of a newer vfindex. Raises LibraryError, OSError.
    """
    if not os.path.lexists(folder / BACKUP):
        return None
    spare, database = read_backup(folder), folder / DATABASE
    if spare is None:
        return LibraryDamaged(
            f"{database} {what}, and this vfindex cannot read the copy of its settings, {BACKUP}; put back {DATABASE} "
            f"from a backup, or move {BACKUP} away and make the library again with: vfindex ingest VIDEOS"
        )
    if not spare.settings.keys() >= _NEEDED:
        return None
    return DatabaseLost(f"{database} {what}; put back the file from a backup, or run: vfindex repair")


def lost_setup(source: Catalog | Snapshot, folder: Path) -> LibraryDamaged | None:
    """Return the error of a library that has lost its setup; None of one that has it, or never had one.

    Without it nobody knows the models of the vectors. folder: of library.db. Raises LibraryError, LibraryDamaged.
    """
    if LibraryMeta(source).setup is not None:
        return None
    what = "has lost its settings"
    fault = lost_database(folder, what)
    if fault is None and source.has_videos():
        return LibraryDamaged(
            f"{folder / DATABASE} {what}, and {BACKUP} has no copy of them; put back {DATABASE} from a backup, or "
            "index the videos again into another folder: vfindex ingest VIDEOS --library FOLDER"
        )
    return fault


def setup_of(source: Catalog | Snapshot, folder: Path) -> Setup:
    """Return the setup of a library. Raises LibraryNotFound for one without videos, LibraryDamaged if it is lost."""
    setup = LibraryMeta(source).setup
    if setup is None:
        raise lost_setup(source, folder) or LibraryNotFound(no_videos(folder))
    return setup


def read_backup(folder: Path) -> SettingsBackup | None:
    """Return the backup, None if there is none or it is damaged. Raises OSError, LibraryError without permission."""
    try:
        outer: dict[str, Any] = json.loads(read_file(folder / BACKUP))
        if zlib.crc32(outer["held"].encode()) != outer["crc32"]:
            return None
        held = json.loads(outer["held"])
        held["roots"] = tuple((path, exclude) for path, exclude in held["roots"])
        held["exclusions"] = tuple(held.get("exclusions", ()))  # one of before November 2026 has none
        return SettingsBackup(**held)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    except PermissionError as exc:
        raise unreadable(folder / BACKUP) from exc
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ELOOP):  # no file at all
            return None
        raise
