"""Model versions of a library: whole libraries made with other models, in one folder, and which of them is in use.

    <library>/               version 0: library.db, index/, query/, thumbs/
    <library>/editions/<n>/  later ones, each a whole library, made by an upgrade
    <library>/current        a line a version: the one in use, below it earlier ones; absent before the first upgrade

One rename of `current` switches or rolls back. Writers hold the library's lock. A version that an upgrade completed
beside no `current` means that the file is lost: an upgrade writes it before it builds anything. Earlier versions of
vfindex first wrote it when they switched.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from sqlalchemy import select
from sqlalchemy.exc import DBAPIError

from vfindex.storage.db import schema
from vfindex.storage.db.engine import connect, translated
from vfindex.storage.db.migrations import applied_migrations
from vfindex.storage.errors import LibraryDamaged, LibraryError
from vfindex.storage.files.permissions import BACKUP, DATABASE, FOLDERS, has_file, refuse_unreadable, unreadable
from vfindex.storage.files.regular import NotRegularError, regular
from vfindex.storage.files.writes import replacing

POINTER = "current"
# Setting of a version that an upgrade completed; stored before the switch to it.
COMPLETE = "upgraded"
# The files of version 0, the database first: without it the rest does not count as a library. The patterns are of what
# a killed migration or repair leaves, and of the database that a migration keeps.
_OWN_FILES = ("library.db", "library.db[-.]*", "library.before-migration.db*", BACKUP)
_LINE = re.compile(r"\.|editions/([1-9][0-9]{0,8})")
_MAX_POINTER_BYTES = 10_000


def version_folder(folder: Path, number: int) -> Path:
    """Return the folder of a model version."""
    return folder / "editions" / str(number) if number else folder


def history(folder: Path) -> list[int]:
    """Return the number of the version in use, then those used before it, latest first. Raises LibraryDamaged."""
    pointer = folder / POINTER
    try:
        with open(pointer, "rb", opener=regular) as file:
            lines = file.read(_MAX_POINTER_BYTES).decode(errors="replace").splitlines()
    except (FileNotFoundError, NotADirectoryError):
        if any(_was_in_use(folder, number) for number in _editions(folder)):
            raise LibraryDamaged(
                f"{pointer} is missing, which says which model version of the library is in use; {_advice(folder)}"
            ) from None
        return [0]
    except PermissionError as exc:
        raise unreadable(pointer) from exc
    except NotRegularError as exc:
        raise LibraryDamaged(f"{pointer} cannot be read ({exc.strerror}); move it away") from exc
    except OSError as exc:
        raise LibraryError(f"{pointer} cannot be read ({exc.strerror}); see to the disk, or {_advice(folder)}") from exc
    matches = [_LINE.fullmatch(line) for line in lines]
    numbers = [int(match[1] or 0) for match in matches if match]
    if not numbers or len(numbers) < len(lines) or len(set(numbers)) < len(numbers):
        raise LibraryDamaged(f"{pointer} does not say which model version of the library is in use; {_advice(folder)}")
    return numbers


def in_use(folder: Path) -> Path:
    """Return the folder of the version in use. Raises LibraryDamaged if it has neither a database nor its backup."""
    number = history(folder)[0]
    place = version_folder(folder, number)
    if not _has_library(place) and (number or _libraries(folder)):
        raise LibraryDamaged(
            f"{folder / POINTER} names `{_line(number)}`, which holds no library; put it back, or {_advice(folder)}"
        )
    return place


def _has_library(place: Path) -> bool:
    return has_file(place / DATABASE) or has_file(place / BACKUP)


def _was_in_use(folder: Path, number: int) -> bool:
    """Return whether a later version was ever in use; True if that cannot be known."""
    place = version_folder(folder, number)
    if not has_file(place / DATABASE) or not _has_library(folder):
        return _has_library(place)  # an upgrade that has not switched leaves the version that it reads, and a database
    refuse_unreadable(place / DATABASE)
    engine = connect(place / DATABASE, write=False)
    try:
        with engine.connect() as connection:
            if not applied_migrations(connection):
                return False
            key = schema.meta.c.key
            return connection.scalar(select(key).where(key == COMPLETE)) is not None
    except DBAPIError as exc:
        if isinstance(fault := translated(exc), LibraryDamaged):
            return True
        raise fault from exc
    finally:
        engine.dispose()


def _libraries(folder: Path) -> list[int]:
    """Return the numbers of the versions that hold a library, increasing."""
    return [number for number in (0, *_editions(folder)) if _has_library(version_folder(folder, number))]


def _advice(folder: Path) -> str:
    """Return what to write into a pointer that does not name a version."""
    *others, last = [f"`{_line(number)}`" for number in _libraries(folder) or [0]]
    return f"write into it {', '.join(others)} or {last}" if others else f"write into it {last}"


def _line(number: int) -> str:
    """Return the pointer's line of a version."""
    return f"editions/{number}" if number else "."


