"""Model versions in one folder: which is in use, switching, rollback, and deletion."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.errors import LibraryDamaged, LibraryError, LibraryLocked, LibraryNotFound
from vfindex.storage.index import model_versions
from vfindex.storage.index.model_versions import (
    COMPLETE,
    discard,
    history,
    in_use,
    put_in_use,
    roll_back,
    unused,
    version_folder,
)
from vfindex.storage.library import Library
from vfindex.storage.maintenance import rollback
from vfindex.storage.migration import FORMER, NEW
from vfindex.storage.writer import locked, writing


def make(folder: Path, *names: str) -> None:
    """Make a model version, or add videos to it."""
    with writing(folder) as writer:
        if writer.setup() is None:
            install(writer)
        for name in names:
            add_video(writer, name, [clip(visual=axis(1))])
        writer.publish()


def titles(folder: Path) -> list[str]:
    with Library.open(folder).snapshot() as snapshot:
        return [video.title for video in snapshot.videos()]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library of which version 0 has one video, version 1 two and version 2 three."""
    folder = tmp_path_factory.mktemp("made") / "lib"
    make(folder, "a")
    make(version_folder(folder, 1), "a", "b")
    make(version_folder(folder, 2), "a", "b", "c")
    return folder


@pytest.fixture
def folder(tmp_path: Path, made: Path) -> Path:
    """Return a copy of `made` that a test may change."""
    return Path(shutil.copytree(made, tmp_path / "lib"))


def test_a_library_without_a_pointer_is_its_first_version(folder: Path) -> None:
    assert (history(folder), in_use(folder), unused(folder)) == ([0], folder, [1, 2])
    assert titles(folder) == ["a"]


def test_the_way_there_and_back(folder: Path) -> None:
    put_in_use(folder, 1)
    assert (history(folder), unused(folder), titles(folder)) == ([1, 0], [0, 2], ["a", "b"])
    put_in_use(folder, 2)
    assert (history(folder), titles(folder)) == ([2, 1, 0], ["a", "b", "c"])
    assert [roll_back(folder), roll_back(folder)] == [1, 0]
    assert titles(folder) == ["a"]
    with pytest.raises(LibraryError, match="no model version before this one"):
        roll_back(folder)
    put_in_use(folder, 2)
    assert (history(folder), roll_back(folder)) == ([2, 0], 0)


def test_readers_and_writers_use_the_version_in_use(folder: Path) -> None:
    library = Library.open(folder)
    assert library.is_in_use()
    put_in_use(folder, 2)
    assert not library.is_in_use()
    make(folder, "d")
    assert titles(folder) == ["a", "b", "c", "d"]
    with library.snapshot() as snapshot:  # who has the old one open goes on reading it
        assert [video.title for video in snapshot.videos()] == ["a"]


def test_a_swap_cut_short_before_its_rename_changes_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(LibraryError, match=r"has not changed: see to the disk"):
            put_in_use(folder, 1)
    assert (history(folder), titles(folder)) == ([0], ["a"])
    put_in_use(folder, 1)
    assert history(folder) == [1, 0]


def test_the_pointer_is_on_the_disk_before_it_counts(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, replace = os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda number: (order.append("sync"), fsync(number))[1])
    monkeypatch.setattr(Path, "replace", lambda path, to: (order.append("rename"), replace(path, to))[1])
    put_in_use(folder, 1)
    assert order == ["sync", "rename", "sync"]


def test_a_pointer_that_is_none_is_refused(tmp_path: Path) -> None:
    for text in ("", "\n", "editions/0", "editions/../..", "/etc", "editions/01", "1", ".\n.", "editions/1\n..", "\0"):
        (tmp_path / "current").write_text(text)
        for attempt in (Library.open, lambda folder: writing(folder).__enter__(), roll_back):
            with pytest.raises(LibraryDamaged, match="which model version of the library is in use"):
                attempt(tmp_path)


def finish(folder: Path, number: int) -> None:
    """Mark a version as an upgrade does that is complete, before it puts it in use."""
    with writing(version_folder(folder, number)) as writer:
        writer.catalog.put(COMPLETE, "1")


def refuse(folder: Path, sentence: str) -> None:
    """Check that neither readers and writers go on, nor what deletes or returns to a version."""
    before = sorted(folder.rglob("library.db"))
    for attempt in (Library.open, lambda folder: writing(folder).__enter__(), rollback.discard, rollback.roll_back):
        with pytest.raises(LibraryDamaged) as raised:
            attempt(folder)
        assert str(raised.value) == sentence
    assert sorted(folder.rglob("library.db")) == before


