"""A library whose joint index is in Qdrant: the local mode of its client, at a path, and a server that fails."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import qdrant_client
from library_maker import DIM, add_video, clip, install
from qdrant_client import models

from vfindex.indexer.options import Options, Sampling
from vfindex.indexer.runs.run import Callbacks, Run
from vfindex.search.engine import SearchEngine
from vfindex.search.rank import retrieve
from vfindex.storage import publication
from vfindex.storage.collections import Collections
from vfindex.storage.errors import IndexUnusable, LibraryError, NotPublished
from vfindex.storage.index import segment
from vfindex.storage.maintenance.backup import back_up
from vfindex.storage.maintenance.rebuild import rebuild
from vfindex.storage.maintenance.removal import RemovalSettings, forget_path
from vfindex.storage.maintenance.verify import verify
from vfindex.storage.meta import LibraryMeta, put_collections
from vfindex.storage.qdrant import collection as qdrant
from vfindex.storage.qdrant import index as remote
from vfindex.storage.qdrant.collection import Collection
from vfindex.storage.qdrant.draft import QdrantDraft
from vfindex.storage.qdrant.index import QdrantGeneration
from vfindex.storage.records import ClipKey, FloatArray
from vfindex.storage.writer import Writer, writing

# What the local mode of the client says of settings that it lacks.
pytestmark = pytest.mark.filterwarnings("ignore:.*(Payload indexes|Local mode)")
URL = "http://localhost:6333"
VIDEOS, EACH = 15, 4
ASKED = [ClipKey("v3", 5000)]
RANDOM = np.random.default_rng(11)


def unit() -> FloatArray:
    row = RANDOM.standard_normal(DIM).astype(np.float32)
    return np.asarray(row / np.linalg.norm(row), np.float32)


def add(writer: Writer, name: str) -> int:
    title = unit()
    clips = [clip(5.0 * at, 5.0 * at + 5, visual=unit(), speech=unit(), text=title) for at in range(EACH)]
    return add_video(writer, name, clips)


class Server:
    """A server in local mode. down: what its client says then, None while it can be reached."""

    def __init__(self, folder: Path) -> None:
        self.client, self.down = qdrant_client.QdrantClient(path=str(folder)), ""
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        if self.down:
            raise ConnectionRefusedError(self.down)
        self.calls.append(name)
        return getattr(self.client, name)

    def names(self) -> list[str]:
        return sorted(each.name for each in self.client.get_collections().collections)


@pytest.fixture
def server(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    made = Server(tmp_path / "qdrant")
    monkeypatch.setattr(qdrant, "connect", lambda *_: made)
    monkeypatch.setattr(remote, "SCANNED_HERE", 0)
    monkeypatch.setattr(remote, "TRUSTED_S", 0.0)
    for name, value in (("MIN_CANDIDATES", 30), ("MAX_CANDIDATES", 30), ("CANDIDATES_PER_HIT", 1)):
        monkeypatch.setattr(retrieve, name, value)
    yield made
    made.client.close()


@pytest.fixture
def size(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Make the library large, so that its collection is extended, or small, so that it is built anew."""
    size = getattr(request, "param", "large")
    if size == "large":
        monkeypatch.setattr(segment, "EXACT_CLIPS", 20)
    return str(size)


BOTH_SIZES = pytest.mark.parametrize("size", ["large", "small"], indirect=True)


@pytest.fixture
def folder(server: Server, size: str, tmp_path: Path) -> Path:
    """Return a library of VIDEOS videos, published in Qdrant."""
    folder = tmp_path / "library"
    with writing(folder) as writer:
        install(writer)
        for number in range(VIDEOS):
            add(writer, f"v{number}")
        writer.publish(server=URL)
    return folder


def current(folder: Path) -> QdrantGeneration:
    with writing(folder) as writer:
        return generation_of(writer)


def generation_of(writer: Writer) -> QdrantGeneration:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    opened = writer.library.open_index(generation)
    assert isinstance(opened, QdrantGeneration)
    return opened


def points(server: Server, folder: Path) -> list[int]:
    found, _ = server.client.scroll(current(folder).facts.collection, limit=10_000)
    return [int(each.id) for each in found]


def hits(folder: Path, *, exact: bool) -> list[tuple[str, float]]:
    """Return what a clip of the library finds, a question that needs no encoder."""
    engine = SearchEngine.open(folder)
    found = engine.search(images=ASKED, top_k=8, exact=exact)
    return [(str(hit.video), hit.start_s, round(hit.score, 4)) for hit in found]


