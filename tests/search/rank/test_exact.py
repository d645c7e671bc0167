"""The exact scan as the oracle of the joint index, after any changes to the library."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from asking import fake_query_vectors
from library_maker import DIM, add_video, clip, install, place
from sqlalchemy import text

from vfindex.search.engine import SearchEngine
from vfindex.search.rank import delta as delta_module
from vfindex.search.rank import retrieve as retrieve_module
from vfindex.storage.db.documents import TranscriptUpdate, UnitTranscript
from vfindex.storage.db.units import indexed_units
from vfindex.storage.errors import LibraryError
from vfindex.storage.index import segment as vectors
from vfindex.storage.index import tuning as recall
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.index.search_params import SearchParams, TunedParams, WeightingParams
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import Writer, writing

VIDEOS, CLIPS_EACH = 60, 5
# Of 300 clips: what an index does not show must matter.
CANDIDATES, HITS = 60, 3
WORDS_ALONE: dict[ModalityName, float] = {"visual": 0.0, "speech": 0.0}
QUESTIONS: tuple[tuple[str, dict[ModalityName, float]], ...] = (
    ("0", {}),
    ("3", {}),
    ("shown:5", {}),
    ("1", WORDS_ALONE),
    ("said 2", {"visual": 0.0}),
)


def vector_of(words: str) -> FloatArray:
    """Return a unit vector that depends on the words alone."""
    rows = np.random.default_rng(list(words.encode())).standard_normal(DIM).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows), np.float32)


def add(writer: Writer, name: str) -> None:
    clips = [
        clip(5.0 * at, 5.0 * at + 5, visual=vector_of(f"{name} {at}"), speech=vector_of(f"said {name} {at}"),
             text=vector_of(name))
        for at in range(CLIPS_EACH)
    ]  # fmt: skip
    add_video(writer, name, clips)


@pytest.fixture(scope="module", params=[40, vectors.EXACT_CLIPS], ids=["codes", "exact"])
def published(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a published library with an index of codes that find everything, or without codes; candidates are few."""
    folder = tmp_path_factory.mktemp(f"published-{request.param}")
    with pytest.MonkeyPatch.context() as patch:
        fake_query_vectors(patch, vector_of)
        patch.setattr(vectors, "EXACT_CLIPS", request.param)
        patch.setattr(IvfPq, "cost", lambda *_: 0.0)
        patch.setattr(
            TunedParams, "choose", lambda *_: WeightingParams(SearchParams(400, 1.0), SearchParams(400, 1.0), 1.0)
        )
        patch.setattr(recall, "QUESTIONS", 8)
        for name in ("MIN_CANDIDATES", "MAX_CANDIDATES"):
            patch.setattr(retrieve_module, name, CANDIDATES)
        patch.setattr(retrieve_module, "CANDIDATES_PER_HIT", 1)
        with writing(folder) as writer:
            install(writer)
            for number in range(VIDEOS):
                add(writer, f"v{number}")
            writer.publish()
        yield folder


@pytest.fixture
def writer(published: Path, tmp_path: Path) -> Iterator[Writer]:
    """Yield the writer of a library of one's own."""
    shutil.copytree(published, tmp_path / "library")
    with writing(tmp_path / "library") as writer:
        yield writer


def hits_of(engine: SearchEngine, *, exact: bool) -> list[list[tuple[bytes | None, float, float]]]:
    answers = [engine.search(words, exact=exact, top_k=HITS, weights=weights) for words, weights in QUESTIONS]
    return [[(hit.video, hit.start_s, round(hit.score, 4)) for hit in hits] for hits in answers]


def change(writer: Writer, random: np.random.Generator, step: int) -> str:
    """Change a random video in a random way; return which."""
    with writer.library.snapshot() as snapshot:
        videos = [video for video in snapshot.videos() if video.state == "indexed"]
    video = videos[random.integers(len(videos))]
    path, what = video.locations[0].path, str(random.choice(["retitle", "reword", "remove", "vanish", "add", "return"]))
    if what == "retitle":
        writer.catalog.retitle(video.id, "new", (), vector_of(str(step % 4)))
    elif what == "reword":
        with writer.library.snapshot() as snapshot:
            units = indexed_units(snapshot, video.id)
        said = tuple(UnitTranscript(u.id, (), {u.clips[0][0]: vector_of(f"said {step % 4}")}, "") for u in units)
        writer.catalog.update_transcript(
            video.id, place(path.decode()[8:]), TranscriptUpdate("new", {}, (), (), None, said)
        )
    elif what == "remove":
        writer.catalog.remove(path)
    elif what == "vanish":
        writer.catalog.mark_missing([path])
    elif what == "add":
        add(writer, f"new{step}")
    else:
        writer.catalog.restore_missing(sorted(writer.catalog.missing_files()))
    return what


