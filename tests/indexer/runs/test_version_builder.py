"""Upgrades that open no file, over hand-written libraries: copies, concurrent changes, losses, rollback."""

from __future__ import annotations

import os
import shutil
import threading
from dataclasses import replace
from itertools import chain, repeat
from pathlib import Path
from typing import Any

import pytest
from equality import contents, transcripts
from library_maker import DIM, axis, place, prior
from sqlalchemy import select
from upgrading import NEW_DIM, OLD, Upgrade, add, make_library, upgrader

from vfindex.indexer.models.presets import FORMER_SPEECH, LITE_SPEECH, Choice, chosen_models
from vfindex.indexer.models.store import Recogniser
from vfindex.indexer.runs import upgrade as upgrading
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.reuse import VideoCopier
from vfindex.indexer.runs.run import Callbacks
from vfindex.indexer.runs.upgrade import upgrade
from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.storage.db import migrations, schema
from vfindex.storage.db.sources import Root, known_files, remember, stored_roots
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import (
    LibraryError,
    LibraryLocked,
    LibraryNotFound,
    ModelError,
    UsageError,
)
from vfindex.storage.index.model_versions import history, unused, version_folder
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rollback import discard, roll_back
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import FloatArray, Setup
from vfindex.storage.writer import writing

ROOTS = (Root(b"/photos"), Root(b"/videos", ("raw/*",)))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_library(tmp_path_factory.mktemp("made") / "lib")


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    """Return a copy of `made` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "lib"))


@pytest.fixture
def run(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Upgrade:
    return upgrader(folder, monkeypatch)


def setup_of(folder: Path) -> Setup:
    with Library.open(folder).snapshot() as snapshot:
        return LibraryMeta(snapshot).existing_setup()


def documents(folder: Path) -> set[tuple[str, str]]:
    with Library.open(folder).snapshot() as snapshot:
        return {(row.kind, row.text) for row in snapshot.stream(select(schema.document.c["kind", "text"]))}


def names(folder: Path) -> list[str]:
    with Library.open(folder).snapshot() as snapshot:
        return sorted(found.fingerprint for found in snapshot.videos() if found.state in ("indexed", "partial"))


def test_another_text_model_opens_no_file(folder: Path, run: Upgrade) -> None:
    before, said = contents(folder), transcripts(folder)
    pictures = {path.name: path for path in (folder / "thumbs").rglob("*.webp")}
    report = run()
    assert (report.swapped, report.videos, report.clips, report.taken_over, report.lost) == (True, 2, 3, 2, [])
    assert (report.decoded, report.heard) == (0, 0)
    after = contents(folder)
    assert after.keys() == before.keys()
    assert transcripts(folder) == said
    for key, (start_s, end_s, vectors) in after.items():
        old = before[key]
        assert (start_s, end_s) == old[:2]
        assert vectors.embeddings["visual"].tolist() == old[2].embeddings["visual"].tolist()
        assert vectors.frames.tolist() == old[2].frames.tolist()
        assert vectors.frame_times_s.tolist() == old[2].frame_times_s.tolist()
        said_here = f"{key[0]} says {'x' * (key[1] // 1000)}".strip()
        assert vectors.embeddings["speech"].tolist() == axis(len(said_here) % NEW_DIM, NEW_DIM).tolist()
        assert len(vectors.embeddings["text"]) == NEW_DIM
    links = list((version_folder(folder, 1) / "thumbs").rglob("*.webp"))
    assert {path.name for path in links} == pictures.keys()
    assert all(os.path.samefile(path, pictures[path.name]) for path in links)
    assert verify(Library.open(folder)).problems == []


def test_locations_failures_and_settings_are_copied(folder: Path, run: Upgrade) -> None:
    def state() -> list[tuple[Any, ...]]:
        with Library.open(folder).snapshot() as snapshot:
            found = [
                (v.fingerprint, v.state, v.problem, v.locations, snapshot.coverage(v.id)) for v in snapshot.videos()
            ]
            return sorted(found, key=lambda row: row[0])

    with writing(folder) as writer:
        writer.catalog.put("asr", "0")
        remember(writer.catalog, ROOTS)
    before = state()
    run()
    assert state() == before
    assert [row[1] for row in before] == ["quarantined", "indexed", "partial"]
    with Library.open(folder).snapshot() as snapshot:
        assert snapshot.get("asr") == "0"
        assert stored_roots(snapshot) == ROOTS
    assert {("title", "long story"), ("tag", "copies"), ("speech", "zoo says ")} <= documents(folder)


def test_roll_back_and_upgrade_again(folder: Path, run: Upgrade) -> None:
    run()
    with writing(folder) as writer:
        add(writer, "newer", dim=NEW_DIM)
        writer.publish()
    assert roll_back(folder) == folder
    assert (names(folder), setup_of(folder).models["text"]) == (["long story", "zoo"], "T")
    with writing(folder) as writer:
        add(writer, "other")
        writer.publish()
    again = run()
    assert (again.version, again.taken_over, again.swapped) == (1, 1, True)
    assert (names(folder), history(folder)) == (["long story", "other", "zoo"], [1, 0])
    assert discard(folder)[0] == [0]
    assert names(folder) == ["long story", "other", "zoo"]
    with pytest.raises(LibraryError, match="no model version before"):
        roll_back(folder)
    third = run(Choice(text="T3"))
    assert (third.version, history(folder), names(folder)) == (2, [2, 1], ["long story", "other", "zoo"])


def test_changes_during_the_build_are_followed(folder: Path, run: Upgrade) -> None:
    def meanwhile(old: Path, new: Path) -> None:
        with writing(old) as writer:  # nobody is kept from the library in use
            add(writer, "added")
            writer.catalog.remove(b"/videos/zoo")
            writer.catalog.remove(b"/videos/copies/zoo")
            long_story = known_files(writer.catalog)[b"/videos/long story"].video_id
            writer.catalog.place(long_story, place("new name"), moved_from=b"/videos/long story")
            writer.publish()

    report = run(compare=meanwhile)
    assert (report.swapped, report.taken_over) == (True, 3)
    assert names(folder) == ["added", "long story"]
    with Library.open(folder).snapshot() as snapshot:
        [moved] = [v for v in snapshot.videos() if v.fingerprint == "long story"]
        assert [at.path for at in moved.locations] == [b"/videos/copies/long story", b"/videos/new name"]
    assert {("title", "new name"), ("title", "long story")} <= documents(folder)
    assert verify(Library.open(folder)).problems == []
    assert not list((version_folder(folder, 1) / "thumbs").rglob("zoo*"))


def test_the_swap_waits_for_a_run_that_is_writing(folder: Path, run: Upgrade) -> None:
    messages: list[str] = []
    writers = [writing(folder)]

    def meanwhile(*_: Path) -> None:
        writers[0].__enter__()

    def say(line: str) -> None:
        messages.append(line)
        assert history(folder) == [0]
        writers[0].__exit__(None, None, None)

    assert run(callbacks=Callbacks(say=say), compare=meanwhile).swapped
    assert messages == ["the new version is ready; waiting for the run that is writing to the library"]


def test_an_interrupted_upgrade_is_resumed(folder: Path, run: Upgrade) -> None:
    answers = chain([False], repeat(True))
    report = run(callbacks=Callbacks(stop=lambda: next(answers)))
    assert (report.interrupted, report.swapped, report.taken_over, report.videos) == (True, False, 1, 1)
    assert (history(folder), names(folder)) == ([0], ["long story", "zoo"])
    messages: list[str] = []
    again = run(Choice(), Callbacks(say=messages.append))  # it knows what it was begun for
    assert (again.swapped, again.taken_over, again.version) == (True, 1, 1)
    assert messages == ["going on with the upgrade begun earlier (preset lite: V, T2, S, sampling auto)"]


def test_without_a_choice_a_library_gets_what_its_preset_has_now(
    folder: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And keeps the models that were chosen instead of the preset's."""
    monkeypatch.setattr(upgrading, "present_models", lambda choice, preset, *_, **__: chosen_models(choice, preset))
    monkeypatch.setattr(upgrading, "find_recogniser", lambda reference, _: Recogniser(reference))
    with writing(folder) as writer:
        old = replace(OLD, references={**OLD.references, "speech": FORMER_SPEECH})
        writer.install(old, {m: prior() for m in ("visual", "speech", "text")}, {})
    report = run(Choice(), allow_missing=True)
    assert report.swapped and (report.before["speech"], report.after["speech"]) == (FORMER_SPEECH, LITE_SPEECH)
    assert (report.after["visual"], report.after["text"]) == ("V", "T")
    assert run(Choice()).version == 0


