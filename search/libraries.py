"""Open libraries that are read as one, from any number of threads."""

from __future__ import annotations

import os
import shlex
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from copy import copy
from pathlib import Path
from typing import TYPE_CHECKING, Self

from vfindex.search.engine import SearchEngine, naming
from vfindex.search.live import library_path
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import LibraryError, QueryError, UsageError, counted
from vfindex.storage.library import Library

if TYPE_CHECKING:  # a search on this machine opens no connection; its start counts
    from vfindex.search.remote.member import RemoteLibrary


class OpenLibraries:
    """A library, or several, which follow runs, upgrades and rollbacks. folder: of the first.

    remotes: libraries on other machines, which can only be searched.

    Opening reads nothing: every call raises LibraryNotFound, LibraryVersion or LibraryDamaged where there is no library
    to read. `close`, or leaving the `with` block, closes its files; calls that still run end with their answer or
    raise LibraryError, as later ones do.
    """

    def __init__(self, folder: str | Path | Sequence[str | Path], remotes: Sequence[RemoteLibrary] = ()) -> None:
        """folder: one, or several; one named twice is one. Of none, libraries on other machines are searched alone."""
        given = folder if isinstance(folder, Sequence) and not isinstance(folder, str | bytes) else [folder]
        folders = [library_path(each) for each in given]
        if not folders and not remotes:
            raise UsageError("name the folder of a library at least")
        self.remotes = list(dict.fromkeys(remotes))
        chosen = {os.path.realpath(each): each for each in folders}.values()
        self.engines = [SearchEngine(each, for_people=True) for each in chosen]

    @property
    def engine(self) -> SearchEngine:
        """The engine of the first library. Raises UsageError if all libraries are on other machines."""
        if not self.engines:
            raise UsageError(
                "libraries on other machines can only be searched; name a library on this machine for anything else"
            )
        return self.engines[0]

    @property
    def folder(self) -> Path:
        """The folder of the first library."""
        return self.engine.folder

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def use_gpus(self) -> None:
        """Answer by the GPUs of this machine where a library is large, see `SearchEngine.use_gpus`."""
        for engine in self.engines:
            engine.use_gpus()

    def close(self) -> None:
        """Close the libraries permanently; a call then raises LibraryError."""
        for engine in self.engines:
            engine.close()

    def alone(self, number: int) -> Self:
        """Return the service of one of the libraries, from 0, which shares its engine. Raises QueryError."""
        if number not in range(len(self.engines)):
            raise QueryError(
                f"there is no library {number}; of {counted(len(self.engines), 'library')}, the first is 0"
            )
        one = copy(self)
        one.engines, one.remotes = [self.engines[number]], []
        return one

    @contextmanager
    def opened(self) -> Iterator[tuple[list[Library], list[Snapshot]]]:
        """Yield all libraries, and a snapshot of each."""
        with ExitStack() as opened:
            libraries, snapshots = [], []
            for engine in self.engines or [self.engine]:
                with engine.named_among(self.engines):
                    libraries.append(engine.library())
                    snapshots.append(opened.enter_context(libraries[-1].snapshot()))
            with naming(self.engines, libraries):
                yield libraries, snapshots


def existing_video(video: StoredVideo | None, name: str | Path) -> StoredVideo:
    """Return the video of a path or fingerprint. Raises LibraryError if there is none."""
    if video is not None:
        return video
    name = os.fsdecode(name)
    if os.path.isdir(name):
        raise LibraryError(f"{name} is a folder; name one of its videos")
    if os.path.lexists(name):
        raise LibraryError(f"{name} is not in this library; index it with: vfindex ingest {shlex.quote(name)}")
    raise LibraryError(f"{name} is not in this library, and there is no such file; `vfindex list` shows what is")
