"""A rollback takes the removed paths along, and leaves a damaged model version."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.storage.db.sources import replace_exclusions, stored_exclusions
from vfindex.storage.index import model_versions
from vfindex.storage.library import Library
from vfindex.storage.maintenance.rollback import roll_back
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.settings_backup import read_backup
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a library with model versions 0 and 1, the later one in use."""
    with writing(tmp_path / "library") as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))])
        replace_exclusions(writer.catalog, [b"/videos/before"], "2026-01-01")
        writer.publish()
    shutil.copytree(tmp_path / "library", tmp_path / "copy")
    (tmp_path / "library" / "editions").mkdir()
    (tmp_path / "copy").rename(tmp_path / "library" / "editions" / "1")
    model_versions.put_in_use(tmp_path / "library", 1)
    return tmp_path / "library"


def test_removed_paths_go_along(folder: Path) -> None:
    with writing(folder) as writer:
        assert writer.folder == folder / "editions" / "1"
        replace_exclusions(writer.catalog, [b"/videos/after", b"/videos/before"], "2026-01-02")
    assert roll_back(folder) == folder
    with Library.open(folder).snapshot() as snapshot:
        assert stored_exclusions(snapshot) == (b"/videos/after", b"/videos/before")
    assert verify(Library.open(folder)).clean
    backup = read_backup(folder)
    assert backup is not None and [bytes.fromhex(each) for each in backup.exclusions] == [
        b"/videos/after",
        b"/videos/before",
    ]


def test_a_damaged_version_can_be_left(folder: Path) -> None:
    (folder / "editions" / "1" / "library.db").write_bytes(b"no database " * 1000)
    assert roll_back(folder) == folder
    with Library.open(folder).snapshot() as snapshot:
        assert stored_exclusions(snapshot) == (b"/videos/before",)
