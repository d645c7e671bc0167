"""What readers cache of one state of a library, shared by all connections that read this state.

SQLite counts the commits of others for each connection, and the counts of two connections cannot be compared. So one
more connection watches: if its count is the same before and after a snapshot has begun, the snapshot is of that state.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Hashable
from threading import Lock, RLock
from typing import Any, Generic, TypeVar

# How a database was opened.
Opened = TypeVar("Opened")
# Commits that may fall into the beginning of a snapshot before it gets a cache of its own.
_TRIES = 3


class StateCache(Generic[Opened]):
    """Values that hold for one state of a library. opened: how its database was opened. Safe for threads."""

    def __init__(self, opened: Opened) -> None:
        self.opened = opened
        self._values: dict[Hashable, Any] = {}
        self._lock = Lock()
        self._locks: dict[Hashable, RLock] = {}

    def value(self, key: Hashable, compute: Callable[[], Any]) -> Any:
        """Return the value of a key; the first thread that asks computes it, and others wait for it."""
        if key not in self._values:
            with self._lock:
                lock = self._locks.setdefault(key, RLock())
            with lock:
                if key not in self._values:
                    self._values[key] = compute()
        return self._values[key]


class States(Generic[Opened]):
    """The newest state of a library that a reader has seen, with its cache."""

    def __init__(self, connect: Callable[[], Any], is_locked: Callable[[Opened], bool]) -> None:
        """connect: opens a connection; its `opened` says how.

        is_locked: whether a connection counts commits. Without locks, the database's files are compared.
        """
        self._connect, self._is_locked = connect, is_locked
        self._watcher: Any = None
        self._lock = Lock()
        self._state: object = None
        self._cache: StateCache[Opened] | None = None

    def begin(self, opened: Opened, begin: Callable[[], object], end: Callable[[], object]) -> StateCache[Opened]:
        """Return the cache of the state that a snapshot reads, having begun it. opened: its connection.

        begin, end: begin the snapshot, and end it where a commit came between.
        """
        with self._lock:
            for tries_left in reversed(range(_TRIES)):
                before = self._count(opened)
                begin()
                if self._count(opened) == before:
                    if self._cache is None or before != self._state:
                        self._state, self._cache = before, StateCache(opened)
                    return self._cache
                if tries_left:
                    end()
        return StateCache(opened)

    def _count(self, opened: Opened) -> object:
        """Return what is the same as long as nobody commits; unlike anything else if that is not known."""
        if not self._is_locked(opened):
            return opened
        try:
            if self._watcher is None or self._watcher.opened != opened:
                self._close()
                self._watcher = self._connect()
            if self._watcher.opened == opened:
                return self._watcher, self._watcher.execute("PRAGMA data_version").fetchone()[0]
        except sqlite3.Error:  # the snapshot's own connection says what is wrong
            self._close()
        return object()

    def _close(self) -> None:
        watcher, self._watcher = self._watcher, None
        if watcher is not None:
            watcher.close()

    def close(self) -> None:
        """Close the connection that watches; the next snapshot opens another."""
        with self._lock:
            self._close()
            self._state = self._cache = None
