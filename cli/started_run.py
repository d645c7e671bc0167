"""Runs that clients of `vfindex serve` start: in a process of their own, one at a time."""

from __future__ import annotations

import os
import signal
import sys
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from threading import Lock

from vfindex.cli.output import say
from vfindex.cli.tokens import SECRET_NAMES
from vfindex.indexer.media.child import Child, cannot_start
from vfindex.search.http.settings import RunCommand, StartedRun
from vfindex.storage.errors import LibraryLocked, VfindexError

_CODE = "from vfindex.cli.entry import main; main()"


class RunStarter:
    """Starts commands that index, as `vfindex reindex`, on the first library of a server. Safe for threads."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._lock = folder, Lock()
        self._child: Child | None = None
        self._run: StartedRun | None = None

    def start(self, command: RunCommand) -> StartedRun:
        """Start a command; return it. Raises LibraryLocked while another one runs, VfindexError."""
        with self._lock:
            if self._state() is not None and self._child is not None:
                raise LibraryLocked(f"vfindex {command} cannot begin: the run that was started before still works")
            line = [sys.executable, "-P", "-c", _CODE, command, "--library", str(self._folder)]
            try:
                self._child = Child(line, environment=_environment(), answers=False)
            except OSError as exc:
                raise VfindexError(f"vfindex {command} cannot begin: {cannot_start(exc)}") from exc
            self._run = StartedRun(command, datetime.now(UTC).isoformat(timespec="seconds"), None, "")
            return self._run

    def state(self) -> StartedRun | None:
        """Return the run that was started last, None before the first."""
        with self._lock:
            return self._state()

    def _state(self) -> StartedRun | None:
        if self._child is not None and self._run is not None and not self._child.running():
            self._end(self._child, self._run)
        return self._run

    def _end(self, child: Child, run: StartedRun) -> None:
        death = child.death(None)
        child.close()
        words = [line for line in death.last_words.splitlines() if line.strip()]
        message = words[-1] if words else str(death)
        self._child, self._run = None, StartedRun(run.command, run.started_at, death.status, message)

    def close(self) -> None:
        """Stop the run after the videos in progress, as Ctrl-C does, and wait for it."""
        with self._lock:
            if self._state() is None or self._child is None or self._run is None:
                return
            say(f"waiting for vfindex {self._run.command}, which stops after the videos in progress")
            with suppress(ProcessLookupError):
                os.kill(self._child.pid, signal.SIGINT)
            self._end(self._child, self._run)

    def __enter__(self) -> RunStarter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _environment() -> dict[str, str]:
    """Return this process's environment without the tokens of the server."""
    return {name: text for name, text in os.environ.items() if name not in SECRET_NAMES}
