"""library.json: a backup of the settings and sources of a library, and of how many generations and clips it had.

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
from typing import Any

from sqlalchemy import Connection, func, insert, select, text

from vfindex.storage.db import schema
from vfindex.storage.db.integrity import COUNTS, count_again, is_broken, lost_rows, row_count
from vfindex.storage.files.permissions import share
from vfindex.storage.files.regular import read_file, sync_folder
from vfindex.storage.text.folding import FOLD_KEY

BACKUP = "library.json"
# Keys of this database's current state, invalid in another one.
_NOT_KEPT = {"changed", "repairing", "min_reader", "scrub", FOLD_KEY, *COUNTS}


@dataclass(frozen=True, slots=True)
class SettingsBackup:
    """The backup, as of the last publication. roots: (path in hex, JSON of its globs)."""

    settings: Mapping[str, str] = field(default_factory=dict)
    roots: tuple[tuple[str, str], ...] = ()
    generation: int = 0
    clips: int = 0


def write_backup(connection: Connection, folder: Path) -> None:
    """Write the backup of the library in `folder`. Raises OSError."""
    m, r, g = schema.meta.c, schema.root.c, schema.generation.c
    settings = {row.key: row.value for row in connection.execute(select(m.key, m.value)) if row.key not in _NOT_KEPT}
    roots = {row.path.hex(): row.exclude for row in connection.execute(select(r.path, r.exclude))}
    if schema.root in lost_rows(connection.execute):  # they still have to be restored
        roots = dict((read_backup(folder) or SettingsBackup()).roots) | roots
    clips = connection.scalar(select(func.count()).select_from(schema.clip)) or 0
    held = json.dumps(
        asdict(SettingsBackup(settings, tuple(roots.items()), connection.scalar(select(func.max(g.id))) or 0, clips))
    )
    temporary = folder / f"{BACKUP}.part"
    temporary.unlink(missing_ok=True)  # a pipe of that name would block
    with temporary.open("w", encoding="utf-8") as file:
        file.write(json.dumps({"crc32": zlib.crc32(held.encode()), "held": held}))
        file.flush()
        os.fsync(file.fileno())
    share(temporary)
    temporary.replace(folder / BACKUP)
    sync_folder(folder)


def restore(connection: Connection, folder: Path) -> bool:
    """Restore lost or damaged settings and roots of the database in `folder` from the backup.

    Return whether anything was restored or dropped: then all roots must be scanned again.
    """
    had = {table: row_count(connection, table) or 0 for table in (schema.root, schema.exclusion)}
    connection.execute(text(f"DELETE FROM exclusion WHERE {is_broken(schema.exclusion)}"))
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
    short = lost_rows(connection.execute).keys() - {schema.exclusion}  # removed paths are not searched for
    is_short = bool(lost or broken or short) or newest < spare.generation
    for path, globs in spare.roots if is_short else ():  # else a missing one was removed by the user
        if bytes.fromhex(path) not in paths:
            values = {"path": bytes.fromhex(path), "exclude": globs, "added_at": ""}
            connection.execute(insert(schema.root).values(values))
    count_again(connection, schema.video)
    for table, least in had.items():  # what could not be restored stays lost until it is named again
        count_again(connection, table, least)
    return is_short


def read_backup(folder: Path) -> SettingsBackup | None:
    """Return the backup, None if there is none or it is damaged. Raises OSError."""
    try:
        outer: dict[str, Any] = json.loads(read_file(folder / BACKUP))
        if zlib.crc32(outer["held"].encode()) != outer["crc32"]:
            return None
        held = json.loads(outer["held"])
        held["roots"] = tuple((path, exclude) for path, exclude in held["roots"])
        return SettingsBackup(**held)
    except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
        return None
    except OSError as exc:
        if exc.errno in (errno.EINVAL, errno.ELOOP):  # no file at all
            return None
        raise
