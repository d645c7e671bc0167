"""One run: its files, classified by the scan cache before any is opened, its report and its publications."""

from __future__ import annotations

import math
import os
import time
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from vfindex.indexer.options import Options
from vfindex.indexer.runs.report import ProgressCallback, Report
from vfindex.indexer.runs.retry_policy import FINAL
from vfindex.indexer.scan.walk import Failed, Found, Skipped, is_video_name
from vfindex.storage.db.sources import read_scan_cache
from vfindex.storage.errors import LibraryDamaged, NotPublished, Problem, counted
from vfindex.storage.index.reader import files_of
from vfindex.storage.publication import MAX_DELTA_CLIPS
from vfindex.storage.qdrant.index import QDRANT_SUFFIX, QdrantGeneration
from vfindex.storage.records import SEARCHABLE, FileStamp, FileState

if TYPE_CHECKING:
    from vfindex.indexer.runs.reuse import StoredVideos
    from vfindex.storage.writer import Writer

MAX_TRACES = 20
# Seconds that a run spends on answering questions of people exactly, and the share of a long run.
RECALL_S, RECALL_SHARE = 60.0, 0.05
Ending = Literal["indexed", "unchanged", "moved", "reworded", "coarse", "partial", "failed", "skipped"]


@dataclass(frozen=True, slots=True)
class Callbacks:
    """What a run calls while it works.

    progress: after every unit. stop: often; True ends the run after the running units. say: a line before anything
    slow. interruptible: a context in which no work can be lost, so Ctrl-C may raise KeyboardInterrupt. left_s: returns
    the seconds until the deadline, None without one.
    """

    progress: ProgressCallback = lambda _: None
    stop: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda _: None
    interruptible: Callable[[], AbstractContextManager[None]] = nullcontext
    left_s: Callable[[], float | None] = lambda: None


