"""Missing files found again among new ones, without repeated look-ups."""

from __future__ import annotations

from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.scan import missing as module
from vfindex.indexer.scan.missing import Recorded, find_missing
from vfindex.indexer.scan.walk import Found
from vfindex.storage.db.catalog import Catalog
from vfindex.storage.db.sources import Root, read_scan_cache
from vfindex.storage.records import Location
from vfindex.storage.writer import writing

FILES = 30


def test_many_moved_files_of_one_size_are_looked_up_once_each(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Recorders cut files of one size: each new one was compared with every missing one, by a question each."""
    asked: list[bytes] = []
    plain = Catalog.fingerprint_at
    monkeypatch.setattr(Catalog, "fingerprint_at", lambda self, path: asked.append(path) or plain(self, path))
    monkeypatch.setattr(module, "_fingerprint", lambda path: path.decode().rsplit("/", 1)[-1])
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number in range(FILES):
            add_video(writer, f"v{number}", [clip(visual=axis(1))])
        new = [Found(Location(f"/elsewhere/v{number}".encode(), 100, 1, 1), named=False) for number in range(FILES)]
        gone = {f"/videos/v{number}".encode() for number in range(FILES)}
        recorded = Recorded(writer.catalog, read_scan_cache(writer.catalog, recognised=False), gone)
        moved = find_missing(recorded, new, [Root(b"/videos", ())], allow_missing=True, stop=lambda: False).moved
        assert moved.keys() == gone
    assert sorted(asked) == sorted(gone)