@pytest.mark.parametrize("seed", range(3))
def test_the_index_equals_a_scan_after_any_changes(writer: Writer, seed: int) -> None:
    random, engine = np.random.default_rng(seed), SearchEngine.open(writer.folder)
    done = ["published"]
    for step in range(16):
        done.append(change(writer, random, step))
        if random.random() < 0.25:
            writer.publish()
            done.append("published")
        assert hits_of(engine, exact=False) == hits_of(engine, exact=True), done


def test_updated_vectors_are_searched_before_they_are_published(
    writer: Writer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Their outdated rows in the index must not count, even if no vectors are cached."""
    engine = SearchEngine.open(writer.folder)
    before = engine.search("v7", top_k=1, weights=WORDS_ALONE)[0]
    assert before.video == b"/videos/v7"
    for kept in (delta_module.MAX_CACHED, 0):
        monkeypatch.setattr(delta_module, "MAX_CACHED", kept)
        writer.catalog.retitle(8, "new", (), vector_of(f"new{kept}"))
        assert engine.search(f"new{kept}", top_k=1, weights=WORDS_ALONE)[0].video == b"/videos/v7"
        now = engine.search("v7", top_k=1, weights=WORDS_ALONE)[0]
        assert now.video != before.video and now.score < before.score
        assert hits_of(engine, exact=False) == hits_of(engine, exact=True)


def test_missing_videos_take_no_candidate_slots(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first candidates are all missing: the next ones are found at the same depth."""
    engine = SearchEngine.open(writer.folder)
    found = [hit.video or b"" for hit in engine.search("3", top_k=6, weights=WORDS_ALONE)]
    writer.catalog.mark_missing(found[:3])
    writer.catalog.remove(found[3])
    for name in ("MIN_CANDIDATES", "MAX_CANDIDATES"):
        monkeypatch.setattr(retrieve_module, name, 4 * CLIPS_EACH)
    hits = engine.search("3", top_k=2, weights=WORDS_ALONE)
    assert len(found) == 6 and [hit.video for hit in hits] == found[4:]


def test_an_exact_search_reveals_an_outdated_index(writer: Writer) -> None:
    """The record of the change is deleted, so that the index returns clips whose vectors have changed."""
    engine = SearchEngine.open(writer.folder)
    assert hits_of(engine, exact=False) == hits_of(engine, exact=True)
    for number in range(1, 20):
        writer.catalog.retitle(number, "new", (), vector_of("1"))
    with writer.catalog.transaction() as connection:
        connection.execute(text("DELETE FROM index_change"))
    assert hits_of(engine, exact=False) != hits_of(engine, exact=True)
    best = engine.search("1", top_k=5, weights=WORDS_ALONE, exact=True)
    assert {hit.video for hit in best} <= {f"/videos/v{number - 1}".encode() for number in range(1, 20)}


# --- an index that cannot be used -----------------------------------------------------------------------------------


def harm(writer: Writer, how: str) -> Path:
    [path] = writer.library.index.glob("*.joint")
    if how == "missing":
        path.unlink()
    else:
        data = bytearray(path.read_bytes())
        data[5000] ^= 1
        path.write_bytes(data)
    return path


@pytest.mark.parametrize("how", ["missing", "damaged"])
def test_a_search_without_its_index_says_so_once(
    writer: Writer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    expected = hits_of(SearchEngine.open(writer.folder), exact=True)
    path, loads = harm(writer, how), []
    plain = JointIndex.load
    monkeypatch.setattr(JointIndex, "load", lambda *of, **how: loads.append(of) or plain(*of, **how))
    engine = SearchEngine.open(writer.folder)
    with caplog.at_level(logging.WARNING):
        assert hits_of(engine, exact=True) == expected and not caplog.messages and not loads
        assert hits_of(engine, exact=False) == expected
        assert len(loads) == 1, "a file that cannot be used is not tried at every question"
        [message] = caplog.messages
        assert str(path) in message and how in message and message.endswith("run: vfindex rebuild")
        add(writer, "other")
        assert hits_of(engine, exact=False) == hits_of(engine, exact=True)
        assert len(loads) == 2 and len(caplog.messages) == 1, "tried again after a commit, not told again"
        writer.publish()
        assert hits_of(engine, exact=False) == hits_of(engine, exact=True) and engine.searcher().index is not None


def test_a_failing_disk_is_reported_and_a_missing_permission_is_not_damage(
    writer: Writer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(error: OSError) -> SearchEngine:
        def load(*_: object, **__: object) -> JointIndex:
            raise error

        monkeypatch.setattr(JointIndex, "load", load)
        return SearchEngine.open(writer.folder)

    engine = failing(OSError(5, "Input/output error"))
    assert hits_of(engine, exact=False) == hits_of(engine, exact=True)
    [message] = caplog.messages
    assert "cannot be read (Input/output error), so searches scan every clip" in message
    engine = failing(PermissionError(13, "Permission denied"))
    with pytest.raises(LibraryError, match="no permission to read"):
        engine.search("1")
    assert engine.search("1", exact=True), "which needs no index"
