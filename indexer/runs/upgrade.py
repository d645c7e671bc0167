"""`vfindex upgrade`: build a version of a library with other models, compare it with the one in use, and swap.

Searches and ingests use the old version until the swap, which is one rename. The next call resumes an interrupted
upgrade. Files ingested meanwhile are added before the swap.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from vfindex.indexer.models.factory import install, present_models
from vfindex.indexer.models.presets import (
    CHOSEN_KINDS,
    FORMER_SPEECH,
    LITE_SPEECH,
    PRESETS,
    Choice,
    models_of,
    preset_name,
    same_choice,
)
from vfindex.indexer.models.store import find_recogniser
from vfindex.indexer.runs.execute import RunSettings, execute
from vfindex.indexer.runs.report import UpgradeReport
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.indexer.runs.version_builder import VersionBuilder
from vfindex.storage.collections import drop_collections
from vfindex.storage.db.runs import runs
from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryLocked, LibraryVersion, VfindexError
from vfindex.storage.heads import TemporalHead, put_head, stored_head
from vfindex.storage.index import model_versions
from vfindex.storage.joint.shared import SpecFault
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta, put_index_server, put_shared_spec
from vfindex.storage.modalities import ModelKind, frame_modality, switches
from vfindex.storage.records import Setup
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import Writer, locked, writing

# Interval between attempts to lock a library that another run is writing to.
POLL_S = 1.0
# Setting of a model version that an upgrade makes: its target.
_TARGET = "upgrade"
# The models that targets of earlier versions name, each in a field of its own.
_FORMER_KINDS: tuple[ModelKind, ...] = ("visual", "text", "speech", "screen")


@dataclass(frozen=True, slots=True)
class Target:
    """The models and the sampling of a new version; stored in it, so that an interrupted upgrade can be resumed."""

    preset: str
    models: Mapping[ModelKind, str]
    sampling: str

    @classmethod
    def from_json(cls, text: str) -> Target:
        """Return the target of stored text, of earlier versions too. Raises ValueError, KeyError or TypeError."""
        document = json.loads(text)
        models = document.get("models") or {kind: document[kind] for kind in _FORMER_KINDS if document.get(kind)}
        return cls(document["preset"], models, document["sampling"])

    def choice(self) -> Choice:
        return Choice.of(self.preset, self.models)

    def __str__(self) -> str:
        return f"preset {self.preset}: {', '.join(self.models.values())}, sampling {self.sampling}"


# Called with the folders of the old and of the complete new version, before the swap.
Compare = Callable[[Path, Path], None]


def upgrade(
    folder: Path, settings: RunSettings, callbacks: Callbacks | None = None, compare: Compare | None = None
) -> UpgradeReport:
    """Change the library in `folder` to other models, by the runner of the settings, and return what was done.

    Settings that choose nothing continue an unfinished upgrade; without one, see `same_choice`.
    There is no swap if the report says `interrupted`, if `version` is 0 (the library has these models already), or if
    videos would be `lost` and `allow_missing` is False.
    Raises LibraryNotFound, LibraryLocked (another upgrade), UsageError, ModelError, LibraryError, ClusterError.
    """
    callbacks = callbacks or Callbacks()
    began = time.monotonic()
    old = Library.open(folder)
    try:
        before = _setup(old)
    except LibraryVersion:
        with writing(folder):  # brings a library of an older vfindex up to date, and refuses one of a newer
            before = _setup(old)
    model_versions.begin(folder)
    number, target = _version_to_build(folder, before, settings, callbacks)
    place = model_versions.version_folder(folder, number)
    with writing(place) as writer:
        setup = _begin(old, writer, target, settings.cache, callbacks)
    report = UpgradeReport(number, _named(before), _named(setup))
    builder = VersionBuilder(old, (before, setup), settings, callbacks, report)
    if replace(before, references=models_of(before)) == setup and not builder.reads_more():
        model_versions.discard(folder, [number])
        report.version = 0
        return report
    for modality in builder.added_but_off():
        content, option = switches()[modality].content, switches()[modality].option
        callbacks.say(
            f"without {content}, which --no-{option} left out; to add it: vfindex ingest --{option} VIDEOS, then: "
            "vfindex upgrade"
        )
    for note in _notes_of_heads(old, (before, setup)):
        callbacks.say(note)
    with ExitStack() as held:
        ending = _Ending(builder, settings.allow_missing, compare, held)

        def finish(run: Run, _: Setup) -> None:
            builder.measure(run)
            ending.decide()
            report.wall_s = time.monotonic() - began
            if report.swapped:
                report.dropped_heads = _carry_heads(old, builder.writer, setup)
            catalog = builder.writer.catalog
            catalog.end_run(run.report.run_id, report.to_dict(os.fsdecode))
            if report.swapped:
                catalog.put(model_versions.COMPLETE, "1")
                # The log of the version goes into its database before the pointer to it.
                if not builder.writer.checkpoint():
                    callbacks.say("a reader holds the new version's log; the next command that writes empties it")
                model_versions.put_in_use(folder, number)

        while not ending.is_reached:
            execute(place, builder.round(finish), settings, callbacks)
    return report


def _heads(old: Library, setup: Setup) -> dict[str, TemporalHead | None]:
    """Return set of classes -> its temporal head in the old version; None if the new one's models cannot use it."""
    found: dict[str, TemporalHead | None] = {}
    with old.snapshot() as snapshot:
        for classes in LibraryMeta(snapshot).temporal_heads:
            found[classes] = None
            with suppress(LibraryDamaged):  # a head that `label` refuses
                head = stored_head(snapshot, old.folder, classes)
                if head is not None and head.model == setup.models.get(frame_modality()):
                    found[classes] = head
    return found


