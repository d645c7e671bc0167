"""Messages for lack of resources: memory, threads, open files, disk space, and the limits that apply."""

from __future__ import annotations

import errno
import os
import resource
from collections.abc import Mapping, Sequence
from pathlib import Path

_MEMORY_WORDS = ("bad_alloc", "Cannot allocate memory", "cannot allocate memory", "start new thread")
# The loader's message for a library that does not fit into memory.
_LOADER_WORDS = ("failed to map segment", "cannot allocate memory", "cannot map", "bad_alloc")


def lack(exc: BaseException | None) -> str | None:
    """Return a sentence that names the limit behind an exception or its cause; None for any other."""
    while exc is not None:
        if isinstance(exc, OSError) and exc.errno in (errno.EMFILE, errno.ENFILE):
            files = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
            return f"no more files can be opened (the limit is {files}); raise it with: ulimit -n 1024"
        if isinstance(exc, MemoryError) or _is_memory(exc):
            bytes_ = resource.getrlimit(resource.RLIMIT_AS)[0]
            limit = "" if bytes_ == resource.RLIM_INFINITY else f" (the limit is {bytes_ >> 20} MiB)"
            return f"there is too little memory{limit}; raise the limit with ulimit -v, or free some memory"
        exc = exc.__cause__ or exc.__context__
    return None


def _is_memory(exc: BaseException) -> bool:
    text = str(exc)
    if isinstance(exc, ImportError):
        return any(word in text for word in _LOADER_WORDS)
    is_oom = isinstance(exc, OSError) and exc.errno in (errno.ENOMEM, errno.EAGAIN)
    return is_oom or any(word in text for word in _MEMORY_WORDS)  # ONNX Runtime's errors are not RuntimeErrors


def temporary_folder(environment: Mapping[str, str] = os.environ) -> Path:
    """Return SQLite's folder for temporary files: the first writable one, as in its unixTempFileDir."""
    named = [environment.get(name) for name in ("SQLITE_TMPDIR", "TMPDIR")]
    for name in filter(None, [*named, "/var/tmp", "/usr/tmp", "/tmp"]):
        if os.path.isdir(name) and os.access(name, os.W_OK | os.X_OK):
            return Path(name)
    return Path()


def has_room(folder: Path, bytes_: int) -> bool:
    """Return whether files of this size would fit into a folder; True if the system does not say."""
    found = least_room([folder])
    return found is None or found[1] >= bytes_


def least_room(folders: Sequence[Path]) -> tuple[Path, int] | None:
    """Return the folder with the least free space, the first of equals, and its free bytes; None if unknown."""
    rooms = []
    for folder in folders:
        try:
            disk = os.statvfs(folder)
        except OSError:
            continue
        rooms.append((folder, disk.f_bavail * disk.f_frsize))
    return min(rooms, key=lambda room: room[1], default=None)
