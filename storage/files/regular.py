"""Files that are opened by name, and nothing else: a pipe, a socket or a device in their place would be waited for."""

from __future__ import annotations

import errno
import hashlib
import os
import stat
from pathlib import Path

_KINDS = (
    (stat.S_ISDIR, "a folder"),
    (stat.S_ISLNK, "a symbolic link"),
    (stat.S_ISFIFO, "a named pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


class NotRegularError(OSError):
    """There is something else than a regular file. kind: "a folder", "a named pipe", ..."""

    def __init__(self, path: str | bytes | os.PathLike[str], kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, no file", os.fsdecode(path))
        self.kind = kind


def kind_of(mode: int) -> str:
    """Return what a mode of `os.stat` that is no regular file's stands for, in words."""
    return next((words for test, words in _KINDS if test(mode)), "a special file")


def regular(path: str | bytes | os.PathLike[str], flags: int) -> int:
    """Return the descriptor of a regular file, as the opener of `open`. Raises NotRegularError for anything else.

    Never waits: neither for the other end of a pipe, nor for a file of the kernel's that has nothing to give yet.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a socket, or a device that is not there
            raise NotRegularError(path, "a socket or a device") from exc
        if exc.errno == errno.ELOOP and flags & os.O_NOFOLLOW:
            raise NotRegularError(path, "a symbolic link") from exc
        raise
    mode = os.fstat(handle).st_mode
    if not stat.S_ISREG(mode):
        os.close(handle)
        raise NotRegularError(path, kind_of(mode))
    return handle


def regular_no_link(path: str | bytes | os.PathLike[str], flags: int) -> int:
    """Return what `regular` does, and refuse a symbolic link, too."""
    return regular(path, flags | os.O_NOFOLLOW)


def read_file(path: Path) -> bytes:
    """Return what a regular file holds. Raises OSError, also for anything else than a regular file."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb", opener=regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Put a folder's entries on the disk, where the platform can."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
