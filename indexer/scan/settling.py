"""Which files of watched folders are complete: those that were closed, or have not changed for a while."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from vfindex.indexer.scan.sidecars import sidecar_suffix
from vfindex.indexer.scan.walk import is_video_name
from vfindex.storage.errors import VfindexError
from vfindex.storage.records import FileState

# A writer that closes a file and opens it again at once, as some recorders do to add an index, has this long.
CLOSED_S = 0.5
# Where the system reports no close, as for a file that was there before, it has to be unchanged for this long: a
# camera writes several times a second, and a copy that stalls for longer is read again once it goes on.
QUIET_S = 5.0


@dataclass
class Settling:
    """Files that change, as events tell; safe for threads. clock: monotonic seconds; wall: seconds since 1970."""

    clock: Callable[[], float] = time.monotonic
    wall: Callable[[], float] = time.time
    _due: dict[bytes, float] = field(default_factory=dict)  # path -> when it counts as complete, by `clock`
    _closed: dict[bytes, float] = field(default_factory=dict)  # path -> when it was closed, until it is taken
    _taken: dict[bytes, float] = field(default_factory=dict)  # path -> its time in `_due` when it was taken
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def wrote(self, path: bytes) -> None:
        """Note that a file was made or written to."""
        self._note(path, QUIET_S, closed=False)

    def closed(self, path: bytes) -> None:
        """Note that a file was closed after writing, or got this name."""
        self._note(path, CLOSED_S, closed=True)

    def gone(self, path: bytes) -> None:
        """Note that there is no file of this name any more."""
        with self._lock:
            self._due.pop(path, None)
            self._closed.pop(path, None)

    def is_settled(self, state: FileState) -> bool:
        """Return whether a file that a walk found is complete; one that is not is looked at again later."""
        path, _, mtime_ns, _ = state
        with self._lock:
            if path in self._due:
                return self._due[path] <= self.clock()
            age_s = self.wall() - mtime_ns / 1e9
            if 0 <= age_s < QUIET_S and path not in self._closed:
                self._due[path] = self.clock() + QUIET_S - age_s
                return False
            return True

    def wait_s(self) -> float | None:
        """Return the seconds until a file is complete, 0 if one is; None while none changes."""
        with self._lock:
            return max(0.0, min(self._due.values()) - self.clock()) if self._due else None

    def take(self) -> dict[bytes, float]:
        """Return the complete files, for a walk to read now, each with the seconds since it was closed or quiet."""
        with self._lock:
            now = self.clock()
            self._taken = {path: due for path, due in self._due.items() if due <= now}
            return {path: now - self._closed.pop(path, due - QUIET_S) for path, due in self._taken.items()}

    def forget(self, paths: Sequence[bytes]) -> None:
        """Forget files that were taken and read, unless they have changed meanwhile, complete again or not."""
        with self._lock:
            for path in paths:
                if path in self._due and self._due[path] == self._taken.get(path):
                    del self._due[path]

    def _note(self, path: bytes, after_s: float, *, closed: bool) -> None:
        name = os.path.basename(path)
        if name.startswith(b".") or not (is_video_name(name) or sidecar_suffix(name)):
            return
        with self._lock:
            self._due[path] = self.clock() + after_s
            if closed:
                self._closed[path] = self.clock()
            else:
                self._closed.pop(path, None)


@contextmanager
def told_of_changes(folders: Sequence[bytes], settling: Settling) -> Iterator[None]:
    """Tell `settling` of the files that change below folders, within the block, from threads of watchdog.

    Raises VfindexError if the system watches no more folders.
    """
    from watchdog.events import FileSystemEvent, FileSystemEventHandler
    from watchdog.observers import Observer

    class Handler(FileSystemEventHandler):
        def on_any_event(self, event: FileSystemEvent) -> None:
            if event.is_directory:
                return
            path = os.fsencode(event.src_path)
            if event.event_type in ("created", "modified"):
                settling.wrote(path)
            elif event.event_type == "closed":
                settling.closed(path)
            elif event.event_type in ("deleted", "moved"):
                settling.gone(path)
                if event.event_type == "moved":
                    settling.closed(os.fsencode(event.dest_path))

    observer = Observer()
    try:
        for folder in folders:
            observer.schedule(Handler(), os.fsdecode(folder), recursive=True)
        observer.start()
    except OSError as exc:
        raise VfindexError(
            f"{os.fsdecode(folders[0])} cannot be followed ({exc.strerror}); raise fs.inotify.max_user_watches, or use "
            "vfindex reindex from a timer"
        ) from exc
    try:
        yield
    finally:
        observer.stop()
        observer.join()
