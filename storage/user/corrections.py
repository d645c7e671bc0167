"""The corrections of a library for its readers, read again when `user.db` changes."""

from __future__ import annotations

import hashlib
import logging
import time
from pathlib import Path
from threading import Lock

from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryVersion
from vfindex.storage.files.permissions import USER_DATABASE
from vfindex.storage.text.corrected import NO_CORRECTIONS, Corrections

logger = logging.getLogger(__name__)
# Times of files are as coarse as two seconds: until then a second change may leave the same time.
_SETTLED_S = 2.5


class CorrectionReader:
    """Reads the corrections of the library in `folder`, for any number of threads.

    Compares the file by its stat alone: closing a descriptor of it would release the locks that SQLite holds.
    """

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, folder / USER_DATABASE
        self._known: tuple[object, Corrections] | None = None
        self._lock = Lock()
        self._logged = ""

    def read(self) -> Corrections:
        """Return the corrections as of now; none, with a warning, if `user.db` cannot be read."""
        stamp = _stamp(self._path)
        if stamp is None:
            return NO_CORRECTIONS
        known = self._known
        if known is not None and known[0] == stamp:
            return known[1]
        with self._lock:
            known = self._known
            if known is not None and known[0] == stamp:
                return known[1]
            is_settled = time.time() - stamp[-1] / 1e9 > _SETTLED_S
            found, is_known = self._read()
            if is_known and is_settled and _stamp(self._path) == stamp:
                self._known = (stamp, found)
            return found

    def _read(self) -> tuple[Corrections, bool]:
        """Return the corrections, and whether reading the same file again would return the same."""
        from vfindex.storage.user.data import UserData  # a search of a library without the file does without

        try:
            corrections = UserData.open(self._folder).corrections()
        except LibraryError as exc:
            if str(exc) != self._logged:
                logger.warning("transcripts are shown without people's corrections: %s", exc)
                self._logged = str(exc)
            return NO_CORRECTIONS, isinstance(exc, LibraryDamaged | LibraryVersion)
        lines = {each.line: each.text for each in corrections}
        version = hashlib.sha256(repr([*lines.items()]).encode()).hexdigest()[:16] if lines else ""
        return Corrections(lines, version), True


def _stamp(path: Path) -> tuple[int, ...] | None:
    """Return what changes with each commit, at last the time of the change in ns; None without a file."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns
