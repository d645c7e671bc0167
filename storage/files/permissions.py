"""Who may read and write the files of a library, and what to say where this user may not: that is no damage.

Every file in a library takes the mode and group of its library.db, and every folder those of the library's folder,
whatever the umask of the user whose run makes it: SQLite does the same for its log.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from vfindex.storage.errors import LibraryError

DATABASE = "library.db"
_FILE_BITS = 0o666
_READ_BITS = 0o444
_FOLDER_BITS = 0o2777


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
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            return False
        raise


def refuse_unreadable(path: Path) -> None:
    """Raise LibraryError for what is there and is no file, or is one that this user may not read."""
    if has_file(path):
        if not is_allowed(path, os.R_OK):
            raise unreadable(path)
    elif os.path.lexists(path):
        raise LibraryError(f"{path} is no file; move it away, or use another --library")


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


def share(path: Path) -> None:
    """Give a file or folder that was just made in a library the mode and group that the library has.

    Where the system refuses the group, which this user may not be in, or anything of another user's file, it stays.
    As root the owner too is that of library.db, as SQLite has it.
    """
    model = _model(path)
    if model is None or model == path:
        return
    wanted, made = model.stat(), path.lstat()
    with suppress(PermissionError):
        owner = wanted.st_uid if os.geteuid() == 0 else -1
        if made.st_gid != wanted.st_gid or owner not in (-1, made.st_uid):
            os.chown(path, owner, wanted.st_gid, follow_symlinks=False)
    mode = stat.S_IMODE(wanted.st_mode) & (_FOLDER_BITS if stat.S_ISDIR(made.st_mode) else _FILE_BITS)
    with suppress(PermissionError):
        if stat.S_IMODE(made.st_mode) != mode:
            path.chmod(mode)


def is_shared_as(source: Path, path: Path) -> bool:
    """Return whether all who may read the library of `path` may read `source`, so that a hard link to it will do."""
    model = _model(path)
    wanted = 0 if model is None else model.stat().st_mode & _READ_BITS
    return source.stat().st_mode & wanted == wanted


def _model(path: Path) -> Path | None:
    """Return whose mode and group a path in a library takes; None for one in no library, or in one still to be made.

    Editions take those of the library that they lie in, which may have lost its own library.db to an upgrade.
    """
    for folder in path.absolute().parents:
        if "editions" in (folder.name, folder.parent.name):
            continue
        found = folder / DATABASE
        if not found.is_file():
            others = (database for database in sorted(folder.glob(f"editions/*/{DATABASE}")) if database != path)
            found = next(others, found)
        if found.is_file() and found != path:
            return folder if path.is_dir() else found
    return None


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
