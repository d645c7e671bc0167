"""SQLite's errors as sentences; bugs are not translated."""

from __future__ import annotations

import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace

import pytest
from library_maker import add_video, axis, clip, install
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError, ResourceClosedError

from vfindex.storage.db import engine as database
from vfindex.storage.db import schema
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.engine import check_integrity, connect, room_wanted, translated
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.runs import stored_runs
from vfindex.storage.errors import LibraryDamaged, LibraryError
from vfindex.storage.files import resources
from vfindex.storage.library import Library, failed_folder
from vfindex.storage.maintenance.damage import false_words
from vfindex.storage.records import Document
from vfindex.storage.writer import writing


def complaint(code: int, message: str = "what SQLite says") -> sqlite3.Error:
    error = sqlite3.OperationalError(message)
    error.sqlite_errorcode = code
    return error


@pytest.mark.parametrize(
    ("code", "is_damage", "sentence"),
    [
        (sqlite3.SQLITE_CORRUPT, True, "run: vfindex verify"),
        (sqlite3.SQLITE_CORRUPT_VTAB, True, "run: vfindex verify"),
        (sqlite3.SQLITE_NOTADB, True, "is no library of vfindex"),
        (sqlite3.SQLITE_IOERR_SHORT_READ, True, "run: vfindex verify"),
        (sqlite3.SQLITE_IOERR_WRITE, False, "free some space"),
        (sqlite3.SQLITE_FULL, False, "free some space"),
        (sqlite3.SQLITE_READONLY, False, "needs permission to write"),
        (sqlite3.SQLITE_READONLY_DIRECTORY, False, "needs permission to write"),
        (sqlite3.SQLITE_PERM, False, "needs permission to write"),
        (sqlite3.SQLITE_CANTOPEN, False, "needs permission to enter"),
        (sqlite3.SQLITE_BUSY, False, "another program holds"),
        (sqlite3.SQLITE_LOCKED, False, "another program holds"),
        (sqlite3.SQLITE_NOMEM, False, "not enough memory"),
    ],
)
def test_each_kind_of_complaint_has_its_sentence(code: int, is_damage: bool, sentence: str) -> None:
    error = translated(complaint(code))
    assert isinstance(error, LibraryError) and isinstance(error, LibraryDamaged) == is_damage
    assert sentence in str(error)


@pytest.mark.parametrize("message", ["no such table: clip", "Could not decode to UTF-8 column 'title'"])
def test_errors_only_possible_by_damage_are_damage(message: str) -> None:
    assert isinstance(translated(complaint(sqlite3.SQLITE_ERROR, message)), LibraryDamaged)


@pytest.mark.parametrize("message", ['near "SELEKT": syntax error', "no such function: nonsense"])
def test_a_wrong_statement_is_a_bug(message: str) -> None:
    with pytest.raises(sqlite3.OperationalError):
        translated(complaint(sqlite3.SQLITE_ERROR, message))


def test_a_constraint_of_our_own_is_a_bug() -> None:
    """It was reported as damage of the library."""
    catalog = Catalog.open(None)
    with pytest.raises(IntegrityError), catalog.transaction() as connection:
        connection.execute(insert(schema.meta).values(key="key", value=None))


def test_a_constraint_that_damage_breaks_is_damage() -> None:
    catalog = Catalog.open(None)
    with catalog.engine.connect() as connection:
        connection.connection.execute("PRAGMA foreign_keys=OFF")  # type: ignore[attr-defined]
        connection.execute(text("INSERT INTO document (video_id, kind, text) VALUES (99, 'title', 'of no video')"))
        connection.commit()
    with pytest.raises(LibraryDamaged, match="has no video"), catalog.transaction() as connection:
        connection.execute(insert(schema.meta).values(key="changed", value="x"))
        connection.exec_driver_sql("INSERT INTO meta (key, value) VALUES ('changed', 'y')")


def test_a_damaged_page_is_a_sentence_while_rows_are_streamed(tmp_path: Path) -> None:
    """`vfindex runs` printed a traceback."""
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(0))])
        writer.catalog.begin_run("ingest")
    with closing(sqlite3.connect(tmp_path / "library.db")) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'run'").fetchall()
        [(size,)] = connection.execute("PRAGMA page_size").fetchall()
    with (tmp_path / "library.db").open("rb+") as file:
        file.seek((page - 1) * size)
        file.write(b"\xff" * size)
    with Library.open(tmp_path).snapshot() as snapshot, pytest.raises(LibraryDamaged, match="run: vfindex verify"):
        stored_runs(snapshot)


