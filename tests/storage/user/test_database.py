"""Several people write at once, are killed, run out of space, or may read alone: nothing committed is lost."""

from __future__ import annotations

import json
import os
import resource
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from unittest.mock import Mock

import pytest

from vfindex.storage.errors import LibraryError
from vfindex.storage.user import database
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
from vfindex.storage.user.repair import user_faults

WRITER = """
import sys
from pathlib import Path
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
data, name, count = UserData.open(Path(sys.argv[1])), sys.argv[2], int(sys.argv[3])
for number in range(count):
    data.add_mark(NewMark(Moment(name, number, number + 1), note="n" * 100))
    print(number, flush=True)
"""
# Reads as another user if these tests run as root.
READER = """
import json, os, sys
from pathlib import Path
from vfindex.storage.errors import VfindexError
from vfindex.storage.user.data import UserData
from vfindex.storage.user.records import Moment, NewMark
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
data = UserData.open(Path(sys.argv[1]))
try:
    if sys.argv[2] == "write":
        data.add_mark(NewMark(Moment("other", 0, 1)))
    print(json.dumps(len(data.marks())))
except VfindexError as exc:
    print(json.dumps(str(exc)))
"""


def start(folder: Path, name: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(folder), name, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_two_processes_lose_none_of_their_marks(tmp_path: Path) -> None:
    processes = [start(tmp_path, name, 500) for name in ("a", "b")]
    for process in processes:
        process.communicate()
    assert [process.returncode for process in processes] == [0, 0]
    marks = UserData.open(tmp_path).marks()
    assert [sum(mark.moment.fingerprint == name for mark in marks) for name in ("a", "b")] == [500, 500]
    assert len({mark.id for mark in marks}) == 1000
    assert user_faults(tmp_path) == []


@pytest.mark.parametrize("lines", [1, 7, 40, 101])
def test_a_kill_loses_nothing_that_was_committed(tmp_path: Path, lines: int) -> None:
    process = start(tmp_path, "a", 100_000)
    assert process.stdout is not None
    for _ in range(lines):
        process.stdout.readline()
    process.send_signal(signal.SIGKILL)
    printed = lines + len(process.communicate()[0].splitlines())
    assert len(UserData.open(tmp_path).marks()) in (printed, printed + 1)
    assert user_faults(tmp_path) == []
    UserData.open(tmp_path).add_mark(NewMark(Moment("b", 0, 1)))


def hot_journal(folder: Path) -> None:
    """Leave `user.db` as a writer does that is killed while it writes a large commit into the file."""
    code = f"""
import os, sqlite3
connection = sqlite3.connect({str(folder / "user.db")!r}, isolation_level=None)
connection.execute("PRAGMA cache_size=1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE mark SET note = hex(randomblob(2000))")
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", code], check=False)
    assert (folder / "user.db-journal").stat().st_size > 512


def test_an_interrupted_commit_is_undone(tmp_path: Path) -> None:
    data = UserData.open(tmp_path)
    for number in range(100):
        data.add_mark(NewMark(Moment("a", number, number + 1), note="before"))
    hot_journal(tmp_path)
    assert {mark.note for mark in data.marks()} == {"before"}
    data.add_mark(NewMark(Moment("b", 0, 1)))
    assert user_faults(tmp_path) == []


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder that every user may enter, with a hundred marks."""
    folder = Path(tempfile.mkdtemp())
    data = UserData.open(folder)
    for number in range(100):
        data.add_mark(NewMark(Moment("a", number, number + 1), note="before"))
    folder.chmod(0o755)
    (folder / "user.db").chmod(0o644)
    yield folder
    folder.chmod(0o755)
    shutil.rmtree(folder)


def ask(folder: Path, what: str = "read") -> object:
    done = subprocess.run(
        [sys.executable, "-c", READER, str(folder), what], capture_output=True, text=True, check=True, timeout=60
    )
    return json.loads(done.stdout)


def test_a_user_without_write_permission_reads_and_is_told_at_a_write(home: Path) -> None:
    home.chmod(0o555)
    (home / "user.db").chmod(0o444)
    assert ask(home) == 100
    answer = str(ask(home, "write"))
    assert answer.startswith(f"{home / 'user.db'} cannot be written (")
    assert answer.endswith(
        "this user needs permission to write user.db and the library's folder, and the disk must not be read-only"
    )
    assert ask(home) == 100


def test_a_user_without_write_permission_reads_past_an_interrupted_commit(home: Path) -> None:
    hot_journal(home)
    before = (home / "user.db").read_bytes()
    (home / "user.db-journal").chmod(0o444)
    (home / "user.db").chmod(0o444)
    home.chmod(0o555)
    assert ask(home) == 100
    if os.geteuid() == 0:
        assert (home / "user.db").read_bytes() == before


def test_a_copy_that_cannot_be_made_is_a_sentence(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hot_journal(home)
    monkeypatch.setattr(database, "_READ_A_COPY", {sqlite3.SQLITE_BUSY})
    monkeypatch.setattr(tempfile, "tempdir", str(home / "gone"))
    busy = sqlite3.OperationalError("busy")
    busy.sqlite_errorcode = sqlite3.SQLITE_BUSY
    monkeypatch.setattr(database, "_begin_read", Mock(side_effect=busy))
    with pytest.raises(LibraryError, match=r"could not be .*set TMPDIR to another folder"):
        UserData.open(home).marks()


def test_a_file_that_may_not_be_read_is_a_sentence(home: Path) -> None:
    (home / "user.db").chmod(0)
    assert str(ask(home)).startswith(f"no permission to read {home / 'user.db'} (it belongs to ")


def test_a_new_file_is_for_all_users_of_the_library(tmp_path: Path) -> None:
    (tmp_path / "library.db").touch()
    (tmp_path / "library.db").chmod(0o664)
    if os.geteuid() == 0:
        os.chown(tmp_path / "library.db", 65534, 65534)
    before = os.umask(0o077)
    try:
        UserData.open(tmp_path).save_query("a", "b")
    finally:
        os.umask(before)
    found, wanted = (tmp_path / "user.db").stat(), (tmp_path / "library.db").stat()
    assert stat.S_IMODE(found.st_mode) == 0o664
    assert (found.st_uid, found.st_gid) == (wanted.st_uid, wanted.st_gid)


def test_a_full_disk_is_a_sentence_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files, in a process of its own, stands for the disk."""
    data = UserData.open(tmp_path)
    data.save_query("kept", "question")
    size = (tmp_path / "user.db").stat().st_size

    def limit() -> None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))

    code = WRITER.replace("for number", "from vfindex.storage.errors import LibraryError\nfor number")
    code = code.replace("    data.add_mark(", "    try: data.add_mark(").replace(
        "    print", "    except LibraryError as exc: sys.exit(str(exc))\n    print"
    )
    command = [sys.executable, "-c", code, str(tmp_path), "a", "1000"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, preexec_fn=limit)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "and run the same command again: nothing that was committed is lost" in done.stderr
    assert len(data.marks()) == len(done.stdout.splitlines())
    assert [each.name for each in data.saved_queries()] == ["kept"]


def test_a_file_that_a_repair_replaces_is_not_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = UserData.open(tmp_path)
    data.save_query("a", "b")
    connect, old = database.connect, tmp_path / "old.db"

    def replacing(path: Path, how: str) -> object:
        connection = connect(path, how)
        if not old.exists():
            path.rename(old)
            shutil.copy(old, path)
        return connection

    monkeypatch.setattr(database, "connect", replacing)
    data.save_query("c", "d")
    assert [each.name for each in data.saved_queries()] == ["a", "c"]


def test_a_network_folder_is_read_and_not_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = UserData.open(tmp_path)
    data.save_query("a", "b")
    monkeypatch.setattr("vfindex.storage.files.file_systems.file_system", lambda _: "nfs4")
    assert len(data.saved_queries()) == 1
    with pytest.raises(LibraryError, match="network file system"):
        data.save_query("c", "d")


@pytest.mark.parametrize("made", ["folder", "pipe"])
def test_what_is_no_file_is_refused(tmp_path: Path, made: str) -> None:
    path = tmp_path / "user.db"
    path.mkdir() if made == "folder" else os.mkfifo(path)
    with pytest.raises(LibraryError, match="is no file; move it away"):
        UserData.open(tmp_path).marks()


def test_the_schema_stays_within_the_first_page(tmp_path: Path) -> None:
    UserData.open(tmp_path).add_mark(NewMark(Moment("a", 0, 1)))
    with sqlite3.connect(tmp_path / "user.db") as connection:
        try:
            pages = connection.execute("SELECT count(*) FROM dbstat WHERE name = 'sqlite_schema'").fetchone()[0]
        except sqlite3.OperationalError as exc:
            pytest.skip(f"SQLite was built without dbstat: {exc}")
    assert pages == 1
