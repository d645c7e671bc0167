"""Every writer stores checksums, and a database that lost commits is reported."""

from __future__ import annotations

import shutil
import tracemalloc
from pathlib import Path

import pytest
from library_maker import SETUP, add_video, axis, clip, install
from sqlalchemy import text

from vfindex.storage.db.integrity import SEAL, SEALED, broken_settings
from vfindex.storage.errors import LibraryDamaged
from vfindex.storage.library import Library
from vfindex.storage.maintenance.damage import damaged_videos
from vfindex.storage.maintenance.repair import salvage_database
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.records import Document, Segment
from vfindex.storage.writer import Writer, writing


def add(writer: Writer, name: str, clips: int = 2) -> None:
    said = [Segment(1.0, 2.0, f"words of {name}", "sidecar")]
    add_video(writer, name, [clip(n, n + 1, visual=axis(n % 8)) for n in range(clips)], said, [Document("title", name)])


def test_every_row_is_sealed_whoever_writes_it(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add(writer, "a")
        writer.catalog.put("asr", "1")
        writer.catalog.put("asr", "0")
        writer.catalog.mark_missing([b"/videos/a"])
        writer.catalog.restore_missing([b"/videos/a"])
        writer.catalog.retitle(1, "another", [Document("title", "another")], axis(2))
        writer.publish()
        with writer.catalog.transaction() as connection:
            for table in SEALED:
                open_rows = connection.execute(text(f"SELECT count(*) FROM {table.name} WHERE {SEAL} IS NULL")).scalar()
                assert (table.name, open_rows) == (table.name, 0)
    with Library.open(tmp_path).snapshot() as snapshot:
        assert (damaged_videos(snapshot), broken_settings(snapshot.stream)) == ([], [])


def test_a_truncated_log_is_reported(tmp_path: Path) -> None:
    """Everything was in the log, the database empty: `verify` said that it is clean."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        add(writer, "a")
        writer.publish()
        shutil.copytree(folder, tmp_path / "cut")
        writer.checkpoint()
        shutil.copytree(folder, tmp_path / "whole")
    for name in ("cut", "whole"):
        for suffix in ("-wal", "-shm"):
            (tmp_path / name / f"library.db{suffix}").unlink(missing_ok=True)
    assert verify(Library.open(tmp_path / "whole")).clean
    assert any("has lost all that it held" in line for line in verify(Library.open(tmp_path / "cut")).problems)
    with pytest.raises(LibraryDamaged, match="run: vfindex repair"):
        Library.open(tmp_path / "cut").snapshot()
    assert salvage_database(tmp_path / "cut") is not None
    with writing(tmp_path / "cut") as writer:
        assert writer.setup() == SETUP


def test_a_lost_generation_is_reported(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add(writer, "a")
        writer.publish()
        with writer.catalog.transaction() as connection:
            for table in ("generation", "clip", "unit", "location", "video"):
                connection.execute(text(f"DELETE FROM {table}"))
    [problem] = [line for line in verify(Library.open(tmp_path)).problems if "has lost" in line]
    assert "it had 2 clips at index generation 1 and is at 0" in problem


def test_memory_does_not_grow_with_rows(tmp_path: Path) -> None:
    """Every row of a library was held at once: 1.1 GB for a million clips."""
    peaks = []
    with writing(tmp_path) as writer:
        install(writer)
        for number, clips in enumerate((1_000, 4_000)):
            add(writer, f"video {number}", clips)
            with writer.library.snapshot() as snapshot:
                damaged_videos(snapshot)  # what is imported and kept once
                tracemalloc.start()
                assert damaged_videos(snapshot) == []
                peaks.append(tracemalloc.get_traced_memory()[1])
                tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]
