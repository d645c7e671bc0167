"""Every writer counts rows, and videos that lost one are named."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install, place
from sqlalchemy import text

from vfindex.storage.db import schema, sources
from vfindex.storage.db.integrity import HELD_NOW, PASSING, broken_settings
from vfindex.storage.errors import Problem
from vfindex.storage.library import Library
from vfindex.storage.maintenance.damage import damaged_videos
from vfindex.storage.maintenance.repair import set_aside
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Attempt, Document, Segment
from vfindex.storage.settings_backup import restore
from vfindex.storage.writer import Writer, writing


def add(writer: Writer, name: str, number: int) -> int:
    said = [Segment(1.0, 2.0, f"words of {name}", "sidecar")]
    clips = [clip(n, n + 1, visual=axis(number), speech=axis(n), text=axis(7)) for n in range(2)]
    return add_video(writer, name, clips, said, [Document("title", name)])


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a published library of two videos of ten rows each, below one root."""
    with writing(tmp_path) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add(writer, name, number)
        sources.remember(writer.catalog, [sources.Root(b"/videos")])
        writer.publish()
    return tmp_path


def harm(folder: Path, *statements: str) -> None:
    """Change the database as no writer does."""
    with closing(sqlite3.connect(folder / "library.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


def assert_counted(writer: Writer) -> None:
    with writer.catalog.transaction() as connection:
        rows = connection.execute(text(f"SELECT id, held, {HELD_NOW} AS now FROM video")).all()
        assert [(row.id, row.held) for row in rows] == [(row.id, row.now) for row in rows]
        for name in ("video", "root", "exclusion"):
            counted = connection.scalar(text(f"SELECT value FROM meta WHERE key = 'rows of {name}'"))
            assert counted == str(connection.scalar(text(f"SELECT count(*) FROM {name}")))
        keys = set(connection.scalars(text("SELECT key FROM meta")))
        assert connection.scalar(text("SELECT value FROM meta WHERE key = 'rows of meta'")) == str(len(keys - PASSING))


def test_every_row_is_counted_whoever_writes_it(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        first = add(writer, "a", 0)
        with writer.catalog.transaction() as connection:
            assert (
                connection.scalar(text("SELECT held FROM video")) == 13
            )  # place, unit, segment, 2 clips, 6 vectors, 2 frames
        writer.catalog.place(first, place("copy"))
        assert_counted(writer)
        writer.catalog.retitle(first, "another", [Document("title", "another")], axis(2))
        assert_counted(writer)
        writer.catalog.mark_missing([b"/videos/a"])
        writer.catalog.restore_missing([b"/videos/a"])
        assert_counted(writer)
        add(writer, "a", 1)  # in the place of the first
        assert_counted(writer)
        problem = Problem(b"/videos/c", "open", "damaged", "no picture", "copy it again")
        writer.catalog.fail_video("c", place("c"), problem, attempts=[Attempt(None, "full", "crash", "it died", "")])
        assert_counted(writer)
        with writer.catalog.transaction() as connection:
            connection.execute(text("DELETE FROM clip WHERE start_ms = 1000"))
        assert_counted(writer)
        set_aside(writer.catalog, [2])
        sources.remember(writer.catalog, [sources.Root(b"/videos"), sources.Root(b"/more")])
        assert_counted(writer)
        writer.catalog.remove(b"/videos", exclude=False)
        assert_counted(writer)


@pytest.mark.parametrize(
    ("statement", "rows"),
    [
        ("DELETE FROM embedding WHERE clip_id = 1 AND modality = 'speech'", 12),
        ("DELETE FROM frame WHERE clip_id = 1", 12),
        ("DELETE FROM segment WHERE video_id = 1", 12),
        ("DELETE FROM location WHERE video_id = 1", 12),
        ("DELETE FROM unit WHERE video_id = 1", 12),
        ("DELETE FROM clip WHERE id = 1", 8),
        ("DELETE FROM clip WHERE video_id = 1", 3),
    ],
)
def test_a_video_that_has_lost_rows_is_named(library: Path, statement: str, rows: int) -> None:
    harm(library, statement)
    with Library.open(library).snapshot() as snapshot:
        [video] = damaged_videos(snapshot)
    assert video.id == 1
    assert video.reasons[-1] == f"it has {rows} rows in the library and should have 13"


def test_a_video_without_clips_verifies(tmp_path: Path) -> None:
    """One without a usable frame is searchable by its words."""
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [])
        writer.publish()
    assert verify(Library.open(tmp_path)).clean


def test_lost_videos_are_reported(library: Path) -> None:
    tables = (
        "embedding WHERE clip_id > 2",
        *(f"{t} WHERE video_id = 2" for t in ("clip", "segment", "unit", "location")),
    )
    harm(library, *(f"DELETE FROM {table}" for table in tables), "DELETE FROM video WHERE id = 2")
    assert "the library has lost 1 video; run: vfindex repair" in verify(Library.open(library)).problems


def test_a_lost_root_is_restored_from_the_backup(library: Path) -> None:
    harm(library, "DELETE FROM root")
    problem = (
        "the library has lost 1 indexed folder; run: vfindex repair, or name the folder again: vfindex ingest FOLDER"
    )
    assert verify(Library.open(library)).problems == [problem]
    with writing(library) as writer:
        writer.write_backup()  # as each run does
        with writer.catalog.transaction() as connection:
            assert restore(connection, library)
        assert sources.roots(writer.catalog) == [sources.Root(b"/videos")]
        assert_counted(writer)


def test_a_lost_root_without_backup_is_reported_until_it_is_named_again(library: Path) -> None:
    harm(library, "DELETE FROM root")
    (library / "library.json").unlink()
    with writing(library) as writer:
        with writer.catalog.transaction() as connection:
            restore(connection, library)
        with writer.library.snapshot() as snapshot:
            assert len(broken_settings(snapshot.stream)) == 1
        sources.remember(writer.catalog, [sources.Root(b"/videos")])
        with writer.library.snapshot() as snapshot:
            assert broken_settings(snapshot.stream) == []


LOSSES = ["DELETE FROM exclusion", "UPDATE exclusion SET path = x'00'"]
TOLD = (
    "the library has lost 1 removed path; run: vfindex repair, or remove the path again, so that no run indexes it: "
    "vfindex remove PATH"
)


@pytest.fixture
def removed(library: Path) -> Path:
    """Return a library from which one path was removed."""
    with writing(library) as writer:
        writer.catalog.remove(b"/videos/b", exclude=True)
        writer.publish()
    return library


@pytest.mark.parametrize("statement", LOSSES)
def test_a_lost_exclusion_is_restored_from_the_backup(removed: Path, statement: str) -> None:
    harm(removed, statement)
    assert not verify(Library.open(removed)).clean
    with writing(removed) as writer:
        writer.write_backup()  # as each run does
        with writer.catalog.transaction() as connection:
            assert not restore(connection, removed), "what was removed must not be looked for"
        assert sources.exclusions(writer.catalog) == {b"/videos/b"}
        assert_counted(writer)


@pytest.mark.parametrize("statement", LOSSES)
def test_a_lost_exclusion_without_backup_is_reported_until_the_path_is_removed_again(
    removed: Path, statement: str
) -> None:
    harm(removed, statement)
    (removed / "library.json").unlink()
    with writing(removed) as writer:
        with writer.catalog.transaction() as connection:
            assert not restore(connection, removed)
        with writer.library.snapshot() as snapshot:
            assert broken_settings(snapshot.stream) == [TOLD]
        add(writer, "b", 1)
        writer.catalog.remove(b"/videos/b", exclude=True)
        assert_counted(writer)


def test_a_removed_root_is_not_lost(library: Path) -> None:
    with writing(library) as writer:
        writer.catalog.remove(b"/videos", exclude=False)
        with writer.library.snapshot() as snapshot:
            assert broken_settings(snapshot.stream) == []
        assert_counted(writer)


def test_a_library_from_before_counts_counts_what_it_has(library: Path) -> None:
    harm(
        library,
        f"ALTER TABLE {schema.video.name} DROP COLUMN held",
        "DELETE FROM meta WHERE key LIKE 'rows of %'",
        "DELETE FROM migration WHERE name = 'count_rows'",
    )
    assert verify(Library.open(library)).clean
    with writing(library) as writer:
        assert_counted(writer)
    assert verify(Library.open(library)).clean
