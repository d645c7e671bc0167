"""SQL statements per query, and caches, which a commit invalidates."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors
from hypothesis import given
from hypothesis import strategies as st
from library_maker import DIM, add_video, axis, clip, install, place, video
from sqlalchemy import event

from vfindex.search.engine import SearchEngine
from vfindex.search.query import filters as filters_module
from vfindex.search.query.filters import recorded_on
from vfindex.search.rank import delta as delta_module
from vfindex.search.rank import retrieve as retrieve_module
from vfindex.search.rank.delta import Delta
from vfindex.storage.db import reader
from vfindex.storage.index.flat import exact_scan
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.records import Document, Segment, UnitPlan, UnitResult
from vfindex.storage.text import full_text as words_module
from vfindex.storage.writer import writing

# A dozen whatever is asked, two for each round in which hits take in neighbours, five more for a second moment.
MOST_STATEMENTS = 22


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library of 40 videos of 8 clips with similar titles and speech."""
    folder = tmp_path_factory.mktemp("alike")
    with writing(folder) as writer:
        install(writer)
        for number in range(40):
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(number % 8), speech=axis(i)) for i in range(8)]
            said = [Segment(5.0 * i, 5.0 * i + 4, f"red fox number {number} runs home", "asr") for i in range(8)]
            titles = [Document("title", f"red fox {number}"), Document("tag", "fox home")]
            add_video(writer, f"v{number}.mp4", clips, said, titles)
        writer.publish()
    return folder


@contextmanager
def counted(engine: SearchEngine) -> Iterator[list[str]]:
    """Yield the list of statements that the engine executes."""
    sent: list[str] = []

    def note(connection: object, cursor: object, statement: str, *_: object) -> None:
        sent.append(statement)

    event.listen(engine._library._engine, "before_cursor_execute", note)
    yield sent
    event.remove(engine._library._engine, "before_cursor_execute", note)


@pytest.mark.parametrize(
    "text", ["red fox 3", "said:fox", '"red fox"', "fox -cat", "2:fox red 1", "1 then 2 within 9s"]
)
@pytest.mark.parametrize("top_k", [1, 30])
def test_statements_do_not_grow_with_words_hits_and_matches(folder: Path, text: str, top_k: int) -> None:
    engine = SearchEngine.open(folder)
    engine.search(text, top_k=top_k)
    with counted(engine) as sent:
        assert len(engine.search(text, top_k=top_k)) in (1, top_k)
    assert len(sent) <= MOST_STATEMENTS, "\n".join(sent)


def test_statements_do_not_grow_with_query_length(folder: Path) -> None:
    engine = SearchEngine.open(folder)
    lengths = []
    for text in ("red fox", "red fox runs home with number 1 2 3 4 5 6 7 8 9 10 11"):
        engine.search(text)
        with counted(engine) as sent:
            engine.search(text)
        lengths.append(len(sent))
    assert lengths[1] <= lengths[0] + 2, "one where BM25 would be too slow, one for neighbours that were not read yet"


def test_filters_are_cached_until_a_commit(tmp_path: Path, folder: Path) -> None:
    shutil.copytree(folder, tmp_path / "own")
    engine = SearchEngine.open(tmp_path / "own")
    engine.search("1 in:v1.mp4 longer:1s after:1970-01-01")
    with counted(engine) as sent:
        assert len(engine.search("1 in:v2.mp4 longer:1s after:1970-01-01")) == 1
    assert not [statement for statement in sent if "v.tags" in statement]
    with writing(tmp_path / "own") as writer:
        add_video(writer, "new.mp4", [clip(visual=axis(1))])
    assert len(engine.search("1 in:new.mp4 longer:1s after:1970-01-01")) == 1


