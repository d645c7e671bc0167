"""A library folder: committed data is found, damage is reported, and there is one writer."""

from __future__ import annotations

import json
import os
import sqlite3
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM, SETUP, add_video, all_clip_ids, axis, clip, install, place, video

from vfindex.storage import publication
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.sources import known_files
from vfindex.storage.errors import (
    LibraryDamaged,
    LibraryError,
    LibraryLocked,
    LibraryNotFound,
    Problem,
)
from vfindex.storage.joint.codecs import pack_frames, unpack_frames
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.records import Document, Location, Segment, UnitPlan, UnitResult
from vfindex.storage.settings_backup import read_backup
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library of three videos with a published generation."""
    with writing(tmp_path / "lib") as writer:
        install(writer)
        for number, name in enumerate(("a", "b", "c")):
            said = [Segment(0.5, 2.0, f"the word {name}{name}", "sidecar")]
            add_video(writer, name, [clip(visual=axis(number)), clip(5, 10, text=axis(number + 3))], said)
        writer.publish()
    return tmp_path / "lib"


def test_committed_data_is_read_back(folder: Path) -> None:
    with Library.open(folder).snapshot() as snapshot:
        ids = snapshot.clip_ids()
        vectors = snapshot.vectors(ids)
        assert len(ids) == 6
        assert np.allclose(vectors[ids[0]].embeddings["visual"], axis(0))
        assert vectors[ids[0]].frame_times_s.tolist() == [0.0]
        assert snapshot.segments(1)[0].text == "the word aa"
        assert snapshot.counts()["indexed"] == 3
        assert [m.video_id for m in snapshot.words.match(["bb"], 5)] == [2]


def test_a_clean_library_verifies(folder: Path) -> None:
    result = verify(Library.open(folder))
    assert (result.problems, result.clips, result.embeddings, result.recall_at_10) == ([], 6, 6, 1.0)


def test_the_setup_is_kept(folder: Path) -> None:
    with writing(folder) as writer:
        assert writer.setup() == SETUP
        assert set(LibraryMeta(writer.catalog).priors) == {"visual", "speech", "text"}


def test_a_setting_of_a_newer_vfindex_is_ignored(folder: Path) -> None:
    with writing(folder) as writer:
        stored = json.loads(writer.catalog.get("setup") or "")
        writer.catalog.put("setup", json.dumps({**stored, "not yet invented": 0.5}))
    with writing(folder) as writer:
        assert writer.setup() == SETUP


def test_versions_from_before_imputed_words_read_libraries_without_them(folder: Path) -> None:
    with writing(folder) as writer:
        assert "imputed_share" not in json.loads(writer.catalog.get("setup") or "")
        writer.install(replace(SETUP, imputed_share=0.15), LibraryMeta(writer.catalog).priors, {})
        assert writer.setup() == replace(SETUP, imputed_share=0.15)


def test_a_tail_is_found_before_it_is_published(folder: Path) -> None:
    with writing(folder) as writer:
        add_video(writer, "d", [clip(visual=axis(7))])
        with Library.open(folder).snapshot() as snapshot:
            _, generation = reading_spec(snapshot)
            assert generation is not None
            assert len(snapshot.clip_ids(after=generation.watermark)) == 1
    assert verify(Library.open(folder)).clean


def test_a_video_without_all_its_units_is_not_searchable(folder: Path) -> None:
    before = all_clip_ids(Library.open(folder))
    with writing(folder) as writer:
        video_id = writer.catalog.begin_video(
            video("long"), [UnitPlan(0, None, 5), UnitPlan(1, 5, None)], recognised=True
        )
        unit_id, plan = writer.catalog.pending_units(video_id)[0]
        assert plan == UnitPlan(0, None, 5)
        writer.commit_unit(video_id, "long", unit_id, UnitResult((clip(visual=axis(1)),), ()))
        assert [plan.number for _, plan in writer.catalog.pending_units(video_id)] == [1]
    assert all_clip_ids(Library.open(folder)) == before


def test_a_changed_file_replaces_the_old_one_at_its_path(folder: Path) -> None:
    with writing(folder) as writer:
        new = writer.catalog.begin_video(video("new"), [UnitPlan(0)], recognised=True)
        writer.catalog.finish_video(new, place("a"), [])
        known = known_files(writer.catalog)
        assert known[b"/videos/a"].fingerprint == "new"
        assert writer.catalog.find("a") is None
        assert writer.catalog.change() == "stale"
        writer.publish()
    with Library.open(folder).snapshot() as snapshot:
        assert snapshot.words.match(["aa"], 5) == []
    assert verify(Library.open(folder)).clean


def test_a_copy_keeps_the_video_when_the_first_is_removed(folder: Path) -> None:
    with writing(folder) as writer:
        writer.catalog.place(1, Location(b"/elsewhere/copy of a", 100, 2, 2))
        assert writer.catalog.remove(b"/videos") == (3, 2, [])
        assert [known.fingerprint for known in known_files(writer.catalog).values()] == ["a"]


def test_remove_takes_a_folder_not_its_neighbour(folder: Path) -> None:
    with writing(folder) as writer:
        writer.catalog.place(1, Location(b"/videos2/a", 100, 2, 2))
        writer.catalog.place(1, Location(b"/videos_/a", 100, 2, 2))
        assert writer.catalog.remove(b"/videos/")[0] == 3
        assert sorted(known_files(writer.catalog)) == [b"/videos2/a", b"/videos_/a"]


def test_a_failure_is_remembered_with_its_reason(folder: Path) -> None:
    problem = Problem(b"/videos/x", "open", "empty", "the file is empty", "copy it again")
    with writing(folder) as writer:
        writer.catalog.fail_video("x", place("x"), problem)
        known = known_files(writer.catalog)[b"/videos/x"]
        assert known.state == "failed"
        assert known.problem is not None and known.problem["code"] == "empty"


def test_a_second_writer_is_refused_with_a_sentence(folder: Path) -> None:
    code = (
        "import sys, pathlib; from vfindex.storage.writer import writing;writing(pathlib.Path(sys.argv[1])).__enter__()"
    )
    with writing(folder):
        done = subprocess.run([sys.executable, "-c", code, str(folder)], capture_output=True, text=True, check=False)
    assert LibraryLocked.__name__ in done.stderr
    assert "another vfindex is writing" in done.stderr


def test_readers_do_not_wait_for_the_writer(folder: Path) -> None:
    with writing(folder) as writer, writer.catalog.transaction():
        assert len(all_clip_ids(Library.open(folder))) == 6


def test_a_missing_library_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match=f"vfindex ingest VIDEOS --library '{tmp_path}/my videos'$"):
        Library.open(tmp_path / "my videos")


def test_old_generations_are_dropped(folder: Path) -> None:
    with writing(folder) as writer:
        for name in ("d", "e", "f"):
            add_video(writer, name, [clip(visual=axis(2))])
            writer.publish()
    assert len(list((folder / "index").iterdir())) == 2
    assert verify(Library.open(folder)).clean


@pytest.mark.parametrize("harm", ["cut", "zero", "gone"])
def test_a_damaged_index_is_not_read_but_reported(folder: Path, harm: str) -> None:
    [path] = (folder / "index").iterdir()
    data = path.read_bytes()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(data[: len(data) // 2] if harm == "cut" else bytes(len(data)))
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None and library.load_index(generation) is None
    [problem] = verify(library).problems
    assert f"{path} is {'missing' if harm == 'gone' else 'damaged'}" in problem and "run: vfindex rebuild" in problem


def test_a_zeroed_vector_is_seen_by_its_checksum(folder: Path) -> None:
    with sqlite3.connect(folder / "library.db") as connection:
        connection.execute("UPDATE embedding SET vector = zeroblob(length(vector)) WHERE clip_id = 1")
    problems = verify(Library.open(folder)).problems
    assert any("vector of clip 1" in line for line in problems)


def test_a_vector_missing_from_the_index_is_seen(folder: Path) -> None:
    with writing(folder) as writer, writer.catalog.transaction() as connection:
        connection.exec_driver_sql("UPDATE generation SET watermark = watermark + 1")
        connection.exec_driver_sql("PRAGMA defer_foreign_keys=ON")
        connection.exec_driver_sql("UPDATE clip SET id = 7 WHERE id = 6")
        connection.exec_driver_sql("UPDATE embedding SET clip_id = 7 WHERE clip_id = 6")
    assert any("lacks 1 clip that" in line for line in verify(Library.open(folder)).problems)


def test_a_torn_database_is_reported_not_raised(folder: Path) -> None:
    data = bytearray((folder / "library.db").read_bytes())
    data[4096 * 3 : 4096 * 9] = bytes(4096 * 6)
    (folder / "library.db").write_bytes(bytes(data))
    (folder / "library.db-wal").unlink(missing_ok=True)
    assert not verify(Library.open(folder)).clean


def test_frame_blobs_round_trip_and_refuse_nonsense() -> None:
    vectors = np.stack([axis(0), axis(3)])
    times, packed = pack_frames(vectors, np.array([1.5, 2.5]))
    (again, times_s), (first, _) = unpack_frames([(times, packed), (times[:8], packed[: len(packed) // 2])])
    assert np.array_equal(again, vectors) and times_s.tolist() == [1.5, 2.5]
    assert np.array_equal(first, vectors[:1])
    for blobs in ((b"", b""), (b"\1", packed), (times, b""), (times, packed[:-3]), (times[:-3], packed), (b"", packed)):
        with pytest.raises(LibraryDamaged):
            unpack_frames([blobs])


@pytest.mark.parametrize("place", ["vector", "time"])
def test_frame_blobs_without_a_number_are_refused(place: str) -> None:
    """A search gave a score that is not a number, and ended as a bug."""
    vectors, times_s = np.ones((2, 4), np.float32), np.array([1.5, 2.5])
    (vectors if place == "vector" else times_s).flat[1] = np.nan
    with pytest.raises(LibraryDamaged, match="run: vfindex repair"):
        unpack_frames([pack_frames(vectors, times_s)])


def test_words_with_quotes_are_words() -> None:
    catalog = Catalog.open(None)
    video_id = catalog.begin_video(video("a"), [UnitPlan(0)], recognised=True)
    catalog.finish_video(video_id, place("a"), [Document("title", 'the "big" one AND 5" disk')])
    snapshot = Snapshot(catalog.engine)
    for word in ('"', "AND", "big", '5"', "NEAR(", "*", "title:"):
        assert isinstance(snapshot.words.match([word], 5), list)
    assert len(snapshot.words.match(["AND"], 5)) == 1


def test_a_path_is_kept_byte_for_byte(folder: Path) -> None:
    odd = b"/videos/\xff\n[bold]-x.mp4"
    with writing(folder) as writer:
        writer.catalog.place(1, Location(odd, 1, 1, 1))
    with Library.open(folder).snapshot() as snapshot:
        found = snapshot.video_at(odd)
        assert found is not None and found.fingerprint == "a"
        assert os.fsdecode(odd) in [os.fsdecode(place.path) for place in found.locations]


def test_dimension_of_the_hand_made_vectors() -> None:
    assert len(axis(0)) == DIM


def test_a_library_that_never_got_its_models_leaves_nothing(tmp_path: Path) -> None:
    for folder, is_left in ((tmp_path / "new", False), (tmp_path, True)):
        with pytest.raises(LibraryError), writing(folder):
            raise LibraryError("a model is not there")
        assert folder.exists() is is_left
    with pytest.raises(LibraryError), writing(tmp_path / "begun") as writer:
        install(writer)
        raise LibraryError("later")
    assert (tmp_path / "begun" / "library.db").is_file()


def test_a_backup_that_a_killed_publication_left_to_be_written(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def killed(_: object, place: Path) -> None:
        (place / "library.json.part").write_bytes(b"half of the sett")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), writing(folder) as writer:
        patch.setattr(publication, "write_backup", killed)
        add_video(writer, "d", [clip(visual=axis(1))])
        writer.publish()
    backup = read_backup(folder)
    assert backup is not None and backup.generation == 1
    with writing(folder):
        pass
    backup = read_backup(folder)
    assert backup is not None and (backup.generation, backup.clips) == (2, 7)
    assert not list(folder.rglob("*.part"))
    (folder / "library.json.part").write_bytes(b"half of a removed path")
    with writing(folder):
        pass
    assert not list(folder.rglob("*.part"))
