"""Libraries that earlier versions made, in tests/data, are read and migrated with all their contents."""

from __future__ import annotations

import os
import signal
import sqlite3
from contextlib import closing
from pathlib import Path
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st
from library_maker import add_video, axis, clip, install
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, FIRST, stored
from sqlalchemy import Connection, event

from vfindex.storage.db import migrations, schema
from vfindex.storage.db.integrity import HELD, SEAL, SEALED, register, seal_of
from vfindex.storage.db.migrations import BREAKING, MIGRATIONS, MIN_READER, REQUIRED
from vfindex.storage.db.sources import read_scan_cache, stored_roots
from vfindex.storage.db.units import indexed_units, preview_videos
from vfindex.storage.errors import LibraryVersion
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Document, Segment, box_of, word_times_of, word_times_text
from vfindex.storage.writer import writing

# What a library of today has that one of each version lacks.
LATER = {
    FIRST: list(MIGRATIONS)[2:],
    BEFORE_TRACKS: list(MIGRATIONS)[13:],
    BEFORE_FRAMES: list(MIGRATIONS)[15:],
}


def tables(folder: Path) -> dict[str, set[tuple[str, str, int]]]:
    """Return table -> (name, type, part of the key) of its columns."""
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        names = [
            name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type IN ('table', 'index')")
        ]
        return {
            name: {(row[1], row[2], row[5]) for row in connection.execute(f"PRAGMA table_info({name})")}
            for name in names
            if not name.startswith("sqlite_")
        }


