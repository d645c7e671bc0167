"""A served library of hand-written videos whose files exist."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import install
from serving import CONTENT, SCRIPT, VIDEOS, Site, add_file, serving

from vfindex.search.service import SearchService
from vfindex.storage.writer import writing


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


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
            add_file(writer, films / f"v{number}.mp4", number)
        add_file(writer, films / f"{SCRIPT.replace('/', '_')}.mp4", VIDEOS)
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
