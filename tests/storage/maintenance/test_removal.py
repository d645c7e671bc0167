"""Permanent removal: no file of a library contains removed data, whatever its state was."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from library_maker import DIM, PICTURE, add_video, axis, clip, install, place, video
from sqlalchemy import text

from vfindex.storage.db import scrubbing
from vfindex.storage.db.documents import TranscriptUpdate, UnitTranscript
from vfindex.storage.db.engine import connect
from vfindex.storage.db.integrity import put
from vfindex.storage.db.sources import Root, known_files, remember
from vfindex.storage.db.units import IndexedUnit, indexed_units
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.maintenance import raw_bytes
from vfindex.storage.maintenance.damage import false_words
from vfindex.storage.maintenance.raw_bytes import files_with
from vfindex.storage.maintenance.removal import Forgotten, RemovalSettings, forget_missing, forget_path
from vfindex.storage.maintenance.repair import rewrite_words
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Document, Segment, UnitPlan, UnitResult
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
from vfindex.storage.writer import Writer, locked, writing

SECRET = "holiday-giraffe.mp4"
PATH = f"/videos/{SECRET}".encode()
# What no file may hold: the name, the title, what is said and written, a fingerprint, as it stands or as a word.
NEEDLES = (b"holiday-giraffe", b"Tall Animals", b"giraffe", b"Giraffe", b"okapi", b"f1ngerpr1nt")
PRINT = "af1ngerpr1nt" + "0" * 53
Removal = Callable[[Path], Forgotten]


def commit(writer: Writer, fingerprint: str = PRINT, *, finish: bool = True, units: int = 1) -> int:
    """Enter a video that says the secret words; not finished, its last unit is still to come."""
    plans = [UnitPlan(number) for number in range(units)]
    made = replace(video(fingerprint), title="Tall Animals", tags={"title": "Tall Animals"})
    video_id = writer.catalog.begin_video(made, plans, recognised=True, path=PATH)
    for number, (unit_id, _) in enumerate(writer.catalog.pending_units(video_id)[: units if finish else units - 1]):
        clips = (replace(clip(10.0 * number, visual=axis(1), speech=axis(2)), thumbnail=PICTURE),)
        said = tuple(Segment(i, i + 1, f"the giraffe meets an okapi {i}", "asr", "en", 0.5) for i in range(40))
        writer.commit_unit(video_id, fingerprint, unit_id, UnitResult(clips, said))
    if finish:
        location = replace(place(SECRET), path=PATH)
        writer.catalog.finish_video(video_id, location, [Document("title", "Tall Animals Giraffe")])
    return video_id


def subtitles(writer: Writer) -> None:
    commit(writer)


def reworded(writer: Writer) -> None:
    """The same video, whose subtitles were other ones at first."""
    commit(writer)
    commit(writer)


def unfinished_reading(writer: Writer) -> None:
    """A video that is being read anew, one unit committed."""
    commit(writer)
    commit(writer, finish=False, units=2)


def unfinished_video(writer: Writer) -> None:
    commit(writer, finish=False, units=2)


def of_older_version(writer: Writer) -> None:
    """An unfinished video whose path is not known."""
    commit(writer, finish=False, units=2)
    with writer.catalog.transaction() as connection:
        connection.execute(text("DELETE FROM begun"))
    add_video(writer, SECRET, [])


def hashed(writer: Writer) -> None:
    commit(writer)
    with writer.catalog.transaction() as connection:
        put(connection, f"sha256 {PRINT}", "0 2026-01-01")


def reported(writer: Writer) -> None:
    commit(writer)
    problem = {"path": os.fsdecode(PATH), "reason": f"{SECRET} ends early", "code": "truncated"}
    writer.catalog.end_run(writer.catalog.begin_run("ingest"), {"partial": [problem], "left_alone": []})


STATES = (subtitles, reworded, unfinished_reading, unfinished_video, of_older_version, hashed, reported)


def made(folder: Path, state: Callable[[Writer], None]) -> Path:
    with writing(folder) as writer:
        install(writer)
        writer.catalog.engine.raw_connection().cursor().execute("PRAGMA synchronous=OFF")  # no power cut is tried here
        for number in range(30):
            words = [Segment(i, i + 1, f"harbour {number} {i}", "asr", "en", 0.5) for i in range(number)]
            add_video(writer, f"other {number}.mp4", [clip(visual=axis(number % DIM))], words)
            if number in (10, 20):
                writer.publish()
        state(writer)
        writer.publish()
    return folder


def settings(folder: Path) -> RemovalSettings:
    return RemovalSettings(
        lambda paths, *_: (paths[0].decode(), [Document("title", paths[0].decode())]), folder.parent / "cache"
    )


def removed(folder: Path) -> Forgotten:
    return forget_path(folder, [PATH], settings(folder))[1]


def purged(folder: Path) -> Forgotten:
    with writing(folder) as writer:
        writer.catalog.mark_missing([PATH])
    return forget_missing(folder, lambda w: w.catalog.purge(None), settings(folder))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "cache").mkdir()
    return tmp_path / "library"


@pytest.mark.parametrize("removal", [removed, purged])
@pytest.mark.parametrize("state", STATES)
def test_no_file_contains_removed_data(folder: Path, state: Callable[[Writer], None], removal: Removal) -> None:
    made(folder, state)
    assert files_with(folder, NEEDLES)[1]
    if removal is purged and state is unfinished_video:
        pytest.skip("a video without a location is never missing")
    found = removal(folder)
    assert files_with(folder, NEEDLES)[1] == []
    assert [place for _, place in found.left()] == []
    assert not [path for path in (folder / "thumbs").rglob("*") if path.is_file()]
    assert verify(Library.open(folder)).problems == []
    with Library.open(folder).snapshot() as snapshot:
        assert snapshot.words.document_frequencies(["giraffe", "harbour"])[1] == [0, 30 * 29 // 2]
        assert len(snapshot.videos()) == 30


def test_older_versions_are_cleaned_too(folder: Path) -> None:
    made(folder, subtitles)
    made(model_versions.version_folder(folder, 1), subtitles)
    model_versions.put_in_use(folder, 1)
    found = removed(folder)
    assert sorted(found.places) == [".", "editions/1", "library"]
    assert files_with(folder, NEEDLES)[1] == []
    assert (found.locations, found.videos, list(found.left())) == (1, 1, [])


def test_ids_of_another_version_are_not_those_of_this_one(folder: Path) -> None:
    made(folder, lambda writer: None)
    with writing(folder) as writer:
        commit(writer)
        add_video(writer, "new.mp4", [clip(visual=axis(1))])
        writer.publish()
    version = model_versions.version_folder(folder, 1)
    with writing(version) as writer:
        install(writer)
        commit(writer)  # here its id is 1, which is another video's there
        writer.publish()
    model_versions.put_in_use(folder, 1)
    assert list(removed(folder).left()) == []
    assert files_with(folder, NEEDLES)[1] == []


def test_subtitles_of_a_removed_copy_are_reported_and_deleted_once_reread(folder: Path) -> None:
    made(folder, subtitles)
    said = (Segment(0.0, 2.0, "an okapi in the barn", "sidecar"),)
    with writing(folder) as writer:
        found = writer.catalog.find(PRINT)
        assert found is not None
        writer.catalog.place(found[0], replace(place("copy.mp4"), path=b"/videos/copy.mp4"))
        [unit] = read_words(writer, found[0])
        words = TranscriptUpdate(
            "copy", {}, (), (Document("title", "copy"),), None, (UnitTranscript(unit.id, said, {}, ""),)
        )
        writer.catalog.update_transcript(found[0], replace(place("copy.mp4"), path=b"/videos/copy.mp4"), words)
    [(_, left)] = [each for each in removed(folder).left() if each[1].place == "subtitles"]
    assert "vfindex reindex" in left.note
    with writing(folder):
        pass  # a command that reads no words
    with writing(folder) as writer:
        words = replace(words, said=(UnitTranscript(unit.id, (), {}, ""),))
        writer.catalog.update_transcript(found[0], replace(place("copy.mp4"), path=b"/videos/copy.mp4"), words)
    assert files_with(folder, [b"okapi"])[1] == []


def test_an_emptied_library_verifies(folder: Path) -> None:
    with writing(folder) as writer:
        install(writer)
        commit(writer)
        writer.publish()
    assert list(removed(folder).left()) == []
    assert verify(Library.open(folder)).problems == []


def read_words(writer: Writer, video_id: int) -> list[IndexedUnit]:
    with writer.library.snapshot() as snapshot:
        return indexed_units(snapshot, video_id)


def test_a_purge_reaches_the_same_content_in_older_versions(folder: Path) -> None:
    made(folder, subtitles)
    made(model_versions.version_folder(folder, 1), subtitles)
    model_versions.put_in_use(folder, 1)
    purged(folder)
    assert files_with(folder, NEEDLES)[1] == []


def test_a_copy_elsewhere_keeps_the_video(folder: Path) -> None:
    made(folder, subtitles)
    with writing(folder) as writer:
        found = writer.catalog.find(PRINT)
        assert found is not None
        writer.catalog.place(found[0], replace(place("copy.mp4"), path=b"/videos/copy.mp4"))
    report = removed(folder)
    assert (report.locations, report.videos, list(report.left())) == (1, 0, [])
    assert files_with(folder, [b"holiday-giraffe"])[1] == []
    with Library.open(folder).snapshot() as snapshot:
        assert snapshot.words.document_frequencies(["giraffe", "copy"])[1] == [40, 1]
    with writing(folder) as writer:
        [location] = [known.location for known in known_files(writer.catalog).values() if known.video_id == found[0]]
    assert location.sidecar_state == "?", "the next run makes the vector of its name anew"


def test_a_reader_that_needs_the_log_is_reported_and_the_next_writer_empties_it(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scrubbing, "READER_WAIT_MS", 1)
    made(folder, subtitles)
    reader = Library.open(folder)
    with reader.snapshot() as snapshot:
        assert snapshot.counts()["clip"] == 31
        [(version, left)] = [(e, p) for e, p in removed(folder).left() if p.place == "write-ahead log"]
        assert (version, left.left > 0) == (".", True)
        assert "the next command that writes empties it" in left.note
    with writing(folder):
        pass
    assert files_with(folder, NEEDLES)[1] == []
    with writing(folder) as writer:
        assert writer.catalog.get(scrubbing.SCRUB) is None


def test_a_removal_that_was_killed_is_finished_by_the_next_writer(folder: Path) -> None:
    made(folder, subtitles)
    with pytest.raises(KeyboardInterrupt), writing(folder) as writer:
        writer.catalog.remove(PATH)
        raise KeyboardInterrupt
    assert forget_path(folder, [PATH], settings(folder))[1].is_empty()
    with writing(folder) as writer:
        assert writer.catalog.change() is None, "the index was published"
    assert files_with(folder, [b"giraffe meets"])[1] == []


def test_a_library_of_an_older_version_is_rewritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "COMPACT_BYTES", 0)
    made(folder, subtitles)
    with writing(folder) as writer:
        raw = writer.catalog.engine.raw_connection()
        for pragma in ("auto_vacuum=NONE", "secure_delete=OFF"):
            raw.cursor().execute(f"PRAGMA {pragma}")
        raw.cursor().execute("VACUUM")
        commit(writer)
    assert not removed(folder).places["."][-2].left
    assert files_with(folder, NEEDLES)[1] == []


def test_a_large_library_is_not_rewritten(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrubbing, "COMPACT_BYTES", 0)
    made(folder, subtitles)
    size = (folder / "library.db").stat().st_size
    found = removed(folder)
    assert list(found.left()) == []
    assert (folder / "library.db").stat().st_size < size


def test_a_database_kept_by_a_repair_is_reported(folder: Path) -> None:
    made(folder, subtitles)
    (folder / "library.damaged-20260101-000000.db").write_bytes(b"giraffe")
    [(_, left)] = removed(folder).left()
    assert left.note.startswith("a repair kept library.damaged-20260101-000000.db")


def test_marks_are_left_to_the_people_who_made_them(folder: Path) -> None:
    made(folder, subtitles)
    data = UserData.open(folder)
    mark = data.add_mark(NewMark(Moment(PRINT, 0, 5000), note="tall"))
    data.add_mark(NewMark(Moment("other", 0, 5000)))
    [(_, left)] = removed(folder).left()
    assert (left.place, left.left) == ("marks", 1)
    assert left.note.endswith("1 mark was made in it; to delete: vfindex marks --remove 1")
    data.remove_marks([mark.id])
    assert len(data.marks()) == 1


def test_a_root_alone_is_removed(folder: Path) -> None:
    made(folder, subtitles)
    with writing(folder) as writer:
        remember(writer.catalog, [Root(b"/gone")])
        writer.publish()
    assert b"/gone".hex() in (folder / "library.json").read_text()
    chosen, found = forget_path(folder, [b"/nothing", b"/gone"], settings(folder))
    assert (chosen, found.roots, found.locations, found.excluded) == (b"/gone", 1, 0, False)
    assert b"/gone".hex() not in (folder / "library.json").read_text()


def test_an_unknown_path_changes_nothing(folder: Path) -> None:
    made(folder, subtitles)
    assert forget_path(folder, [b"/nothing"], settings(folder))[1].is_empty()
    assert len(Library.open(folder).snapshot().videos()) == 31


# --- full text search and its documents ------------------------------------------------------------------------------


@pytest.fixture
def torn(folder: Path) -> Iterator[Callable[[str], list[str]]]:
    """Return a function that runs SQL on a sound library, behind full text search's back, and returns its faults."""
    made(folder, subtitles)

    def faults(statement: str) -> list[str]:
        with writing(folder) as writer, writer.catalog.transaction() as connection:
            connection.execute(text(statement))
        engine = connect(folder / "library.db", write=False)
        found = false_words(engine)
        assert [line for line in verify(Library.open(folder)).problems if "full text" in line] == found
        with writing(folder) as writer:
            rewrite_words(writer.catalog, {})
        assert false_words(engine) == []
        engine.dispose()
        return found

    yield faults


