"""A library over to other models: the next edition is built beside the one in use, compared with it, then put in use.

Searches and ingests go on with the old edition until the swap, which is one rename. Whatever breaks the building off,
the next call goes on with it; files ingested meanwhile are caught up before the swap.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from vfindex.indexer.models.factory import install
from vfindex.indexer.models.presets import Choice, chosen_models, models_of, preset_name
from vfindex.indexer.options import Sampling
from vfindex.indexer.runs.edition_builder import CatchUp, Plan
from vfindex.indexer.runs.report import UpgradeReport
from vfindex.indexer.runs.reuse import Reuse
from vfindex.indexer.runs.run import Callbacks
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.runs import runs
from vfindex.storage.errors import (
    LibraryDamaged,
    LibraryError,
    LibraryLocked,
    LibraryNotFound,
    LibraryVersion,
    UsageError,
    VfindexError,
)
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Setup
from vfindex.storage.writer import Writer, locked, writing

# How often a library that another run is writing to is asked whether it is free for the swap.
POLL_S = 1.0
# Settings of an edition that an upgrade made: what it is for, and that it was complete and put in use.
_WISH, _COMPLETE = "upgrade", "upgraded"


@dataclass(frozen=True, slots=True)
class UpgradeSettings:
    """What the user asked for; None: what the library has, or what an unfinished upgrade was begun with.

    allow_missing: swap even if videos are lost by it. cache: where models are kept.
    """

    cache: Path
    choice: Choice = field(default_factory=Choice)
    sampling: Sampling | None = None
    workers: int | None = None
    allow_missing: bool = False


@dataclass(frozen=True, slots=True)
class Wish:
    """What an edition is built for, every model named; kept in the edition, so that the building can go on."""

    preset: str
    visual: str
    text: str
    speech: str
    sampling: str

    def choice(self) -> Choice:
        return Choice(self.preset, self.visual, self.text, self.speech)

    def __str__(self) -> str:
        return f"preset {self.preset}: {self.visual}, {self.text}, {self.speech}, sampling {self.sampling}"


# Told the folders of the old and of the complete new edition, before the swap.
Compare = Callable[[Path, Path], None]


def upgrade(
    folder: Path, settings: UpgradeSettings, callbacks: Callbacks | None = None, compare: Compare | None = None
) -> UpgradeReport:
    """Bring the library in `folder` over to the models asked for, and return what was done.

    Not swapped where the report says `interrupted`, where `edition` is 0 as the library has these models already, and
    where videos would be `lost`, unless they may be.
    Raises LibraryNotFound, LibraryLocked (another upgrade), UsageError, ModelError, LibraryError.
    """
    callbacks = callbacks or Callbacks()
    began = time.monotonic()
    old = Library.open(folder)
    try:
        before = _setup(old)
    except LibraryVersion:
        with writing(folder):  # brings a library of an older vfindex up to date, and refuses one of a newer
            before = _setup(old)
    number, wish = _edition(folder, _wish(before, settings), callbacks)
    with ExitStack() as held, writing(model_versions.version_folder(folder, number)) as writer:
        setup = _begin(old, writer, wish, settings.cache, callbacks)
        report = UpgradeReport(number, _named(before), _named(setup))
        if replace(before, references=models_of(before)) == setup:
            model_versions.discard(folder, [number])
            report.edition = 0
            return report
        run_id = writer.catalog.begin_run("upgrade")
        plan = Plan(setup, Reuse.between(before, setup), settings.cache, settings.workers)
        _build(CatchUp(old, writer, plan, callbacks), report, settings.allow_missing, compare, held)
        report.wall_s = time.monotonic() - began
        writer.catalog.end_run(run_id, report.to_dict(os.fsdecode))
        if report.swapped:
            writer.catalog.put(_COMPLETE, "1")
            writer.checkpoint()  # a pointer to an edition of which a log holds all would lose it with the log
            model_versions.put_in_use(folder, number)
    return report


def roll_back(folder: Path) -> Path:
    """Return to the edition used before this one; return its folder. Raises LibraryError if there is none."""
    Library.open(folder)
    with locked(folder):
        place = model_versions.version_folder(folder, model_versions.roll_back(folder))
        Catalog.open(place / "library.db").close()  # brings an edition of an older vfindex up to date
        return place


def discard(folder: Path) -> tuple[list[int], int]:
    """Delete the editions that are not in use; return their numbers and the bytes freed.

    Raises LibraryLocked while an upgrade is building one, LibraryError.
    """
    Library.open(folder)
    with ExitStack() as held:
        held.enter_context(locked(folder))
        numbers = model_versions.unused(folder)
        for number in numbers:
            if number:
                held.enter_context(locked(model_versions.version_folder(folder, number)))
        return numbers, model_versions.discard(folder, numbers)


def _build(work: CatchUp, report: UpgradeReport, allow_missing: bool, compare: Compare | None, held: ExitStack) -> None:
    """Build the edition until nothing is missing, the library's lock then `held`; or until something is in the way."""
    while True:
        work.round(report)
        if report.interrupted:
            return
        if report.lost and not allow_missing:
            if work.is_done():
                return
            continue  # what is lost may have been removed meanwhile
        if compare is not None:
            compare(work.old.folder, work.writer.folder)
            compare = None
        with ExitStack() as attempt:
            if not _lock(work.old.root, attempt, work.callbacks):
                report.interrupted = True
                return
            if not work.old.is_in_use():
                raise LibraryError("another edition was put in use meanwhile; run the same command again")
            if work.is_done():
                held.enter_context(attempt.pop_all())
                report.swapped = True
                return


