"""Labels in library.db: replaced as a set, counted, sealed, and gone with what they are about."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install
from old_libraries import BEFORE_FRAMES, stored
from sqlalchemy import text

from vfindex.storage import labels
from vfindex.storage.errors import LibraryChanged
from vfindex.storage.labels import LabelCount, StoredLabel
from vfindex.storage.library import Library
from vfindex.storage.maintenance.backup import back_up
from vfindex.storage.maintenance.rebuild import rebuild
from vfindex.storage.maintenance.repair import restore_settings
from vfindex.storage.maintenance.salvage import salvage
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.writer import writing

ALL = [LabelCount("kinds", "cooking", 1, 1, "cooking"), LabelCount("kinds", "sport", 0, 2, "sport")]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library of two videos of two clips each; a is cooking and has a clip of it, b two clips of sport."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for name in ("a", "b"):
            add_video(writer, name, [clip(0, 5, visual=axis(1)), clip(5, 9, visual=axis(2))])
        writer.publish()
    with writing(folder) as writer, writer.library.snapshot() as snapshot:
        state = labels.library_state(snapshot)
        given = [StoredLabel(1, None, "cooking", 0.75), StoredLabel(1, 1, "cooking", 0.9)]
        given += [StoredLabel(2, 3, "sport", 0.6), StoredLabel(2, 4, "sport", 0.5), StoredLabel(9, None, "sport", 1)]
        assert labels.put_labels(writer.catalog, "kinds", given, state) == 4  # there is no video 9
    return folder


def put(folder: Path, given: list[StoredLabel], classes: str = "kinds") -> int:
    with writing(folder) as writer, writer.library.snapshot() as snapshot:
        return labels.put_labels(writer.catalog, classes, given, labels.library_state(snapshot))


def counts(folder: Path) -> list[LabelCount]:
    with Library.open(folder).snapshot() as snapshot:
        return labels.label_counts(snapshot)


def harm(folder: Path, statement: str) -> None:
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        connection.execute(statement)


def test_a_set_is_replaced_and_others_stay(library: Path) -> None:
    put(library, [StoredLabel(2, 3, "calm", 0.7)], "tone")
    put(library, [StoredLabel(2, None, "sport", 0.8)])
    assert counts(library) == [LabelCount("kinds", "sport", 1, 0, "sport"), LabelCount("tone", "calm", 0, 1, "calm")]
    with writing(library) as writer:
        assert labels.remove_labels(writer.catalog, "kinds") == 1
    assert counts(library) == [LabelCount("tone", "calm", 0, 1, "calm")]


def test_labels_are_read_by_name_clip_and_video(library: Path) -> None:
    with Library.open(library).snapshot() as snapshot:
        assert labels.label_names(snapshot) == {("kinds", "cooking"): "cooking", ("kinds", "sport"): "sport"}
        assert labels.videos_labelled(snapshot, [("kinds", "cooking"), ("kinds", "sport")]) == {1, 2}
        assert labels.videos_labelled(snapshot, [("tone", "cooking")]) == frozenset()
        assert labels.clips_labelled(snapshot, [("kinds", "sport")]).tolist() == [3, 4]
        assert labels.labels_of(snapshot, [1, 2, 4]) == {1: {"cooking": 0.9}, 4: {"sport": 0.5}}
        assert labels.labels_of_videos(snapshot, [1, 2]) == {1: {"cooking": 0.75}}
        assert labels.label_counts(snapshot, [1]) == [ALL[0]]


def test_the_first_and_the_last_labels_are_seen_by_a_library_that_is_open(library: Path) -> None:
    def shown(opened: Library) -> bool:
        with opened.snapshot() as snapshot:
            return bool(labels.labels_of(snapshot, range(100)))

    opened = Library.open(library)
    before = shown(opened)
    with writing(library) as writer, writer.catalog.transaction() as connection:
        connection.execute(text("DELETE FROM label"))
    after = shown(opened)
    put(library, [StoredLabel(1, 1, "a dog", 0.9)])
    assert (before, after, shown(opened)) == (True, False, True)


def test_a_label_of_several_sets_is_named_with_its_set(library: Path) -> None:
    put(library, [StoredLabel(1, None, "Sport", 0.6), StoredLabel(2, 3, "calm", 0.7)], "my/tone")
    with Library.open(library).snapshot() as snapshot:
        shown = {each.label: (each.videos, each.clips) for each in labels.label_counts(snapshot)}
        assert shown == {"cooking": (1, 1), "my/tone/Sport": (1, 0), "kinds/sport": (0, 2), "calm": (0, 1)}
        assert labels.labels_of_videos(snapshot, [1]) == {1: {"cooking": 0.75, "my/tone/Sport": 0.6}}
        assert labels.labels_of(snapshot, [3]) == {3: {"calm": 0.7, "kinds/sport": 0.6}}
        assert labels.clips_labelled(snapshot, [("my/tone", "Sport")]).tolist() == []


def test_labels_go_with_their_clip_and_their_vectors(library: Path) -> None:
    with writing(library) as writer, writer.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE embedding SET vector = vector WHERE clip_id = 1")
    assert counts(library) == [LabelCount("kinds", "sport", 0, 2, "sport")]  # of clip 1, and of its video
    with writing(library) as writer, writer.catalog.transaction() as connection:
        connection.exec_driver_sql("DELETE FROM clip WHERE id = 3")
    assert counts(library) == [LabelCount("kinds", "sport", 0, 1, "sport")]
    with writing(library) as writer:
        writer.catalog.remove(b"/videos/b")
    assert counts(library) == []
    assert not [each for each in verify(Library.open(library)).problems if "label" in each]


def test_labels_made_before_a_run_are_not_stored(library: Path) -> None:
    with writing(library) as writer, writer.library.snapshot() as snapshot:
        state = labels.library_state(snapshot)
        writer.catalog.end_run(writer.catalog.begin_run("ingest"), {})
        with pytest.raises(LibraryChanged, match="run the same command again"):
            labels.put_labels(writer.catalog, "kinds", [], state)
    assert counts(library) == ALL


def test_labels_survive_backup_rebuild_and_salvage(library: Path, tmp_path: Path) -> None:
    rebuild(library, None, None)
    back_up(library, tmp_path / "backup")
    assert counts(tmp_path / "backup") == ALL
    shutil.copy(library / "library.json", tmp_path / "library.json")
    assert salvage(library / "library.db", tmp_path / "library.db").videos == set()
    assert counts(tmp_path) == ALL


@pytest.mark.parametrize(
    ("statement", "fault"),
    [
        ("UPDATE label SET name = 'sport' WHERE clip_id = 1", "of label does not match its checksum"),
        ("DELETE FROM label WHERE clip_id = 4", "has lost 1 label"),
    ],
)
def test_verify_knows_labels_and_repair_drops_damaged_ones(library: Path, statement: str, fault: str) -> None:
    harm(library, statement)
    opened = Library.open(library)
    assert any(fault in each for each in verify(opened).problems)
    assert not verify(opened).redo  # no video is read again for a label
    with writing(library) as writer:
        restore_settings(writer.catalog, library)
    assert not [each for each in verify(Library.open(library)).problems if "label" in each]
    assert sum(each.clips + each.videos for each in counts(library)) == 3


def test_a_library_of_before_takes_labels(tmp_path: Path) -> None:
    old = stored(BEFORE_FRAMES, tmp_path)
    with Library.open(old).snapshot() as snapshot:
        assert labels.label_counts(snapshot) == [] and labels.label_names(snapshot) == {}
    with writing(old) as writer, writer.library.snapshot() as snapshot:
        clip_id = snapshot.clip_ids()[0]
    put(old, [StoredLabel(1, clip_id, "forest", 0.9)])
    assert counts(old) == [LabelCount("kinds", "forest", 0, 1, "forest")]