def test_a_lost_pointer_is_damage(folder: Path) -> None:
    put_in_use(folder, 0)
    finish(folder, 1)
    put_in_use(folder, 1)
    (folder / "current").unlink()
    lost = f"{folder / 'current'} is missing, which says which model version of the library is in use; write into it "
    refuse(folder, lost + "`.`, `editions/1` or `editions/2`")
    (folder / "current").write_text("editions/1\n")
    assert titles(folder) == ["a", "b"]
    discard(folder, [0, 2])
    (folder / "current").unlink()
    refuse(folder, lost + "`editions/1`")
    (folder / "current").write_text(".\n")
    refuse(
        folder, f"{folder / 'current'} names `.`, which holds no library; put it back, or write into it `editions/1`"
    )


def test_a_lost_pointer_is_damage_where_no_version_can_be_read(folder: Path) -> None:
    finish(folder, 1)
    (version_folder(folder, 1) / "library.db").write_bytes(b"no database " * 1000)
    with pytest.raises(LibraryDamaged, match=r"current is missing"):
        in_use(folder)
    (version_folder(folder, 1) / "library.db").unlink()  # its library.json is left
    with pytest.raises(LibraryDamaged, match=r"current is missing"):
        in_use(folder)
    (version_folder(folder, 1) / "library.json").unlink()
    assert in_use(folder) == folder


def test_an_upgrade_that_has_just_begun_needs_no_pointer(folder: Path) -> None:
    """As one of an earlier vfindex, which wrote the pointer at the end."""
    version_folder(folder, 3).mkdir()
    version_folder(folder, 4).mkdir()
    (version_folder(folder, 4) / "library.db").touch()
    assert (in_use(folder), unused(folder)) == (folder, [1, 2, 3, 4])
    for name in ("library.db", "library.json"):
        (folder / name).unlink()
    with pytest.raises(LibraryDamaged, match=r"current is missing"):  # no upgrade deletes the version that it reads
        in_use(folder)


def test_a_version_that_is_gone_is_named(folder: Path) -> None:
    put_in_use(folder, 2)
    for name in ("library.db", "library.json"):
        (version_folder(folder, 2) / name).unlink()
    with pytest.raises(LibraryDamaged, match="names `editions/2`, which holds no library"):
        Library.open(folder)
    with pytest.raises(LibraryDamaged), writing(folder):
        pass
    assert not (version_folder(folder, 2) / "library.db").exists()
    assert roll_back(folder) == 0


def test_no_library_is_still_said_so(tmp_path: Path) -> None:
    with pytest.raises(LibraryNotFound, match="there is no library in"):
        Library.open(tmp_path)
    (tmp_path / "file").write_text("")
    with pytest.raises(LibraryNotFound):
        Library.open(tmp_path / "file")


def test_discarding_the_first_version_keeps_the_rest(folder: Path) -> None:
    put_in_use(folder, 1)
    (folder / "notes.txt").write_text("of the user")
    assert discard(folder, [0, 2]) > 0
    assert (history(folder), unused(folder), titles(folder)) == ([1], [], ["a", "b"])
    assert sorted(path.name for path in folder.iterdir()) == ["current", "editions", "lock", "notes.txt"]
    with pytest.raises(LibraryError, match="no model version before this one"):
        roll_back(folder)


def test_discarding_the_first_version_deletes_what_its_migration_left(folder: Path) -> None:
    put_in_use(folder, 1)
    beside = [folder / NEW, folder / FORMER, folder / f"{FORMER}-wal", folder / "library.db.repaired"]
    for path in beside:
        path.write_bytes(b"rows")
    (folder / "user.db").write_bytes(b"marks")
    discard(folder, [0])
    assert sorted(path.name for path in folder.iterdir()) == ["current", "editions", "lock", "user.db"]


def test_the_version_in_use_is_never_discarded(folder: Path) -> None:
    for number in (0, 1):
        put_in_use(folder, number)
        with pytest.raises(LibraryError, match=f"model version {number} is in use"):
            discard(folder, [number])
    assert titles(folder) == ["a", "b"]


def test_a_discarding_cut_short_leaves_no_half_version(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(path: Path) -> int:
        raise PermissionError(13, "Permission denied", str(path))

    with monkeypatch.context() as patch:
        patch.setattr(model_versions, "_delete", fail)
        with pytest.raises(LibraryError, match="Permission denied"):
            discard(folder, [1])
    assert unused(folder) == [2]
    assert discard(folder, []) > 0
    assert sorted(path.name for path in (folder / "editions").iterdir()) == ["2"]


def test_two_versions_are_written_at_once_but_not_one_twice(folder: Path) -> None:
    put_in_use(folder, 1)
    with writing(version_folder(folder, 2)), writing(folder):
        for busy in (folder, version_folder(folder, 1), version_folder(folder, 2)):
            with pytest.raises(LibraryLocked), locked(busy):
                pass