class Run:
    """The files of a run, classified by the scan cache, and the report.

    todo: new and changed files. previewed: searchable files that are to be indexed fully, after a preview or without
    recognised speech. new_text: unchanged files with other sidecars. delta_clips: clips that are in no joint index yet.
    failed_prints: fingerprints that failed in this run. moved_paths: where content was found that has moved. stored:
    parts of videos that an upgrade need not compute again.
    """

    def __init__(self, writer: Writer, options: Options, callbacks: Callbacks) -> None:
        self.writer = writer
        self.options = options
        self.callbacks = callbacks
        self.report = Report()
        self.todo: deque[Found] = deque()
        self.previewed: deque[Found] = deque()
        self.new_text: deque[Found] = deque()
        self.known = read_scan_cache(writer.catalog, recognised=options.asr)
        self.tombstones = writer.catalog.missing_files()
        self._seen: set[bytes] = set()
        self._settled_seen = 0
        self._returned: list[bytes] = []
        self.failed_prints: set[str] = set()  # fingerprints
        self.moved_paths: set[bytes] = set()
        self.stored: StoredVideos | None = None
        self.delta_clips = writer.catalog.unindexed()
        self._traces = 0
        self._past_bugs = writer.catalog.past_bugs()
        for path in self._past_bugs:
            self.known.mark_preview(path)

    def reopen_past_bugs(self) -> None:
        """Mark videos that an older vfindex indexed in part because of a bug, so that they are indexed fully."""
        for found in self.previewed:
            if found.location.path in self._past_bugs:
                self.writer.catalog.mark_preview(self._past_bugs[found.location.path])

    def changed(self, states: Collection[FileState]) -> Collection[FileState]:
        """Return the files of a folder that are not up to date, for `sort`, and count the others.

        Files seen before are left out and not counted again.
        """
        paths = [state[0] for state in states]
        if not self._seen.isdisjoint(paths):
            states = [state for state in states if state[0] not in self._seen]
        self._seen.update(paths)
        settled = self.known.up_to_date
        changed = [state for state in states if state not in settled]
        self._settled_seen += len(states) - len(changed)
        if changed and self.tombstones:
            changed = [state for state in changed if not self._has_returned(state)]
        self._seen.difference_update([state[0] for state in changed])  # `sort` adds them
        self.report.found += len(states) - len(changed)
        self.report.unchanged += len(states) - len(changed)
        return changed

    def unseen(self) -> set[bytes]:
        """Return the known paths that the scan has not found."""
        return self.known.unseen(self._seen, self._settled_seen)

    def _has_returned(self, state: FileState) -> bool:
        """Return whether a missing file is there again, itself and its sidecars unchanged."""
        path, size_bytes, mtime_ns, sidecar_state = state
        known = self._tombstone(path, size_bytes, mtime_ns) if self.known.get(path) is None else None
        return known is not None and self._is_up_to_date(known) and known.sidecar_state == sidecar_state

    def _is_up_to_date(self, known: FileStamp) -> bool:
        return known.state in SEARCHABLE and not known.coarse and bool(known.recognised or not self.options.asr)

    def _tombstone(self, path: bytes, size_bytes: int, mtime_ns: int) -> FileStamp | None:
        """Return the tombstone of a missing file that is there again, of the same size and time; None otherwise."""
        if path not in self.tombstones:
            return None
        known = self.tombstones[path]
        if (known.size_bytes, known.mtime_ns) != (size_bytes, mtime_ns):
            return None
        self.known.add(known)
        self._returned.append(path)
        return known

    def sort(self, found: Iterable[Found | Skipped | Failed]) -> None:
        """Count every file in the report or, if it must be opened, put it into a queue; each once.

        Sources may overlap: a file that was named is often in a folder that was named as well.
        """
        reported: set[bytes] = set()
        for each in found:
            path = each.location.path if isinstance(each, Found) else each.problem.path
            if path in reported or path in self._seen:
                continue
            if isinstance(each, Found):
                self._sort_file(each)
            else:
                reported.add(path)
                self._sort_problem(each)
            if self.has_stopped():
                return
        self.has_stopped()

    def has_stopped(self) -> bool:
        """Return whether the run is to end; the report says so then."""
        self.report.interrupted = self.report.interrupted or self.callbacks.stop()
        return self.report.interrupted

    def has_work(self) -> bool:
        """Return whether any file is to be opened."""
        return bool(self.todo or self.previewed or self.new_text)

    def leave_previews(self, begun: int = 0) -> None:
        """Count the previewed files that are left to the next run. begun: of those that the scheduler has taken."""
        for _ in range(begun + len(self.previewed)):
            self.end_file("coarse")

    def restore_returned(self) -> None:
        """Restore missing files that were found again unchanged."""
        if self._returned:
            self.writer.catalog.restore_missing(self._returned)
            self._returned.clear()

    def exclude(self, paths: Collection[bytes]) -> None:
        """Remove files from search that every root now excludes; they return when a glob is dropped."""
        if paths:
            self.writer.catalog.mark_missing(sorted(paths))
            self.report.vanished += len(paths)
            self.callbacks.say(f"{counted(len(paths), 'file')} of the library excluded now, and no longer searched")

    def _sort_problem(self, found: Skipped | Failed) -> None:
        if isinstance(found, Failed):
            self.end_file("failed", found.problem)
        elif found.system:
            self.report.left_out[found.system] = self.report.left_out.get(found.system, 0) + 1
        else:
            self.end_file("skipped", found.problem)

    def _sort_file(self, found: Found) -> None:
        path = found.location.path
        self._seen.add(path)
        size_bytes, mtime_ns = found.location.size_bytes, found.location.mtime_ns
        known = self.known.get(path) or self._tombstone(path, size_bytes, mtime_ns)
        if known is None or (known.size_bytes, known.mtime_ns) != (size_bytes, mtime_ns):
            self.todo.append(found)
        elif known.state in SEARCHABLE:
            if not self._is_up_to_date(known):
                self.previewed.append(found)
            elif known.sidecar_state != found.location.sidecar_state:
                self.new_text.append(found)
            else:
                self.end_file("unchanged")
        elif found.named or path in self._past_bugs:
            self.todo.append(replace(found, named=True))
        else:
            problem = stored_failure(path, self.writer.catalog.problem_at(path))
            is_video = is_video_name(os.path.basename(path)) or problem.code not in FINAL
            # A named file of another kind failed when it was named. Its folder would skip it.
            self.end_file("failed" if is_video else "skipped", problem)

    def end_file(self, how: Ending, problem: Problem | None = None) -> None:
        """Count a file's end, once. At most MAX_TRACES tracebacks are kept: one bug may affect every file of a run."""
        self.report.found += 1
        if problem is not None and problem.trace:
            self._traces += 1
            problem = problem if self._traces <= MAX_TRACES else replace(problem, trace="")
        if problem is not None:
            getattr(self.report, how).append(problem)
        else:
            setattr(self.report, how, getattr(self.report, how) + 1)

    def end(self, began: float, *, thorough: bool = True) -> None:
        """Publish a new joint index if one is due, merge its segments while there is time, and store the report.

        An interrupted run does neither.

        began: on the monotonic clock. thorough: check the whole joint index, not its size alone.
        """
        if not self.report.interrupted:
            with self._until_interrupted():
                if self.writer.catalog.change() or is_index_damaged(self.writer, thorough=thorough):
                    self.publish()
                while self.writer.merge(self.callbacks.left_s, self.callbacks.say):
                    pass
                self._measure_recall(began)
        self.report.wall_s = time.monotonic() - began
        self.report.sort()
        self.writer.catalog.end_run(self.report.run_id, self.report.to_dict(os.fsdecode))

    def _measure_recall(self, began: float) -> None:
        """Measure the recall of the joint index, for RECALL_S or, in a long run, RECALL_SHARE of its time until now."""
        start = time.monotonic()
        budget_s = max(RECALL_S, RECALL_SHARE * (start - began))

        def left_s() -> float:
            left = self.callbacks.left_s()
            return min(start + budget_s - time.monotonic(), math.inf if left is None else left)

        self.writer.measure_recall(left_s, self.callbacks.say)

    def publish_many(self) -> None:
        """Publish a new generation if the delta has grown too large."""
        if self.delta_clips > MAX_DELTA_CLIPS:
            self.publish()

    def publish(self) -> None:
        """Publish a new generation; the report says why if the one before stays in use."""
        self.report.not_published = ""
        self.delta_clips = 0
        try:
            with self._until_interrupted():
                self.writer.publish()
        except NotPublished as exc:
            self.report.not_published = str(exc)

    @contextmanager
    def _until_interrupted(self) -> Iterator[None]:
        """Turn Ctrl-C into an interrupted report: the joint index before stays in use, and the next run goes on."""
        try:
            with self.callbacks.interruptible():
                yield
        except KeyboardInterrupt:
            self.report.interrupted = True


def is_index_damaged(writer: Writer, *, thorough: bool) -> bool:
    """Return whether files of the joint index in use are missing or damaged. thorough: not by their size alone."""
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    if generation is None:
        return False
    if generation.file.endswith(QDRANT_SUFFIX):
        opened = writer.library.load_index(generation)
        return not isinstance(opened, QdrantGeneration) or opened.is_lost()
    if thorough:
        return writer.library.load_index(generation, thorough=True) is None
    folder = writer.library.index
    try:
        files = files_of(folder, generation.stored)
        return any((folder / each.name).stat().st_size != each.size_bytes for each in files)
    except (OSError, LibraryDamaged):
        return True


def stored_failure(path: bytes, problem: Mapping[str, str] | None) -> Problem:
    """Return why a file failed in an earlier run. It is not opened again until it changes or is named."""
    stored = problem or {}
    return Problem(
        path,
        stored.get("stage", "decode"),  # type: ignore[arg-type]
        stored.get("code", "failed"),
        stored.get("reason", "it could not be read in an earlier run"),
        stored.get("next", "name it on the command line to try again"),
    )