def assert_right(server: Server, folder: Path) -> None:
    """The collection holds the library's clips, searches ask it and find what a scan finds, and verify agrees."""
    with writing(folder) as writer, writer.library.snapshot() as snapshot:
        ids = snapshot.clip_ids(searchable=False)
    assert points(server, folder) == ids
    server.calls.clear()
    assert hits(folder, exact=False) == hits(folder, exact=True) != []
    assert "query_points" in server.calls
    with writing(folder) as writer:
        found = verify(writer.library)
    assert found.problems == [] and found.recall_at_10 is not None and found.recall_at_10 > 0.99
    assert server.names() == [current(folder).facts.collection], "nothing else is left"


@BOTH_SIZES
def test_new_changed_and_removed_videos_reach_the_collection(server: Server, folder: Path, size: str) -> None:
    assert_right(server, folder)
    first = current(folder)
    with writing(folder) as writer:
        add(writer, "new")
        writer.catalog.retitle(2, "another", (), unit())
        writer.publish()
    assert_right(server, folder)
    extended = current(folder).facts.collection == first.facts.collection
    assert extended == (size == "large") and current(folder).facts.token != first.facts.token
    with writing(folder) as writer:
        writer.catalog.remove(b"/videos/v5")
        assert writer.publish_changes() == ""
    assert len(points(server, folder)) == VIDEOS * EACH
    assert_right(server, folder)