def test_an_interrupted_copy_is_resumed_unit_by_unit(
    folder: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    from vfindex.storage.db.catalog import Catalog

    commit, committed = Catalog.commit_unit, []

    def killed(self: Catalog, *arguments: Any) -> None:
        if committed:
            raise KeyboardInterrupt
        committed.append(arguments)
        commit(self, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "commit_unit", killed)
        with pytest.raises(KeyboardInterrupt):
            run()
    assert names(folder) == ["long story", "zoo"]
    assert verify(Library.open(folder)).problems == []
    with monkeypatch.context() as patch:
        patch.setattr(Catalog, "commit_unit", lambda *a: (committed.append(a), commit(*a))[1])
        assert run().taken_over == 2
    assert len(committed) == 3  # each of the three units once
    assert len(contents(folder)) == 3


def test_another_target_drops_the_unfinished_version(folder: Path, run: Upgrade) -> None:
    run(callbacks=Callbacks(stop=lambda: True))
    messages: list[str] = []
    report = run(Choice(text="T3"), Callbacks(say=messages.append))
    assert (report.version, report.swapped, setup_of(folder).models["text"]) == (2, True, "T3")
    assert sorted(path.name for path in (folder / "editions").iterdir()) == ["2"]
    assert messages == ["the unfinished upgrade to other models is dropped (preset lite: V, T2, S, sampling auto)"]


def test_the_same_models_are_not_an_upgrade(folder: Path, run: Upgrade) -> None:
    for choice in (Choice(text="T"), Choice(visual="V", speech="S")):
        report = run(choice)
        assert (report.version, report.swapped) == (0, False)
    assert (history(folder), unused(folder)) == ([0], [])


def test_a_model_that_is_missing_leaves_nothing_behind(folder: Path, run: Upgrade) -> None:
    with pytest.raises(ModelError, match="not here"):
        run(Choice(text="missing"))
    assert (history(folder), unused(folder), names(folder)) == ([0], [], ["long story", "zoo"])


def test_unknown_presets_and_empty_libraries_are_refused(folder: Path, run: Upgrade, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no preset 'bse'"):
        run(Choice(preset="bse"))
    with pytest.raises(LibraryNotFound):
        upgrade(tmp_path / "none", RunSettings(cache=tmp_path, choice=Choice(preset="lite")))
    assert not (tmp_path / "none").exists()
    with writing(tmp_path / "empty"), pytest.raises(LibraryNotFound, match="holds no videos yet"):
        upgrade(tmp_path / "empty", RunSettings(cache=tmp_path, choice=Choice(preset="lite")))


def test_missing_files_stop_the_swap(folder: Path, run: Upgrade) -> None:
    report = run(Choice(visual="V2"))
    assert (report.swapped, report.videos) == (False, 0)
    assert [(p.path, p.code) for p in report.lost] == [
        (b"/videos/copies/long story", "missing"),
        (b"/videos/copies/zoo", "missing"),
    ]
    assert (history(folder), names(folder)) == ([0], ["long story", "zoo"])
    forced = run(Choice(visual="V2"), allow_missing=True)
    assert (forced.swapped, len(forced.lost), names(folder)) == (True, 2, [])
    roll_back(folder)
    assert names(folder) == ["long story", "zoo"]


def test_without_recognition_another_speech_model_opens_no_file(folder: Path, run: Upgrade) -> None:
    with writing(folder) as writer:
        writer.catalog.put("asr", "0")
    report = run(Choice(speech="S2"))
    assert (report.swapped, report.taken_over, report.after["speech"]) == (True, 2, "S2")
    assert setup_of(folder).models == OLD.models


def test_a_second_upgrade_is_refused(folder: Path, run: Upgrade) -> None:
    def meanwhile(*_: Path) -> None:
        for second in (lambda: run(), lambda: run(Choice(text="T3")), lambda: discard(folder)):
            with pytest.raises(LibraryLocked):
                second()

    assert run(compare=meanwhile).swapped
    assert setup_of(folder).models["text"] == "T2"


def test_searches_never_fail_while_versions_change(folder: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch) -> None:
    def encode(self: QueryEncoder, *_: object) -> dict[str, FloatArray]:
        dim = DIM if self._setup.models["text"] == "T" else NEW_DIM
        return {"visual": axis(1), "speech": axis(2, dim), "text": axis(3, dim)}

    monkeypatch.setattr(QueryEncoder, "encode", encode)
    engine, failures, searches = SearchEngine.open(folder), [], []
    done = threading.Event()

    def ask() -> None:
        while not done.is_set() or len(searches) < 200:
            try:
                searches.append(len(engine.search("a long story")))
            except Exception as exc:  # noqa: BLE001  whatever it is, it must come back from the thread
                failures.append(exc)
                return

    asking = threading.Thread(target=ask)
    asking.start()
    try:
        for _ in range(3):
            assert run().swapped
            roll_back(folder)
    finally:
        done.set()
        asking.join()
    assert failures == []
    assert len(searches) >= 200
    assert set(searches) == {2}


def test_versions_of_an_older_vfindex_are_brought_up_to_date(
    folder: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    run()
    roll_back(folder)
    monkeypatch.setattr(migrations, "MIGRATIONS", {**migrations.MIGRATIONS, "first": ()})
    again = run()  # the model version returned from is not built anew
    assert (again.version, again.swapped, again.taken_over) == (1, True, 0)
    monkeypatch.setattr(migrations, "MIGRATIONS", {**migrations.MIGRATIONS, "second": ()})
    roll_back(folder)
    assert verify(Library.open(folder)).problems == []


def test_a_damaged_version_is_rebuilt(folder: Path, run: Upgrade) -> None:
    run(callbacks=Callbacks(stop=lambda: True))
    database = version_folder(folder, 1) / "library.db"
    database.write_bytes(b"half" + database.read_bytes()[4:])
    report = run()
    assert (report.swapped, report.taken_over, verify(Library.open(folder)).problems) == (True, 2, [])


def test_a_video_removed_during_its_copy_is_skipped(
    folder: Path, run: Upgrade, monkeypatch: pytest.MonkeyPatch
) -> None:
    copy = VideoCopier.copy

    def late(self: VideoCopier, stored: StoredVideo, **arguments: bool) -> bool:
        if stored.fingerprint == "zoo":
            with writing(folder) as writer:
                for path in (b"/videos/zoo", b"/videos/copies/zoo"):
                    writer.catalog.remove(path)
        return copy(self, stored, **arguments)

    monkeypatch.setattr(VideoCopier, "copy", late)
    report = run()
    assert (report.swapped, report.taken_over, names(folder)) == (True, 1, ["long story"])


def test_videos_missing_before_are_not_lost(folder: Path, run: Upgrade) -> None:
    with writing(folder) as writer:
        writer.catalog.mark_missing([b"/videos/zoo", b"/videos/copies/zoo"])
    report = run()
    assert (report.swapped, report.lost, names(folder)) == (True, [], ["long story"])
    assert verify(Library.open(folder)).problems == []
