"""Opens regular files only: a pipe, socket or device in place of a file would block."""

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
    """The path is not a regular file. kind: "a folder", "a named pipe", ..."""

    def __init__(self, path: str | bytes | os.PathLike[str], kind: str) -> None:
        super().__init__(errno.EINVAL, f"it is {kind}, no file", os.fsdecode(path))
        self.kind = kind


def kind_of(mode: int) -> str:
    """Return the kind of a file that is not regular, in words. mode: of `os.stat`."""
    return next((words for test, words in _KINDS if test(mode)), "a special file")


def regular(path: str | bytes | os.PathLike[str], flags: int) -> int:
    """Return the descriptor of a regular file; an opener for `open`. Raises NotRegularError for anything else.

    Never blocks, neither on a pipe nor on a kernel file without data.
    """
    try:
        handle = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ENXIO:  # a socket, or a missing device
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
    """Like `regular`, but also refuses a symbolic link."""
    return regular(path, flags | os.O_NOFOLLOW)


def read_file(path: Path) -> bytes:
    """Return the contents of a regular file. Raises OSError, also if it is not regular."""
    with open(path, "rb", opener=regular) as file:
        return file.read()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hex."""
    with open(path, "rb", opener=regular) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync_folder(folder: Path) -> None:
    """Sync a folder's entries to the disk, if the platform supports it."""
    if os.name != "posix":
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
