"""The nightly run: every path that was ever ingested, looked at again. What is new goes the way of `ingest`.

Nothing heavy is imported until there is something to index: most nights find most libraries unchanged.
"""

from __future__ import annotations

import gc
import os
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path

from vfindex.indexer.models.presets import options_of
from vfindex.indexer.runners.base import RunnerChoice
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.missing import Missing, Recorded, excluded, find_missing, is_missing
from vfindex.indexer.scan.walk import Discovered, Found, discover
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.runs import extent, measured_speed, stored_runs
from vfindex.storage.db.sources import Root, exclusions, roots
from vfindex.storage.errors import LibraryError, Problem
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Setup
from vfindex.storage.writer import writing


@dataclass(frozen=True, slots=True)
class Clock:
    """now: the time, with its zone. monotonic: seconds by a clock that nobody sets and that never leaps."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class ReindexSettings:
    """What the user asked for.

    cache: where models are kept. workers: units read at once, None: the default. allow_missing: believe that what is
    not there is gone, however much it is. end_at: with its zone; after it no unit is begun. max_s: nor after so many
    seconds, by a clock that nobody sets. progressive: see `passes.in_turn`; None: where what is new will hardly be read
    until then. runner: who does the work. clock: what time it is.
    """

    cache: Path
    workers: int | None = None
    allow_missing: bool = False
    end_at: datetime | None = None
    max_s: float | None = None
    progressive: bool | None = None
    runner: RunnerChoice = field(default_factory=RunnerChoice)
    clock: Clock = field(default_factory=Clock)

    def left_s(self, began: float) -> float | None:
        """Return the seconds until the earlier end, None where there is none. began: on the clock nobody sets."""
        ends = [] if self.end_at is None else [(self.end_at - self.clock.now()).total_seconds()]
        ends += [] if self.max_s is None else [began + self.max_s - self.clock.monotonic()]
        return min(ends, default=None)


def reindex(folder: Path, settings: ReindexSettings, callbacks: Callbacks | None = None) -> Report:
    """Bring the library in `folder` up to date with its roots, and return what became of every file.

    Raises LibraryNotFound, LibraryLocked, LibraryVersion, LibraryError (no root is known), ModelError.
    """
    asked = callbacks or Callbacks()
    began = time.monotonic()
    start = settings.clock.monotonic()
    with _scanning(folder, _with_end(asked, settings, start)) as (run, given, setup):
        run.report.run_id = run.writer.catalog.begin_run("reindex")
        with _uncollected():
            run.sort(_scan(run, given, folder))
        run.bring_back()
        if not run.report.interrupted:
            gone = _missing(run, given, settings).gone
            if gone:
                run.writer.catalog.mark_missing(sorted(gone))
            run.report.vanished = len(gone)
            run.leave_out(excluded(run.unseen() - gone, given))
        run.report.left = len(run.todo) + len(run.refined) + len(run.reworded)
        if run.has_work() and not run.report.interrupted:
            from vfindex.indexer.runs.ingest import IngestSettings, work  # models, decoder and all

            progressive = _is_progressive(run, settings, start)
            wanted = IngestSettings(settings.cache, workers=settings.workers, runner=settings.runner)
            work(run, setup, replace(wanted, progressive=progressive))
        run.report.out_of_time = run.report.interrupted and not asked.stop()
        run.report.interrupted = asked.stop() and run.report.interrupted
        run.end(began, thorough=False)  # a search sees damage and does without
    return run.report


def _missing(run: Run, given: Sequence[Root], settings: ReindexSettings) -> Missing:
    """Return which files of the library are missing; those that were moved come first in `run.todo`."""
    recorded = Recorded(run.writer.catalog, run.known, run.unseen())
    missing = find_missing(recorded, run.todo, given, allow_missing=settings.allow_missing, stop=run.has_stopped)
    run.report.left_alone += missing.left_alone
    first = {found.location.path: found for found in missing.moved.values()}
    run.todo = deque([*first.values(), *(found for found in run.todo if found.location.path not in first)])
    return missing


def _is_progressive(run: Run, settings: ReindexSettings, began: float = 0.0) -> bool:
    left_s = settings.left_s(began)
    if settings.progressive is not None or left_s is None:
        return bool(settings.progressive)
    with run.writer.library.snapshot() as snapshot:
        video_s = _video_s(snapshot, sum(found.location.size_bytes for found in run.todo))
        speed = measured_speed(stored_runs(snapshot))
    return video_s is None or speed is None or video_s / speed > left_s


@dataclass(frozen=True, slots=True)
class Estimate:
    """What a reindex would do now: numbers of files, bytes to be read, and what that may mean in seconds.

    reworded: unchanged, with other subtitles or another description beside them. coarse: searchable, and not wholly
    read yet; they count among the bytes. left_alone: as in Report. video_s: length of what is to be read, guessed from
    the bytes a second of the videos in the library. wall_s: time for it at the speed of earlier runs. None where there
    is nothing to go by.
    """

    new: int
    changed: int
    moved: int
    reworded: int
    coarse: int
    vanished: int
    left_alone: tuple[Problem, ...]
    size_bytes: int
    video_s: float | None
    wall_s: float | None


def estimate(folder: Path, settings: ReindexSettings, callbacks: Callbacks | None = None) -> Estimate:
    """Return what `reindex` would do; nothing is changed. Raises as `reindex` does, but for ModelError."""
    with _scanning(folder, callbacks or Callbacks()) as (run, given, _):
        run.sort(_scan(run, given, folder))
        missing = _missing(run, given, settings)
        moved, gone = missing.moved, missing.gone | excluded(run.unseen() - missing.gone, given)
        read = list(run.todo)[len(moved) :]
        size_bytes = sum(found.location.size_bytes for found in (*read, *run.refined))
        changed = sum(found.location.path in run.known for found in read)
        with run.writer.library.snapshot() as snapshot:
            video_s = _video_s(snapshot, size_bytes)
            speed = measured_speed(stored_runs(snapshot))
    return Estimate(
        new=len(read) - changed,
        changed=changed,
        moved=len(moved),
        reworded=len(run.reworded),
        coarse=len(run.refined),
        vanished=len(gone),
        left_alone=tuple(run.report.left_alone),
        size_bytes=size_bytes,
        video_s=video_s,
        wall_s=None if video_s is None or speed is None else video_s / speed,
    )


@contextmanager
def _scanning(folder: Path, callbacks: Callbacks) -> Iterator[tuple[Run, list[Root], Setup]]:
    """Hold the library's writer; yield an empty run, the roots and the setup."""
    Library.open(folder)
    with writing(folder) as writer:
        setup = writer.setup()
        given = roots(writer.catalog)
        if setup is None or not given:
            raise LibraryError(
                f"the library {folder} does not know which folders it was made of; name them once more: "
                "vfindex ingest VIDEOS"
            )
        options = options_of(setup, asr=LibraryMeta(writer.catalog).recognises_speech)
        with _uncollected():
            run = Run(writer, options, callbacks)
        yield run, given, setup


