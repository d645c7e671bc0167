"""SHA-256 of whole video files: stored by the first `vfindex verify --full`, compared by later ones.

A fingerprint reads three parts of a file, so decay elsewhere goes unnoticed. Hashing whole files during indexing would
cost an hour of disk time per 700 GB (at 200 MB/s), so `vfindex verify --full` does it. The setting `sha256 FINGERPRINT`
is the hash, a space and its time.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from vfindex.storage.db.catalog import now
from vfindex.storage.db.integrity import put
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.files.regular import regular
from vfindex.storage.library import Library
from vfindex.storage.records import SEARCHABLE, Location
from vfindex.storage.writer import writing

# Hashes are stored in batches, so an interrupted check loses little: 64 files of 2 GB take an hour on a slow disk.
STORE_EVERY = 64
_KEY = "sha256 "


@dataclass(slots=True)
class FileCheck:
    """The result. compared: files compared with a stored hash. first: files hashed for the first time."""

    compared: int = 0
    first: int = 0
    problems: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def check_files(folder: Path, tell: Callable[[int, int], None] = lambda *_: None) -> FileCheck:
    """Hash the files of all searchable videos, compare stored hashes, and store the new ones.

    tell: called with (files done, files in all). Raises LibraryLocked if another run has the library locked when hashes
    are stored, LibraryError.
    """
    result = FileCheck()
    with Library.open(folder).snapshot() as snapshot:
        videos = [video for video in snapshot.videos() if video.state in SEARCHABLE]
        known = {video.fingerprint: snapshot.get(_KEY + video.fingerprint) for video in videos}
    new: dict[str, str] = {}
    total = sum(len(video.locations) for video in videos)
    for done, (video, place) in enumerate(_places(videos), start=1):
        found, before = _sha256(place, result), known[video.fingerprint]
        if found is not None and before is None:
            known[video.fingerprint] = new[video.fingerprint] = f"{found} {now()}"
            result.first += 1
        elif found is not None and before is not None:
            result.compared += 1
            sha256, _, when = before.partition(" ")
            if found != sha256:
                result.problems.append(
                    f"{_name(place)} has other bytes than when it was read on {when[:10]}, though its size and time "
                    "are the same: its disk may be failing; put a copy in its place and run `vfindex reindex`"
                )
        if len(new) >= STORE_EVERY or (new and done == total):
            _store(folder, new)
            new.clear()
        tell(done, total)
    return result


def _places(videos: Iterable[StoredVideo]) -> Iterator[tuple[StoredVideo, Location]]:
    for video in videos:
        for place in video.locations:
            yield video, place


def _sha256(place: Location, result: FileCheck) -> str | None:
    """Return the hash of a file with the size and time in the library; else add a note or problem and return None."""
    try:
        with open(place.path, "rb", opener=regular) as file:
            found = os.fstat(file.fileno())
            if (found.st_size, found.st_mtime_ns) != (place.size_bytes, place.mtime_ns):
                result.notes.append(f"{_name(place)} has changed since it was indexed; `vfindex reindex` takes it up")
                return None
            return hashlib.file_digest(file, "sha256").hexdigest()
    except FileNotFoundError:
        result.notes.append(f"{_name(place)} is not there")
    except OSError as exc:
        result.problems.append(f"{_name(place)} cannot be read ({exc.strerror}); see to its disk")
    return None


def _name(place: Location) -> str:
    return os.fsdecode(place.path)


def _store(folder: Path, hashes: dict[str, str]) -> None:
    with writing(folder) as writer, writer.catalog.transaction() as connection:
        for fingerprint, value in hashes.items():
            put(connection, _KEY + fingerprint, value)
