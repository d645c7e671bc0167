"""The course of every run: open the library, scan, classify, index, publish, report.

Commands differ in data alone, see `Command`. Nothing heavy is imported before there is something to index: most nightly
runs find nothing new.
"""

from __future__ import annotations

import gc
import math
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from vfindex.indexer.extractors.ocr import INSTALL
from vfindex.indexer.models.presets import LITE_SPEECH, Choice, models_of, options_of, unusable_kinds, uses_gpu
from vfindex.indexer.models.store import Recogniser, find_recogniser
from vfindex.indexer.options import Sampling
from vfindex.indexer.runners.base import RunnerChoice
from vfindex.indexer.runs.report import Progress, Report, RunInterrupted
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.walk import Discovered
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.runs import extent, main_language, measured_speed, stored_runs
from vfindex.storage.errors import VfindexError
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, get_modality, modality_names, spoken_modalities, switches
from vfindex.storage.records import Setup
from vfindex.storage.writer import Writer, writing

if TYPE_CHECKING:
    from vfindex.indexer.models.base import Encoders, PassageEncoder, Texts
    from vfindex.indexer.runners.base import Runner
    from vfindex.indexer.runners.open_models import ModelOwner
    from vfindex.storage.db.catalog import Catalog
# How often a run stores how far it is: each time is a transaction.
PROGRESS_S = 2.0


