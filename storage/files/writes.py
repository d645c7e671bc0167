"""Writes files and folders of a library atomically. Raises LibraryError, in words, where the disk refuses."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from vfindex.storage.errors import LibraryError
from vfindex.storage.files.permissions import is_shared_as, permission_wanted, share
from vfindex.storage.files.regular import sync_folder

_IN_THE_WAY = (errno.EEXIST, errno.EISDIR, errno.ENOTDIR, errno.ELOOP, errno.ENXIO)
_FORBIDDEN = (errno.EACCES, errno.EPERM, errno.EROFS)


@contextmanager
def on_disk(what: str) -> Iterator[None]:
    """Raise LibraryError if the disk is full, read-only or broken. what: the thing written, in words."""
    try:
        yield
    except OSError as exc:
        raise not_written(what, exc) from exc


def not_written(what: str, exc: OSError) -> LibraryError:
    """Return the error of something that could not be written, with what to do about it. what: as for `on_disk`."""
    fault, place = f"{what} of the library could not be written", exc.filename2 or exc.filename
    if exc.errno in _IN_THE_WAY:
        return LibraryError(
            f"{fault}: {place} is in the way ({exc.strerror}); move it away and run the same command again"
        )
    if exc.errno in _FORBIDDEN and place:
        closed = place if os.path.isdir(place) else os.path.dirname(place)
        return LibraryError(f"{fault} ({exc.strerror}); {permission_wanted(os.fsdecode(closed))}")
    return LibraryError(
        f"{fault} ({exc.strerror}); make room for it or see to the disk, and run the same command again: nothing that "
        "was committed is lost"
    )


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Yield a new file that replaces `path` when the block ends, on the disk by then, or is deleted. Raises OSError.

    What stood at `path` stays whole until then, and for those who have it mapped.
    """
    part = path.with_name(path.name + ".part")
    try:
        part.unlink(missing_ok=True)  # a pipe of that name would block
        with part.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        share(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def copy_folder(source: Path, target: Path) -> None:
    """Copy a model's files atomically, as hard links where the file system allows."""
    if target.is_dir():
        return
    temporary = target.with_name(target.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    make_folder(temporary)
    try:
        for path in sorted(source.iterdir()):
            _link_or_copy(path, temporary / path.name)
        temporary.rename(target)
    except OSError:
        shutil.rmtree(temporary, ignore_errors=True)  # half a model must not fill a full disk
        raise
    sync_folder(target.parent)


def _link_or_copy(source: Path, target: Path) -> None:
    """Make a hard link in the library, or a copy of a private source or where links are not possible."""
    if is_shared_as(source, target):
        with suppress(OSError):
            os.link(source, target)
            return
    shutil.copyfile(source, target)
    share(target)


def keep_as(path: Path, name: Path) -> None:
    """Give a file a second name, or copy it where links are not possible. Raises OSError."""
    name.unlink(missing_ok=True)
    try:
        os.link(path, name)
    except OSError:
        shutil.copyfile(path, name)
        share(name)


def make_folder(path: Path) -> None:
    if not path.is_dir():
        path.mkdir(exist_ok=True)
        share(path)


def write_file(path: Path, data: bytes) -> None:
    """Write a file atomically, unless it has this content already."""
    make_folder(path.parent)
    if path.is_file() and path.read_bytes() == data:
        return
    temporary = path.with_name(path.name + ".part")
    try:
        temporary.write_bytes(data)
        share(temporary)
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
