"""One run: paths in, a library that holds their videos out. The driver: the only writer, and the only one that decides.

Every file ends in exactly one way (see report.Report), every unit is committed by itself, and a run that is broken off
anywhere is continued by the next.
"""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from vfindex.indexer.models.base import Texts
from vfindex.indexer.models.factory import LibraryModels, Opening, install, open_encoders
from vfindex.indexer.models.hardware import usable_cores
from vfindex.indexer.models.presets import LITE_VISUAL, Choice, better_models, models_of, options_of, preset_name
from vfindex.indexer.options import Sampling
from vfindex.indexer.runners.base import RunnerChoice
from vfindex.indexer.runners.local import LocalRunner, default_workers
from vfindex.indexer.runs.passes import in_turn
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.missing import excluded
from vfindex.indexer.scan.walk import Exclusions, discover
from vfindex.storage.db.sources import Root, exclusions, forget_exclusions, remember, roots
from vfindex.storage.errors import UsageError
from vfindex.storage.meta import LibraryMeta, put_recognises_speech
from vfindex.storage.records import Hint, Setup
from vfindex.storage.writer import Writer, writing


@dataclass(frozen=True, slots=True)
class IngestSettings:
    """What the user asked for; None: what the library has, or the default for a new one.

    choice: the models of a new library. workers: units read at once. exclude: globs, see discover. cache: where models
    are kept. compiled: see OpenClipEncoder. progressive: see `passes.in_turn`. runner: who does the work.
    """

    cache: Path
    choice: Choice = field(default_factory=Choice)
    sampling: Sampling | None = None
    asr: bool | None = None
    workers: int | None = None
    exclude: tuple[str, ...] = ()
    compiled: bool = False
    command: str = "ingest"
    progressive: bool = False
    runner: RunnerChoice = field(default_factory=RunnerChoice)


def ingest(
    folder: Path, paths: Sequence[bytes], settings: IngestSettings, callbacks: Callbacks | None = None
) -> Report:
    """Index the videos at and below `paths` into the library in `folder`, and return what became of every file.

    Raises LibraryLocked, LibraryVersion, LibraryError, UsageError (a preset or sampling that is not the library's),
    ModelError. A file that cannot be indexed never raises: it is in the report.
    """
    callbacks = callbacks or Callbacks()
    began = time.monotonic()
    with writing(folder) as writer:
        is_new = writer.setup() is None
        with callbacks.interruptible():
            setup = _setup(writer, settings, callbacks)
        asr = _asr(writer, settings.asr)
        run = Run(writer, options_of(setup, asr=asr), callbacks)
        run.report.run_id = writer.catalog.begin_run(settings.command)
        given = _roots(folder, paths, settings.exclude)
        remember(writer.catalog, given)
        for path in forget_exclusions(writer.catalog, [root.path for root in given]):
            callbacks.say(f"{os.fsdecode(path)} had been removed and is indexed again, as it is named")
        removed, avoid = exclusions(writer.catalog), [os.fsencode(folder)]
        exclude = Exclusions(settings.exclude)
        run.sort(
            discover(paths, exclude=exclude, avoid=avoid, removed=removed, sift=run.changed, stop=run.callbacks.stop)
        )
        run.report.hints += [] if run.report.interrupted else map(_unmatched, exclude.unmatched)
        run.bring_back()
        if settings.exclude and not run.report.interrupted:
            run.leave_out(excluded(run.unseen(), roots(writer.catalog)))
        if run.has_work():
            work(run, setup, settings)
        run.end(began)
    hint = better_models(setup)
    if hint and is_new and settings.choice == Choice() and not run.report.interrupted:
        callbacks.say(hint)
    return run.report


def _unmatched(glob: str) -> Hint:
    words = "it is compared with names, and with paths relative to the folder that is ingested"
    return Hint("exclude", f"--exclude {glob} matches nothing there: {words}")


def work(run: Run, setup: Setup, settings: IngestSettings) -> None:
    """Open the library's models, and index what is to be done.

    Raises ModelError, LibraryVersion, ClusterError, UsageError (a runner that cannot be).
    """
    if run.report.interrupted:
        run.leave()
        return
    run.reopen()
    if settings.runner.with_ray(needs_gpu=models_of(setup)["visual"] != LITE_VISUAL):
        _work_on_ray(run, setup, settings)
        return
    workers = settings.workers or default_workers()
    opening = Opening(usable_cores(), run.options.asr, settings.compiled)
    with run.callbacks.interruptible():
        encoders = open_encoders(setup, settings.cache, opening, say=run.callbacks.say)
    with LocalRunner(workers, encoders) as runner:
        in_turn(run, runner, encoders, workers, progressive=settings.progressive)


def _work_on_ray(run: Run, setup: Setup, settings: IngestSettings) -> None:
    from vfindex.indexer.runners.ray import Models, RayRunner, Session  # takes seconds to import

    with run.callbacks.interruptible():
        texts = Texts(LibraryModels(setup, settings.cache, say=run.callbacks.say).text(usable_cores()))
    models = Models(setup, settings.cache, run.options.asr, settings.compiled)
    with Session(settings.runner.address), RayRunner(models, texts, settings.runner) as runner:
        in_turn(run, runner, texts, settings.workers or runner.window, progressive=settings.progressive)


def _roots(folder: Path, paths: Sequence[bytes], exclude: tuple[str, ...]) -> list[Root]:
    """Return the paths that are there and do not lie inside the library, links resolved."""
    library = os.path.realpath(os.fsencode(folder)) + b"/"
    real = [os.path.realpath(path) for path in paths]
    return [Root(path, exclude) for path in real if os.path.exists(path) and not (path + b"/").startswith(library)]


def _setup(writer: Writer, settings: IngestSettings, callbacks: Callbacks) -> Setup:
    """Return the library's setup, made now if it is new. Raises UsageError if another was asked for."""
    choice = settings.choice
    if choice.preset is not None:
        preset_name(choice.preset)
    setup = writer.setup()
    if setup is None:
        sampling = str(settings.sampling or Sampling())
        return install(writer, choice, sampling, settings.cache, say=callbacks.say)
    references = models_of(setup)
    for name, asked, has in (
        ("preset", choice.preset, setup.preset),
        ("visual", choice.visual, references["visual"]),
        ("text", choice.text, references["text"]),
        ("speech", choice.speech, references["speech"]),
        ("sampling", settings.sampling and str(settings.sampling), setup.sampling),
    ):
        if asked and asked != has:
            raise UsageError(
                f"this library was made with --{name} {has}, not {asked}: vectors of the two cannot be compared; "
                f"leave --{name} out, change the library with: vfindex upgrade --{name} {asked}, "
                "or make another one with --library DIR"
            )
    return setup


def _asr(writer: Writer, asked: bool | None) -> bool:
    """Return whether speech is recognised, and remember it for the next run if it was asked for."""
    if asked is not None:
        put_recognises_speech(writer.catalog, asked)
    return LibraryMeta(writer.catalog).recognises_speech
