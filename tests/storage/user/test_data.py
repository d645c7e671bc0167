"""Marks, judgements and saved questions are kept as they were written."""

from __future__ import annotations

import sqlite3
import tempfile
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.storage.errors import LibraryError, LibraryVersion, UsageError
from vfindex.storage.user.data import MAX_NAME_CHARS, UserData
from vfindex.storage.user.database import VERSION, row_seal
from vfindex.storage.user.records import Moment, NewMark

MOMENT = Moment("f00d", 12_000, 15_500)


@pytest.fixture
def data(tmp_path: Path) -> UserData:
    return UserData.open(tmp_path)


def test_nothing_is_made_before_the_first_write(data: UserData) -> None:
    assert (data.marks(), data.saved_queries()) == ([], [])
    assert list(data.folder.iterdir()) == []


def test_a_mark_is_kept(data: UserData) -> None:
    made = data.add_mark(NewMark(MOMENT, "goals", "the second \N{SOCCER BALL}", by="ana"))
    assert data.marks() == [made]
    assert (made.moment, made.list, made.note, made.by) == (MOMENT, "goals", "the second \N{SOCCER BALL}", "ana")
    assert (made.id, made.question, made.grade) == (1, "", None)
    assert data.marks(list_="goals") == [made]
    assert data.marks(list_="other") == data.marks(question="x") == []


def test_a_second_mark_of_a_person_changes_the_first_and_keeps_its_note(data: UserData) -> None:
    first = data.add_mark(NewMark(MOMENT, note="one", by="ana"))
    assert data.add_mark(NewMark(MOMENT, by="ana")).note == "one"
    assert data.add_mark(NewMark(MOMENT, note="two", by="ana")).id == first.id
    assert [mark.note for mark in data.marks()] == ["two"]


def test_no_person_overwrites_the_mark_of_another(data: UserData) -> None:
    for name in ("ana", "ben"):
        data.add_mark(NewMark(MOMENT, note=name, by=name))
    assert [(mark.by, mark.note) for mark in data.marks()] == [("ana", "ana"), ("ben", "ben")]


def test_a_judgement_is_a_mark_with_a_question(data: UserData) -> None:
    data.add_mark(NewMark(MOMENT, by="ana"))
    data.add_mark(NewMark(MOMENT, question="a goal", grade=1, by="ana"))
    data.add_mark(NewMark(MOMENT, question="a goal", grade=0, by="ana"))
    assert [mark.grade for mark in data.marks(question="a goal")] == [0]
    assert len(data.marks()) == 2


def test_ids_are_never_used_again(data: UserData) -> None:
    data.add_mark(NewMark(MOMENT, "a"))
    data.add_mark(NewMark(MOMENT, "b"))
    assert [mark.list for mark in data.remove_marks([2, 9])] == ["b"]
    assert data.add_mark(NewMark(MOMENT, "c")).id == 3


@pytest.mark.parametrize(
    "wrong",
    [
        NewMark(MOMENT, " "),
        NewMark(MOMENT, "x" * (MAX_NAME_CHARS + 1)),
        NewMark(MOMENT, note="caf\udce9"),
        NewMark(MOMENT, question="q"),
        NewMark(MOMENT, grade=1),
        NewMark(MOMENT, question="q", grade=4),
        *(NewMark(MOMENT, question="q", grade=grade) for grade in (True, 2.0, np.int64(2), Fraction(2))),  # type: ignore[arg-type]
        *(NewMark(MOMENT, note=note) for note in (0, [], {}, False, b"")),  # type: ignore[arg-type]
        *(NewMark(MOMENT, question=question) for question in (None, 0, [], False)),  # type: ignore[arg-type]
    ],
)
def test_what_cannot_be_stored_is_refused(data: UserData, wrong: NewMark) -> None:
    """What SQLite would store as another value must not be sealed: it would count as damaged."""
    with pytest.raises(UsageError):
        data.add_mark(wrong)
    assert data.marks() == []


