"""UserData: what people write into a library, readable and writable while a run works on it."""

from __future__ import annotations

import json
import os
import pwd
import shlex
import sqlite3
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Self

from vfindex.storage.errors import EditConflict, UsageError
from vfindex.storage.records import Line
from vfindex.storage.user.database import (
    TABLES,
    VERSION,
    compact,
    damaged,
    reading,
    row_seal,
    stored_version,
    tables_of,
    user_database,
    writing,
)
from vfindex.storage.user.records import MAX_GRADE, Correction, Mark, Moment, NewMark, SavedQuery

# Longer texts are refused; both are far beyond what a person types.
MAX_NAME_CHARS = 200
MAX_TEXT_CHARS = 10_000
# Of a line of a transcript, which takes some seconds to say.
MAX_LINE_CHARS = 2000


@dataclass(frozen=True, slots=True)
class UserData:
    """The user data of the library in `folder`, which every model version shares.

    Every call is one short transaction that waits for others of its kind, and never for a run.
    """

    folder: Path

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Return the user data of a library; `user.db` is made by the first write."""
        return cls(folder)

    # --- marks ----------------------------------------------------------------------------------------------------

    def add_mark(self, new: NewMark) -> Mark:
        """Store a mark, or change the one of the same person in this list; return it. Raises UsageError."""
        _check(new)
        by = user_name() if new.by is None else new.by
        moment = new.moment
        key = (moment.fingerprint, moment.start_ms, new.list, new.question, by)
        with writing(self.folder) as connection:
            found = connection.execute(
                "SELECT id, note FROM mark WHERE fingerprint = ? AND start_ms = ? AND list = ? AND question = ?"
                " AND by = ?",
                key,
            ).fetchone()
            note = (found[1] if found else "") if new.note is None else new.note
            id_ = found[0] if found else _next_id(connection, "mark")
            values = (id_, *key[:2], moment.end_ms, new.list, note, new.question, new.grade, by, _now())
            if found:
                connection.execute("DELETE FROM mark WHERE id = ?", (id_,))
            _insert(connection, "mark", values)
        return _mark(values)

    def marks(self, *, list_: str | None = None, question: str | None = None) -> list[Mark]:
        """Return the marks in the order in which they were made. list_, question: only of these. Raises UsageError."""
        chosen = {name: value for name, value in (("list", list_), ("question", question)) if value is not None}
        for name, value in chosen.items():
            _check_type(f"the {name}", value)
        condition = "".join(f" AND {name} = ?" for name in chosen)
        return [_mark(row) for row in self._read("mark", f"WHERE 1{condition} ORDER BY id", [*chosen.values()])]

    def remove_marks(self, ids: Iterable[int]) -> list[Mark]:
        """Delete marks; return those that there were, in order of id. Raises UsageError."""
        return [_mark(row) for row in self._remove("mark", ids)]

    def rename_list(self, name: str, new_name: str) -> list[Mark]:
        """Move the marks of a list to another, in one transaction; return them. Raises UsageError if it has any."""
        _check_text("the name of the list", new_name, MAX_NAME_CHARS)
        with writing(self.folder) as connection:
            if _first(connection, "SELECT id FROM mark WHERE list = ?", (new_name,)) is not None:
                raise UsageError(f"there is a list {new_name} already; use another name")
            query = f"SELECT {_columns('mark')} FROM mark WHERE list = ? ORDER BY id"
            found = [_mark(row) for row in connection.execute(query, (name,)).fetchall()]
            renamed = [replace(mark, list=new_name) for mark in found]
            connection.execute("DELETE FROM mark WHERE list = ?", (name,))
            for mark in renamed:
                _insert(connection, "mark", _row(mark))
        compact(self.folder)
        return renamed

    def marks_of(self, fingerprints: Iterable[str]) -> list[Mark]:
        """Return the marks in these videos, in order of id."""
        condition = "WHERE fingerprint IN (SELECT value FROM json_each(?)) ORDER BY id"
        return [_mark(row) for row in self._read("mark", condition, (json.dumps(list(fingerprints)),))]

    # --- corrections ----------------------------------------------------------------------------------------------

    def correct(self, line: Line, text: str, by: str | None = None, shown: str | None = None) -> Correction:
        """Store what a line should read, in place of an earlier correction of it; return it. Raises UsageError.

        text: white space between words counts as one space; "" where nothing is said. shown: what the line
        read when somebody began to correct it; raises EditConflict if it reads otherwise now.
        """
        text = _one_line(text)
        if text == " ".join(line.text.split()):
            raise UsageError("the line says that already; to undo a correction: vfindex corrections --remove ID")
        _check_text("the line", line.text, MAX_TEXT_CHARS)
        if by is not None:
            _check_text("the name of the user", by, MAX_NAME_CHARS)
        key = " AND ".join(f"{column} = ?" for column in TABLES["correction"][1:6])
        with writing(self.folder) as connection:
            found = _first(connection, f"SELECT id, text, by FROM correction WHERE {key}", line)
            _refuse_unseen(found, line, shown)
            id_ = found[0] if found else _next_id(connection, "correction")
            values = (id_, *line, text, user_name() if by is None else by, _now())
            connection.execute("DELETE FROM correction WHERE id = ?", (id_,))
            _insert(connection, "correction", values)
        return _correction(values)

    def corrections(self) -> list[Correction]:
        """Return all corrections, in order of video and time."""
        order = "ORDER BY fingerprint, start_ms, end_ms, id"
        return [_correction(row) for row in self._read("correction", order)]

    def remove_corrections(self, ids: Iterable[int], shown: str | None = None) -> list[Correction]:
        """Delete corrections; return those that there were, in order of id. Raises UsageError.

        shown: what they read when somebody wanted them deleted; raises EditConflict for one that reads otherwise now.
        """

        def check(row: tuple[Any, ...]) -> None:
            found = _correction(row)
            _refuse_unseen((found.id, found.text, found.by), found.line, shown, "undo again to delete that")

        return [_correction(row) for row in self._remove("correction", ids, check)]

    # --- saved questions --------------------------------------------------------------------------------------------

    def save_query(self, name: str, text: str, by: str | None = None) -> SavedQuery:
        """Store a question under a name. Raises UsageError if another question has it."""
        _check_text("the name", name, MAX_NAME_CHARS)
        if any(unicodedata.category(each) == "Cc" for each in name):
            raise UsageError("the name has a line break or another control character; use another name")
        _check_text("the question", text, MAX_TEXT_CHARS)
        if by is not None:
            _check_text("the name of the user", by, MAX_NAME_CHARS)
        values = (name, text, user_name() if by is None else by, _now())
        with writing(self.folder) as connection:
            found = _first(connection, f"SELECT {_columns('saved_query')} FROM saved_query WHERE name = ?", (name,))
            if found is None:
                _insert(connection, "saved_query", values)
            elif found[1] != text:
                raise UsageError(
                    f"there is another question named {name}, saved by {found[2]}: {found[1]}; use another name, or "
                    f"delete that one first: vfindex saved {shlex.quote(name)} --remove"
                )
        return SavedQuery(*(found or values))

    def saved_queries(self) -> list[SavedQuery]:
        """Return the saved questions, by name."""
        return [SavedQuery(*row) for row in self._read("saved_query", "ORDER BY name")]

    def saved_query(self, name: str) -> SavedQuery | None:
        """Return the question of this name, None if there is none. Raises UsageError."""
        _check_type("the name", name)
        return next((each for each in self.saved_queries() if each.name == name), None)

    def remove_query(self, name: str) -> bool:
        """Delete a saved question, with its watch; return whether there was one."""
        with writing(self.folder) as connection:
            found = connection.execute("DELETE FROM saved_query WHERE name = ?", (name,)).rowcount
            for table in ("watch", "watch_hit"):
                connection.execute(f"DELETE FROM {table} WHERE name = ?", (name,))
        compact(self.folder)
        return bool(found)

    def _read(self, table: str, condition: str = "", parameters: Sequence[object] = ()) -> list[tuple[Any, ...]]:
        """Return rows of a table. Raises LibraryDamaged if one does not match its checksum."""
        with reading(self.folder) as connection:
            if connection is None or table not in tables_of(connection):
                return []
            query = f"SELECT {_columns(table)}, crc32 FROM {table} {condition}"
            rows = connection.execute(query, parameters).fetchall()
            is_newer = stored_version(connection) > VERSION  # its checksums may be of more columns
        if not is_newer and any(row_seal(row[:-1]) != row[-1] for row in rows):
            raise damaged(user_database(self.folder), "a row is not as written")
        return [row[:-1] for row in rows]

    def _remove(
        self, table: str, ids: Iterable[int], check: Callable[[tuple[Any, ...]], None] = lambda _: None
    ) -> list[tuple[Any, ...]]:
        """Delete rows of a table, so that nothing of them is left in the file; return them, in order of id.

        check: raises for a row that must stay; then all do.
        """
        chosen = (json.dumps(checked_ids(ids)),)
        among = f"FROM {table} WHERE id IN (SELECT value FROM json_each(?))"
        with writing(self.folder) as connection:
            found = connection.execute(f"SELECT {_columns(table)} {among} ORDER BY id", chosen).fetchall()
            for row in found:
                check(row)
            connection.execute(f"DELETE {among}", chosen)
        compact(self.folder)
        return found


def user_name() -> str:
    """Return the name of this process's user, as the system knows it."""
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return f"user {os.geteuid()}"


