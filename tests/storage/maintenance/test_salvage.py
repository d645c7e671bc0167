"""Salvage of a damaged database: readable rows are copied, and videos with lost rows are named."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from library_maker import add_video, axis, clip, install
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, FIRST, stored

from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.maintenance.salvage import salvage, survey
from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import writing

VIDEOS = 40
PAGE_BYTES = 4096
TABLES = ("video", "location", "unit", "clip", "embedding", "frame", "segment", "document", "meta", "root")


@pytest.fixture(scope="module")
def database(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a database whose tables have several pages each; tests work on copies."""
    folder = tmp_path_factory.mktemp("salvage") / "library"
    with writing(folder) as writer:
        install(writer)
        for number in range(VIDEOS):
            clips = [clip(2.0 * n, 2.0 * n + 2, visual=axis(number % 8), speech=axis(n)) for n in range(4)]
            facts: dict[str, Any] = {"word_times": ((0, 0.0), (8, 0.42)), "speakers": ("Jane Doe", "Bob")}
            lines = [f"segment {n} of video {number} " * 9 for n in range(4)]
            said = [Segment(2.0 * n, 2.0 * n + 1, line, "sidecar", **facts) for n, line in enumerate(lines)]
            add_video(
                writer, f"{number:03} {'of a long name ' * 5}", clips, said, [Document("title", f"title {number}")]
            )
        writer.publish()
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return folder / "library.db"


def pages_of(database: Path, name: str) -> list[int]:
    """Return the numbers of the pages of a table or an index, from 0."""
    with closing(sqlite3.connect(database)) as connection:
        try:
            rows = connection.execute("SELECT pageno FROM dbstat WHERE name = ? ORDER BY path", (name,)).fetchall()
        except sqlite3.OperationalError:
            pytest.skip("this SQLite does not tell where its tables lie")
    return [number - 1 for (number,) in rows]


def torn(database: Path, target: Path, page: int, data: bytes) -> Path:
    """Return a copy of the database with other bytes in the place of a page."""
    shutil.copyfile(database, target)
    with target.open("rb+") as file:
        file.seek(page * PAGE_BYTES)
        file.write(data)
    return target


def rows_of(database: Path) -> dict[int, Any]:
    """Return video id -> all that belongs to the video."""
    found: dict[int, Any] = {}
    with closing(sqlite3.connect(database)) as connection:
        for query in (
            "SELECT id, fingerprint, state, title FROM video",
            "SELECT video_id, path FROM location",
            "SELECT video_id, number, state, coverage FROM unit",
            "SELECT video_id, start_ms, start_s, end_s, thumbnail FROM clip ORDER BY id",
            "SELECT video_id, modality, vector FROM embedding JOIN clip ON clip.id = clip_id ORDER BY 2, 1, clip_id",
            "SELECT video_id, times, vectors FROM frame JOIN clip ON clip.id = clip_id ORDER BY clip_id",
            "SELECT video_id, start_s, end_s, text, source, word_times, speakers FROM segment ORDER BY id",
            "SELECT video_id, text FROM document WHERE kind = 'speech' ORDER BY segment_id",
        ):
            for video_id, *values in connection.execute(query):
                found.setdefault(video_id, []).append(tuple(values))
    return found


@pytest.mark.parametrize("table", TABLES)
def test_videos_that_lost_rows_are_named(database: Path, tmp_path: Path, table: str) -> None:
    """The root of a table, of which all of it hangs, and its last page, are destroyed in turn."""
    whole = rows_of(database)
    paths = {id_: rows[1][0] for id_, rows in whole.items()}
    pages = pages_of(database, table)
    for page, data in {pages[0]: bytes(PAGE_BYTES), pages[-1]: os.urandom(PAGE_BYTES)}.items():
        damaged = torn(database, tmp_path / "torn.db", page, data)
        target = tmp_path / "new.db"
        target.unlink(missing_ok=True)
        try:
            found = salvage(damaged, target)
        except LibraryDamaged:
            assert table == "meta"  # without the settings nothing has a meaning
            continue
        saved = rows_of(target)
        lost = {id_ for id_, rows in whole.items() if saved.get(id_) != rows}
        if table != "location":  # a lost place is found when all files are looked at
            assert all(id_ in found.videos or paths[id_] in found.paths for id_ in lost)
            assert {paths[id_] for id_ in lost} <= set(survey(damaged))
        with closing(sqlite3.connect(target)) as connection:
            assert connection.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
            assert connection.execute("PRAGMA foreign_key_check").fetchall() == []
        assert page == pages[0] or len(lost) < VIDEOS / 2


def test_an_index_that_is_torn_costs_nothing(database: Path, tmp_path: Path) -> None:
    damaged = torn(database, tmp_path / "torn.db", pages_of(database, "clip_by_unit")[0], bytes(PAGE_BYTES))
    found = salvage(damaged, tmp_path / "new.db")
    assert (found.lost, found.videos, found.paths) == ({}, set(), [])
    assert rows_of(tmp_path / "new.db") == rows_of(database)
    assert survey(damaged) == []


