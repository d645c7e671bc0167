"""The scheduler of a run: gives files and units to the runner and commits their results. The only writer."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from dataclasses import dataclass, field, replace
from typing import Any

from vfindex.indexer.boundary import NO_RESOURCES, one_file
from vfindex.indexer.media.decoder import ReadEnd
from vfindex.indexer.models.base import Encoders, Texts
from vfindex.indexer.options import Options
from vfindex.indexer.pipeline.prepare import Prepared
from vfindex.indexer.pipeline.stages import Indexed
from vfindex.indexer.runners.base import Runner
from vfindex.indexer.runs.refresh_text import partial_problem, retitle
from vfindex.indexer.runs.report import Progress
from vfindex.indexer.runs.retry_policy import final_error, is_retried, is_worth_decoding, next_attempt
from vfindex.indexer.runs.run import Ending, Run, stored_failure
from vfindex.indexer.scan.walk import Found, fingerprint
from vfindex.storage.db.catalog import now
from vfindex.storage.db.sources import UNREAD
from vfindex.storage.errors import BUG, Problem, VideoError
from vfindex.storage.records import SEARCHABLE, Attempt, UnitPlan, UnitResult

_UNREAD_REST = "the rest was not read, as too many parts of it broke their decoder"
# Longest wait for a result before the scheduler checks whether it is to stop.
POLL_S = 0.2


@dataclass(frozen=True, slots=True)
class _Opening:
    """A file that is being prepared. failed: the attempts so far."""

    found: Found
    print_: str
    failed: tuple[Attempt, ...] = ()


@dataclass(slots=True)
class _Active:
    """A video that is being indexed.

    before: units committed by earlier runs. planned: units in all. failed: failed attempts. broken: units given up
    after the last attempt. ends: how the decoding of each unit ended. unread: units skipped, as too many others were
    broken. copies: further files of the same content. put_off: the machine lacks resources for it, so a later run
    indexes it.
    """

    prepared: Prepared
    video_id: int
    waiting: deque[tuple[int, UnitPlan]]
    before: int
    planned: int
    failed: list[Attempt]
    open_units: int = 0
    broken: int = 0
    ends: list[ReadEnd] = field(default_factory=list)
    unread: list[int] = field(default_factory=list)
    copies: list[Found] = field(default_factory=list)
    failure: VideoError | None = None
    put_off: bool = False

    def attempts(self, plan: UnitPlan) -> list[Attempt]:
        return [attempt for attempt in self.failed if attempt.unit == plan.number]


class Scheduler:
    """Gives the files of `run.todo` and their units to a runner and commits the results."""

    def __init__(self, run: Run, runner: Runner, encoders: Encoders | Texts, *, preview: bool = False) -> None:
        """preview: index a preview of each new file, and put the file into `run.previewed`."""
        self.run = run
        self.preview = preview
        self.options = run.options.coarsely() if preview else run.options
        self.writer = run.writer
        self.runner = runner
        self.encoders = encoders
        self.preparing: dict[Future[Prepared], _Opening] = {}
        self.indexing: dict[Future[Indexed], tuple[_Active, int, UnitPlan]] = {}
        self.active: dict[str, _Active] = {}
        self.early_copies: dict[str, list[Found]] = {}
        self.total_files = len(run.todo)
        self.done_files = 0
        self.done_s = self.total_s = 0.0

    @property
    def left(self) -> int:
        """The number of files that have not ended."""
        return self.total_files - self.done_files

    def work(self) -> None:
        """Run until every file has ended, or the run is to stop."""
        while True:
            stopping = self.run.report.interrupted or self.run.callbacks.stop()
            self.run.report.interrupted = stopping
            if stopping:
                self._drop_unstarted()
            else:
                self._fill()
            futures: list[Future[Any]] = [*self.preparing, *self.indexing]
            if not futures:
                self.run.report.interrupted = bool(stopping or self.run.todo or self.active)
                return
            done, _ = wait(futures, timeout=POLL_S, return_when=FIRST_COMPLETED)
            for future in done:
                if future in self.preparing:
                    self._prepared(future)
                else:
                    self._indexed(future)

    def _drop_unstarted(self) -> None:
        """Cancel tasks that no worker has begun; the next run finds them again."""
        self.preparing = {future: value for future, value in self.preparing.items() if not future.cancel()}
        self.indexing = {future: value for future, value in self.indexing.items() if not future.cancel()}

    def _fill(self) -> None:
        """Submit tasks: units of videos begun, then the next files. As many as the runner's window, and one more."""
        while len(self.preparing) + len(self.indexing) <= self.runner.window and not self.run.callbacks.stop():
            active = next((a for a in self.active.values() if a.waiting), None)
            if active is not None:
                unit_id, plan = active.waiting.popleft()
                active.open_units += 1
                self.indexing[self._index(active, plan)] = (active, unit_id, plan)
            elif self.run.todo:
                self._identify(self.run.todo.popleft())
            else:
                return

    def _index(self, active: _Active, plan: UnitPlan) -> Future[Indexed]:
        """Submit a unit, with the parts of it that are stored."""
        options, stored = self._options(active.attempts(plan)), self.run.stored
        try:
            with one_file(active.prepared.found.location.path, "decode"):
                reusable = stored.unit(active.prepared.video.fingerprint, plan) if stored else None
        except VideoError as exc:
            future: Future[Indexed] = Future()
            future.set_exception(exc)
            return future
        return self.runner.index(active.prepared, plan, options, reusable)

    def _options(self, failed: Sequence[Attempt]) -> Options:
        """Return the options of the next attempt."""
        return self.options.safely() if next_attempt(failed) == "safe" else self.options

    # --- files ------------------------------------------------------------------------------------------------

    def _identify(self, found: Found) -> None:
        """Fingerprint a file; prepare it if its content is new to the library."""
        try:
            with one_file(found.location.path, "open"):
                print_ = fingerprint(found.location.path)
        except VideoError as exc:
            self._end_file("failed", exc.problem)
            return
        if print_ in self.active:
            self.active[print_].copies.append(found)
            return
        if any(print_ == opening.print_ for opening in self.preparing.values()):
            self.early_copies.setdefault(print_, []).append(found)
            return
        opening = _Opening(found, print_)
        try:
            with one_file(found.location.path, "commit"):
                if not self._end_known(found, print_):
                    self._open(opening)
        except VideoError as exc:
            self._fail(opening, exc, self._failed_attempt(None, (), exc))

    def _end_known(self, found: Found, print_: str) -> bool:
        """Return whether the library has a file's content, so that it need not be decoded; the file has ended then."""
        hit = self.writer.catalog.find(print_)
        if hit is not None:
            video_id, state, recognised = hit
            if state in SEARCHABLE and (self.preview or self._is_complete(video_id, recognised)):
                self._place(video_id, found)
                return True
            if state in ("failed", "quarantined") and (print_ in self.run.failed_prints or not found.named):
                self._fail_again(video_id, found)
                return True
        return False

    def _is_complete(self, video_id: int, recognised: bool) -> bool:
        return (recognised or not self.options.asr) and not self.writer.catalog.is_preview(video_id)

    def _open(self, opening: _Opening) -> None:
        future = self.runner.prepare(opening.found, opening.print_, self._options(opening.failed))
        self.preparing[future] = opening

    def _place(self, video_id: int, found: Found) -> None:
        """Add a location to known content: moved if a former location is gone, else a further copy."""
        paths, moved_from = self._former(video_id, found.location.path)
        here = found.location.path
        location = found.location
        has_new_text = location.sidecar_state not in self.writer.catalog.sidecar_states(video_id) and (
            location.sidecar_state or moved_from or here in paths
        )
        if has_new_text:
            location = replace(location, sidecar_state=UNREAD)
        stale = self.writer.catalog.place(video_id, location, moved_from=moved_from)
        self.writer.discard_thumbnails(stale)
        if here not in paths:
            self.run.delta_clips += retitle(self.writer, video_id, self.encoders.text)
            self.run.publish_many()
        if moved_from:
            self.run.moved_paths.add(here)
        if has_new_text:
            self.run.new_text.append(found)
            self.done_files += 1
        else:
            self._end_file("moved" if moved_from else "unchanged")

    def _former(self, video_id: int, here: bytes) -> tuple[Sequence[bytes], bytes | None]:
        """Return the paths of known content, and the path that it was moved from, None if it was not moved."""
        paths, _, _ = self.writer.catalog.names(video_id)
        former = [*paths, *self.writer.catalog.former_paths(video_id)]
        gone = [path for path in former if path != here and not os.path.lexists(path)]
        return paths, gone[0] if gone and here not in paths else None

    def _fail_again(self, video_id: int, found: Found) -> None:
        path = found.location.path
        _, moved_from = self._former(video_id, path)
        self.writer.discard_thumbnails(self.writer.catalog.place(video_id, found.location, moved_from=moved_from))
        self._end_file("failed", stored_failure(path, self.writer.catalog.problem_at(path)))

    # --- results ------------------------------------------------------------------------------------------------

    def _prepared(self, future: Future[Prepared]) -> None:
        opening = self.preparing.pop(future)
        try:
            with one_file(opening.found.location.path, "probe"):
                prepared = future.result()
                if self.run.stored and (plans := self.run.stored.plans(opening.print_)):
                    prepared = replace(prepared, units=plans)
                if next_attempt(opening.failed) == "safe":
                    prepared = replace(prepared, problems=(*prepared.problems, _safe_problem(prepared, opening.failed)))
                active = self._begun(opening, prepared)
        except VideoError as exc:
            failed = (*opening.failed, *self._failed_attempt(None, opening.failed, exc))
            if is_retried(exc) and next_attempt(failed) is not None:
                self._open(replace(opening, failed=failed))
            else:
                self._fail(opening, final_error(exc, failed), failed)
            return
        active.copies = self.early_copies.pop(opening.print_, [])
        self.active[opening.print_] = active
        self.total_s += sum(plan.length_s(prepared.video) for _, plan in active.waiting)
        if not active.waiting:
            self._finish(active)

    def _begun(self, opening: _Opening, prepared: Prepared) -> _Active:
        """Add a video to the library, or resume it where an earlier run was interrupted."""
        catalog, asr = self.writer.catalog, self.options.asr
        begun = catalog.resumable(opening.print_, recognised=asr, coarse=self.preview)
        if begun is None:
            path = prepared.found.location.path
            begun_id = catalog.begin_video(
                prepared.video, prepared.units, recognised=asr, coarse=self.preview, path=path
            )
            begun = begun_id, 0
        video_id, before = begun
        failed = catalog.attempts(video_id)
        for attempt in opening.failed:
            catalog.note_attempt(video_id, attempt)
        units = deque(catalog.pending_units(video_id))
        return _Active(prepared, video_id, units, before, before + len(units), [*failed, *opening.failed])

    def _indexed(self, future: Future[Indexed]) -> None:
        active, unit_id, plan = self.indexing.pop(future)
        active.open_units -= 1
        length_s = plan.length_s(active.prepared.video)
        failed = active.attempts(plan)
        try:
            with one_file(active.prepared.found.location.path, "decode"):
                indexed = future.result()
                result = _with_safe_note(indexed.result, failed) if next_attempt(failed) == "safe" else indexed.result
                self._commit(active, unit_id, result)
            active.ends.append(indexed.end)
            self.run.report.video_seconds += 0.0 if self.preview else length_s
        except VideoError as exc:
            if self._again(active, (unit_id, plan), exc):
                return
            if exc.problem.code == NO_RESOURCES:
                active.waiting.clear()
                active.failure, active.put_off = exc, True
                self._finish_if_done(active)
                return
            result = self._give_up(active, plan, exc)
            self._commit(active, unit_id, result)
        self.run.report.clips += 0 if self.preview else len(result.clips)
        self.run.delta_clips += len(result.clips)
        self.done_s += length_s
        self._finish_if_done(active)
        self._report_progress()

    def _finish_if_done(self, active: _Active) -> None:
        if not active.waiting and not active.open_units:
            self._finish(active)

    def _commit(self, active: _Active, unit_id: int, result: UnitResult) -> None:
        """Commit a unit, unless it is empty and the only one of its video."""
        if result.clips or active.planned > 1:
            self.writer.commit_unit(active.video_id, active.prepared.video.fingerprint, unit_id, result)

    def _failed_attempt(self, plan: UnitPlan | None, failed: Sequence[Attempt], exc: VideoError) -> list[Attempt]:
        """Return the attempt that has just failed, to be stored; nothing if it repeats the error of the video."""
        kind, problem = next_attempt(failed), exc.problem
        if kind is None or not (is_retried(exc) or failed or problem.code == BUG):
            return []
        return [Attempt(plan.number if plan else None, kind, problem.code, problem.reason, now())]

    def _again(self, active: _Active, unit: tuple[int, UnitPlan], exc: VideoError) -> bool:
        """Store a failed attempt; return whether the unit waits for another one."""
        for attempt in self._failed_attempt(unit[1], active.attempts(unit[1]), exc):
            active.failed.append(attempt)
            self.writer.catalog.note_attempt(active.video_id, attempt)
        if not is_retried(exc) or next_attempt(active.attempts(unit[1])) is None:
            return False
        active.waiting.appendleft(unit)
        return True

    def _give_up(self, active: _Active, plan: UnitPlan, exc: VideoError) -> UnitResult:
        """Return the empty result of a broken unit; if too many are broken, skip the rest of the video."""
        failed = active.attempts(plan)
        active.broken += bool(failed)
        active.failure = final_error(exc, failed)
        if not is_worth_decoding(active.broken, len(active.ends) + active.before):
            active.unread += [unit_id for unit_id, _ in active.waiting]
            active.waiting.clear()
        return UnitResult((), (), error=active.failure.problem.reason)

    def _finish(self, active: _Active) -> None:
        """Make a video searchable now that its units are committed, or store why it is not."""
        found, video = active.prepared.found, active.prepared.video
        del self.active[video.fingerprint]
        try:
            with one_file(found.location.path, "commit"):
                problem = self._completed(active)
        except VideoError as exc:
            failed = active.failed if exc is active.failure else [*active.failed, *self._failed_attempt(None, (), exc)]
            self.early_copies[video.fingerprint] = active.copies
            self._fail(_Opening(found, video.fingerprint), exc, failed)
            return
        if self.preview:
            self.run.previewed.append(found)
            self.done_files += 1
        else:
            self.run.report.notes += active.prepared.notes
            self._end_file("partial" if problem else "indexed", problem)
        for copy in active.copies:
            self._identify(copy)
        self.run.publish_many()

    def _completed(self, active: _Active) -> Problem | None:
        """Make a video searchable; return why it is partial, if it is. Raises VideoError if it has no unit."""
        if active.failure is not None and (active.put_off or not (active.ends or active.before)):
            raise active.failure
        found = active.prepared.found
        for unit_id in active.unread:
            self._commit(active, unit_id, UnitResult((), (), error=_UNREAD_REST))
        self._measure(active)
        problem = partial_problem(self.writer, active.video_id, active.prepared)
        documents = active.prepared.documents
        self.writer.discard_thumbnails(
            self.writer.catalog.finish_video(active.video_id, found.location, documents, problem=problem)
        )
        if len(self.writer.catalog.names(active.video_id)[0]) > 1:
            # It has replaced content with several locations.
            self.run.delta_clips += retitle(self.writer, active.video_id, self.encoders.text)
        bug = active.failure.problem if active.failure is not None else None
        return replace(problem, trace=bug.trace) if problem is not None and bug is not None else problem

    def _measure(self, active: _Active) -> None:
        """Replace the figures of the header by measured ones, if every unit was decoded in this run."""
        ends = active.ends
        firsts = [end.first_s for end in ends if end.first_s is not None]
        lasts = [end.last_s for end in ends if end.last_s is not None]
        if active.before or not firsts or not lasts:
            return
        broken = any(end.error for end in ends)
        video = active.prepared.video
        self.writer.catalog.measure_video(
            active.video_id,
            start_s=min(firsts),
            last_s=max(lasts),
            end_s=max(lasts) if broken else max(video.end_s, *lasts),
            frames=video.frames if self.preview else sum(end.frames for end in ends),
        )

    def _fail(self, opening: _Opening, exc: VideoError, failed: Sequence[Attempt]) -> None:
        found, problem = opening.found, exc.problem
        if problem.code == NO_RESOURCES:  # not of its content, so nothing is stored: the next run tries it again
            self._end_file("failed", problem)
            for copy in self.early_copies.pop(opening.print_, []):
                self._end_file("failed", replace(problem, path=copy.location.path))
            return
        try:
            with one_file(found.location.path, "commit"):
                stale = self.writer.catalog.fail_video(
                    opening.print_, found.location, problem, quarantine=exc.quarantine, attempts=failed
                )
                self.writer.discard_thumbnails(stale)
        except VideoError as second:  # it is reported, and met again by the next run
            problem = second.problem
        self.run.failed_prints.add(opening.print_)
        self._end_file("failed", problem)
        for copy in self.early_copies.pop(opening.print_, []):
            self._identify(copy)

    def _end_file(self, how: Ending, problem: Problem | None = None) -> None:
        self.run.end_file(how, problem)
        self.done_files += 1
        self._report_progress()

    def _report_progress(self) -> None:
        self.run.callbacks.progress(Progress(self.done_files, self.total_files, self.done_s, self.total_s))


def _with_safe_note(result: UnitResult, failed: Sequence[Attempt]) -> UnitResult:
    words = f"only keyframes were read, and no sound, because {failed[-1].reason}"
    return replace(result, error="; ".join(filter(None, [words, result.error])))


def _safe_problem(prepared: Prepared, failed: Sequence[Attempt]) -> Problem:
    words = f"no subtitles inside it were looked for, because {failed[-1].reason}"
    step = "convert it if you need them"
    return Problem(prepared.found.location.path, "probe", failed[-1].code, words, step)
