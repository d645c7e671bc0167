"""Readers without write or read permission: an undamaged library is read or refused, and never called damaged.

The reader is a process of another user where these tests run as root; else of the same, with the modes in its way.
"""

from __future__ import annotations

import json
import os
import shutil
import sqlite3
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
from library_maker import PICTURE, add_video, axis, clip, install

from vfindex.storage.errors import LibraryError
from vfindex.storage.files.permissions import refuse_unreadable
from vfindex.storage.index.model_versions import put_in_use, version_folder
from vfindex.storage.maintenance.repair import salvage_database
from vfindex.storage.writer import writing

READER = """
import json, os, shutil, sys, tempfile
from pathlib import Path
from vfindex.storage.encoders import text  # imported late by verify, and not to be found by another user
from vfindex.storage.errors import VfindexError
from vfindex.storage.library import Library, again_if_changed
from vfindex.storage.maintenance.verify import verify

folder, spare = map(Path, sys.argv[1:])
verify(Library.open(spare))  # all else that is imported late
if os.geteuid() == 0 and "--root" not in os.environ.get("READER", ""):
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
library = None

def count():
    global library
    library = library or Library.open(folder)
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
        library.load_index(generation)
        return [len(snapshot.clip_ids()), generation.clips]

@again_if_changed
def slow():
    global library
    library = library or Library.open(folder)
    with library.snapshot() as snapshot:
        found = len(snapshot.clip_ids())
        print("waiting", flush=True)
        sys.stdin.readline()
        return found

def check():
    found = verify(Library.open(folder))
    return [found.problems, found.notes]

for line in sys.stdin:
    try:
        answer = {"count": count, "slow": slow, "verify": check}[line.strip()]()
    except VfindexError as exc:
        answer = f"{type(exc).__name__}: {exc}"
    print(json.dumps(answer), flush=True)
"""


