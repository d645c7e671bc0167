"""A renamed folder keeps the failures of its files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from library_maker import add_video, axis, clip, install

from vfindex.indexer.models import factory
from vfindex.indexer.models.base import Encoders
from vfindex.indexer.runs.execute import RunSettings
from vfindex.indexer.runs.ingest import ingest
from vfindex.indexer.runs.reindex import reindex
from vfindex.indexer.scan.walk import Found, discover, fingerprint
from vfindex.storage.db.sources import Root, known_files, remember
from vfindex.storage.errors import Problem
from vfindex.storage.writer import writing


def test_failed_files_move_with_their_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old, new, library = tmp_path / "films", tmp_path / "films of 2021", tmp_path / "library"
    old.mkdir()
    broken = old / "broken.mp4"
    broken.write_bytes(b"no video")
    [found] = [each for each in discover([os.fsencode(broken)]) if isinstance(each, Found)]
    problem = Problem(os.fsencode(broken), "open", "not_a_video", "it is no video", "check the file")
    with writing(library) as writer:
        install(writer)
        add_video(writer, "elsewhere.mp4", [clip(visual=axis(0))])
        writer.catalog.fail_video(fingerprint(os.fsencode(broken)), found.location, problem)
        remember(writer.catalog, [Root(os.fsencode(old))])
    old.rename(new)
    monkeypatch.setattr(factory, "open_encoders", lambda *_, **__: Encoders(None, modalities=()))  # type: ignore[arg-type]
    report = ingest(library, [os.fsencode(new)], RunSettings(library))
    assert [os.path.basename(each.path) for each in report.failed] == [b"broken.mp4"]
    with writing(library) as writer:
        paths = [path for path in known_files(writer.catalog) if path.endswith(b"broken.mp4")]
    assert paths == [os.fsencode(new / "broken.mp4")]
    assert [each.path for each in reindex(library, RunSettings(library)).left_alone] == []
