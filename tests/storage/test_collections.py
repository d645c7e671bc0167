"""Which collections in Qdrant a library may delete: its own, never those of the library that it is a copy of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
import qdrant_client
from library_maker import add_video, axis, clip, install
from qdrant_client import QdrantClient

from vfindex.storage.collections import Collections
from vfindex.storage.files.permissions import DATABASE
from vfindex.storage.index import model_versions
from vfindex.storage.maintenance.rebuild import rebuild
from vfindex.storage.maintenance.repair import restore_settings
from vfindex.storage.maintenance.rollback import discard, roll_back
from vfindex.storage.qdrant import collection as qdrant
from vfindex.storage.writer import Writer, writing

# What the local mode of the client says of settings that it lacks.
pytestmark = pytest.mark.filterwarnings("ignore:.*(Payload indexes|Local mode)")


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[QdrantClient]:
    """Yield a server in local mode, which every library asks."""
    client = qdrant_client.QdrantClient(path=str(tmp_path / "qdrant"))
    monkeypatch.setattr(qdrant, "connect", lambda *_: client)
    yield client
    client.close()


@pytest.fixture
def folder(server: QdrantClient, tmp_path: Path) -> Path:
    """Return a library of two model versions with a collection each; the second is in use."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for number in range(6):
            add_video(writer, f"v{number}", [clip(visual=axis(number))])
        writer.publish(server="http://localhost:6333")
    shutil.copytree(folder, tmp_path / "version")
    (folder / "editions").mkdir()
    (tmp_path / "version").rename(folder / "editions" / "1")
    rebuild(folder / "editions" / "1")
    model_versions.put_in_use(folder, 1)
    return folder


def names(server: QdrantClient) -> set[str]:
    return {each.name for each in server.get_collections().collections}


def own(folder: Path) -> set[str]:
    """Return what the version in use may delete."""
    with writing(folder) as writer:
        return {name for _, name in Collections(writer.catalog).all()}


def test_a_discarded_version_leaves_no_collection(server: QdrantClient, folder: Path) -> None:
    assert len(names(server)) == 2
    assert discard(folder)[0] == [0]
    assert names(server) == own(folder)


def test_versions_that_a_copy_discards_are_not_those_of_the_first(
    server: QdrantClient, folder: Path, tmp_path: Path
) -> None:
    before = names(server)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    roll_back(copy)
    assert discard(copy)[0] == [1] and names(server) == before


def test_a_copy_that_gets_its_settings_back_has_no_collection(
    server: QdrantClient, folder: Path, tmp_path: Path
) -> None:
    before = names(server)
    copy = Path(shutil.copytree(folder, tmp_path / "copy"))
    place = copy / "editions" / "1"
    (place / DATABASE).write_bytes(b"")
    with closing(Writer(place)) as writer:
        restore_settings(writer.catalog, place)
        writer.publish()
    assert before < names(server) and own(copy) == names(server) - before


def test_a_version_without_a_database_is_discarded(folder: Path) -> None:
    (folder / "editions" / "2").mkdir()  # of an upgrade that was killed as it began
    assert discard(folder)[0] == [0, 2]
    assert [path.name for path in (folder / "editions").iterdir()] == ["1"]