def test_streaming_does_not_change_the_connection(tmp_path: Path) -> None:
    catalog = Catalog.open(tmp_path / "library.db")
    catalog.close()
    with Library(tmp_path).snapshot() as snapshot:
        stored_runs(snapshot)
        assert "yield_per" not in snapshot._connection.get_execution_options()


def test_an_error_text_that_is_not_utf_8_is_damage(tmp_path: Path) -> None:
    with writing(tmp_path / "library"):
        pass
    database = tmp_path / "library" / "library.db"
    with closing(sqlite3.connect(database)) as connection:
        connection.execute("PRAGMA journal_mode=DELETE")
    data = database.read_bytes()
    database.write_bytes(data.replace(b"CREATE TABLE run", b"CREATE \xffABLE run"))
    with pytest.raises(LibraryDamaged, match="run: vfindex verify"):
        Snapshot(connect(database, write=False))
    engine = connect(database, write=False)
    assert "malformed database schema" in check_integrity(engine)[0]
    engine.dispose()


def test_the_folder_with_the_least_room_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library, temporary = tmp_path / "library", tmp_path / "temporary"
    for folder in (library, temporary):
        folder.mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.delenv("SQLITE_TMPDIR", raising=False)
    rooms = {library: 5_000, temporary: 1}

    def room(folder: Path) -> SimpleNamespace:
        return SimpleNamespace(f_bavail=rooms[folder], f_frsize=4096)

    monkeypatch.setattr(resources.os, "statvfs", room)
    assert f"free some space in the folder for temporary files, {temporary}, " in room_wanted(library)
    rooms[library] = 0
    assert f"free some space in {library}, which has 0.0 MB left" in room_wanted(library)


def test_a_full_disk_is_not_damage_of_full_text(tmp_path: Path) -> None:
    with writing(tmp_path / "library") as writer:
        for number in range(40):
            add_video(writer, f"video {number}", [], documents=[Document("title", f"title {number}")])
    engine = connect(tmp_path / "library" / "library.db", write=False)
    with engine.connect() as connection:
        connection.exec_driver_sql("PRAGMA temp.page_size=512")
        connection.exec_driver_sql("PRAGMA temp.max_page_count=3")
    with pytest.raises(LibraryError, match="free some space"):
        false_words(engine)
    engine.dispose()


def test_a_full_disk_keeps_no_reader_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "video", [clip(visual=axis(1))])
    monkeypatch.setattr(database, "has_room", lambda *_: False)
    with Library.open(folder).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 1
        assert not list(folder.glob("*-shm")), "there is no room for it"
    for suffix in ("-wal", "-shm"):  # of a writer that found no room
        (folder / f"library.db{suffix}").touch()
    with Library.open(folder).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 1
    monkeypatch.undo()
    with Library.open(folder).snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 1
        assert list(folder.glob("*-shm"))


def test_a_closed_snapshot_reads_nothing(tmp_path: Path) -> None:
    """Its connection is another snapshot's by then."""
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(0))])
    with Library.open(tmp_path).snapshot() as snapshot:
        assert len(snapshot.paths()) == 1
    with pytest.raises(ResourceClosedError):
        snapshot.paths()


@pytest.mark.parametrize("fetch", ["fetchall", "fetchmany"])
def test_errors_of_later_rows_name_the_library_too(tmp_path: Path, fetch: str) -> None:
    rows = "SELECT json_extract(column1, '$') FROM (VALUES ('1'), ('{'))"
    with connect(tmp_path / "library.db", write=True).connect() as connection:
        cursor = connection.connection.cursor()
        cursor.execute(rows)
        with pytest.raises(sqlite3.Error, match="JSON") as raised:
            getattr(cursor, fetch)(*([2] if fetch == "fetchmany" else []))
    assert failed_folder(raised.value) == tmp_path


TRUNCATED_WHILE_READ = """
import os, sys
from pathlib import Path
from vfindex.storage.errors import LibraryError
from vfindex.storage.library import Library

folder = Path(sys.argv[1])
try:
    with Library.open(folder).snapshot() as snapshot:
        snapshot.counts()
        os.truncate(folder / "library.db", 8192)
        print(len(snapshot.with_vectors(range(100))))
except LibraryError as exc:
    print(exc)
"""


def test_a_database_that_is_truncated_while_it_is_read_is_damaged(tmp_path: Path) -> None:
    """In a process of its own, which a mapped file would end with SIGBUS."""
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(40):
            add_video(writer, f"v{number}", [clip(5.0 * n, 5.0 * n + 5, visual=axis(number % 8)) for n in range(20)])
    command = [sys.executable, "-P", "-c", TRUNCATED_WHILE_READ, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "run: vfindex" in done.stdout