def test_a_hits_score_is_not_qdrants(server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plain = server.client.query_points

    def lying(*args: Any, **options: Any) -> Any:
        found = plain(*args, **options)
        for point in found.points:
            point.score = 1e6
        found.points.reverse()
        return found

    monkeypatch.setattr(server.client, "query_points", lying)
    assert hits(folder, exact=False) == hits(folder, exact=True)


def test_vectors_are_stored_as_the_settings_say(server: Server, folder: Path) -> None:
    collection = current(folder).facts.collection
    params = server.client.get_collection(collection).config.params.vectors
    assert (params.distance, params.datatype, params.on_disk) == (models.Distance.DOT, models.Datatype.FLOAT16, True)
    with writing(folder) as writer:
        assert collection.startswith(f"vfindex-{LibraryMeta(writer.catalog).library_id}-00000001-")
    [point] = server.client.retrieve(collection, [1], with_payload=True)
    assert point.payload == {"video": 1}


def test_back_to_files_and_to_qdrant_again(server: Server, folder: Path) -> None:
    done = rebuild(folder, place="built-in")
    assert (done.index, server.names()) == ("built-in", [])
    with writing(folder) as writer:
        add(writer, "new")
        assert writer.publish().file.endswith(".joint") or writer.publish().file.endswith(".segments")
    assert hits(folder, exact=False) == hits(folder, exact=True)
    assert rebuild(folder, place=f"qdrant:{URL}").index == f"qdrant:{URL}"
    assert_right(server, folder)
    assert rebuild(folder).index == f"qdrant:{URL}", "stays where it is"
    assert_right(server, folder)
    assert {path.suffix for path in (folder / "index").iterdir()} == {".qdrant"}


# --- a server that fails ---------------------------------------------------------------------------------------------


def test_a_run_without_the_server_publishes_nothing_and_the_next_one_does(server: Server, folder: Path) -> None:
    before = current(folder)
    with writing(folder) as writer:
        add(writer, "new")
        server.down = "Connection refused"
        with pytest.raises(NotPublished, match=r"cannot be used \(Connection refused\)"):
            writer.publish()
        assert generation_of(writer).facts == before.facts and writer.catalog.change() == "added"
        server.down = ""
        assert hits(folder, exact=False) == hits(folder, exact=True)
        writer.publish()
    assert_right(server, folder)


def test_a_server_that_fails_in_the_middle_of_a_search(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(remote, "TRUSTED_S", 3600.0)
    engine = SearchEngine.open(folder)
    expected = [hit.score for hit in engine.search(images=ASKED)]

    def failing(*_: Any, **__: Any) -> None:
        raise ConnectionResetError("Connection reset")

    monkeypatch.setattr(server.client, "query_points", failing)
    assert [hit.score for hit in engine.search(images=ASKED)] == expected
    [message] = caplog.messages
    assert message.endswith("cannot be used (Connection reset); meanwhile searches scan every clip")


@pytest.mark.parametrize("how", ["down", "gone", "behind", "lost", "of a copy"])
def test_a_collection_that_is_not_as_it_should_be_is_not_used(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, how: str
) -> None:
    expected, name = hits(folder, exact=True), current(folder).facts.collection
    said = {
        "down": "cannot be used (Connection refused)",
        "gone": "is gone; run: vfindex rebuild",
        "behind": "is of another state of this library, or of a copy of it; run: vfindex rebuild",
        "lost": f"has lost 3 clips of {VIDEOS * EACH}; run: vfindex rebuild",
        "of a copy": "is of another state of this library, or of a copy of it; run: vfindex rebuild",
    }[how]
    if how == "gone":
        server.client.delete_collection(name)
    elif how == "behind":
        server.client.update_collection(name, metadata={"tokens": "of-an-earlier-state"})
    elif how == "of a copy":
        server.client.update_collection(name, metadata={"tokens": "of-a-copy and-its-next"})
    elif how == "lost":
        server.client.delete(name, models.PointIdsList(points=[1, 2, 9]))
    server.down = "Connection refused" if how == "down" else ""
    assert hits(folder, exact=False) == expected
    [message] = caplog.messages
    assert message == f"the collection {name} of Qdrant at {URL} {said}; meanwhile searches scan every clip"
    with SearchEngine.open(folder).library().snapshot() as snapshot:
        assert any(said in each for each in verify(SearchEngine.open(folder).library()).problems)
        assert snapshot.generation() is not None
    monkeypatch.setattr("vfindex.storage.qdrant.index.MOST_SCANNED", 10)
    with pytest.raises(LibraryError, match=r"60 clips are too many to scan for a question: try again later"):
        hits(folder, exact=False)
    assert hits(folder, exact=True) == expected
    server.down = ""
    rebuild(folder)
    assert_right(server, folder)


def test_a_run_builds_a_lost_collection_again_and_waits_for_a_server(server: Server, folder: Path) -> None:
    def end(writer: Writer) -> Run:
        run = Run(writer, Options(Sampling(), asr=False), Callbacks())
        run.end(0.0)
        return run

    with writing(folder) as writer:
        before = generation_of(writer).facts
        end(writer)
        assert generation_of(writer).facts == before, "nothing is due"
        server.down = "Connection refused"
        assert end(writer).report.not_published == "" and generation_of(writer).facts == before
        add(writer, "new")
        assert "Connection refused" in end(writer).report.not_published
        server.down = ""
        server.client.delete_collection(before.collection)
        assert end(writer).report.not_published == "" and generation_of(writer).facts.collection != before.collection
        server.client.delete_collection(generation_of(writer).facts.collection)
        end(writer)
    assert_right(server, folder)


def test_a_failed_server_is_not_asked_at_every_question(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remote, "TRUSTED_S", 3600.0)
    engine = SearchEngine.open(folder)
    engine.search(images=ASKED)
    server.calls.clear()
    engine.search(images=ASKED)
    assert set(server.calls) == {"query_points"}, "trusted for a while"
    monkeypatch.setattr(Collection, "nearest", lambda *_: (_ for _ in ()).throw(IndexUnusable("it is down")))
    engine.search(images=ASKED)
    server.calls.clear()
    monkeypatch.undo()
    monkeypatch.setattr(qdrant, "connect", lambda *_: server)
    engine.search(images=ASKED)
    assert server.calls == []


# --- kills -----------------------------------------------------------------------------------------------------------


@BOTH_SIZES
@pytest.mark.parametrize("at", ["put", "drop", "finish", "_point_to", "settle"])
def test_a_kill_at_any_step_leaves_the_last_generation(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch, at: str, size: str
) -> None:
    before, owner = current(folder).facts, publication.Publisher if at == "_point_to" else QdrantDraft

    def killed(self: Any, *args: Any) -> None:
        if at == "put":
            plain(self, *args)
        raise KeyboardInterrupt

    plain: Any = getattr(owner, at)
    with writing(folder) as writer:
        add(writer, "new")
        writer.catalog.remove(b"/videos/v5")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(owner, at, killed)
            if at == "drop" and size == "small":
                raise KeyboardInterrupt  # a new collection drops nothing
            writer.publish()
        if at != "settle":
            assert generation_of(writer).facts == before
        assert hits(folder, exact=False) == hits(folder, exact=True)
        assert [each for each in verify(writer.library).problems if "is gone" in each or "another state" in each] == []
        writer.catalog.remove(b"/videos/new")  # what the killed call has put must go as well
        writer.publish()
    assert_right(server, folder)


# --- removal ---------------------------------------------------------------------------------------------------------


@BOTH_SIZES
def test_a_removal_looks_into_the_collection(
    server: Server, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: str
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    settings = RemovalSettings(lambda *_: ("", []), cache)

    def left(path: bytes) -> tuple[int, str]:
        [place] = [each for each in forget_path(folder, [path], settings)[1].places["."] if each.place == "index"]
        return place.left, place.note

    assert left(b"/videos/v5") == (0, "")
    assert len(points(server, folder)) == (VIDEOS - 1) * EACH
    assert_right(server, folder)
    monkeypatch.setattr(Collection, "clips_of", lambda *_: 4)
    assert left(b"/videos/v6") == (4, "")
    server.down = "Connection refused"
    count, note = left(b"/videos/v7")
    assert count and "Connection refused" in note


@BOTH_SIZES
def test_what_is_removed_while_the_server_is_down_is_deleted_later(server: Server, folder: Path) -> None:
    name = current(folder).facts.collection
    with writing(folder) as writer:
        writer.catalog.remove(b"/videos/v5")
        server.down = "Connection refused"
        assert "cannot be used (Connection refused)" in writer.publish_changes()
        scrubbed = writer.scrub()
        assert name in scrubbed.in_index and not scrubbed.is_complete
    assert set(range(21, 25)) <= {int(each.id) for each in server.client.scroll(name, limit=1000)[0]}
    server.down = ""
    with writing(folder) as writer:
        assert writer.catalog.get("scrub") == "1"
        assert writer.publish_changes() == ""
        assert writer.scrub().is_complete and writer.catalog.get("scrub") is None
    assert_right(server, folder)


def test_a_collection_that_could_not_be_deleted_is_deleted_later(
    server: Server, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = current(folder).facts.collection
    with monkeypatch.context() as patch:
        patch.setattr(Collection, "drop", lambda *_: (_ for _ in ()).throw(IndexUnusable("no")))
        assert name in rebuild(folder, place="built-in").left
    assert server.names() == [name]
    with writing(folder) as writer:
        assert name in writer.publisher.left()
        writer.publish()
        assert writer.publisher.left() == "" and Collections(writer.catalog).all() == ()
    assert server.names() == []


def test_a_library_from_someone_else_deletes_no_collection_of_others(server: Server, folder: Path) -> None:
    server.client.create_collection("precious", models.VectorParams(size=2, distance=models.Distance.DOT))
    with writing(folder) as writer:
        listed = [(URL, "precious"), *Collections(writer.catalog).all()]
        with writer.catalog.transaction() as connection:
            put_collections(connection, listed)
        writer.publish()
    assert "precious" in server.names()


# --- copies ----------------------------------------------------------------------------------------------------------


@BOTH_SIZES
def test_a_copy_reads_the_collection_and_never_writes_into_it(server: Server, folder: Path, tmp_path: Path) -> None:
    first, held = current(folder).facts, points(server, folder)
    copy = back_up(folder, tmp_path / "copy").folder
    assert hits(copy, exact=False) == hits(folder, exact=True)
    with writing(copy) as writer:
        assert Collections(writer.catalog).all() == ()
        add(writer, "of the copy")
        writer.publish()
    assert current(copy).facts.collection.split("-")[1] != first.collection.split("-")[1]
    assert current(folder).facts == first and points(server, folder) == held
    assert len(server.names()) == 2
    with writing(folder) as writer:
        add(writer, "of the first")
        writer.publish()
    assert len(server.names()) == 2 and hits(copy, exact=False) == hits(copy, exact=True)


def test_a_library_put_back_from_an_old_copy_builds_anew(server: Server, folder: Path, tmp_path: Path) -> None:
    old = shutil.copytree(folder, tmp_path / "old")
    with writing(folder) as writer:
        writer.catalog.remove(b"/videos/v1")
        writer.publish()
    assert hits(old, exact=False) == hits(old, exact=True)
    with writing(old) as writer:
        add(writer, "later")
        writer.publish()
    assert hits(old, exact=False) == hits(old, exact=True)
    assert current(old).facts.collection != current(folder).facts.collection