def _check(new: NewMark) -> None:
    """Raise UsageError for a mark that cannot be stored."""
    _check_text("the name of the list", new.list, MAX_NAME_CHARS)
    if new.note not in (None, ""):
        _check_text("the note", new.note, MAX_TEXT_CHARS)
    if new.question != "":
        _check_text("the question", new.question, MAX_TEXT_CHARS)
    if new.by is not None:
        _check_text("the name of the user", new.by, MAX_NAME_CHARS)
    if bool(new.question) != (new.grade is not None):
        raise UsageError("a judgement has a question and a grade; give both or neither")
    # 2.0, True and NumPy's 2 equal 2 and are stored as another value: the row would not be as it was sealed.
    if new.grade is not None and (type(new.grade) is not int or new.grade not in range(MAX_GRADE + 1)):
        raise UsageError(f"a grade is 0 (not relevant) to {MAX_GRADE}, not {new.grade!r}")


def checked_ids(ids: object) -> list[int]:
    """Return ids, each once, increasing. Raises UsageError for values of a wrong type."""
    if not isinstance(ids, Iterable) or isinstance(ids, str | bytes):
        raise UsageError(f"ids must be a list of whole numbers, not {ids!r}")
    chosen = list(ids)
    for id_ in chosen:
        if type(id_) is not int:
            raise UsageError(f"an id must be a whole number, not {id_!r}")
    return sorted(set(chosen))


