"""What to say where this user may not read a file of a library: that is no damage."""

from __future__ import annotations

import os
import pwd
import stat
from pathlib import Path

from vfindex.storage.errors import LibraryError


def is_allowed(path: Path, access: int) -> bool:
    """Return whether this process may do `access` (os.R_OK, ...) with a file that is there."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def has_file(path: Path) -> bool:
    """Return whether there is a file at `path`. Raises LibraryError where this user may not look."""
    try:
        return stat.S_ISREG(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError as exc:
        raise unreadable(path) from exc


def refuse_unreadable(path: Path) -> None:
    """Raise LibraryError for a file that is there and that this user may not read."""
    if has_file(path) and not is_allowed(path, os.R_OK):
        raise unreadable(path)


def unreadable(path: Path) -> LibraryError:
    """Return the sentence for a file that this user may not read; of a folder in the way, where that is the reason."""
    for place in (path, *path.absolute().parents):
        try:
            found = place.stat()
        except OSError:
            continue
        rights = f"it belongs to {_owner(found.st_uid)}, mode {stat.S_IMODE(found.st_mode):04o}"
        return LibraryError(
            f"no permission to read {place} ({rights}); ask its owner for access, or run the command as that user"
        )
    return LibraryError(f"no permission to read {path}; ask its owner for access, or run the command as that user")


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