def test_words_of_deleted_documents_are_found(torn: Callable[[str], list[str]]) -> None:
    [fault] = torn("DELETE FROM document WHERE kind = 'title'")
    assert fault.startswith("full text search still finds words of titles, tags or segments that are gone")


def test_documents_without_words_are_found(torn: Callable[[str], list[str]]) -> None:
    [fault] = torn("INSERT INTO document (video_id, kind, text) SELECT min(id), 'tag', 'pelican' FROM video")
    assert fault.startswith("titles, tags or segments are missing from full text search: 1 of 477;")


def test_other_words_are_found(torn: Callable[[str], list[str]]) -> None:
    missing, extra = torn("UPDATE document SET text = 'Pelican' WHERE kind = 'title'")
    assert missing.endswith("1 of 476; run: vfindex repair")
    assert extra.endswith("say something else: 1; run: vfindex repair")


def test_false_totals_are_found(torn: Callable[[str], list[str]]) -> None:
    [fault] = torn("UPDATE document_fts_data SET block = x'010203' WHERE id = 1")
    assert "counts other numbers" in fault


def test_the_report_is_json(folder: Path) -> None:
    made(folder, subtitles)
    report = json.loads(json.dumps(removed(folder).to_dict()))
    assert report["left"] == 0
    names = [place["place"] for place in report["places"]["."]]
    assert names == ["tables", "full text", "index", "thumbnails", "write-ahead log", "free pages"]
    assert [p["place"] for p in report["places"]["library"]] == [
        "marks",
        "corrections",
        "questions",
        "damaged databases",
        "bytes of the library",
        "bytes of the cache",
    ]


def test_an_unreadable_file_is_reported(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made(folder, subtitles)

    def denied(path: Path, needles: object) -> bool:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(raw_bytes, "_holds", denied)
    assert files_with(folder, NEEDLES)[1][-1].endswith("(cannot be read: Permission denied)")


def test_a_version_locked_by_an_upgrade_is_reported(folder: Path) -> None:
    made(folder, subtitles)
    made(model_versions.version_folder(folder, 1), subtitles)
    with locked(model_versions.version_folder(folder, 1)):
        [(version, left)] = [(e, p) for e, p in removed(folder).left() if p.place == "edition"]
    assert (version, left.left) == ("editions/1", 1)
    assert left.note == "an upgrade that is at work removes it before it is put in use"