@dataclass(frozen=True, slots=True)
class Clock:
    """now: the time, with its zone. monotonic: seconds by a clock that is never set."""

    now: Callable[[], datetime] = lambda: datetime.now(UTC)
    monotonic: Callable[[], float] = time.monotonic


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Settings of a run. None takes the library's value, or the default for a new library.

    cache: folder of models. choice, sampling: of a new library, or the target of an upgrade. asr, ocr, sounds: whether
    runs have these modalities from now on, see `Switch`. exclude: globs, see `discover`. workers: units decoded at
    once. compiled: see OpenClipEncoder. progressive: index a preview of all new files first, see `index_files`; None:
    where the deadline leaves no time for all. quarantined: retry these too. allow_missing: accept that missing files
    are gone, however many. end_at, max_s: begin no unit after this time, and after so many seconds. models: keeps the
    models of local runs open from one to the next; None: each run opens and closes its own.
    """

    cache: Path
    choice: Choice = field(default_factory=Choice)
    sampling: Sampling | None = None
    asr: bool | None = None
    ocr: bool | None = None
    sounds: bool | None = None
    exclude: tuple[str, ...] = ()
    workers: int | None = None
    compiled: bool = False
    progressive: bool | None = None
    runner: RunnerChoice = field(default_factory=RunnerChoice)
    quarantined: bool = False
    allow_missing: bool = False
    end_at: datetime | None = None
    max_s: float | None = None
    clock: Clock = field(default_factory=Clock)
    models: ModelOwner | None = None

    def switches(self) -> dict[ModalityName, bool]:
        """Return modality -> whether runs extract it from now on, of those that were chosen."""
        chosen = {name: getattr(self, switch.option) for name, switch in switches().items()}
        return {name: is_on for name, is_on in chosen.items() if is_on is not None}

    def left_s(self, began: float) -> float | None:
        """Return the seconds until the earlier deadline, None without one. began: on the monotonic clock."""
        ends = [] if self.end_at is None else [(self.end_at - self.clock.now()).total_seconds()]
        ends += [] if self.max_s is None else [began + self.max_s - self.clock.monotonic()]
        return min(ends, default=None)


def _nothing(*_: object) -> None: ...


@dataclass(frozen=True, slots=True)
class Command:
    """The parts of a run that depend on the command, in the order in which `execute` calls them.

    name: as stored with the run. setup: returns the library's setup, or raises if it cannot be used. prepare: changes
    the library before its files are read. scan: yields files to classify. scanned: after the last one. indexed: before
    the index is published. finish: after that. thorough: check the whole joint index at the end, not its size alone.
    """

    name: str
    setup: Callable[[Writer], Setup]
    scan: Callable[[Run], Iterable[Discovered]]
    prepare: Callable[[Writer, Setup], None] = _nothing
    scanned: Callable[[Run], None] = _nothing
    indexed: Callable[[Run], None] = _nothing
    finish: Callable[[Run, Setup], None] = _nothing
    thorough: bool = True


def execute(folder: Path, command: Command, settings: RunSettings, callbacks: Callbacks | None = None) -> Report:
    """Run a command on the library in `folder`, and return what became of every file.

    Raises LibraryLocked, LibraryVersion, LibraryError, UsageError (options that do not fit), ModelError, ClusterError.
    A file that cannot be indexed never raises: it is in the report.
    """
    callbacks = callbacks or Callbacks()
    began, start = time.monotonic(), settings.clock.monotonic()
    with writing(folder) as writer, unfrozen():
        setup = command.setup(writer)
        heard = recogniser_of(setup, settings.cache)
        with recorded(writer.catalog, command.name) as report:
            command.prepare(writer, setup)
            with uncollected():
                own = _noting_progress(_with_deadline(callbacks, settings, start), writer.catalog, report.run_id)
                run = new_run(writer, setup, heard, own)
                run.report = report
                run.sort(command.scan(run))
            run.restore_returned()
            command.scanned(run)
            report.left = None if report.interrupted else len(run.todo) + len(run.new_text)
            if run.has_work():
                if heard.note and LibraryMeta(writer.catalog).left_out.isdisjoint(spoken_modalities()):
                    callbacks.say(heard.note)
                if note := ocr_note(writer.catalog, setup):
                    callbacks.say(note)
                progressive = is_progressive(run, settings, start)
                index_files(run, with_recogniser(setup, heard), replace(settings, progressive=progressive))
            is_late = report.interrupted and not callbacks.stop() and settings.left_s(start) is not None
            report.out_of_time = is_late and (report.left != 0 or report.coarse > 0)
            report.interrupted = report.interrupted and not is_late
            command.indexed(run)
            run.end(began, thorough=command.thorough)
            command.finish(run, setup)
    return report


@contextmanager
def recorded(catalog: Catalog, name: str) -> Iterator[Report]:
    """Begin a run and yield its report; if an exception ends the run, store the report with the reason.

    Raises that exception, RunInterrupted for KeyboardInterrupt.
    """
    began, report = time.monotonic(), Report(run_id=catalog.begin_run(name))
    try:
        yield report
    except BaseException as exc:
        report.interrupted = isinstance(exc, KeyboardInterrupt)
        report.wall_s = time.monotonic() - began
        report.sort()
        kind = "" if isinstance(exc, VfindexError) else f"{type(exc).__name__}: "
        report.error = "" if report.interrupted else f"{kind}{exc}"
        with suppress(VfindexError):  # a library on a full disk; the exception says so
            catalog.end_run(report.run_id, report.to_dict(os.fsdecode))
        if report.interrupted:
            raise RunInterrupted(report) from exc
        raise


def new_run(writer: Writer, setup: Setup, heard: Recogniser, callbacks: Callbacks) -> Run:
    """Return a run without files."""
    asr = left_out(writer.catalog, hears=heard.usable).isdisjoint(spoken_modalities())
    return Run(writer, options_of(with_recogniser(setup, heard), asr=asr), callbacks)


def recogniser_of(setup: Setup, cache: Path) -> Recogniser:
    """Return the speech model for new videos of a library."""
    return find_recogniser(models_of(setup).get("speech", LITE_SPEECH), cache)


def left_out(source: Catalog | Snapshot, *, hears: bool) -> frozenset[ModalityName]:
    """Return the modalities that a run here leaves out, by choice or because it cannot extract them."""
    return LibraryMeta(source).left_out | unusable_modalities(hears=hears)


def unusable_modalities(*, hears: bool) -> frozenset[ModalityName]:
    """Return the modalities whose recogniser cannot be used here. hears: whether the speech model can."""
    unusable = unusable_kinds() | (frozenset() if hears else {"speech"})
    return frozenset(name for name in modality_names() if get_modality(name).recogniser in unusable)


def ocr_note(catalog: Catalog, setup: Setup) -> str:
    """Return a sentence if new videos lack the text on the screen because OCR is not installed, else ""."""
    if unusable_modalities(hears=True).intersection(setup.models) <= LibraryMeta(catalog).left_out:
        return ""
    return (
        "OCR is not installed here, so text on the screen is not read in new videos; to read it later: "
        f"{INSTALL}, then: vfindex upgrade"
    )


def with_recogniser(setup: Setup, heard: Recogniser) -> Setup:
    """Return a library's setup with the speech model of this run."""
    return replace(setup, references={**models_of(setup), "speech": heard.reference})


@contextmanager
def unfrozen() -> Iterator[None]:
    """Return to the garbage collector, at the end, what `uncollected` took from it: a process may have many runs."""
    try:
        yield
    finally:
        gc.unfreeze()


