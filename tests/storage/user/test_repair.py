"""Damage of `user.db` is named, what can be read is kept, and the damaged file as well."""

from __future__ import annotations

import os
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from vfindex.storage.errors import LibraryDamaged, LibraryVersion
from vfindex.storage.records import Line
from vfindex.storage.user import database
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
from vfindex.storage.user.repair import repair_user_data, user_faults


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return 300 marks, on several pages, two questions and a correction."""
    made = UserData.open(tmp_path_factory.mktemp("sound"))
    for number in range(300):
        made.add_mark(NewMark(Moment("f", number, number + 1), note=f"note {number} " * 30))
    made.save_query("a", "question a")
    made.save_query("b", "question b")
    made.correct(Line("f", "speech", 0, 900, "its a wrap"), "it's a wrap")
    return made.folder


@pytest.fixture
def data(sound: Path, tmp_path: Path) -> UserData:
    shutil.copy(sound / "user.db", tmp_path)
    return UserData.open(tmp_path)


def leaf_page(data: UserData, note: str) -> int:
    """Return where the page with this note begins."""
    return (data.folder / "user.db").read_bytes().index(note.encode()) // 4096 * 4096


def overwrite(data: UserData, at: int, content: bytes) -> None:
    with (data.folder / "user.db").open("rb+") as file:
        file.seek(at)
        file.write(content)


def test_sound_data_has_no_faults_and_is_left_alone(data: UserData) -> None:
    assert user_faults(data.folder) == []
    assert repair_user_data(data.folder) is None


def test_a_damaged_page_costs_its_own_rows(data: UserData) -> None:
    before = {mark.id: mark for mark in data.marks()}
    overwrite(data, leaf_page(data, "note 150 "), b"\xff" * 4096)
    assert user_faults(data.folder) != []
    done = repair_user_data(data.folder)
    assert done is not None and done.kept is not None and done.kept.exists()
    after = {mark.id: mark for mark in data.marks()}
    assert 250 < len(after) < 300
    assert after.items() <= before.items()
    assert done.lost == {"mark": 300 - len(after), "saved_query": 0, "correction": 0}
    assert [each.name for each in data.saved_queries()] == ["a", "b"]
    assert user_faults(data.folder) == []
    assert data.add_mark(NewMark(Moment("new", 0, 1))).id > 300


def test_a_changed_note_is_found_by_its_checksum(data: UserData) -> None:
    page = (data.folder / "user.db").read_bytes()
    overwrite(data, page.index(b"note 7 "), b"NOTE 7 ")
    assert user_faults(data.folder) == ["user.db: 1 mark not as written; run: vfindex repair"]
    done = repair_user_data(data.folder)
    assert done is not None and done.sentence() == "299 marks, 2 saved questions and 1 correction saved, 1 mark lost"
    assert len(data.marks()) == 299


def test_lost_rows_are_counted(data: UserData) -> None:
    with closing(sqlite3.connect(data.folder / "user.db")) as connection, connection:
        connection.execute("DROP TRIGGER saved_query_delete")
        connection.execute("DELETE FROM saved_query WHERE name = 'a'")
    assert user_faults(data.folder) == ["user.db: 1 saved question lost; run: vfindex repair"]


@pytest.mark.parametrize("content", [b"\0" * 4096, b"no database at all " * 300])
def test_a_file_of_which_nothing_is_left_is_kept_and_made_anew(data: UserData, content: bytes) -> None:
    overwrite(data, 0, content)
    with pytest.raises(LibraryDamaged, match="holds marks, saved questions and corrections, is damaged"):
        data.marks()
    [fault] = user_faults(data.folder)
    held = "marks, saved questions and corrections"
    assert fault.startswith(f"{data.folder / 'user.db'}, which holds {held}, is damaged")
    done = repair_user_data(data.folder)
    assert done is not None and done.kept is not None
    assert done.kept.read_bytes().startswith(content[:4096])
    data.save_query("c", "d")


def test_half_a_file_is_read(data: UserData) -> None:
    before = {mark.id: mark for mark in data.marks()}
    os.truncate(data.folder / "user.db", (data.folder / "user.db").stat().st_size // 2)
    [fault] = user_faults(data.folder)
    assert "is damaged" in fault
    done = repair_user_data(data.folder)
    after = {mark.id: mark for mark in data.marks()}
    assert 50 < len(after) < 300 and after.items() <= before.items()
    assert done is not None and done.lost["mark"] == 300 - len(after)


def change(data: UserData, *statements: str) -> None:
    with closing(sqlite3.connect(data.folder / "user.db")) as connection, connection:
        for statement in statements:
            connection.execute(statement)


@pytest.mark.parametrize(
    ("statements", "rows", "lost"),
    [
        (("DROP TABLE saved_query",), (300, 0, 1), (0, 2, 0)),
        (("ALTER TABLE saved_query DROP COLUMN at",), (300, 0, 1), (0, 2, 0)),
        (("DROP TRIGGER mark_delete", "DELETE FROM mark WHERE id > 280"), (280, 2, 1), (20, 0, 0)),
        (("DELETE FROM meta WHERE key = 'rows of mark'",), (300, 2, 1), (None, 0, 0)),
        (("DROP TRIGGER mark_delete", "DROP TRIGGER mark_insert", "DROP TABLE meta"), (300, 2, 1), (None, None, None)),
        (("DROP TRIGGER correction_delete", "DELETE FROM correction"), (300, 2, 0), (0, 0, 1)),
    ],
)
def test_what_is_lost_is_told(
    data: UserData, statements: tuple[str, ...], rows: tuple[int, ...], lost: tuple[int | None, ...]
) -> None:
    change(data, *statements)
    assert user_faults(data.folder) != []
    done = repair_user_data(data.folder)
    assert done is not None and (tuple(done.rows.values()), tuple(done.lost.values())) == (rows, lost)
    assert (len(data.marks()), len(data.saved_queries()), len(data.corrections())) == rows
    assert user_faults(data.folder) == []


def test_a_file_of_a_newer_vfindex_is_never_replaced(data: UserData) -> None:
    """It may have columns that a copy would lack; and if it cannot be read, that is no damage."""
    change(data, f"PRAGMA user_version={database.VERSION + 1}")
    assert repair_user_data(data.folder) is None
    change(data, "DROP TRIGGER mark_delete", "DELETE FROM mark WHERE id = 7")
    before = (data.folder / "user.db").read_bytes()
    with pytest.raises(LibraryVersion, match="pip install --upgrade vfindex"):
        repair_user_data(data.folder)
    change(data, "UPDATE meta SET value = 2 WHERE key = 'min_reader'")
    assert repair_user_data(data.folder) is None
    assert len((data.folder / "user.db").read_bytes()) == len(before)
    assert [path.name for path in data.folder.iterdir()] == ["user.db"]


def test_a_library_without_the_file_has_no_fault(tmp_path: Path) -> None:
    assert (user_faults(tmp_path), repair_user_data(tmp_path), list(tmp_path.iterdir())) == ([], None, [])


def test_a_note_that_is_no_longer_utf_8_is_one_damaged_mark(data: UserData) -> None:
    at = (data.folder / "user.db").read_bytes().index(b"note 7 ")
    overwrite(data, at, b"\xff")
    with pytest.raises(LibraryDamaged, match="run: vfindex repair"):
        data.marks()
    assert user_faults(data.folder) == ["user.db: 1 mark not as written; run: vfindex repair"]
    done = repair_user_data(data.folder)
    assert done is not None and done.lost == {"mark": 1, "saved_query": 0, "correction": 0}
    assert len(data.marks()) == 299


@pytest.mark.parametrize("value", ["'garbage'", "x'ff'", "7.5"])
def test_a_mark_of_another_time_than_was_written_is_not_shown(value: str, data: UserData) -> None:
    change(data, f"UPDATE mark SET start_ms = {value} WHERE id = 8")
    with pytest.raises(LibraryDamaged, match=r"user.db, which holds .* is damaged \(a row is not as written\)"):
        data.marks()


def test_ids_of_deleted_marks_are_not_used_again(data: UserData) -> None:
    data.remove_marks([299, 300])
    change(data, "UPDATE mark SET note = 'other' WHERE id = 1")
    assert repair_user_data(data.folder) is not None
    assert data.add_mark(NewMark(Moment("new", 0, 1))).id == 301


def test_a_write_that_failed_holds_no_lock(data: UserData, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor does its exception, which a program may keep."""
    monkeypatch.setattr(database, "BUSY_TIMEOUT_S", 0)
    change(data, "CREATE TRIGGER fails AFTER INSERT ON mark BEGIN SELECT RAISE(ABORT, 'malformed'); END")
    with pytest.raises(LibraryDamaged) as kept:
        data.add_mark(NewMark(Moment("new", 0, 1)))
    data.save_query("c", "question c")
    assert kept.value.__traceback__ is not None
