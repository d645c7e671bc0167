"""Permissions of a library's files, and the error if this user lacks them: that is not damage.

Every file in a library takes the mode and group of its library.db, and every folder those of the library's folder,
whatever the user's umask. SQLite does the same for its log.
"""

from __future__ import annotations

import errno
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from vfindex.storage.errors import LibraryError

# The databases in the folder of a library: what is indexed, and what people write.
DATABASE, USER_DATABASE = "library.db", "user.db"
# The second copy of a library's settings, see `settings_backup`.
BACKUP = "library.json"
# The folders of a library, and of each of its model versions.
FOLDERS = ("index", "query", "thumbs")
_FILE_BITS = 0o666
_READ_BITS = 0o444
_FOLDER_BITS = 0o2777


def permission_wanted(files: str) -> str:
    """Return what a user lacks who cannot write files of a library, as a clause."""
    return f"this user needs permission to write {files} and the library's folder, and the disk must not be read-only"


def is_allowed(path: Path, access: int) -> bool:
    """Return whether this process has `access` (os.R_OK, ...) to an existing file."""
    return os.access(path, access, effective_ids=os.access in os.supports_effective_ids)


def has_file(path: Path) -> bool:
    """Return whether there is a file at `path`. Raises LibraryError if this user may not look."""
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
    """Raise LibraryError if `path` exists and is not a file, or is one that this user may not read."""
    if not os.path.lexists(path):
        return  # asked first: SQLite creates its log at any time
    if has_file(path):
        if not is_allowed(path, os.R_OK):
            raise unreadable(path)
    elif os.path.lexists(path):
        raise LibraryError(f"{path} is no file; move it away, or use another --library")


def unreadable(path: Path) -> LibraryError:
    """Return the message for a file that this user may not read, naming a parent folder if that is the reason."""
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
    """Give a new file or folder in a library the library's mode and group.

    If the system refuses, because this user is not in the group or does not own the file, it is left unchanged. As
    root, the owner of library.db is set as well, as SQLite does.
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


def share_log(database: Path) -> None:
    """Share the files of a database's log. SQLite gives them its mode, but only as root its owner and its group."""
    for suffix in ("-wal", "-shm"):
        with suppress(FileNotFoundError):
            share(database.with_name(database.name + suffix))


def is_shared_as(source: Path, path: Path) -> bool:
    """Return whether all readers of the library of `path` may read `source`, so that a hard link suffices."""
    model = _model(path)
    wanted = 0 if model is None else model.stat().st_mode & _READ_BITS
    return source.stat().st_mode & wanted == wanted


def _model(path: Path) -> Path | None:
    """Return the file whose mode and group a path in a library takes; None outside a library or in a new one.

    Model versions take those of their library, whose own library.db may be gone after an upgrade. Without any
    library.db, the settings backup has the mode and group that it had.
    """
    for folder in path.absolute().parents:
        if "editions" in (folder.name, folder.parent.name):
            continue
        found = folder / DATABASE
        if not found.is_file():
            others = (database for database in sorted(folder.glob(f"editions/*/{DATABASE}")) if database != path)
            found = next(others, folder / BACKUP)
        if found.is_file() and found != path:
            return folder if path.is_dir() else found
    return None


def _owner(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"user {uid}"
