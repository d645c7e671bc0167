"""The files of a run, sorted by what the library knows of them, before any is opened."""

from __future__ import annotations

import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vfindex.indexer.options import Options
from vfindex.indexer.runs.report import ProgressCallback, Report
from vfindex.indexer.scan.walk import Failed, Found, Skipped
from vfindex.storage.db.sources import read_scan_cache
from vfindex.storage.errors import NotPublished, Problem, counted
from vfindex.storage.library import INDEX_SUFFIX
from vfindex.storage.records import SEARCHABLE, FileStamp, FileState
from vfindex.storage.writer import MAX_DELTA_CLIPS

if TYPE_CHECKING:
    from vfindex.storage.writer import Writer

MAX_TRACES = 20
Ending = Literal["indexed", "unchanged", "moved", "reworded", "coarse", "partial", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a run calls while it works.

    progress: after every unit. stop: often; True ends the run after the units in work. say: a line before anything that
    takes long. interruptible: entered where no work would be lost, so that Ctrl-C may raise KeyboardInterrupt.
    """

    progress: ProgressCallback = lambda _: None
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext


class Run:
    """The files of a run, sorted by what the library knows of them.

    todo: to be read. refined: searchable, and to be read wholly, for they were only looked at in passing or without
    sound. reworded: as they were, but what lies beside them is not. unindexed: clips that searches scan exactly until
    the next generation.
    """

    def __init__(self, writer: Writer, options: Options, callbacks: Callbacks) -> None:
        self.writer = writer
        self.options = options
        self.callbacks = callbacks
        self.report = Report()
        self.todo: deque[Found] = deque()
        self.refined: deque[Found] = deque()
        self.reworded: deque[Found] = deque()
        self.known = read_scan_cache(writer.catalog, recognised=options.asr)
        self.tombstones = writer.catalog.missing_files()
        self._seen: set[bytes] = set()
        self._settled_seen = 0
        self._back: list[bytes] = []
        self.failed_now: set[str] = set()  # fingerprints
        self.moved_now: set[bytes] = set()
        self.unindexed = writer.catalog.unindexed()
        self._traces = 0
        self._past_bugs = writer.catalog.past_bugs()
        for path in self._past_bugs:
            self.known.unsettle(path)

    def reopen(self) -> None:
        """Let the next pass read wholly what an older vfindex could read in part only, because of a bug."""
        for found in self.refined:
            if found.location.path in self._past_bugs:
                self.writer.catalog.mark_preview(self._past_bugs[found.location.path])

    def changed(self, states: Collection[FileState]) -> Collection[FileState]:
        """Return those files of a folder that are not as the library knows them, and count the others.

        What was seen before is left out and not counted again.
        """
        paths = [state[0] for state in states]
        if not self._seen.isdisjoint(paths):
            states = [state for state in states if state[0] not in self._seen]
        self._seen.update(paths)
        settled = self.known.up_to_date
        changed = [state for state in states if state not in settled]
        self._settled_seen += len(states) - len(changed)
        if changed and self.tombstones:
            changed = [state for state in changed if not self._is_back(state)]
        self.report.found += len(states) - len(changed)
        self.report.unchanged += len(states) - len(changed)
        return changed

    def unseen(self) -> set[bytes]:
        """Return the paths of files that the library knows and the run has not met."""
        return self.known.unseen(self._seen, self._settled_seen)

    def _is_back(self, state: FileState) -> bool:
        """Return whether a file has returned, and is as it was in every way."""
        path, size_bytes, mtime_ns, beside = state
        known = self._returned(path, size_bytes, mtime_ns) if self.known.get(path) is None else None
        return known is not None and self._is_settled(known) and known.sidecar_state == beside

    def _is_settled(self, known: FileStamp) -> bool:
        return known.state in SEARCHABLE and not known.coarse and bool(known.recognised or not self.options.asr)

    def _returned(self, path: bytes, size_bytes: int, mtime_ns: int) -> FileStamp | None:
        """Return what was known of a file that had vanished and is there again as it was; None of any other."""
        if path not in self.tombstones:
            return None
        known = self.tombstones[path]
        if (known.size_bytes, known.mtime_ns) != (size_bytes, mtime_ns):
            return None
        self.known.add(known)
        self._back.append(path)
        return known

    def sort(self, found: Iterable[Found | Skipped | Failed]) -> None:
        """Put every file in the report or, if it must be opened, into `todo`."""
        for each in found:
            if isinstance(each, Found):
                self._sort_file(each)
            elif isinstance(each, Skipped) and each.system:
                self.report.left_out[each.system] = self.report.left_out.get(each.system, 0) + 1
            elif isinstance(each, Skipped):
                self.end_file("skipped", each.problem)
            else:
                self.end_file("failed", each.problem)
            if self.has_stopped():
                return
        self.has_stopped()

    def has_stopped(self) -> bool:
        """Return whether the run is to end, and note it in the report if so."""
        self.report.interrupted = self.report.interrupted or self.callbacks.stop()
        return self.report.interrupted

    def has_work(self) -> bool:
        """Return whether any file is to be opened."""
        return bool(self.todo or self.refined or self.reworded)

    def leave(self) -> None:
        """Tell the report what an interrupted run leaves to the next one."""
        self.report.left = len(self.todo) + len(self.reworded)
        for _ in self.refined:
            self.end_file("coarse")

    def bring_back(self) -> None:
        """Let the files return that had vanished and were found again as they were."""
        if self._back:
            self.writer.catalog.restore_missing(self._back)
            self._back.clear()

    def leave_out(self, paths: Collection[bytes]) -> None:
        """Let files that the globs of every root exclude by now leave search; they return with their globs."""
        if paths:
            self.writer.catalog.mark_missing(sorted(paths))
            self.report.vanished += len(paths)
            self.callbacks.say(f"{counted(len(paths), 'file')} of the library excluded now, and no longer searched")

    def _sort_file(self, found: Found) -> None:
        path = found.location.path
        self._seen.add(path)
        size_bytes, mtime_ns = found.location.size_bytes, found.location.mtime_ns
        known = self.known.get(path) or self._returned(path, size_bytes, mtime_ns)
        if known is None or (known.size_bytes, known.mtime_ns) != (size_bytes, mtime_ns):
            self.todo.append(found)
        elif known.state in SEARCHABLE:
            if not self._is_settled(known):
                self.refined.append(found)
            elif known.sidecar_state != found.location.sidecar_state:
                self.reworded.append(found)
            else:
                self.end_file("unchanged")
        elif found.named or path in self._past_bugs:
            self.todo.append(replace(found, named=True))
        else:
            self.end_file("failed", remembered(path, self.writer.catalog.problem_at(path)))

    def end_file(self, how: Ending, problem: Problem | None = None) -> None:
        """Count a file's end, once. Of tracebacks MAX_TRACES are kept: one bug may meet every file of a run."""
        self.report.found += 1
        if problem is not None and problem.trace:
            self._traces += 1
            problem = problem if self._traces <= MAX_TRACES else replace(problem, trace="")
        if problem is not None:
            getattr(self.report, how).append(problem)
        else:
            setattr(self.report, how, getattr(self.report, how) + 1)

    def end(self, began: float, *, thorough: bool = True) -> None:
        """Publish what is due, unless the run was interrupted, and keep the report.

        began: on the monotonic clock. thorough: read the whole joint index to see whether it is sound; else its size.
        """
        if not self.report.interrupted:
            with self._until_interrupted():
                if _is_due(self.writer, thorough):
                    self.publish()
        self.report.wall_s = time.monotonic() - began
        self.report.sort()
        self.writer.catalog.end_run(self.report.run_id, self.report.to_dict(os.fsdecode))

    def publish_many(self) -> None:
        """Publish a new generation if too many clips wait for one."""
        if self.unindexed > MAX_DELTA_CLIPS:
            self.publish()

    def publish(self) -> None:
        """Publish a new generation; where the one before stays instead, the report says why."""
        self.report.not_published = ""
        self.unindexed = 0
        try:
            with self._until_interrupted():
                self.writer.publish()
        except NotPublished as exc:
            self.report.not_published = str(exc)

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        """Give up what is done inside at an interruption: the joint index before it stays, and the next run goes on."""
        try:
            with self.callbacks.interruptible():
                yield
        except KeyboardInterrupt:
            self.report.interrupted = True


def _is_due(writer: Writer, thorough: bool) -> bool:
    """Return whether a new generation must be published: clips have changed, or the current file is no good."""
    if writer.catalog.change():
        return True
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    if generation is None:
        return False
    if thorough:
        return writer.library.load_index(generation, thorough=True) is None
    try:
        size_bytes = os.stat(writer.library.index / generation.file).st_size
    except OSError:
        return True
    return size_bytes != generation.size_bytes or not generation.file.endswith(INDEX_SUFFIX)


def remembered(path: bytes, problem: Mapping[str, str] | None) -> Problem:
    """Return why a file failed in an earlier run; it is not opened again until it changes or is named."""
    told = problem or {}
    return Problem(
        path,
        told.get("stage", "decode"),  # type: ignore[arg-type]
        told.get("code", "failed"),
        told.get("reason", "it could not be read in an earlier run"),
        told.get("next", "name it on the command line to try again"),
    )
