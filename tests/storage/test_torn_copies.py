"""Copies of a library's files made while a run writes: one of several instants is refused, others are read."""

from __future__ import annotations

import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install
from old_libraries import FIRST, stored

from vfindex.search.engine import SearchEngine
from vfindex.storage import library as storage_library
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.library import Library
from vfindex.storage.maintenance.repair import salvage_database
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Segment
from vfindex.storage.writer import Writer, writing

TOLD = r"copy was copied while a run wrote to it, and its files do not fit together \(.*\); copy it again with"


def add(writer: Writer, name: str) -> None:
    for number in range(10):
        clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(number % 8)) for i in range(20)]
        add_video(writer, f"{name} {number}", clips, [Segment(1, 2, f"{name} {number}", "asr", "en")])


def copied(folder: Path, copy: Path, name: str) -> None:
    copy.mkdir(exist_ok=True)
    shutil.copyfile(folder / name, copy / name)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path / "library") as writer:
        install(writer)
        add(writer, "before")
        writer.publish()
    return tmp_path / "library"


@pytest.fixture
def torn(folder: Path, tmp_path: Path) -> Path:
    """Return a copy whose database lacks what a checkpoint moved into it before the log was copied."""
    with writing(folder) as writer:
        add(writer, "first")
        copied(folder, tmp_path / "copy", "library.db")
        assert writer.checkpoint()
        add_video(writer, "last", [clip(visual=axis(1))])
        copied(folder, tmp_path / "copy", "library.db-wal")
    return tmp_path / "copy"


def test_a_copy_of_several_instants_is_refused(torn: Path) -> None:
    with pytest.raises(LibraryDamaged, match=TOLD):
        SearchEngine.open(torn).search("x")
    with pytest.raises(LibraryDamaged, match=TOLD), writing(torn):
        pass
    assert not verify(Library.open(torn)).clean
    assert salvage_database(torn) is not None
    with writing(torn):
        pass


def test_a_library_of_the_first_version_with_a_log_is_migrated(tmp_path: Path) -> None:
    library = stored(FIRST, tmp_path / "library")
    with closing(sqlite3.connect(library / "library.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("UPDATE video SET title = 'woods' WHERE id = 1")
        connection.commit()
        shutil.copytree(library, tmp_path / "copy")
    assert (tmp_path / "copy" / "library.db-wal").stat().st_size
    with writing(tmp_path / "copy") as writer, writer.library.snapshot() as snapshot:
        assert snapshot.videos()[0].title == "woods"


def test_a_library_whose_making_was_broken_off_is_made(tmp_path: Path) -> None:
    """A kill in the first commit leaves a log without a whole transaction."""
    (tmp_path / "copy").mkdir()
    with closing(sqlite3.connect(tmp_path / "library.db")) as connection:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("CREATE TABLE video (id INTEGER)")
        shutil.copyfile(tmp_path / "library.db", tmp_path / "copy" / "library.db")
        log = (tmp_path / "library.db-wal").read_bytes()
        (tmp_path / "copy" / "library.db-wal").write_bytes(log[:-100])
    with writing(tmp_path / "copy") as writer:
        install(writer)


def test_a_copy_of_one_instant_with_its_log_is_read_and_written(folder: Path, tmp_path: Path) -> None:
    with writing(folder) as writer:
        add(writer, "first")
        for name in ("library.db", "library.db-wal"):
            copied(folder, tmp_path / "copy", name)
    assert (tmp_path / "copy" / "library.db-wal").stat().st_size > 0
    SearchEngine.open(tmp_path / "copy").searcher()
    with writing(tmp_path / "copy") as writer:
        assert len(writer.library.snapshot().videos()) == 20


def test_a_library_is_not_checked_where_it_was_made(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It would take seconds at every start of a search during a run."""
    monkeypatch.setattr(storage_library, "check_integrity", pytest.fail)
    with writing(folder) as writer:
        add(writer, "first")
        assert (folder / "library.db-wal").stat().st_size > 0
        SearchEngine.open(folder).searcher()
