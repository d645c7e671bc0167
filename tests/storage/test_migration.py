"""The migration by copy: killed, without room, with readers, and of a damaged library."""

from __future__ import annotations

import os
import random
import resource
import shutil
import signal
import sqlite3
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from old_libraries import BEFORE_FRAMES, BEFORE_TRACKS, FIRST, stored

from vfindex.storage import migration
from vfindex.storage.db import engine
from vfindex.storage.errors import LibraryChanged, LibraryDamaged, LibraryError
from vfindex.storage.library import Library
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.migration import FORMER, NEW
from vfindex.storage.settings_backup import INODE
from vfindex.storage.writer import writing

# Steps of SQLite's virtual machine between two instants at which a migration may be killed.
STEPS = 20
KILLS = 10


@pytest.fixture
def library(tmp_path: Path) -> Path:
    """Return a library from before the copy: four videos, one of them staged, another missing."""
    return stored(BEFORE_FRAMES, tmp_path / "library")


def contents(folder: Path) -> list[Any]:
    """Return what a reader finds."""
    with Library.open(folder).snapshot() as snapshot:
        ids = snapshot.clip_ids(searchable=False)
        vectors = {
            id_: (
                {m: v.tolist() for m, v in each.embeddings.items()},
                each.frames.tolist(),
                each.frame_times_s.tolist(),
            )
            for id_, each in snapshot.vectors(ids).items()
        }
        videos = snapshot.videos()
        found = [(match.video_id, match.text) for match in snapshot.words.match(["street"], 5)]
        return [videos, vectors, [snapshot.segments(video.id) for video in videos], found, snapshot.generation()]


def rows(folder: Path) -> dict[str, list[Any]]:
    """Return table -> its rows, without the times of migrations and the inode of the file."""
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        tables = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table' ORDER BY 1").fetchall()
        names = [name for (name,) in tables if name != "migration"]
        found = {name: sorted(map(repr, connection.execute(f"SELECT * FROM {name}"))) for name in names}
    return found | {"meta": [row for row in found["meta"] if not row.startswith(f"('{INODE}'")]}


def migrations_of(folder: Path) -> list[Any]:
    with closing(sqlite3.connect(folder / "library.db")) as connection:
        return connection.execute("SELECT * FROM migration").fetchall()


def migrated(folder: Path) -> Path:
    with writing(folder):
        pass
    return folder


class Clock:
    """Counts the instants of a process: every STEPS of a statement, every file that is opened, linked or renamed."""

    def __init__(self, at_instant: Callable[[int], None]) -> None:
        self.now = 0
        self._at_instant = at_instant
        connect = sqlite3.connect

        def connected(*arguments: Any, **options: Any) -> sqlite3.Connection:
            connection = connect(*arguments, **options)
            connection.set_progress_handler(self.tick, STEPS)
            return connection

        sqlite3.connect = connected  # type: ignore[assignment]
        sys.addaudithook(
            lambda event, _: self.tick() if event in ("open", "os.link", "os.rename", "os.remove") else None
        )

    def tick(self) -> int:
        self.now += 1
        self._at_instant(self.now)
        return 0


def in_a_child(work: Callable[[], None]) -> int:
    """Run `work` in a process of its own; return its exit status, negative for a signal."""
    child = os.fork()
    if child == 0:
        status = 1
        try:
            work()
            status = 0
        finally:
            os._exit(status)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def instants(folder: Path) -> int:
    """Return how many instants a migration of a copy of `folder` has."""
    copy = shutil.copytree(folder, folder.with_name("counted"))
    reading, writing_ = os.pipe()

    def work() -> None:
        clock = Clock(lambda _: None)
        migrated(copy)
        os.write(writing_, str(clock.now).encode())

    assert in_a_child(work) == 0
    os.close(writing_)
    with os.fdopen(reading) as pipe:
        return int(pipe.read())


def killed_at(folder: Path, instant: int) -> int:
    """Migrate in a process that is killed at an instant; return its exit status."""

    def work() -> None:
        Clock(lambda now: os.kill(os.getpid(), signal.SIGKILL) if now == instant else None)
        migrated(folder)

    return in_a_child(work)


@pytest.fixture
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(migration, "BATCH_ROWS", 1)
    monkeypatch.setattr(migration, "BATCH_VECTORS", 1)


@pytest.mark.usefixtures("small_batches")
def test_a_migration_killed_at_random_instants_ends_equal(library: Path, tmp_path: Path) -> None:
    before, last = contents(library), instants(library)
    whole = migrated(shutil.copytree(library, tmp_path / "whole"))
    chance, resumed = random.Random(0), 0
    for instant in sorted(chance.sample(range(1, last), KILLS)):
        assert killed_at(library, instant) in (0, -signal.SIGKILL)
        resumed += (library / NEW).exists()
        assert contents(library) == before
    assert resumed > 1
    migrated(library)
    assert contents(library) == before
    assert rows(library) == rows(whole)
    assert verify(Library.open(library)).clean
    assert not (library / FORMER).exists() and not (library / NEW).exists()


@pytest.mark.usefixtures("small_batches")
@pytest.mark.parametrize("share", [0.1, 0.3, 0.5, 0.7, 0.8, 0.9, 0.95, 0.98, 0.99])
def test_a_migration_killed_once_goes_on(share: float, library: Path, tmp_path: Path) -> None:
    before, whole = contents(library), migrated(shutil.copytree(library, tmp_path / "whole"))
    assert killed_at(library, int(share * instants(library))) == -signal.SIGKILL
    assert contents(library) == before
    assert rows(migrated(library)) == rows(whole)