@pytest.mark.parametrize(
    "call",
    [
        lambda data: data.save_query("goals", "a goal", by=5),
        lambda data: data.saved_query(5),
        lambda data: data.marks(list_=5),
        lambda data: data.marks(question=b"q"),
        lambda data: data.remove_marks([1, None]),
        lambda data: data.remove_marks(["1"]),
        lambda data: data.remove_marks(7),
    ],
)
def test_a_value_of_a_wrong_type_is_refused(data: UserData, call: Callable[[UserData], object]) -> None:
    with pytest.raises(UsageError, match="must be"):
        call(data)


def test_a_saved_question_is_never_replaced_by_another(data: UserData) -> None:
    data.save_query("goals", "a goal in the rain", by="ana")
    data.save_query("goals", "a goal in the rain", by="ben")
    with pytest.raises(UsageError, match="another question named goals, saved by ana: a goal in the rain"):
        data.save_query("goals", "corner", by="ben")
    [saved] = data.saved_queries()
    assert (saved.text, saved.by) == ("a goal in the rain", "ana")
    assert data.saved_query("goals") == saved
    assert data.saved_query("none") is None
    assert data.remove_query("goals")
    assert not data.remove_query("goals")


def test_deleted_text_is_not_readable(data: UserData) -> None:
    for number in range(200):
        data.add_mark(NewMark(Moment("f", number, number + 1), note=f"secret giraffe {number}"))
    data.save_query("animals", "secret giraffe")
    data.remove_marks(range(201))
    data.remove_query("animals")
    assert b"giraffe" not in (data.folder / "user.db").read_bytes()


def change(data: UserData, statement: str) -> None:
    with closing(sqlite3.connect(data.folder / "user.db")) as connection, connection:
        connection.execute(statement)


def test_a_newer_file_is_read_where_it_says_so_and_never_written(data: UserData) -> None:
    data.add_mark(NewMark(MOMENT))
    change(data, f"PRAGMA user_version={VERSION + 1}")
    assert len(data.marks()) == 1
    with pytest.raises(LibraryVersion, match="written by a newer vfindex"):
        data.add_mark(NewMark(MOMENT, "b"))
    change(data, "UPDATE meta SET value = 2 WHERE key = 'min_reader'")
    with pytest.raises(LibraryVersion):
        data.marks()


def test_a_database_of_another_program_is_left_alone(data: UserData) -> None:
    with closing(sqlite3.connect(data.folder / "user.db")) as connection, connection:
        connection.execute("CREATE TABLE mine (x)")
    with pytest.raises(LibraryError, match="not made by vfindex"):
        data.add_mark(NewMark(MOMENT))


@given(st.lists(st.one_of(st.integers(), st.text(), st.binary(), st.none()), min_size=2))
def test_a_seal_tells_two_rows_apart(values: list[object]) -> None:
    assert row_seal(values) == row_seal(tuple(values))
    assert row_seal(values) != row_seal([*values, "x"])


def test_a_read_needs_no_folder_for_temporary_files(data: UserData, monkeypatch: pytest.MonkeyPatch) -> None:
    made = data.add_mark(NewMark(Moment("f", 0, 1)))
    monkeypatch.setattr(tempfile, "tempdir", str(data.folder / "gone"))
    assert data.marks() == [made]


def test_a_list_is_renamed_as_a_whole(data: UserData) -> None:
    first = data.add_mark(NewMark(MOMENT, "goals", "one", by="ana"))
    second = data.add_mark(NewMark(MOMENT, "goals", question="a goal", grade=2, by="ben"))
    other = data.add_mark(NewMark(MOMENT, "other", by="ana"))
    renamed = data.rename_list("goals", "best")
    assert renamed == [replace(first, list="best"), replace(second, list="best")]
    assert data.marks() == [*renamed, other]
    with pytest.raises(UsageError, match="there is a list other already"):
        data.rename_list("best", "other")
    for wrong in ("", " ", "x" * (MAX_NAME_CHARS + 1), "\ud800"):
        with pytest.raises(UsageError, match="name of the list"):
            data.rename_list("best", wrong)
    assert data.marks() == [*renamed, other]
    assert data.rename_list("none", "new") == []