class Reader:
    """A process that reads the library when it is asked to."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def ask(self, what: str) -> Any:
        return json.loads(self.tell(what))

    def tell(self, line: str) -> str:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(line + "\n")
        self._process.stdin.flush()
        return self._process.stdout.readline()


@contextmanager
def reader(folder: Path, spare: Path, before: Sequence[str] = (), *, root: bool = False) -> Iterator[Reader]:
    environment = os.environ | {"READER": "--root" if root else ""}
    command = [*before, sys.executable, "-c", READER, str(folder), str(spare)]
    process = subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    with process:
        yield Reader(process)
        assert process.stdin is not None
        process.stdin.close()


@pytest.fixture
def home() -> Iterator[Path]:
    """Return a folder that every user may enter, with a published library of two clips and a spare copy of it."""
    place = Path(tempfile.mkdtemp())
    place.chmod(0o755)
    folder = place / "library"
    with writing(folder) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o755 if path.is_dir() else 0o644)
    shutil.copytree(folder, place / "spare")
    try:
        yield place
    finally:
        for path in (place, *place.rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)
        shutil.rmtree(place)


def grow(folder: Path, name: str) -> None:
    """Add a video of one clip and publish, as a nightly run does; the log is moved into the database at its end."""
    folder.chmod(0o755)
    with writing(folder) as writer:
        add_video(writer, name, [clip(visual=axis(3))] * 1)
        writer.publish()
    folder.chmod(0o555)


def test_a_reader_without_write_permission_follows_a_writer(home: Path) -> None:
    """It was told that the database is malformed from the first publication on."""
    folder = home / "library"
    folder.chmod(0o555)
    with reader(folder, home / "spare") as other:
        assert other.ask("count") == [2, 2]
        for number in range(3, 6):
            grow(folder, f"more {number}")
            assert other.ask("count") == [number, number]
        assert other.ask("verify") == [[], []]


def test_a_reader_without_write_permission_follows_an_open_writer(home: Path) -> None:
    folder = home / "library"
    with reader(folder, home / "spare") as other, writing(folder) as writer:
        for path in folder.iterdir():
            path.chmod(path.stat().st_mode | 0o444)
        assert other.ask("count") == [2, 2]
        add_video(writer, "c", [clip(visual=axis(2))])
        assert other.ask("count") == [3, 2]
        writer.publish()
        assert other.ask("count") == [3, 3]


def test_changes_under_a_snapshot_are_read_again(home: Path) -> None:
    folder = home / "library"
    folder.chmod(0o555)
    with reader(folder, home / "spare") as other:
        assert other.tell("slow") == "waiting\n"
        grow(folder, "c")
        assert other.tell("go on") == "waiting\n"
        assert other.ask("go on") == 3
        assert other.tell("slow") == "waiting\n"
        grow(folder, "d")
        assert other.tell("go on") == "waiting\n"
        grow(folder, "e")
        assert other.ask("go on").startswith("LibraryChanged: the library was changed while it was read")
        assert other.ask("count") == [5, 5]


def test_a_log_without_shared_memory_is_read_where_nothing_can_be_written(home: Path) -> None:
    """As in a backup, or after a kill and a restart; it was advised to make the library again."""
    folder, copy = home / "library", home / "copy"
    with writing(folder) as writer:
        add_video(writer, "c", [clip(visual=axis(2))])
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("*-shm"))
    assert (copy / "library.db-wal").stat().st_size > 0
    for path in (copy, *copy.rglob("*")):
        path.chmod(0o555 if path.is_dir() else 0o444)
    with reader(copy, home / "spare") as other:
        assert other.ask("count") == [3, 2]
        assert other.ask("verify")[0] == []
    assert not (copy / "library.db-shm").exists()


@pytest.mark.parametrize("name", ["library.db", "library.db-wal", ".", "index", "editions", "editions/1/library.db"])
def test_a_missing_permission_is_a_sentence_and_not_damage(home: Path, name: str) -> None:
    folder = home / "library"
    if name == "library.db-wal":
        (folder / name).touch()
    if name.startswith("editions"):  # of an upgrade by an earlier version, which writes no `current` at first
        (folder / "editions" / "1").mkdir(parents=True)
        (folder / "editions" / "1" / "library.db").touch()
    closed = folder / name if name != "index" else next((folder / "index").iterdir())
    closed.chmod(0)
    with reader(folder, home / "spare") as other:
        for what in ("count", "verify"):
            answer = other.ask(what)
            assert answer.startswith(f"LibraryError: no permission to read {closed} (it belongs to ")
            assert answer.endswith("mode 0000); ask its owner for access, or run the command as that user")
        closed.chmod(0o755 if closed.is_dir() else 0o644)
        assert other.ask("count") == [2, 2]


def test_thumbnails_that_may_not_be_read_do_not_matter(home: Path) -> None:
    folder = home / "library"
    (folder / "thumbs").chmod(0)
    with reader(folder, home / "spare") as other:
        assert other.ask("count") == [2, 2]
        note = f"no permission to read {folder / 'thumbs'}; the thumbnails were not checked"
        assert other.ask("verify") == [[], [note]]


def test_a_read_only_mount_whose_host_writes(home: Path) -> None:
    """As a container has it: even root cannot write here, and the host does."""
    folder, mount = home / "library", home / "mount"
    mount.mkdir()
    script = f"mount --bind '{folder}' '{mount}' && mount -o remount,ro,bind '{mount}' && exec \"$@\""
    before = ["unshare", "-m", "sh", "-c", script, "sh"]
    if (
        shutil.which("unshare") is None
        or subprocess.run([*before, "true"], capture_output=True, check=False).returncode
    ):
        pytest.skip("this user may not make a mount of its own")
    with reader(mount, home / "spare", before, root=True) as other:
        assert other.ask("count") == [2, 2]
        grow(folder, "c")
        assert other.ask("count") == [3, 3]
        with writing(folder) as writer:
            add_video(writer, "d", [clip(visual=axis(2))])
            assert other.ask("count") == [4, 3]
        assert other.ask("verify")[0] == []


def test_files_of_a_private_user_are_for_all_users_of_the_library(home: Path, tmp_path: Path) -> None:
    """Under umask 077 the index, the thumbnails and the query encoders were for their maker alone."""
    folder, model = home / "library", tmp_path / "model"
    model.mkdir()
    (model / "meta.json").write_text("{}")
    (model / "meta.json").chmod(0o600)
    folder.chmod(0o2775)
    (folder / "library.db").chmod(0o664)
    if os.geteuid() == 0:
        for path in (folder, folder / "library.db"):
            os.chown(path, 65534, 65534)
    library, database = folder.stat(), (folder / "library.db").stat()
    for path in folder.iterdir():  # what is made below is made by the private user
        if path.name != "library.db":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    before = os.umask(0o077)
    try:
        write_all(folder, model)
    finally:
        os.umask(before)
    made = [path for path in folder.rglob("*") if path.name != "library.db-shm"]
    names = {path.relative_to(folder).as_posix() for path in made}
    assert {"lock", "current", "index", "thumbs/pi/pic.webp", "query/new/meta.json", "editions/1/lock"} <= names
    assert {"editions/1/library.db", "editions/1/index/00000001.joint"} <= names
    for path in made:
        found, wanted = path.stat(), library if path.is_dir() else database
        mode = wanted.st_mode if path.is_dir() else stat.S_IFREG | 0o664
        assert (path, oct(found.st_mode), found.st_gid) == (path, oct(mode), wanted.st_gid)
        assert found.st_uid == wanted.st_uid
    assert stat.S_IMODE((model / "meta.json").stat().st_mode) == 0o600  # the user's own cache stays as it was


def write_all(folder: Path, model: Path) -> None:
    """Write every kind of file that a library has: into the library, into a model version, and by a repair."""
    with writing(folder) as writer:
        writer.write_thumbnail("pic.webp", PICTURE)
        writer.renew_query_encoders({"new": model})
        add_video(writer, "c", [clip(visual=axis(2))])
        for path in (folder / "library.db-wal", folder / "library.db-shm"):
            assert stat.S_IMODE(path.stat().st_mode) == 0o664
        writer.publish()
    with writing(version_folder(folder, 1)) as writer:
        install(writer, {"new": model})
        add_video(writer, "c", [clip(visual=axis(2))])
        writer.publish()
    put_in_use(folder, 1)
    put_in_use(folder, 0)
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        [(page,)] = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'segment'").fetchall()
    with (folder / "library.db").open("rb+") as file:
        file.seek(4096 * (page - 1))
        file.write(b"\xff" * 4096)
    assert salvage_database(folder) is not None


def test_a_link_to_itself_is_not_a_database(tmp_path: Path) -> None:
    for name in ("library.db", "library.db-wal"):
        (tmp_path / name).symlink_to(name)
        with pytest.raises(LibraryError, match="is no file; move it away"):
            refuse_unreadable(tmp_path / name)


def test_a_log_that_appears_meanwhile_is_no_fault(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = tmp_path / "library.db-shm"
    for name in ("stat", "lstat"):
        real = getattr(os, name)

        def late(path: Any, real: Any = real, **options: Any) -> os.stat_result:
            try:
                return real(path, **options)
            finally:
                log.touch()

        monkeypatch.setattr(os, name, late)
    refuse_unreadable(log)
    assert log.exists()