@pytest.mark.usefixtures("small_batches")
def test_a_library_changed_after_a_kill_is_copied_from_the_beginning(library: Path) -> None:
    assert killed_at(library, instants(library) // 2) == -signal.SIGKILL
    assert (library / NEW).exists()
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("UPDATE video SET title = 'woods', seal = NULL WHERE id = 1")
    migrated(library)
    assert contents(library)[0][0].title == "woods"


def test_rows_that_a_killed_migration_left_wrong_are_copied_again(library: Path) -> None:
    before = contents(library)
    with patch.object(migration, "_finish", side_effect=KeyboardInterrupt), pytest.raises(KeyboardInterrupt):
        migrated(library)
    with closing(sqlite3.connect(library / NEW)) as connection, connection:
        connection.execute("UPDATE frame SET vectors = zeroblob(length(vectors)) WHERE clip_id = 2")
    migrated(library)
    assert contents(library) == before


def test_the_old_library_is_kept_until_a_run_has_succeeded(library: Path) -> None:
    before = rows(library)
    with pytest.raises(RuntimeError), writing(library):
        raise RuntimeError
    (library / "other").mkdir()
    shutil.copy(library / FORMER, library / "other" / "library.db")
    assert rows(library / "other") == before
    migrated(library)
    assert not (library / FORMER).exists()


@pytest.mark.parametrize("version", [FIRST, BEFORE_TRACKS, BEFORE_FRAMES])
def test_a_library_without_room_for_a_copy_stands(
    version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    library = stored(version, tmp_path / "library")
    before, applied = rows(library), migrations_of(library)
    monkeypatch.setattr(migration, "least_room", lambda folders: (folders[0], 50_000))
    with pytest.raises(
        LibraryError,
        match=r"free 0\.[12] MB in .*, which has 0\.1 MB left, .* nothing has been changed, and searches go on",
    ):
        migrated(library)
    assert rows(library) == before
    assert migrations_of(library) == applied
    assert not (library / NEW).exists()


def test_a_database_elsewhere_is_not_left_there(library: Path, tmp_path: Path) -> None:
    before = contents(library)
    elsewhere = (library / "library.db").rename(tmp_path / "elsewhere.db")
    (library / "library.db").symlink_to(elsewhere)
    with pytest.raises(LibraryError, match=r"is a symbolic link, .* link its folder: nothing has been changed"):
        migrated(library)
    assert contents(library) == before
    elsewhere.rename(library / "library.db")
    assert contents(migrated(library)) == before


def test_a_disk_that_fills_up_leaves_the_library_as_it_was(library: Path) -> None:
    before = contents(library)
    with at_most(100_000), pytest.raises(LibraryError, match="free some space"):
        migrated(library)
    assert contents(library) == before
    assert not (library / NEW).exists()
    assert contents(migrated(library)) == before


@contextmanager
def at_most(bytes_: int) -> Iterator[None]:
    """Let no file of this process grow beyond so many bytes inside this block."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (bytes_, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_a_reader_held_open_follows(library: Path) -> None:
    opened, before = Library.open(library), contents(library)
    with opened.snapshot() as snapshot:
        migrated(library)
        assert snapshot.videos() == before[0]
        assert len(snapshot.vectors([1])[1].frames) == 1
    with opened.snapshot() as snapshot:
        assert snapshot.get("min_reader") == "6"
        assert snapshot.videos() == before[0]
    assert contents(library) == before


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE embedding SET frames = zeroblob(length(frames)) WHERE clip_id = 1 AND modality = 'visual'",
        "UPDATE embedding SET vector = zeroblob(length(vector)) WHERE clip_id = 1",
        "UPDATE embedding SET frames = x'00' WHERE clip_id = 1 AND modality = 'visual'",
        "UPDATE embedding SET frames = CAST(x'ff80' AS TEXT) WHERE clip_id = 1 AND modality = 'visual'",
        "UPDATE embedding SET vector = CAST(x'ff80' AS TEXT) WHERE clip_id = 1",
        "DELETE FROM embedding WHERE clip_id = 1 AND modality = 'visual'",
        "UPDATE video SET title = 'woods' WHERE id = 1",
    ],
)
def test_damage_is_still_damage_afterwards(damage: str, library: Path) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute(damage)
    assert verify(Library.open(library)).redo == [b"/videos/forest"]
    assert verify(Library.open(migrated(library))).redo == [b"/videos/forest"]


def test_a_row_that_no_table_takes_is_a_sentence(library: Path) -> None:
    with closing(sqlite3.connect(library / "library.db")) as connection, connection:
        connection.execute("PRAGMA ignore_check_constraints=ON")
        connection.execute("UPDATE video SET state = 'garbage' WHERE id = 1")
    with pytest.raises(LibraryDamaged, match=r"is damaged \(CHECK constraint failed.*run: vfindex verify"):
        migrated(library)
    assert not (library / NEW).exists()


def test_a_reader_without_locks_follows(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a network file system, which the writer has as a local one."""
    before = contents(library)
    monkeypatch.setattr(engine, "is_on_shared", lambda _: True)
    opened = Library.open(library)
    with pytest.raises(LibraryChanged), opened.snapshot() as snapshot:
        assert snapshot.videos() == before[0]
        migrated(library)
    with opened.snapshot() as snapshot:
        assert snapshot.get("min_reader") == "6"
        assert snapshot.videos() == before[0]


def test_what_is_removed_at_once_stays_in_no_file(library: Path) -> None:
    """The old file is kept until the run has succeeded, but not with what that run removes."""
    assert any(b"nightingale" in path.read_bytes() for path in library.iterdir() if path.is_file())
    with writing(library) as writer:
        assert (library / FORMER).exists()
        writer.catalog.remove(b"/videos/forest")
        writer.scrub()
        assert not (library / FORMER).exists()
    assert not any(b"nightingale" in path.read_bytes() for path in library.iterdir() if path.is_file())
