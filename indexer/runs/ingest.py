"""`vfindex ingest`: index the videos at and below paths into a library.

Every file has exactly one outcome (see `Report`). Every unit is committed by itself, so the next run continues an
interrupted one.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from vfindex.indexer.extractors.ocr import INSTALL
from vfindex.indexer.models.factory import install
from vfindex.indexer.models.presets import Choice, better_models, models_of, preset_name, unusable_kinds
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.execute import Command, RunSettings, execute, left_out
from vfindex.indexer.runs.report import Report
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.scan.missing import excluded
from vfindex.indexer.scan.walk import Discovered, Exclusions, Sift, discover
from vfindex.storage.db.sources import Root, exclusions, forget_exclusions, remember, roots
from vfindex.storage.db.units import unread_videos
from vfindex.storage.errors import LibraryNotFound, ModelError, UsageError, counted
from vfindex.storage.library import Library
from vfindex.storage.meta import put_switch
from vfindex.storage.modalities import NOT_READ, ModalityName, get_modality, switches
from vfindex.storage.records import FileState, Hint, Setup
from vfindex.storage.writer import Writer


def ingest(
    folder: Path,
    paths: Sequence[bytes],
    settings: RunSettings,
    callbacks: Callbacks | None = None,
    *,
    name: str = "ingest",
    sift: Callable[[FileState], bool] | None = None,
) -> Report:
    """Index the videos at and below `paths` into the library in `folder`, and return what became of every file.

    name: of the command, as stored with the run. sift: returns whether to read a file of a folder now; None: all.
    Raises as `execute`; UsageError for a preset or a sampling that is not the library's, and before a new library is
    made among the videos.
    """
    _refuse_own_folder(folder, paths)
    callbacks = callbacks or Callbacks()
    exclude = Exclusions(settings.exclude)
    hints: list[str] = []

    def setup(writer: Writer) -> Setup:
        is_new = writer.setup() is None
        with callbacks.interruptible():
            found = _setup(writer, settings, callbacks)
        for modality, is_on in settings.switches().items():
            if is_on:
                _check_switch(found, modality)
            put_switch(writer.catalog, modality, is_on)
        hints.extend([*_unread(writer), *filter(None, [_without_screen(found, settings, is_new)])])
        if is_new and settings.choice == Choice():
            hints.extend(filter(None, [better_models(found)]))
        return found

    def scan(run: Run) -> Iterator[Discovered]:
        catalog = run.writer.catalog
        given = _roots(folder, paths, settings.exclude)
        remember(catalog, given)
        _forget_named(run, given)
        removed, avoid = exclusions(catalog), [os.fsencode(folder)]
        changed = _changed(run, sift)
        return discover(paths, exclude=exclude, avoid=avoid, removed=removed, sift=changed, stop=run.callbacks.stop)

    def scanned(run: Run) -> None:
        if run.report.interrupted:
            return
        run.report.hints += map(_unmatched, exclude.unmatched)
        if settings.exclude:
            run.exclude(excluded(run.unseen(), roots(run.writer.catalog)))

    report = execute(folder, Command(name, setup, scan, scanned=scanned), settings, callbacks)
    for hint in [] if report.interrupted else hints:
        callbacks.say(hint)
    return report


def _changed(run: Run, sift: Callable[[FileState], bool] | None) -> Sift:
    """Return which files of a folder are to be read: of those that `sift` lets pass, if it is there."""
    return run.changed if sift is None else lambda states: run.changed([each for each in states if sift(each)])


def _check_switch(setup: Setup, modality: ModalityName) -> None:
    """Raise ModelError, UsageError if a modality is wanted that cannot be extracted."""
    kind, switch = get_modality(modality), switches()[modality]
    if kind.recogniser in unusable_kinds():
        raise ModelError(f"--{switch.option} needs rapidocr, not installed here; run: {INSTALL}")
    if modality not in setup.models:
        chosen = f" --{kind.model} NAME" if kind.is_optional else ""
        raise UsageError(f"this library has no {switch.content}; to add it: vfindex upgrade{chosen}")


def _without_screen(setup: Setup, settings: RunSettings, is_new: bool) -> str:
    """Return a sentence about a new library that has no text on the screen for want of OCR, else ""."""
    if not is_new or settings.ocr is False or not unusable_kinds().difference(models_of(setup)):
        return ""
    return (
        "OCR is not installed here, so this library has no text on the screen; to add it later: "
        f"{INSTALL}, then: vfindex upgrade"
    )


def _unread(writer: Writer) -> Iterator[str]:
    """Yield a sentence for each modality of which an upgrade would add what runs left out."""
    idle = left_out(writer.catalog, hears=True)
    with writer.library.snapshot() as snapshot:
        videos = Counter(name for names in unread_videos(snapshot).values() for name in names if name not in idle)
    for name, n in videos.items():
        switch = switches()[name]
        why = switch.coverage.removeprefix(NOT_READ)
        yield f"{counted(n, 'video')} without {switch.content}, as {why}; to read it: vfindex upgrade"


def _forget_named(run: Run, given: Sequence[Root]) -> None:
    """Index removed paths again that the user names."""
    named = forget_exclusions(run.writer.catalog, [root.path for root in given])
    for path in named:
        run.callbacks.say(f"{os.fsdecode(path)} had been removed and is indexed again, as it is named")
    if named:
        run.writer.write_backup()


def _unmatched(glob: str) -> Hint:
    words = "it is compared with names, and with paths relative to the folder that is ingested"
    return Hint("exclude", f"--exclude {glob} matches nothing there: {words}")


def _roots(folder: Path, paths: Sequence[bytes], exclude: tuple[str, ...]) -> list[Root]:
    """Return the paths that exist outside the library, links resolved."""
    real = [os.path.realpath(path) for path in paths if not _is_inside(path, folder)]
    return [Root(path, exclude) for path in real if os.path.exists(path)]


def _is_inside(path: bytes, folder: Path) -> bool:
    return (os.path.realpath(path) + b"/").startswith(os.path.realpath(os.fsencode(folder)) + b"/")


def _refuse_own_folder(folder: Path, paths: Sequence[bytes]) -> None:
    """Raise UsageError if a new library would be made in the folder of the videos."""
    inside = [path for path in paths if _is_inside(path, folder)]
    if not inside:
        return
    try:
        Library.open(folder).close()
    except LibraryNotFound:
        raise UsageError(
            f"{os.fsdecode(inside[0])}: the library {folder} would be made among the videos; name another folder with "
            "--library"
        ) from None


def _setup(writer: Writer, settings: RunSettings, callbacks: Callbacks) -> Setup:
    """Return the library's setup, created for a new library. Raises UsageError if other models are asked for."""
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
        *((kind, asked, references.get(kind)) for kind, asked in choice.models().items()),
        ("sampling", settings.sampling and str(settings.sampling), setup.sampling),
    ):
        if asked and not has:
            raise UsageError(f"this library has no {name} model; add it with: vfindex upgrade --{name} {asked}")
        if asked and asked != has:
            raise UsageError(
                f"this library was made with --{name} {has}, not {asked}: vectors of the two cannot be compared; "
                f"leave --{name} out, change the library with: vfindex upgrade --{name} {asked}, "
                "or make another one with --library DIR"
            )
    return setup
