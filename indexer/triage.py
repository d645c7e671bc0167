"""The files of a run, sorted by what the library knows of them, before any is opened."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from vfindex.indexer.discover import Failed, Found, Skipped
from vfindex.indexer.pipeline import Options
from vfindex.indexer.report import ProgressCallback, Report
from vfindex.storage.errors import Problem
from vfindex.storage.records import SEARCHABLE, KnownFile, Location
from vfindex.storage.writer import Writer

Ending = Literal["indexed", "unchanged", "moved", "partial", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Watcher:
    """Who watches a run. progress: told after every unit. stop: asked often; True: end after the units in work.

    say: told, in a line, of what takes long before the first unit.
    """

    progress: ProgressCallback = lambda _: None
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None


class Triage:
    """The files of a run, sorted by what the library knows of them."""

    def __init__(self, writer: Writer, options: Options, watcher: Watcher) -> None:
        self.writer = writer
        self.options = options
        self.watcher = watcher
        self.report = Report()
        self.todo: deque[Found] = deque()
        self.known = writer.catalog.known_files()
        self.failed_now: set[str] = set()

    def sort(self, found: Iterable[Found | Skipped | Failed]) -> None:
        """Put every file in the report or, if it must be opened, into `todo`."""
        for each in found:
            if isinstance(each, Found):
                self._sort_file(each)
            elif isinstance(each, Skipped):
                self.end("skipped", each.problem)
            else:
                self.end("failed", each.problem)
            if self.watcher.stop():
                self.report.interrupted = True
                return

    def _sort_file(self, found: Found) -> None:
        known = self.known.get(found.location.path)
        if known is None or not _same_stat(known.location, found.location):
            self.todo.append(found)
        elif known.state in SEARCHABLE:
            if self.options.asr and not known.recognised:
                self.todo.append(found)
            else:
                self.end("unchanged")
        elif found.named:
            self.todo.append(found)
        else:
            self.end("failed", remembered(found.location.path, known))

    def end(
        self,
        how: Literal["indexed", "unchanged", "moved", "partial", "failed", "skipped"],
        problem: Problem | None = None,
    ) -> None:
        """Count a file's end, once."""
        self.report.found += 1
        if problem is not None:
            getattr(self.report, how).append(problem)
        else:
            setattr(self.report, how, getattr(self.report, how) + 1)


def _same_stat(a: Location, b: Location) -> bool:
    return (a.size_bytes, a.mtime_ns) == (b.size_bytes, b.mtime_ns)


def remembered(path: bytes, known: KnownFile) -> Problem:
    """Return why a file failed in an earlier run; it is not opened again until it changes or is named."""
    told = known.problem or {}
    return Problem(
        path,
        told.get("stage", "decode"),  # type: ignore[arg-type]
        told.get("code", "failed"),
        told.get("reason", "it could not be read in an earlier run"),
        told.get("next", "name it on the command line to try again"),
    )
