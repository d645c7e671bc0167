"""Readers on network file systems: no locks, no shared memory, no mapped files; simulated by the file system's type."""

from __future__ import annotations

import errno
import gc
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.db import engine
from vfindex.storage.db.engine import opening
from vfindex.storage.errors import IndexUnusable, LibraryChanged, LibraryNotFound
from vfindex.storage.files import file_systems
from vfindex.storage.index import file_format
from vfindex.storage.library import Library
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a published library of two clips; readers take it for one on NFS, the writer for a local one."""
    made = tmp_path / "library"
    with writing(made) as writer:
        install(writer)
        for number, name in enumerate(("a", "b")):
            add_video(writer, name, [clip(visual=axis(number))])
        writer.publish()
    for module in (engine, file_format):
        monkeypatch.setattr(module, "is_on_shared", lambda _: True)
    return made


def test_the_type_of_the_file_system_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for kind, is_shared in (("nfs4", True), ("ext4", False), ("fuse.sshfs", True)):
        file_systems._is_device_shared.cache_clear()
        monkeypatch.setattr(file_systems, "file_system", lambda _, kind=kind: kind)
        assert file_systems.is_on_shared(tmp_path) == is_shared
    file_systems._is_device_shared.cache_clear()
    assert not file_systems.is_on_shared(tmp_path / "missing")


def test_commits_of_a_writer_elsewhere_are_followed_without_locks(folder: Path) -> None:
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 2
    with writing(folder) as writer:
        for number in range(3, 8):
            add_video(writer, f"more {number}", [clip(visual=axis(number))])
            assert not opening(folder / "library.db").is_locked
            with library.snapshot() as snapshot:
                assert len(snapshot.clip_ids()) == number
        writer.publish()
        with library.snapshot() as snapshot:
            generation = snapshot.generation()
            assert generation is not None and generation.clips == 7
            assert len(library.open_index(generation)) == 7


def test_a_commit_does_not_disturb_a_snapshot(folder: Path) -> None:
    """Every commit during a read was a failure, so that no search ended while videos were indexed."""
    library = Library.open(folder)
    with writing(folder) as writer:
        add_video(writer, "c", [clip(visual=axis(2))])
        with library.snapshot() as snapshot:
            assert len(snapshot.clip_ids()) == 3
            add_video(writer, "d", [clip(visual=axis(3))])
            assert len(snapshot.clip_ids()) == 3
        with library.snapshot() as snapshot:
            assert len(snapshot.clip_ids()) == 4


def test_a_checkpoint_under_a_snapshot_is_told(folder: Path) -> None:
    library = Library.open(folder)
    with writing(folder) as writer:
        add_video(writer, "c", [clip(visual=axis(2))])
        with pytest.raises(LibraryChanged), library.snapshot() as snapshot:
            snapshot.clip_ids()
            writer.checkpoint()


def test_a_file_replaced_under_a_snapshot_is_told(folder: Path, tmp_path: Path) -> None:
    library = Library.open(folder)
    with pytest.raises(LibraryChanged), library.snapshot() as snapshot:
        snapshot.clip_ids()
        shutil.copy2(folder / "library.db", tmp_path / "copy")
        os.replace(tmp_path / "copy", folder / "library.db")
    with library.snapshot() as snapshot:
        assert len(snapshot.clip_ids()) == 2


def test_the_joint_index_is_read_and_not_mapped(folder: Path) -> None:
    """A mapped file that the server deletes ends the process at its next page fault."""
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    index = library.open_index(generation)
    base = index.segments[0].rows
    while isinstance(base, np.ndarray):
        assert not isinstance(base, np.memmap)
        base = base.base
    os.truncate(folder / "index" / generation.file, 0)
    assert index.nearest(axis(0, index.dim)[None], 2)[0].shape == (1, 2)


def test_a_stale_handle_is_no_damage(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None

    def stale(*_: object) -> None:
        raise OSError(errno.ESTALE, os.strerror(errno.ESTALE))

    monkeypatch.setattr(file_format, "regular", stale)
    with pytest.raises(IndexUnusable, match="cannot be read"):
        library.open_index(generation)


def test_a_library_that_is_gone_is_a_sentence(folder: Path) -> None:
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        snapshot.clip_ids()
    folder.rename(folder.with_name("moved"))
    with pytest.raises(LibraryNotFound, match="any more; if it was moved"):
        library.snapshot()


@pytest.mark.parametrize("is_remote", [True, False])
def test_files_of_a_reader_do_not_grow_in_number(
    folder: Path, monkeypatch: pytest.MonkeyPatch, is_remote: bool
) -> None:
    for module in (engine, file_format):
        monkeypatch.setattr(module, "is_on_shared", lambda _: is_remote)
    library, counts = Library.open(folder), []
    for number in range(12):
        with writing(folder) as writer:
            add_video(writer, f"more {number}", [clip(visual=axis(2))])
            writer.publish()
        with library.snapshot() as snapshot:
            generation = snapshot.generation()
            assert generation is not None and len(library.open_index(generation)) == 3 + number
        gc.collect()
        counts.append(len(os.listdir("/proc/self/fd")))
    assert max(counts[2:]) <= counts[1]