def test_ids_go_on_where_they_were(database: Path, tmp_path: Path) -> None:
    """A joint index knows clips by their ids: those of lost rows must not come to mean others."""
    damaged = torn(database, tmp_path / "torn.db", pages_of(database, "clip")[-1], bytes(PAGE_BYTES))
    salvage(damaged, tmp_path / "new.db")
    with closing(sqlite3.connect(tmp_path / "new.db")) as connection:
        [(last,)] = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'clip'").fetchall()
    assert last == VIDEOS * 4


@pytest.mark.parametrize("state", ["recorded", "of an earlier version"])
def test_rows_of_the_index_count_as_before(database: Path, tmp_path: Path, state: str) -> None:
    """A clip that was changed stays so; where no changes were recorded, no index is trusted."""
    damaged, new = torn(database, tmp_path / "damaged.db", 0, database.read_bytes()[:PAGE_BYTES]), tmp_path / "new.db"
    with closing(sqlite3.connect(damaged)) as connection, connection:
        if state == "recorded":
            connection.execute("INSERT INTO index_change VALUES (7)")
        else:
            for event in ("insert", "update", "delete"):
                connection.execute(f"DROP TRIGGER index_change_{event}")
            connection.execute("DROP TABLE index_change")
    salvage(damaged, new)
    with closing(sqlite3.connect(new)) as connection:
        changes = [row[0] for row in connection.execute("SELECT clip_id FROM index_change")]
        [(generations,)] = connection.execute("SELECT count(*) FROM generation")
    assert (changes, generations) == (([7], 1) if state == "recorded" else ([], 0))


@pytest.mark.parametrize(("cut_bytes", "least"), [(1, VIDEOS // 4), (PAGE_BYTES, VIDEOS // 4), (20 * PAGE_BYTES, 0)])
def test_a_cut_file_is_read_as_far_as_it_goes(cut_bytes: int, least: int, database: Path, tmp_path: Path) -> None:
    shutil.copyfile(database, tmp_path / "torn.db")
    os.truncate(tmp_path / "torn.db", database.stat().st_size - cut_bytes)
    whole = rows_of(database)
    found = salvage(tmp_path / "torn.db", tmp_path / "new.db")
    saved = rows_of(tmp_path / "new.db")
    assert all(saved.get(id_) == rows or id_ in found.videos or id_ not in saved for id_, rows in whole.items())
    assert saved
    assert sum(saved.get(id_) == rows for id_, rows in whole.items()) >= least


@pytest.mark.parametrize("column", ["name", "seq"])
def test_a_sequence_that_is_not_as_written_is_made_again(column: str, database: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(database, tmp_path / "library.db"))
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute(f"UPDATE sqlite_sequence SET {column} = NULL")
    salvage(copy, tmp_path / "new.db")
    assert rows_of(tmp_path / "new.db") == rows_of(database)
    assert survey(copy) == []


def test_a_file_without_a_beginning_is_a_sentence(database: Path, tmp_path: Path) -> None:
    damaged = torn(database, tmp_path / "torn.db", 0, bytes(PAGE_BYTES))
    with pytest.raises(LibraryDamaged, match="nothing can be read of it"):
        salvage(damaged, tmp_path / "new.db")
    with pytest.raises(LibraryDamaged):
        survey(damaged)


def test_a_clip_that_no_longer_names_its_video_is_missed(database: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copyfile(database, tmp_path / "library.db"))
    with closing(sqlite3.connect(copy)) as connection, connection:
        connection.execute("UPDATE clip SET video_id = x'fffe' WHERE id = 5")
    found = salvage(copy, tmp_path / "new.db")
    assert found.videos == {2}


@pytest.mark.parametrize("version", [FIRST, BEFORE_TRACKS, BEFORE_FRAMES])
def test_a_library_from_before_the_frames_had_a_table_is_salvaged(version: str, tmp_path: Path) -> None:
    """What is salvaged is what a migration makes of the same library; a damaged row costs its video alone."""
    sound, old = stored(version, tmp_path / "sound"), stored(version, tmp_path / "old")
    with writing(sound):
        pass
    assert salvage(old / "library.db", tmp_path / "new.db").videos == set()
    saved, expected = rows_of(tmp_path / "new.db"), rows_of(sound / "library.db")
    assert saved == expected
    assert survey(old / "library.db") == []
    with closing(sqlite3.connect(old / "library.db")) as connection, connection:
        connection.execute("UPDATE embedding SET frames = zeroblob(28) WHERE clip_id = 3 AND modality = 'visual'")
    assert survey(old / "library.db") == [b"/videos/harbour"]
