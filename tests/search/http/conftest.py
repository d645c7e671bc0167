"""A served library of hand-written videos whose files exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import axis, clip, install, video
from serving import Site, serving

from vfindex.search.service import SearchService
from vfindex.storage.records import Location, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

VIDEOS = 4
SCRIPT = '<script>alert(1)</script>"><img src=x onerror=alert(2)>'
CONTENT = bytes(range(256)) * 40


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


def add(writer: Writer, path: Path, number: int) -> None:
    """Commit video `v{number}` of two clips, which looks like and says its number, at a path."""
    id_ = writer.catalog.begin_video(video(f"v{number}"), [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(id_)
    clips = tuple(clip(5.0 * i, 5.0 * i + 5, visual=axis(number), speech=axis(number)) for i in range(2))
    segments = (Segment(1, 3, f"number {number} {SCRIPT}", "asr", "en"),)
    writer.commit_unit(id_, f"v{number}", unit_id, UnitResult(clips, segments, {"visual": "2 frames"}))
    size = path.stat().st_size if path.exists() else 100
    writer.catalog.finish_video(id_, Location(bytes(path), size, 1, 1), [])


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """Return a folder of the files of the library, and of others that are not in it."""
    folder = tmp_path / "films"
    folder.mkdir()
    for number in range(VIDEOS):
        (folder / f"v{number}.mp4").write_bytes(CONTENT + bytes([number]))
    (folder / "secret.mp4").write_bytes(b"not in the library")
    return folder


@pytest.fixture
def folder(tmp_path: Path, films: Path) -> Path:
    """Return a library of these files; that of the last one has a script for a name."""
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        for number in range(VIDEOS):
            add(writer, films / f"v{number}.mp4", number)
        add(writer, films / f"{SCRIPT.replace('/', '_')}.mp4", VIDEOS)
        writer.publish()
    return library


@pytest.fixture
def service(folder: Path) -> Iterator[SearchService]:
    with SearchService(folder) as opened:
        yield opened


@pytest.fixture
def site(service: SearchService) -> Iterator[Site]:
    """Return a server of the library for this machine."""
    with serving(service) as running:
        yield running