def _editions(folder: Path) -> list[int]:
    """Return the numbers of the later versions, increasing."""
    if not (folder / "editions").is_dir():
        return []
    try:
        names = [path.name for path in (folder / "editions").iterdir() if path.is_dir()]
    except PermissionError as exc:
        raise unreadable(folder / "editions") from exc
    return sorted(int(name) for name in names if _LINE.fullmatch(f"editions/{name}"))


def unused(folder: Path) -> list[int]:
    """Return the numbers of the versions that are not in use, increasing."""
    using = history(folder)[0]
    found = [0] if (folder / "library.db").is_file() else []
    return [number for number in (*found, *_editions(folder)) if number != using]


def begin(folder: Path) -> None:
    """Write the pointer of a library that has had no upgrade, before its first one builds anything."""
    if not (folder / POINTER).exists():
        _point(folder, [0])


def put_in_use(folder: Path, number: int) -> None:
    """Switch readers and writers to a version; `roll_back` returns to the one used until now."""
    before = [other for other in history(folder) if other != number]
    _point(folder, [number, *before])


def earlier(folder: Path) -> list[int]:
    """Return the numbers of the versions used before this one, latest first. Raises LibraryError if there is none."""
    found = [n for n in history(folder)[1:] if (version_folder(folder, n) / "library.db").is_file()]
    if not found:
        raise LibraryError(f"the library {folder} has no model version before this one to return to")
    return found


def roll_back(folder: Path) -> int:
    """Switch back to the version used before, and return its number. Raises LibraryError if there is none."""
    numbers = earlier(folder)
    _point(folder, numbers)
    return numbers[0]


def discard(folder: Path, numbers: list[int]) -> int:
    """Delete versions that are not in use, and the rest of an interrupted deletion; return the bytes freed.

    Raises LibraryError for the one in use, or if the disk refuses. Files that versions share count with the last.
    """
    using, *before = history(folder)
    if using in numbers:
        raise LibraryError(f"model version {using} is in use; return to another one first: vfindex upgrade --rollback")
    if set(before) & set(numbers):
        _point(folder, [using, *(n for n in before if n not in numbers)])
    try:
        freed = 0
        for number in numbers:
            if number:
                # Renamed first: half a version must not look like one that an upgrade left unfinished.
                version_folder(folder, number).rename(folder / "editions" / f"{number}.gone")
        for gone in sorted((folder / "editions").glob("*.gone")):
            freed += _delete(gone)
        if 0 in numbers:
            found = (path for name in (*_OWN_FILES, *FOLDERS) for path in sorted(folder.glob(name)))
            freed += sum(_delete(path) for path in found)
    except OSError as exc:
        raise LibraryError(
            f"an unused model version could not be deleted ({exc.filename}: {exc.strerror}); see to it and run "
            "`vfindex upgrade --discard` again"
        ) from exc
    return freed


def _point(folder: Path, numbers: list[int]) -> None:
    """Replace the pointer atomically."""
    try:
        with replacing(folder / POINTER) as file:
            file.write("".join(f"{_line(number)}\n" for number in numbers).encode())
    except OSError as exc:
        raise LibraryError(
            f"{folder / POINTER} could not be written ({exc.strerror}); the version in use has not changed: see to "
            "the disk and run the same command again"
        ) from exc


def _delete(path: Path) -> int:
    """Delete a file or folder if it exists; return the bytes of files without another hard link."""
    if not path.is_dir():
        size = path.stat().st_size if path.exists() else 0
        path.unlink(missing_ok=True)
        return size
    stats = (file.lstat() for file in path.rglob("*") if not file.is_dir())
    size = sum(found.st_size for found in stats if found.st_nlink == 1)
    shutil.rmtree(path)
    return size