def triggers(folder: Path) -> set[str]:
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        return {name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'trigger'")}


def seals(folder: Path) -> list[tuple[object, ...]]:
    """Return the name of each sealed table and its number of rows without a seal."""
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        query = "SELECT count(*) FROM {} WHERE {} IS NULL"
        return [(table.name, *connection.execute(query.format(table.name, SEAL)).fetchone()) for table in SEALED]


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a published library of two videos."""
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))], documents=[Document("title", name)])
        writer.publish()
    return tmp_path


@pytest.mark.parametrize("version", LATER)
def test_a_library_of_before_is_migrated_with_all_its_contents(version: str, tmp_path: Path) -> None:
    old, new = stored(version, tmp_path / "old"), tmp_path / "new"
    with closing(sqlite3.connect(old / "library.db")) as connection:
        applied = {name for (name,) in connection.execute("SELECT name FROM migration")}
        vectors = connection.execute("SELECT clip_id, modality, vector FROM embedding ORDER BY 1, 2").fetchall()
        frames = connection.execute("SELECT clip_id, frames FROM embedding WHERE frames NOT NULL").fetchall()
        clips = connection.execute("SELECT id, video_id, start_ms, crc32 FROM clip ORDER BY 1").fetchall()
    assert [name for name in MIGRATIONS if name not in applied] == LATER[version]
    with writing(new) as writer:
        install(writer)
    with writing(old) as writer:
        add_video(writer, "meadow", [clip(visual=axis(6))], documents=[Document("title", "the meadow")])
        writer.publish()
    assert (tables(old), triggers(old)) == (tables(new), triggers(new))
    assert seals(old) == [(table.name, 0) for table in SEALED]
    opened = Library.open(old)
    assert [each for each in verify(opened).problems if "query/by-hand" not in each] == []  # it has no encoders
    with opened.snapshot() as snapshot:
        assert [video.title for video in snapshot.videos()][:3] == ["forest", "harbour", "street"]
        assert snapshot.segments(1) == [
            Segment(0.0, 4.0, "a nightingale sings", "sidecar", "en", 0.9),
            Segment(5.0, 9.0, "公园里有猫", "sidecar", "zh"),
        ]
        assert [match.video_id for match in snapshot.words.match(["公园"], 5)] == [1]
        assert {match.text for match in snapshot.words.match(["street", "meadow"], 5)} == {"the street", "the meadow"}
    with closing(sqlite3.connect(old / "library.db")) as connection:
        kept = connection.execute("SELECT clip_id, modality, vector FROM embedding ORDER BY 1, 2").fetchall()
        assert kept[: len(vectors)] == vectors
        kept = connection.execute("SELECT clip_id, times, vectors FROM frame ORDER BY 1").fetchall()
        ends = [4 + 8 * int.from_bytes(blob[:4], "little") for _, blob in frames]
        assert kept[: len(frames)] == [
            (clip_id, blob[4:end], blob[end:]) for (clip_id, blob), end in zip(frames, ends, strict=True)
        ]
        staged = connection.execute("SELECT fingerprint, staged FROM video WHERE staged").fetchall()
        assert staged == ([] if version == FIRST else [("street", 1)])
        now = connection.execute("SELECT id, video_id, start_ms, crc32 FROM clip ORDER BY 1").fetchall()
        assert now[: len(clips)] == clips
        assert connection.execute("SELECT value FROM meta WHERE key = 'min_reader'").fetchall() == [
            (str(len(BREAKING)),)
        ]
        counts = connection.execute(f"SELECT {HELD} FROM video ORDER BY id").fetchall()
        assert all(count is not None for (count,) in counts)


@pytest.mark.parametrize("version", [BEFORE_TRACKS, BEFORE_FRAMES])
def test_a_reader_reads_an_older_library_as_it_is(version: str, tmp_path: Path) -> None:
    opened = Library.open(stored(version, tmp_path))
    for _ in range(2):  # the same connection serves the second
        with opened.snapshot() as snapshot:
            assert [(video.title, video.state) for video in snapshot.videos()] == [
                ("forest", "indexed"),
                ("harbour", "vanished"),
                ("street", "indexed"),
                ("street", "indexing"),
            ]
            assert [segment.track for segment in snapshot.segments(1)] == ["speech", "speech"]
            assert [match.video_id for match in snapshot.words.match(["street"], 5)] == [3]
            assert (preview_videos(snapshot), stored_roots(snapshot)) == (frozenset(), ())
            street = snapshot.video_with("street")
            assert street is not None and street.id == 3
            vectors = snapshot.vectors(snapshot.clip_ids(searchable=False))
            assert [(sorted(each.embeddings), each.frames.shape) for each in vectors.values()] == [
                (["speech", "visual"], (1, 8)),
                (["visual"], (1, 8)),
                (["text", "visual"], (1, 8)),
                (["visual"], (1, 8)),
            ]
    assert verify(opened).clean


def test_a_connection_keeps_what_completes_an_older_library(tmp_path: Path) -> None:
    opened = Library.open(stored(BEFORE_FRAMES, tmp_path))
    executed: list[str] = []
    with pytest.raises(RuntimeError), opened.snapshot():
        raise RuntimeError  # its transaction is rolled back, with its views
    event.listen(opened._engine, "before_cursor_execute", lambda *arguments: executed.append(arguments[2]))
    for _ in range(3):
        with opened.snapshot() as snapshot:
            assert len(snapshot.vectors([1])[1].frames) == 1
    made = [statement for statement in executed if statement.startswith("CREATE TEMP")]
    assert len(made) == len(set(made)) > 0


def test_a_reader_held_open_follows_a_migration_in_place(library: Path) -> None:
    name, columns = "record_runs_and_rates", ("fps", "time_base")
    opened = Library.open(library)
    with closing(sqlite3.connect(library / "library.db")) as writer:
        with writer:
            writer.execute("DELETE FROM migration WHERE name = ?", (name,))
            for column in columns:
                writer.execute(f"ALTER TABLE video DROP COLUMN {column}")
        for _ in range(2):
            with opened.snapshot() as snapshot:
                assert {video.fps for video in snapshot.videos()} == {None}
        with writer:
            for column in columns:
                writer.execute(f"ALTER TABLE video ADD COLUMN {column} TEXT")
            writer.execute("UPDATE video SET fps = '25/1'")
            writer.execute("INSERT INTO migration VALUES (?, '2026')", (name,))
        for _ in range(2):
            with opened.snapshot() as snapshot:
                assert {video.fps for video in snapshot.videos()} == {"25/1"}


def test_a_reader_asks_for_a_run_where_it_cannot_read_the_words(tmp_path: Path) -> None:
    with pytest.raises(LibraryVersion, match="run `vfindex ingest` once"):
        Library.open(stored(FIRST, tmp_path)).snapshot()


def test_segments_of_an_older_library_have_no_box(tmp_path: Path) -> None:
    box = (0.125, 0.5, 0.25, 1.0)
    said = [Segment(0, 2, "EXIT", "frames", box=box)]
    opened = Library.open(stored(BEFORE_FRAMES, tmp_path))
    with opened.snapshot() as snapshot:
        assert {segment.box for segment in snapshot.segments(1)} == {None}
    with writing(tmp_path) as writer:
        video_id = add_video(writer, "d", [clip(visual=axis(4))], said)
        writer.publish()
    with opened.snapshot() as snapshot:
        assert snapshot.segments(video_id) == said
        assert [match.box for match in snapshot.words.match(["exit"], 5)] == [box]
    assert verify(opened).clean


def test_segments_of_an_older_library_have_no_word_times(tmp_path: Path) -> None:
    times = ((0, 0.0), (5, 0.46), (11, 1.2))
    said = [Segment(0.7, 2, "four little words", "asr", word_times=times), Segment(2, 3, "no times", "asr")]
    opened = Library.open(stored(BEFORE_FRAMES, tmp_path))
    with opened.snapshot() as snapshot:
        assert {segment.word_times for segment in snapshot.segments(1)} == {()}
    with writing(tmp_path) as writer:
        video_id = add_video(writer, "d", [clip(visual=axis(4))], said)
        writer.publish()
    with opened.snapshot() as snapshot:
        assert snapshot.segments(video_id) == said
        assert [match.word_times for match in snapshot.words.match(["little"], 5)] == [times]
        [unit] = indexed_units(snapshot, video_id)
        assert list(unit.segments) == said  # what an upgrade copies
    assert verify(opened).clean


@given(st.lists(st.tuples(st.integers(0, 5000), st.integers(0, 60_000))))
def test_word_times_are_stored_as_they_are(pairs: list[tuple[int, int]]) -> None:
    times = tuple((place, hundredths / 100) for place, hundredths in pairs)
    assert word_times_of(word_times_text(times)) == times


@pytest.mark.parametrize("damaged", ["a few words", "1", "", None, f"0 1{'0' * 400}"])
def test_damaged_word_times_are_none(damaged: str | None) -> None:
    assert word_times_of(damaged) == ()


@pytest.mark.parametrize("damaged", ["a few words", "0 0 1", "", None, "nan 0 1 1", "0 0 inf 1", "-5 -5 9 9"])
def test_a_damaged_box_is_none(damaged: str | None) -> None:
    assert box_of(damaged) is None


def test_segments_of_an_older_library_have_no_speakers(tmp_path: Path) -> None:
    said = [Segment(0, 2, "hello", "sidecar", speakers=("Jane Doe", "Bob")), Segment(2, 3, "who", "sidecar")]
    opened = Library.open(stored(BEFORE_FRAMES, tmp_path))
    with opened.snapshot() as snapshot:
        assert {segment.speakers for segment in snapshot.segments(1)} == {()}
        assert snapshot.videos_by_speakers() == {} and snapshot.clips_by_speakers(["Jane"]).tolist() == []
    with writing(tmp_path) as writer:
        video_id = add_video(writer, "d", [clip(visual=axis(4))], said)
        writer.publish()
    with opened.snapshot() as snapshot:
        assert snapshot.segments(video_id) == said
        assert snapshot.videos_by_speakers() == {"Jane Doe\nBob": {video_id}}
        assert len(snapshot.clips_by_speakers(["Jane Doe\nBob"])) == 1
        assert [match.speakers for match in snapshot.words.match(["hello"], 5)] == [("Jane Doe", "Bob")]
    assert verify(opened).clean


def test_a_row_lost_from_the_table_of_migrations_costs_nothing(tmp_path: Path) -> None:
    stored(BEFORE_TRACKS, tmp_path)
    with closing(sqlite3.connect(tmp_path / "library.db")) as connection, connection:
        connection.execute("DELETE FROM migration")
        connection.execute("INSERT INTO migration VALUES ('create_tables', '2026')")
    with writing(tmp_path), Library.open(tmp_path).snapshot() as snapshot:
        assert [video.state for video in snapshot.videos()] == ["indexed", "vanished", "indexed", "indexing"]
    assert verify(Library.open(tmp_path)).clean


@pytest.mark.parametrize("statements", [0, 1, 7, 30])
@pytest.mark.parametrize("version", LATER)
def test_a_migration_that_is_killed_leaves_the_library_as_it_was(version: str, statements: int, tmp_path: Path) -> None:
    killed, whole = (stored(version, tmp_path / name) for name in ("killed", "whole"))
    child = os.fork()
    if child == 0:
        with patch.object(migrations, "_execute", _Dying(statements)), writing(killed):
            pass
        os._exit(0)
    _, status = os.waitpid(child, 0)
    ends = sum(len(MIGRATIONS[name]) for name in LATER[version]) <= statements
    assert os.waitstatus_to_exitcode(status) == (0 if ends else -signal.SIGKILL)
    with closing(sqlite3.connect(killed / "library.db")) as connection:
        applied = {name for (name,) in connection.execute("SELECT name FROM migration")}
    assert (set(LATER[version]) <= applied) is ends
    for folder in (killed, whole):
        with writing(folder), Library.open(folder).snapshot() as snapshot:
            assert len(snapshot.clip_ids(searchable=False)) == 4
    assert tables(killed) == tables(whole)
    with Library.open(killed).snapshot() as one, Library.open(whole).snapshot() as other:
        assert one.videos() == other.videos()


class _Dying:
    """`migrations._execute`, killed after some statements."""

    def __init__(self, statements: int) -> None:
        self._left, self._execute = statements, migrations._execute

    def __call__(self, connection: Connection, statement: str) -> None:
        if not self._left:
            os.kill(os.getpid(), signal.SIGKILL)
        self._left -= 1
        self._execute(connection, statement)


def test_a_seal_is_of_columns_that_are_there() -> None:
    with closing(sqlite3.connect(":memory:")) as connection:
        register(connection)
        connection.execute("CREATE TABLE root (path BLOB, exclude TEXT, seal INTEGER)")
        with pytest.raises(sqlite3.OperationalError, match="added_at"):
            connection.execute(f"SELECT {seal_of(schema.root, 'root.')} FROM root")


def test_a_reader_reads_a_library_of_a_later_additive_migration(library: Path) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("INSERT INTO migration VALUES ('add_hologram_table', '2031')")
    with Library.open(library).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 2
    assert verify(Library.open(library)).clean
    with pytest.raises(LibraryVersion, match="add_hologram_table"), writing(library):
        pass


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("UPDATE meta SET value = '99', seal = NULL WHERE key = 'min_reader'", "written by a newer vfindex"),
        ("DELETE FROM migration WHERE name = 'index_every_script'", "written by an older vfindex"),
    ],
)
def test_a_reader_refuses_what_it_cannot_read(library: Path, change: str, message: str) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute(change)
    with pytest.raises(LibraryVersion, match=message):
        Library.open(library).snapshot()


def test_a_reader_from_before_frames_refuses_a_library_of_today(library: Path) -> None:
    """Else it would look for frames where they are no longer, and show what stands on the screen as speech."""
    with Library.open(library).snapshot() as snapshot:
        assert int(snapshot.get(MIN_READER) or 0) > 4


def test_every_breaking_migration_is_a_migration() -> None:
    assert set(BREAKING) <= set(MIGRATIONS)
    assert set(BREAKING) >= REQUIRED


def test_videos_of_an_old_library_can_go_missing(tmp_path: Path) -> None:
    with writing(stored(FIRST, tmp_path)) as writer:
        writer.catalog.mark_missing([b"/videos/forest"])
        assert writer.catalog.missing_files()[b"/videos/forest"].state == "indexed"
        known = read_scan_cache(writer.catalog, recognised=False).get(b"/videos/harbour")
        assert known is not None
        assert (known.sidecar_state, known.coarse, writer.catalog.attempts(1)) == ("", 0, [])
        writer.catalog.begin_run("x")
    with Library.open(tmp_path).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 2
        assert sorted(snapshot.counts().items())[-1] == ("vanished", 1)


def test_segments_keep_their_track(tmp_path: Path) -> None:
    said = [Segment(0, 2, "a nightingale", "sidecar"), Segment(2, 4, "EXIT", "sidecar", track="screen")]
    with writing(stored(BEFORE_TRACKS, tmp_path)) as writer:
        video_id = add_video(writer, "d", [clip(visual=axis(4))], said)
        writer.publish()
    opened = Library.open(tmp_path)
    with opened.snapshot() as snapshot:
        assert [segment.track for segment in snapshot.segments(1)] == ["speech", "speech"]
        assert snapshot.segments(video_id) == said
        assert [match.kind for match in snapshot.words.match(["exit"], 5)] == ["screen"]
    assert verify(opened).clean
    with closing(sqlite3.connect(tmp_path / "library.db")) as connection, connection:
        connection.execute("UPDATE segment SET track = 'speech' WHERE track = 'screen'")
    assert verify(opened).redo == [b"/videos/d"]