@contextmanager
def uncollected() -> Iterator[None]:
    """Keep the garbage collector from repeatedly traversing the scan cache, which has one entry per file."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_on:
            gc.enable()


def _with_deadline(callbacks: Callbacks, settings: RunSettings, began: float) -> Callbacks:
    def stop() -> bool:
        left_s = settings.left_s(began)
        return callbacks.stop() or (left_s is not None and left_s <= 0)

    return replace(callbacks, stop=stop, left_s=lambda: settings.left_s(began))


def _noting_progress(callbacks: Callbacks, catalog: Catalog, run_id: int) -> Callbacks:
    """Return callbacks that store how far the run is, at most every PROGRESS_S, for those who watch the library."""
    last_s = -math.inf

    def progress(now: Progress) -> None:
        nonlocal last_s
        if time.monotonic() - last_s >= PROGRESS_S:
            catalog.note_progress(run_id, asdict(now))
            last_s = time.monotonic()
        callbacks.progress(now)

    return replace(callbacks, progress=progress)


# --- indexing -------------------------------------------------------------------------------------------------------


def index_files(run: Run, setup: Setup, settings: RunSettings) -> None:
    """Load the library's models and index the files of a run; the report says which are left.

    progressive: first index a preview of every new file (names, subtitles, a keyframe every 10 s, no speech), which
    makes it searchable; full indexing replaces it video by video.
    Raises ModelError, LibraryVersion, ClusterError, UsageError (a runner that cannot be).
    """
    if run.report.interrupted:
        run.leave_previews()
        return
    from vfindex.indexer.runs.refresh_text import refresh
    from vfindex.indexer.runs.scheduler import Scheduler

    run.reopen_past_bugs()
    new: Scheduler | None = None
    again: Scheduler | None = None
    try:
        with _runner(run, setup, settings) as (runner, encoders):
            new = Scheduler(run, runner, encoders, preview=bool(settings.progressive))
            new.work()
            refresh(run, encoders)
            if not run.report.interrupted:
                run.todo, run.previewed = run.previewed, deque()
                again = Scheduler(run, runner, encoders)
                again.work()
                refresh(run, encoders)
            run.report.gpu_busy = runner.gpu_busy()
    finally:  # after a second Ctrl-C as well
        run.report.left = len(run.new_text) + (new.left if new else len(run.todo))
        run.leave_previews(again.left if again else 0)


@contextmanager
def _runner(run: Run, setup: Setup, settings: RunSettings) -> Iterator[tuple[Runner, Encoders | Texts]]:
    """Yield the runner that was chosen, and the models of this process."""
    from vfindex.indexer.models.base import Texts
    from vfindex.indexer.models.factory import Opening, open_encoders
    from vfindex.indexer.runners.local import DecoderThreads, HeadersAhead, LocalRunner, default_workers
    from vfindex.indexer.runners.open_models import ModelOwner
    from vfindex.storage.machine import usable_cores

    say, cache, asr, choice = run.callbacks.say, settings.cache, run.options.asr, settings.runner
    on_gpu, idle = uses_gpu(models_of(setup)), left_out(run.writer.catalog, hears=asr)
    with run.writer.library.snapshot() as snapshot:
        spoken = main_language(snapshot) if asr else ""
    if choice.with_ray(uses_gpu=on_gpu):
        from vfindex.indexer.runners.placement import Wish
        from vfindex.indexer.runners.ray_machine import stay_local

        if choice.address is None:
            stay_local()
        from vfindex.indexer.runners.ray import RayRunner, session  # takes seconds to import
        from vfindex.indexer.runners.worker import Models

        with run.callbacks.interruptible():
            names = tuple(modality for modality in modality_names() if modality in setup.models)
            texts = Texts(open_text(setup, cache, say=say), names)
        models = Models(setup, cache, idle, settings.compiled, spoken)
        wish = Wish(on_gpu, choice.gpu_share, settings.workers)
        with session(choice.address, wish), RayRunner(models, texts, choice.path_map, wish) as on_ray:
            yield on_ray, texts
        return
    owning = ModelOwner() if settings.models is None else nullcontext(settings.models)
    with DecoderThreads(settings.workers or default_workers()) as threads, owning as owner:
        # While the models are opened.
        threads.start(min(threads.workers, len(run.todo)))
        headers = HeadersAhead(threads, (found.location.path for found in run.todo))
        with run.callbacks.interruptible():
            opening = Opening(usable_cores(), idle, settings.compiled, spoken)
            opened = owner.models((setup, cache, opening), lambda: open_encoders(setup, cache, opening, say=say))
        with LocalRunner(threads, opened, headers) as local:
            yield local, opened.encoders


def open_text(setup: Setup, cache: Path, *, say: Callable[[str], None]) -> PassageEncoder:
    """Load the text model of a library. Raises ModelError, LibraryVersion."""
    from vfindex.indexer.models.factory import LibraryModels
    from vfindex.storage.machine import usable_cores

    return LibraryModels(setup, cache, say=say).text(usable_cores())


# --- time -----------------------------------------------------------------------------------------------------------


def is_progressive(run: Run, settings: RunSettings, began: float = 0.0) -> bool:
    """Return whether previews come first: as chosen, else if the deadline leaves no time to index all new files."""
    left_s = settings.left_s(began)
    if settings.progressive is not None or left_s is None:
        return bool(settings.progressive)
    with run.writer.library.snapshot() as snapshot:
        video_s = video_length_s(snapshot, sum(found.location.size_bytes for found in run.todo))
        speed = measured_speed(stored_runs(snapshot))
    return video_s is None or speed is None or video_s / speed > left_s


def video_length_s(snapshot: Snapshot, size_bytes: int) -> float | None:
    """Return an estimate of the length of so many bytes of video, by the library's own; None for an empty library."""
    if not size_bytes:
        return 0.0
    held_bytes, held_s = extent(snapshot)
    return size_bytes * held_s / held_bytes if held_bytes else None