def _notes_of_heads(old: Library, setups: tuple[Setup, Setup]) -> list[str]:
    """Return a sentence on each temporal head that the upgrade drops, or that was trained on another sampling."""
    again = "to train it again, once the new version is in use: vfindex tune CLASSES --temporal"
    notes = []
    for classes, head in _heads(old, setups[1]).items():
        name = f"the temporal head of {classes!r}"
        if head is None:
            notes.append(f"{name} reads vectors of the old image model and is dropped; {again}")
        elif setups[0].sampling != setups[1].sampling:
            notes.append(f"{name} stays, though trained on frames of another sampling; {again}")
    return notes


def _carry_heads(old: Library, writer: Writer, setup: Setup) -> tuple[str, ...]:
    """Give the new version the temporal heads that it can use; return the sets of classes that have none there."""
    heads = _heads(old, setup)
    for classes, head in heads.items():
        if head is not None:
            put_head(writer.catalog, writer.folder, classes, head)
    return tuple(sorted(heads.keys() - LibraryMeta(writer.catalog).temporal_heads.keys()))


@dataclass(slots=True)
class _Ending:
    """Whether an upgrade has ended after a round, and how. held: keeps the library's lock until the swap is done."""

    builder: VersionBuilder
    allow_missing: bool
    compare: Compare | None
    held: ExitStack
    is_reached: bool = False

    def decide(self) -> None:
        """End the upgrade if it is interrupted, cannot be completed, or is complete and nothing has changed since."""
        builder, report = self.builder, self.builder.report
        if report.interrupted or (report.lost and not self.allow_missing):
            # What is lost may have been removed meanwhile.
            self.is_reached = report.interrupted or builder.is_done()
            return
        if self.compare is not None:
            self.compare(builder.old.folder, builder.writer.folder)
            self.compare = None
        with ExitStack() as attempt:
            if not _lock(builder.old.root, attempt, builder.callbacks):
                report.interrupted = self.is_reached = True
                return
            if not builder.old.is_in_use():
                raise LibraryError("another model version was put in use meanwhile; run the same command again")
            if builder.is_done():
                self.held.enter_context(attempt.pop_all())
                report.swapped = self.is_reached = True


def _lock(folder: Path, held: ExitStack, callbacks: Callbacks) -> bool:
    """Take the library's lock, waiting for a run that has it; return False if asked to stop first."""
    has_said = False
    while not callbacks.stop():
        try:
            held.enter_context(locked(folder))
            return True
        except LibraryLocked:
            if not has_said:
                callbacks.say("the new version is ready; waiting for the run that is writing to the library")
            has_said = True
            time.sleep(POLL_S)
    return False


def _setup(library: Library) -> Setup:
    """Return the setup of a library. Raises LibraryNotFound for one that is empty."""
    with library.snapshot() as snapshot:
        return setup_of(snapshot, library.folder)


def _named(setup: Setup) -> dict[str, str]:
    models = {str(kind): reference for kind, reference in models_of(setup).items()}
    return {"preset": setup.preset, **models, "sampling": setup.sampling}


def _chooses_nothing(settings: RunSettings) -> bool:
    return settings.choice == Choice() and settings.sampling is None