def _lock(folder: Path, held: ExitStack, callbacks: Callbacks) -> bool:
    """Take the library's lock, waiting for a run that has it; return False if asked to stop first."""
    told = False
    while not callbacks.stop():
        try:
            held.enter_context(locked(folder))
            return True
        except LibraryLocked:
            if not told:
                callbacks.say("the new edition is ready; waiting for the run that is writing to the library")
            told = True
            time.sleep(POLL_S)
    return False


def _setup(library: Library) -> Setup:
    """Return what the library was made with. Raises LibraryNotFound for one that is empty."""
    with library.snapshot() as snapshot:
        setup = LibraryMeta(snapshot).setup
    if setup is None:
        raise LibraryNotFound(f"the library {library.root} holds no videos yet; add some with: vfindex ingest VIDEOS")
    return setup


def _named(setup: Setup) -> dict[str, str]:
    models = {str(kind): reference for kind, reference in models_of(setup).items()}
    return {"preset": setup.preset, **models, "sampling": setup.sampling}


def _wish(before: Setup, settings: UpgradeSettings) -> Wish | None:
    """Return what is asked for, every model named; None where nothing is. Raises UsageError."""
    choice = settings.choice
    if choice == Choice() and settings.sampling is None:
        return None
    preset = preset_name(choice.preset or before.preset)
    models = chosen_models(choice, preset)
    if choice.preset is None:
        models = {kind: getattr(choice, kind) or has for kind, has in models_of(before).items()}
    sampling = str(settings.sampling) if settings.sampling else before.sampling
    return Wish(preset, models["visual"], models["text"], models["speech"], sampling)


def _edition(folder: Path, wish: Wish | None, callbacks: Callbacks) -> tuple[int, Wish]:
    """Return the number of the edition to build and what for: one begun for the same, else a new one.

    Other unfinished editions are deleted; those that were in use once are kept for `roll_back`.
    """
    used = model_versions.history(folder)
    others = [number for number in model_versions.unused(folder) if number not in used]
    begun = {number: _begun(model_versions.version_folder(folder, number)) for number in others}
    for number, (purpose, complete) in begun.items():
        if purpose is not None and (purpose == wish or (wish is None and not complete)):
            callbacks.say(f"going on with the upgrade begun earlier ({purpose})")
            return number, purpose
    if wish is None:
        raise UsageError("no upgrade is unfinished; say what to change to, as in: vfindex upgrade --preset base")
    for number, (purpose, complete) in begun.items():
        if not complete:
            with locked(model_versions.version_folder(folder, number)):
                model_versions.discard(folder, [number])
            if purpose is not None:
                callbacks.say(f"the unfinished upgrade to other models is dropped ({purpose})")
    return max([*used, *others]) + 1, wish


def _begun(place: Path) -> tuple[Wish | None, bool]:
    """Return what an edition was begun for, None if that was not even written down; and whether it was in use once."""
    try:
        with writing(place) as writer:  # which brings an edition of an older vfindex up to date
            stored, complete = writer.catalog.get(_WISH), writer.catalog.get(_COMPLETE) is not None
        return (Wish(**json.loads(stored)) if stored else None), complete
    except (LibraryDamaged, TypeError, ValueError):
        return None, False


def _begin(old: Library, writer: Writer, wish: Wish, cache: Path, callbacks: Callbacks) -> Setup:
    """Return the setup of the edition, made now if it is new. Raises ModelError, and then nothing is left of it."""
    setup = writer.setup()
    if setup is not None:
        return setup
    if writer.catalog.get(_WISH) is None:
        with old.snapshot() as snapshot:
            writer.adopt_runs(runs(snapshot))
        writer.catalog.put(_WISH, json.dumps(asdict(wish)))
    try:
        with callbacks.interruptible():
            return install(writer, wish.choice(), wish.sampling, cache, say=callbacks.say)
    except VfindexError:
        model_versions.discard(old.root, [int(writer.folder.name)])
        raise