def test_caches_end_with_a_commit(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", [clip(visual=axis(1))])
        engine = SearchEngine.open(tmp_path)
        assert len(engine.search("1")) == 1, "before the first generation the spec is an estimate"
        add_video(writer, "b", [clip(visual=axis(1))])
        assert len(engine.search("1")) == 2
        writer.publish()
        assert len(engine.search("1")) == 2
        add_video(writer, "c", [clip(visual=axis(1))])
        assert len(engine.search("1")) == 3, "the delta grows"
        writer.catalog.remove(b"/videos/a")
        assert len(engine.search("1")) == 2
        writer.catalog.mark_missing([b"/videos/b"])
        assert [hit.video for hit in engine.search("1")] == [b"/videos/c"]
        writer.catalog.restore_missing([b"/videos/b"])
        assert len(engine.search("1")) == 2


def test_concurrent_snapshots_are_isolated(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        library = Library(tmp_path)
        with library.snapshot() as before:
            assert before.clip_ids() == [] and before.get("told") is None
            add_video(writer, "a", [clip(visual=axis(1))])
            writer.catalog.put("told", "yes")
            with library.snapshot() as after:
                assert len(after.clip_ids()) == 1 and after.get("told") == "yes"
            assert before.clip_ids() == [] and before.get("told") is None
        with library.snapshot() as last:
            assert last.get("told") == "yes"


def test_an_open_engine_notices_another_database_in_its_place(tmp_path: Path) -> None:
    for name in ("old", "new"):
        with writing(tmp_path / name) as writer:
            install(writer)
            add_video(writer, name, [clip(visual=axis(1))])
            writer.publish()
    engine = SearchEngine.open(tmp_path / "old")
    assert [hit.video for hit in engine.search("1")] == [b"/videos/old"]
    os.replace(tmp_path / "new" / "library.db", tmp_path / "old" / "library.db")
    assert [hit.video for hit in engine.search("1")] == [b"/videos/new"]


def test_the_depth_of_pairs_is_bounded(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retrieve_module, "MIN_CANDIDATES", 1)
    monkeypatch.setattr(retrieve_module, "CANDIDATES_PER_HIT", 1)
    monkeypatch.setattr(retrieve_module, "MAX_CANDIDATES", 5)
    depths, top_of = [], retrieve_module.first_of

    def watched(libraries: Any, depth: int) -> Any:
        depths.append(depth)
        return top_of(libraries, depth)

    monkeypatch.setattr(retrieve_module, "first_of", watched)
    engine = SearchEngine.open(folder)
    assert engine.search("1 then 2 within 9s", top_k=4) == engine.search("1 then 2 within 9s", top_k=4)
    assert depths and max(depths) == 5
    assert len(engine.search("nothing then nowhere within 1s", top_k=40)) <= 40
    assert max(depths) == 40, "as many as are wanted are looked at in any case"


# --- words ------------------------------------------------------------------------------------------------------


def test_the_rarest_words_choose_the_documents_for_bm25(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        lines = ["common", "common rare", "common", "other common", "rare other common", "common"]
        said = [Segment(i, i + 1, line, "asr") for i, line in enumerate(lines)]
        add_video(writer, "a", [clip(0, 9, visual=axis(1))], said)
    words = ["common", "rare", "other"]
    with Library(tmp_path).snapshot() as snapshot:
        everything = snapshot.words.match(words, 10)
        assert len(everything) == 6 and snapshot.words.document_frequencies(words) == (6, [6, 2, 2])
        monkeypatch.setattr(words_module, "MAX_COMPARED", 3)
        monkeypatch.setattr(words_module, "MAX_RANKED", 3)
        chosen = snapshot.words.match(words, 10)
        assert chosen[0].text == "rare other common"
        assert {match.text for match in chosen} == {"rare other common", "common rare", "other common"}
        assert len(snapshot.words.match(words, 10, [1])) == 3
        assert snapshot.words.match(words, 10, [2]) == []
        assert all(match.phrases == {word for word in words if word in match.text.split()} for match in everything)


def test_clips_of_videos_are_found_in_whatever_order_they_came(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        for name in "abc":
            add_video(writer, name, [clip(5.0 * i, 5.0 * i + 5, visual=axis(1)) for i in range(3)])
        torn = writer.catalog.begin_video(video("torn"), [UnitPlan(0), UnitPlan(1)], recognised=True)
        for number, (unit_id, _) in enumerate(writer.catalog.pending_units(torn)):
            part = clip(5.0 * number, 5.0 * number + 5, visual=axis(1))
            writer.commit_unit(torn, "torn", unit_id, UnitResult((part,), ()))
            add_video(writer, f"between {number}", [clip(visual=axis(1))])
        half = writer.library.snapshot()
        writer.catalog.finish_video(torn, place("torn"), [])
    with half, Library(tmp_path).snapshot() as snapshot:
        assert torn not in {each.video_id for each in half.clips(half.clips_in([1, torn]).tolist()).values()}
        for videos in ([], [2], [1, 3], [torn], [1, torn, 99], [each.id for each in snapshot.videos()]):
            for few in (0, 100):
                monkeypatch.setattr(reader, "FEW_VIDEOS", few)
                assert snapshot.clips_in(videos).tolist() == snapshot.clip_ids(videos=videos)


# --- the delta --------------------------------------------------------------------------------------------------


def test_the_delta_is_an_exact_scan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(0)
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(12):
            vectors = rng.normal(size=(2, DIM)).astype(np.float32)
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
            add_video(writer, f"v{number}", [clip(visual=vectors[0], speech=vectors[1])])
    with Library(tmp_path).snapshot() as snapshot:
        spec, _ = reading_spec(snapshot)
        query = rng.normal(size=spec.dim).astype(np.float32)
        expected = [id_ for id_, _ in exact_scan(snapshot, spec, query, snapshot.clip_ids(after=3))]
        delta = Delta.of(snapshot, spec, 3)
        assert delta.nearest(query, None) == expected
        some = np.array([5, 7, 11])
        assert delta.nearest(query, some) == [id_ for id_ in expected if id_ in (5, 7, 11)]
        assert Delta.of(snapshot, spec.with_weights({"speech": 0.1}), 3).joint is delta.joint, (
            "weights are the question's"
        )
        assert len(Delta.of(snapshot, spec, 9).nearest(query, None)) == 3
        monkeypatch.setattr(delta_module, "MAX_CACHED", 2)
        long = Delta.of(snapshot, spec, 2)
        assert long.joint is None and set(long.nearest(query, None)) == {3, *expected}


# --- filters ----------------------------------------------------------------------------------------------------


@given(glob=st.text("ab/*?[]!.", min_size=1, max_size=8), path=st.text("ab/.", min_size=1, max_size=8))
def test_the_literal_of_a_glob_is_in_all_matches(glob: str, path: str) -> None:
    if filters_module._glob(glob).match(path):
        assert filters_module._literal(glob) in path


def test_days_are_those_of_tags_else_of_the_oldest_copy(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        video_id = add_video(writer, "a", [clip(visual=axis(1))])
        writer.catalog.place(video_id, place("copy"))
    with Library(tmp_path).snapshot() as snapshot:
        table = filters_module.VideoTable.of(snapshot)
        [stored] = snapshot.videos()
    made = recorded_on(stored.tags, stored.locations)
    assert made is not None and table.made_on().tolist() == [made.toordinal()] == [date(1970, 1, 1).toordinal()]
    assert table.inside("copy").tolist() == [True] and table.inside("b*").tolist() == [False]