def _target(before: Setup, settings: RunSettings, callbacks: Callbacks) -> Target:
    """Return the target of the settings, every model named. Raises UsageError."""
    choice = same_choice(before) if _chooses_nothing(settings) else settings.choice
    preset, has = preset_name(choice.preset or before.preset), models_of(before)
    if choice.preset is not None:
        if has.get("text") == PRESETS[preset].models["text"]:
            choice = replace(choice, text=choice.text or has["text"])  # no upgrade changes it for its substitute
        optional = {kind: has[kind] for kind in CHOSEN_KINDS if kind in has and kind not in PRESETS[preset].models}
        models = {**optional, **present_models(choice, preset, settings.cache, say=callbacks.say)}
    else:
        models = {**has, **choice.models()}
    if frame_modality() in before.models and "visual" not in models:
        models["visual"] = PRESETS[preset].models["visual"]  # it is missing, and no upgrade drops the images
    if not choice.speech and (models["speech"] != has["speech"] or has["speech"] == FORMER_SPEECH):
        found = find_recogniser(models["speech"], settings.cache)
        models["speech"] = found.reference if found.usable else has["speech"]
        if found.note and found.reference != has["speech"] and models["speech"] != LITE_SPEECH:
            callbacks.say(found.note)
    sampling = str(settings.sampling) if settings.sampling else before.sampling
    return Target(preset, Choice.of(preset, models).models(), sampling)


def _version_to_build(folder: Path, before: Setup, settings: RunSettings, callbacks: Callbacks) -> tuple[int, Target]:
    """Return the number of the model version to build and its target: one begun for the same target, else a new one.

    Settings that choose nothing have the target of an unfinished one. Other unfinished versions are deleted; those that
    were in use once are kept for `roll_back`.
    """
    used = model_versions.history(folder)
    others = [number for number in model_versions.unused(folder) if number not in used]
    begun = {number: _begun(model_versions.version_folder(folder, number)) for number in others}
    unfinished = [purpose for purpose, complete in begun.values() if purpose is not None and not complete]
    target = unfinished[0] if unfinished and _chooses_nothing(settings) else _target(before, settings, callbacks)
    for number, (purpose, _) in begun.items():
        if purpose == target:
            callbacks.say(f"going on with the upgrade begun earlier ({purpose})")
            return number, target
    for number, (purpose, complete) in begun.items():
        if not complete:
            with locked(place := model_versions.version_folder(folder, number)):
                drop_collections(place)
                model_versions.discard(folder, [number])
            if purpose is not None:
                callbacks.say(f"the unfinished upgrade to other models is dropped ({purpose})")
    return max([*used, *others]) + 1, target


def _begun(place: Path) -> tuple[Target | None, bool]:
    """Return the target of a model version, None if none is stored; and whether it was ever in use."""
    try:
        with writing(place) as writer:  # which brings a version of an older vfindex up to date
            stored, complete = writer.catalog.get(_TARGET), writer.catalog.get(model_versions.COMPLETE) is not None
        return (Target.from_json(stored) if stored else None), complete
    except (LibraryDamaged, AttributeError, KeyError, TypeError, ValueError):
        return None, False


def _begin(old: Library, writer: Writer, target: Target, cache: Path, callbacks: Callbacks) -> Setup:
    """Return the setup of the new version, made if there is none. Raises ModelError, and then deletes the version."""
    setup = writer.setup()
    if setup is not None:
        return setup
    if writer.catalog.get(_TARGET) is None:
        with old.snapshot() as snapshot:
            writer.adopt_runs(runs(snapshot))
        writer.catalog.put(_TARGET, json.dumps(asdict(target)))
    try:
        with callbacks.interruptible():
            heard_by = models_of(_setup(old))["speech"]
            setup = install(
                writer,
                target.choice(),
                target.sampling,
                cache,
                keeps_speech=target.models["speech"] == heard_by,
                say=callbacks.say,
            )
    except VfindexError:
        model_versions.discard(old.root, [int(writer.folder.name)])
        raise
    with old.snapshot() as snapshot, writer.catalog.transaction() as connection:
        put_index_server(connection, LibraryMeta(snapshot).index_server)
    _carry_shared_spec(old, writer, setup, callbacks.say)
    return setup


def _carry_shared_spec(old: Library, writer: Writer, setup: Setup, say: Callable[[str], None]) -> None:
    """Give the new version the shared spec of the old one, or say that it cannot use it."""
    with old.snapshot() as snapshot:
        shared = LibraryMeta(snapshot).shared_spec
    if shared is None:
        return
    try:
        shared.check_fits(setup, LibraryMeta(writer.catalog).priors)
    except SpecFault:
        say(
            f"the shared spec {shared.hash} is for the models until now, so the new version estimates its own; once "
            "all libraries are upgraded, share another: vfindex spec export FILE --library A --library B"
        )
        return
    with writer.catalog.transaction() as connection:
        put_shared_spec(connection, shared)
