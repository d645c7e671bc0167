"""`vfindex repair` and `verify` of a damaged `user.db`: what was saved and lost is said, a sound one is left alone."""

from __future__ import annotations

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark

MARKS = 200


@pytest.fixture(autouse=True)
def user_db(library: Path, monkeypatch: pytest.MonkeyPatch, run: Any) -> Path:
    """Return the `user.db` of the chosen library, with marks on several pages and a saved question."""
    monkeypatch.setenv("VFINDEX_LIBRARY", str(library))
    data = UserData.open(library)
    for number in range(MARKS):
        data.add_mark(NewMark(Moment("f", number, number + 1), note=f"note {number} " * 10))
    data.save_query("rain", "a car in the rain")
    return library / "user.db"


def garbage(path: Path) -> None:
    path.write_bytes(b"\xa5" * path.stat().st_size)


def half(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def lost_rows(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TRIGGER mark_delete")
        connection.execute("DELETE FROM mark WHERE id > 190")


def lost_table(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DROP TABLE saved_query")


@pytest.mark.parametrize(
    ("harm", "named", "told"),
    [
        (garbage, "is damaged", "0 marks, 0 saved questions and 0 corrections saved, how many were lost is unknown"),
        (half, "is damaged", " marks, 1 saved question and 0 corrections saved, "),
        (lost_rows, "user.db: 10 marks lost", "190 marks, 1 saved question and 0 corrections saved, 10 marks lost"),
        (lost_table, "is damaged", "200 marks, 0 saved questions and 0 corrections saved, 1 saved question lost"),
    ],
)
def test_damage_is_named_and_repaired(
    run: Any, user_db: Path, harm: Callable[[Path], None], named: str, told: str
) -> None:
    harm(user_db)
    before = user_db.read_bytes()
    found = run("verify")
    assert found.code == 1 and named in found.err and "run: vfindex repair" in found.err
    done = run("repair")
    [kept] = user_db.parent.glob("user.damaged-*.db")
    assert (done.code, done.err) == (0, "")
    assert done.out.startswith(f"user.db is rebuilt, the damaged one kept as {kept}: ") and told in done.out
    assert kept.read_bytes() == before
    assert run("verify").code == 0
    run("mark", "/videos/a.mp4@3", "--note", "after")
    assert json.loads(run("marks", "--json").out)["marks"][-1]["note"] == "after"


def test_a_sound_one_and_one_of_a_newer_vfindex_are_left_alone(run: Any, user_db: Path) -> None:
    before = user_db.read_bytes()
    assert run("repair").out == "nothing to repair\n"
    assert user_db.read_bytes() == before
    with closing(sqlite3.connect(user_db)) as connection, connection:
        connection.execute("PRAGMA user_version=9")
        connection.execute("UPDATE meta SET value = 9 WHERE key = 'min_reader'")
    found = run("verify")
    assert found.code == 0 and "marks and saved questions were not checked: user.db was written by a newer" in found.out
    assert (run("repair").code, list(user_db.parent.glob("user.damaged-*"))) == (0, [])


def test_a_rebuilt_joint_index_is_said(run: Any, library: Path) -> None:
    for path in (library / "index").iterdir():
        path.unlink()
    assert run("verify").code == 1
    assert run("repair").out == "repaired: the joint index\n"
    assert run("repair").out == "nothing to repair\n"
    assert run("verify").code == 0


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_no_access_is_no_damage(run: Any, user_db: Path) -> None:
    user_db.chmod(0)
    for command in ("verify", "repair"):
        ran = run(command)
        assert (ran.code, ran.err.count("\n")) == (1, 1) and "no permission to read" in ran.err
    assert list(user_db.parent.glob("user.damaged-*")) == []


def test_a_lost_table_has_an_unknown_number_of_keys(run: Any, library: Path) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        [size] = connection.execute("PRAGMA page_size").fetchone()
        [page] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'tombstone'").fetchone()
    with (library / "library.db").open("r+b") as file:
        file.seek(size * (page - 1))
        file.write(b"\xa5" * size)
    assert "keys not read: tombstone unknown\n" in run("repair").out