@contextmanager
def _uncollected() -> Iterator[None]:
    """Keep the garbage collector away from what is known of every file: it would look through it again and again."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _with_end(callbacks: Callbacks, settings: ReindexSettings, began: float) -> Callbacks:
    def stop() -> bool:
        left_s = settings.left_s(began)
        return callbacks.stop() or (left_s is not None and left_s <= 0)

    return replace(callbacks, stop=stop)


def _video_s(snapshot: Snapshot, size_bytes: int) -> float | None:
    """Return how long videos of so many bytes may be, by those of the library."""
    if not size_bytes:
        return 0.0
    held_bytes, held_s = extent(snapshot)
    return size_bytes * held_s / held_bytes if held_bytes else None


def _scan(run: Run, given: Sequence[Root], folder: Path) -> Iterator[Discovered]:
    """Yield what has changed at the roots, each file once.

    None counts as named: what failed stays failed until it changes.
    """
    by_globs: dict[tuple[str, ...], list[bytes]] = {}
    for root in given:
        if not is_missing(root.path):
            by_globs.setdefault(root.exclude, []).append(root.path)
    removed, avoid = exclusions(run.writer.catalog), [os.fsencode(folder)]
    told: set[bytes] = set()
    for exclude, paths in by_globs.items():
        for each in discover(
            paths, exclude=exclude, avoid=avoid, removed=removed, sift=run.changed, stop=run.callbacks.stop
        ):
            path = each.location.path if isinstance(each, Found) else each.problem.path
            if path not in told:
                told.add(path)
                yield replace(each, named=False) if isinstance(each, Found) and each.named else each
