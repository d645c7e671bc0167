"""A library of videos made by hand, its parts, and a server of each."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
from parted import fake_vectors, with_one_spec
from serving import Site, serving

from vfindex.search.service import SearchService

# The footage of v21 in the last part is that of v04 in the first.
PARTS = list(range(7)), list(range(7, 14)), list(range(14, 24))


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Return a library of all videos, and three of parts, with one spec."""
    return with_one_spec(tmp_path_factory.mktemp("members"), *PARTS)


@pytest.fixture(scope="session")
def sites(folders: list[Path]) -> Iterator[list[Site]]:
    """Return a server of each library."""
    with ExitStack() as opened:
        services = [opened.enter_context(SearchService(folder)) for folder in folders]
        yield [opened.enter_context(serving(service)) for service in services]


@pytest.fixture(autouse=True)
def asked(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_vectors(monkeypatch)
