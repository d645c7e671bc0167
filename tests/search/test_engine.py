"""Searches over hand-written vectors: weights, best frame, keywords, delta, limits, missing modalities."""

from __future__ import annotations

import concurrent.futures.thread
import ctypes
import sys
from pathlib import Path
from threading import Event, Thread, get_ident
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, engine_over, fake_query_vectors, names
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.hits import SNIPPET_CHARS
from vfindex.search.query.ast import Part
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.query.parser import MAX_QUERY_CHARS
from vfindex.search.rank import source
from vfindex.storage import threads
from vfindex.storage.errors import LibraryNotFound, ModelError, QueryError
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.records import Clip, Document, Segment
from vfindex.storage.writer import Writer, writing


def no_thread(*_: object) -> None:
    raise RuntimeError("can't start new thread")


# The limit of threads is reached; the interpreter ends, and another thread than its first one searches.
NO_THREADS = [(Thread, "start", no_thread), (concurrent.futures.thread, "_shutdown", True)]
# Questions in these tests are numbers: "3" asks for axis 3 in every modality.


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


@pytest.mark.parametrize("n", [1, 3])
def test_tiny_libraries_rank_correctly(tmp_path: Path, n: int) -> None:
    engine = engine_over(tmp_path, {f"v{i}": [clip(visual=axis(i))] for i in range(n)})
    for i in range(n):
        hits = engine.search(str(i))
        assert names(hits)[0] == f"v{i}"
        assert hits[0].score > 0
        assert len(hits) == n
    unrelated = engine.search("7")
    assert unrelated[0].score < hits[0].score / 2


def test_the_contributions_sum_to_the_score_and_missing_ones_are_none(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0), speech=axis(1))], "b": [clip(text=axis(2))]})
    for hit in engine.search("1"):
        present = [value for value in hit.modalities.values() if value is not None]
        assert sum(present) == pytest.approx(hit.score)
        assert set(hit.modalities) == {"visual", "speech", "screen", "audio", "text"}
    [first, second] = engine.search("1")
    assert names([first, second]) == ["a", "b"]
    assert first.modalities["text"] is None and second.modalities["visual"] is None
    assert first.modalities["speech"] is not None and first.modalities["speech"] > 0


def test_weights_change_the_order_without_a_new_index(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"seen": [clip(visual=axis(1))], "said": [clip(speech=axis(1))]})
    assert names(engine.search("1", weights={"visual": 1, "speech": 0.1}))[0] == "seen"
    assert names(engine.search("1", weights={"visual": 0.1, "speech": 1}))[0] == "said"
    without = engine.search("1", weights={"speech": 0})
    assert all(hit.modalities["speech"] is None for hit in without)


def test_the_best_frame_adds_to_the_score(tmp_path: Path) -> None:
    steady = Clip(0, 9, 0.0, {"visual": axis(0)}, np.stack([axis(0)] * 3), np.array([0.0, 3.0, 6.0]))
    mean = (axis(0) * 2 + axis(1)) / np.sqrt(5)
    brief = Clip(0, 9, 0.0, {"visual": mean}, np.stack([axis(0), axis(0), axis(1)]), np.array([0.0, 3.0, 6.5]))
    engine = engine_over(tmp_path, {"steady": [steady], "brief": [brief]})
    hits = engine.search("1")
    assert names(hits) == ["brief", "steady"]
    assert hits[0].frame_s == 6.5
    part = 0.4 * float(mean @ axis(1)) + 0.6
    assert hits[0].score > part / 2, "the best frame has its share of the score"


def test_hits_per_video(tmp_path: Path) -> None:
    many = [clip(10.0 * i, 10.0 * i + 5, visual=axis(1)) for i in range(4)]
    engine = engine_over(tmp_path, {"long": many, "other": [clip(visual=axis(2))]})
    assert names(engine.search("1")) == ["long", "other"]
    assert names(engine.search("1", per_video=3)) == ["long", "long", "long", "other"]
    assert [hit.rank for hit in engine.search("1", per_video=3)] == [1, 2, 3, 4]
    assert len(engine.search("1", top_k=2, per_video=9)) == 2