def _check_type(what: str, text: object) -> None:
    if not isinstance(text, str):
        raise UsageError(f"{what} must be text, not {text!r}")


def _check_text(what: str, text: str, most: int) -> None:
    _check_type(what, text)
    if not text.strip():
        raise UsageError(f"{what} is empty")
    if len(text) > most:
        raise UsageError(f"{what} has {len(text):,} characters; {most:,} are the most")
    try:
        text.encode()
    except UnicodeEncodeError as exc:
        raise UsageError(f"{what} is not valid UTF-8") from exc


def _insert(connection: sqlite3.Connection, table: str, values: Sequence[object]) -> None:
    marks = ", ".join("?" * (len(values) + 1))
    connection.execute(f"INSERT INTO {table} ({_columns(table)}, crc32) VALUES ({marks})", (*values, row_seal(values)))


def _columns(table: str) -> str:
    return ", ".join(TABLES[table])


def _first(connection: sqlite3.Connection, query: str, parameters: Sequence[object]) -> tuple[Any, ...] | None:
    row: tuple[Any, ...] | None = connection.execute(query, parameters).fetchone()
    return row


def _next_id(connection: sqlite3.Connection, table: str) -> int:
    """Return an id that no row of a table has had."""
    row = _first(connection, "SELECT seq FROM sqlite_sequence WHERE name = ?", (table,))
    return 1 if row is None else int(row[0]) + 1


def _mark(row: Sequence[Any]) -> Mark:
    id_, fingerprint, start_ms, end_ms, *rest = row
    return Mark(id_, Moment(fingerprint, start_ms, end_ms), *rest)


def _row(mark: Mark) -> tuple[object, ...]:
    moment = (mark.moment.fingerprint, mark.moment.start_ms, mark.moment.end_ms)
    return (mark.id, *moment, mark.list, mark.note, mark.question, mark.grade, mark.by, mark.at)


def _correction(row: Sequence[Any]) -> Correction:
    id_, *line, text, by, at = row
    return Correction(id_, Line(*line), text, by, at)


def _refuse_unseen(
    found: tuple[Any, ...] | None, line: Line, shown: str | None, advice: str = "save again to replace that"
) -> None:
    """Raise EditConflict if a line reads otherwise than it was shown. found: id, text and author of its correction."""
    now = " ".join((line.text if found is None else found[1]).split())
    if shown is None or " ".join(shown.split()) == now:
        return
    what = "the correction of this line was undone meanwhile" if found is None else f"{found[2]} corrected this line"
    meanwhile = "" if found is None else " meanwhile"
    raise EditConflict(f"{what}{meanwhile}, it reads: {now or 'nothing'}; {advice}")


def _one_line(text: str) -> str:
    """Return the words of a line with one space between them, "" for none. Raises UsageError for what is no text."""
    _check_type("the text", text)
    line = " ".join(text.split())
    if line:
        _check_text("the text", line, MAX_LINE_CHARS)
    if any(unicodedata.category(char) == "Cc" for char in line):
        raise UsageError("the text has control characters")
    return line


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
