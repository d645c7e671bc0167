"""A library of the first release is migrated with all its contents."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install
from sqlalchemy import text
from sqlalchemy.dialects import sqlite
from sqlalchemy.schema import CreateTable

from vfindex.storage.db import schema
from vfindex.storage.db.engine import connect
from vfindex.storage.db.integrity import HELD, SEAL, SEALED
from vfindex.storage.db.migrations import BREAKING, MIGRATIONS
from vfindex.storage.db.sources import read_scan_cache, stored_roots
from vfindex.storage.db.units import preview_videos
from vfindex.storage.errors import LibraryVersion
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import writing

NEW_IN_VIDEO = ("state_before", "coarse", HELD, SEAL)
LATER = (
    "create_roots",
    "let_videos_vanish",
    "create_attempts",
    "remember_what_lies_beside",
    "mark_coarse_videos",
    "seal_all_rows",
    "count_rows",
    "give_segments_a_track",
)


def old_video_table() -> str:
    """Return the statement that made `video` in the first release."""
    lines = str(CreateTable(schema.video).compile(dialect=sqlite.dialect())).splitlines()
    kept = (line for line in lines if not any(name in line for name in NEW_IN_VIDEO))
    return "\n".join(kept).replace(", 'vanished')", ")")


def make_old(folder: Path) -> None:
    """Give a library the tables of the first release."""
    engine = connect(folder / "library.db", write=True)
    with engine.connect() as connection:
        connection.connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[attr-defined]
        connection.commit()
        columns = ", ".join(c.name for c in schema.video.columns if c.name not in NEW_IN_VIDEO)
        for table in SEALED:
            connection.execute(text(f"ALTER TABLE {table.name} DROP COLUMN {SEAL}"))
        connection.execute(text("CREATE TABLE today AS SELECT * FROM video"))
        connection.execute(text("DROP TABLE video"))
        connection.execute(text(old_video_table()))
        connection.execute(text(f"INSERT INTO video ({columns}) SELECT {columns} FROM today"))
        for name in ("today", "tombstone", "root", "attempt"):
            connection.execute(text(f"DROP TABLE {name}"))
        connection.execute(text("ALTER TABLE location DROP COLUMN beside"))
        connection.execute(text("ALTER TABLE segment DROP COLUMN track"))
        connection.execute(text(f"DELETE FROM migration WHERE name IN {LATER}"))
        connection.commit()
    engine.dispose()


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a published library of two videos."""
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))], documents=[Document("title", name)])
        writer.publish()
    return tmp_path


def test_a_reader_reads_an_older_library_as_it_is(library: Path) -> None:
    make_old(library)
    opened = Library.open(library)
    for _ in range(2):  # the same connection serves the second
        with opened.snapshot() as snapshot:
            assert [video.locations[0].sidecar_state for video in snapshot.videos()] == ["", ""]
            assert [match.video_id for match in snapshot.words.match(["b"], 5)] == [2]
            assert (preview_videos(snapshot), stored_roots(snapshot)) == (frozenset(), ())
    assert verify(opened).clean
    with writing(library):
        pass
    with opened.snapshot() as snapshot:
        assert len(snapshot.videos()) == 2
    with closing(sqlite3.connect(library / "library.db")) as connection:
        assert connection.execute("SELECT value FROM meta WHERE key = 'min_reader'").fetchall() == [("3",)]


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
        ("UPDATE meta SET value = '4', seal = NULL WHERE key = 'min_reader'", "written by a newer vfindex"),
        ("DELETE FROM migration WHERE name = 'index_every_script'", "written by an older vfindex"),
    ],
)
def test_a_reader_refuses_what_it_cannot_read(library: Path, change: str, message: str) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute(change)
    with pytest.raises(LibraryVersion, match=message):
        Library.open(library).snapshot()


def test_every_breaking_migration_is_a_migration() -> None:
    assert set(BREAKING) <= set(MIGRATIONS)


def test_videos_of_an_old_library_can_go_missing(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    make_old(tmp_path)
    with writing(tmp_path) as writer, writer.library.snapshot() as before:
        assert len(before.clip_ids()) == 2
        writer.catalog.mark_missing([b"/videos/a"])
        assert writer.catalog.missing_files()[b"/videos/a"].state == "indexed"
        known = read_scan_cache(writer.catalog, recognised=False).get(b"/videos/b")
        assert known is not None
        assert (known.sidecar_state, known.coarse, writer.catalog.attempts(1)) == ("", 0, [])
        writer.catalog.begin_run("x")
    with Library.open(tmp_path).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 1
        assert sorted(snapshot.counts().items())[-1] == ("vanished", 1)
    assert verify(Library.open(tmp_path)).clean
    assert len(MIGRATIONS) == len({function.__name__ for function in MIGRATIONS})


def test_segments_of_an_old_library_are_speech_and_new_ones_keep_their_track(library: Path) -> None:
    said = [Segment(0, 2, "a nightingale", "sidecar"), Segment(2, 4, "EXIT", "sidecar", track="screen")]
    with writing(library) as writer:
        add_video(writer, "c", [clip(visual=axis(3))], said[:1])
    make_old(library)
    with Library.open(library).snapshot() as snapshot:
        assert [segment.track for segment in snapshot.segments(3)] == ["speech"]
    with writing(library) as writer:
        add_video(writer, "d", [clip(visual=axis(4))], said)
        writer.publish()
    opened = Library.open(library)
    with opened.snapshot() as snapshot:
        assert snapshot.segments(3) == said[:1]
        assert snapshot.segments(4) == said
        assert [match.kind for match in snapshot.words.match(["exit"], 5)] == ["screen"]
    assert verify(opened).clean
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("UPDATE segment SET track = 'speech' WHERE track = 'screen'")
    assert verify(opened).redo == [b"/videos/d"]