def test_a_long_video_does_not_hide_the_others(tmp_path: Path) -> None:
    many = [clip(10.0 * i, 10.0 * i + 5, visual=axis(1)) for i in range(700)]
    engine = engine_over(tmp_path, {"long": many} | {f"v{i}": [clip(visual=axis(2))] for i in range(9)})
    assert len(engine.search("1", top_k=10)) == 10


def test_spoken_words_lift_their_clip(tmp_path: Path) -> None:
    said = {"segments": [Segment(6, 8, "The Zeppelin's hangar", "asr", confidence=0.5)]}
    engine = engine_over(
        tmp_path,
        {"a": [clip(0, 5, visual=axis(0)), clip(5, 10, visual=axis(0))], "b": [clip(visual=axis(0))]},
        a=said,
    )
    hits = engine.search("a zeppelin hangar", per_video=2)
    assert (names(hits)[0], hits[0].start_s) == ("a", 5.0)
    assert hits[0].words == ("zeppelin", "hangar")
    assert hits[0].snippet == "The Zeppelin's hangar"
    assert hits[0].modalities["speech"] == pytest.approx(0.5), "SETUP.word_weight for all words of the question"
    assert hits[1].words == ()


def test_words_of_the_title_count_as_text(tmp_path: Path) -> None:
    named = {"documents": [Document("title", "holiday_IMG_1234")]}
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0))], "b": [clip(visual=axis(0))]}, b=named)
    [first, _] = engine.search("IMG_1234")
    assert names([first]) == ["b"]
    assert first.modalities["text"] is not None and first.modalities["text"] > 0


@pytest.mark.parametrize("text", ["it's", "C++", "->", "a AND", '5"', "NEAR(", "100%", "*", "日本", "a" * 500, "\x00x"])
def test_no_character_is_syntax(tmp_path: Path, text: str) -> None:
    said = {"segments": [Segment(0, 2, "it's C++ and foo", "sidecar")]}
    assert engine_over(tmp_path, {"a": [clip(visual=axis(0))]}, a=said).search(text)


def test_clips_after_the_watermark_are_found(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0))]})
    with writing(tmp_path) as writer:
        add_video(writer, "b", [clip(visual=axis(1))])
        assert names(engine.search("1")) == ["b", "a"]
        writer.publish()
    assert names(engine.search("1")) == ["b", "a"]


def test_a_removed_video_is_not_found_before_the_next_index(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0))], "b": [clip(visual=axis(1))]})
    with writing(tmp_path) as writer:
        writer.catalog.remove(b"/videos/b")
        assert names(engine.search("1")) == ["a"]


@pytest.mark.parametrize("harm", ["gone", "cut"])
def test_without_its_index_a_library_is_scanned_exactly(tmp_path: Path, harm: str) -> None:
    expected = names(engine_over(tmp_path, {f"v{i}": [clip(visual=axis(i))] for i in range(5)}).search("3"))
    [path] = (tmp_path / "index").iterdir()
    if harm == "gone":
        path.unlink()
    else:
        path.write_bytes(path.read_bytes()[:-9])
    assert names(SearchEngine.open(tmp_path).search("3")) == expected


def test_before_the_first_generation_the_delta_is_searched(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_some(writer)
    assert names(SearchEngine.open(tmp_path).search("1"))[0] == "v1"


def add_some(writer: Writer) -> None:
    for i in range(3):
        add_video(writer, f"v{i}", [clip(visual=axis(i))])


def test_words_and_index_do_not_wait_for_the_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))]})
    looked_up, prepared = Event(), Event()
    encode, match = QueryEncoder.encode, source.match_keywords

    def encode_later(self: QueryEncoder, part: Part) -> Any:
        assert looked_up.wait(60) and prepared.wait(60), "the words and the index wait for the encoder"
        return encode(self, part)

    def match_and_tell(*arguments: Any) -> Any:
        found = match(*arguments)
        looked_up.set()
        return found

    def prepare_and_tell(_: JointIndex) -> None:
        prepared.set()

    monkeypatch.setattr(QueryEncoder, "encode", encode_later)
    monkeypatch.setattr(source, "match_keywords", match_and_tell)
    monkeypatch.setattr(JointIndex, "prepare", prepare_and_tell)
    assert names(engine.search("1")) == ["a"]


def test_without_memory_for_a_thread_the_words_are_encoded_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))]})
    encoding, encode = set[int](), QueryEncoder.encode

    def noted(self: QueryEncoder, part: Part) -> Any:
        encoding.add(get_ident())
        return encode(self, part)

    def refuse(*_: object) -> None:
        raise OSError("libgcc_s.so.1: failed to map segment from shared object")

    monkeypatch.setattr(QueryEncoder, "encode", noted)
    monkeypatch.setattr(sys, "platform", "linux")
    monkeypatch.setattr(ctypes, "CDLL", refuse)
    threads._threads.cache_clear()
    assert names(engine.search("1")) == ["a"]
    assert encoding == {get_ident()}


def test_an_error_of_the_encoder_is_that_of_the_search(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))]})

    def fail(*_: object) -> None:
        raise ModelError("the weights are damaged")

    monkeypatch.setattr(QueryEncoder, "encode", fail)
    with pytest.raises(ModelError, match="the weights are damaged"):
        engine.search("1")


@pytest.mark.parametrize(("where", "name", "value"), NO_THREADS)
def test_words_are_encoded_where_no_thread_can_be_started(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: Any, name: str, value: Any
) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))], "b": [clip(visual=axis(2))]})
    monkeypatch.setattr(where, name, value)
    assert names(engine.search("2"))[0] == "b"


def test_a_search_that_fails_leaves_no_encoder_running(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else there is no limit to the threads of a server: those of failed searches wait for a core."""
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(1))]})
    begun, encoded = Event(), Event()

    def encode_later(*_: object) -> dict[Any, Any]:
        begun.set()
        Event().wait(0.2)
        encoded.set()
        return {}

    def fail(*_: object) -> None:
        assert begun.wait(60)
        raise QueryError("the words are wrong")

    monkeypatch.setattr(QueryEncoder, "encode", encode_later)
    monkeypatch.setattr(source, "match_keywords", fail)
    with pytest.raises(QueryError, match="the words are wrong"):
        engine.search("1")
    assert encoded.is_set()


def test_wrong_queries_raise_one_sentence(tmp_path: Path) -> None:
    engine = engine_over(tmp_path, {"a": [clip(visual=axis(0))]})
    for text in ("", "  \n"):
        with pytest.raises(QueryError, match="empty"):
            engine.search(text)
    with pytest.raises(QueryError, match="shorten"):
        engine.search("x" * (MAX_QUERY_CHARS + 1))
    with pytest.raises(QueryError, match="weight"):
        engine.search("1", weights={"visual": float("nan")})
    with pytest.raises(QueryError, match="weight"):
        engine.search("1", weights={"visual": 0, "speech": 0, "screen": 0, "text": 0})
    with pytest.raises(QueryError, match="no modality 'visaul'; weights are for visual, speech, screen, audio, text"):
        engine.search("1", weights={"visaul": 0})
    with pytest.raises(QueryError, match="convex, rrf"):
        engine.search("1", combine="RRF")
    with pytest.raises(LibraryNotFound):
        SearchEngine.open(tmp_path / "nothing")


def test_a_hit_without_matched_words_shows_its_transcript(tmp_path: Path) -> None:
    said = [Segment(0, 2, "first", "asr"), Segment(4, 6, "second", "asr"), Segment(7, 9, "third " * 40, "asr")]
    clips = [clip(0, 5, visual=axis(0)), clip(5, 10, visual=axis(1)), clip(10, 12, visual=axis(2))]
    engine = engine_over(tmp_path, {"a": clips, "b": [clip(visual=axis(3))]}, a={"segments": said})
    shown = {(names([hit])[0], hit.start_s): hit.snippet for hit in engine.search("0", per_video=3)}
    assert shown["a", 0.0] == "first second"
    assert shown["a", 5.0] == ("second " + "third " * 40)[:SNIPPET_CHARS]
    assert shown["a", 10.0] is None and shown["b", 0.0] is None
