"""Recall for questions that people asked: measured by a run, kept for some weeks, and what follows if it is low."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM, add_video, clip, install

from vfindex.storage.index import segment as segments
from vfindex.storage.index import tuning
from vfindex.storage.index.ivf_pq import IvfPq
from vfindex.storage.index.live_recall import META_KEY, LiveRecall, Measured, Tally
from vfindex.storage.index.reader import JointIndex, write_list
from vfindex.storage.index.search_params import SearchParams
from vfindex.storage.joint.vector import fuse_query
from vfindex.storage.records import FloatArray
from vfindex.storage.user import questions
from vfindex.storage.user.questions import QuestionKeeper, kept_count
from vfindex.storage.writer import Writer, writing

VIDEOS, CLIPS_EACH = 12, 100
CLIPS = VIDEOS * CLIPS_EACH


@pytest.fixture
def writer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Writer]:
    """Yield the writer of a published library with codes."""
    monkeypatch.setattr(segments, "EXACT_CLIPS", 50)
    monkeypatch.setattr(IvfPq, "cost", lambda *_: 0.0)
    monkeypatch.setattr(tuning, "QUESTIONS", 32)
    monkeypatch.setattr(questions, "INTERVAL_S", 0.0)
    monkeypatch.setattr(questions, "SLOTS", 10**9)
    random = np.random.default_rng(5)
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number in range(VIDEOS):
            seen, said = unit(random, CLIPS_EACH), unit(random, CLIPS_EACH)
            clips = [clip(5.0 * at, 5.0 * at + 5, visual=seen[at], speech=said[at]) for at in range(CLIPS_EACH)]
            add_video(writer, f"v{number}", clips)
        writer.publish()
        yield writer


def unit(random: np.random.Generator, count: int) -> FloatArray:
    rows = random.standard_normal((count, DIM)).astype(np.float32)
    return np.asarray(rows / np.linalg.norm(rows, axis=1, keepdims=True), np.float32)


def current(writer: Writer) -> JointIndex:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    return writer.library.open_index(generation, thorough=True)


def ask(writer: Writer, count: int, *, speech_alone: bool = False, videos: int | None = None) -> None:
    """Ask for the ten best clips of vectors about nothing in the library. videos: only of the first few."""
    random = np.random.default_rng(9)
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
        assert generation is not None
        spec = generation.spec
        each = {m: unit(random, count) for m in spec.order}
        queries = np.stack([fuse_query({m: rows[row] for m, rows in each.items()}, spec) for row in range(count)])
        if speech_alone:
            queries[:, : generation.spec.slices()["speech"].start] = 0
            queries[:, generation.spec.slices()["speech"].stop :] = 0
        among = None if videos is None else snapshot.clips_in(range(1, videos + 1))
    keeper = QuestionKeeper(writer.folder, writer.folder)
    for query in queries:
        keeper.keep(query, 10, among)


def worsen(writer: Writer, corner: int = 0) -> None:
    """Publish the index with search parameters that are too small for one weighting, by its number."""
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    [part] = current(writer).segments
    assert part.tuned is not None
    few = SearchParams(14, 1 / 8)
    corners = list(part.tuned.corners)
    corners[corner] = replace(corners[corner], first=few, many=few)
    worse = part.with_params(replace(part.tuned, corners=tuple(corners)))
    writer.publisher._list_again(generation, [worse])


def record(writer: Writer) -> LiveRecall:
    return LiveRecall.from_json(writer.catalog.get(META_KEY))


def measured(writer: Writer) -> Measured:
    found = Measured.of(record(writer).tallies)
    assert found is not None
    return found


def test_a_good_index_keeps_its_word(writer: Writer) -> None:
    ask(writer, 40)
    writer.measure_recall(lambda: None)
    found = measured(writer)
    assert found.questions == 40 and found.recall >= 0.99 and not record(writer).is_low
    assert kept_count(writer.folder) == 0, "a question is measured once"
    writer.measure_recall(lambda: None)
    assert measured(writer) == found


def test_an_index_that_scores_all_vectors_finds_all(writer: Writer) -> None:
    [part] = current(writer).segments
    assert part.tuned is not None
    every = SearchParams(0, 1.0)
    corners = tuple(replace(each, first=every, many=every) for each in part.tuned.corners)
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    writer.publisher._list_again(generation, [part.with_params(replace(part.tuned, corners=corners))])
    ask(writer, 20)
    ask(writer, 20, videos=2)
    writer.measure_recall(lambda: None)
    found = record(writer).by_weighting()
    assert {filtered for _, filtered in found} == {False, True}
    assert {each.recall for each in found.values()} == {1.0}


def test_too_small_parameters_are_seen_and_raised(writer: Writer) -> None:
    worsen(writer, 1 + spec_order(writer).index("speech"))
    ask(writer, 40)
    ask(writer, 40, speech_alone=True)
    said: list[str] = []
    recalls: list[float] = []
    plain = writer.catalog.put

    def noting(key: str, value: str) -> None:
        if key == META_KEY and (found := Measured.of(LiveRecall.from_json(value).tallies)):
            recalls.append(found.recall)
        plain(key, value)

    writer.catalog.put = noting  # type: ignore[method-assign]
    before = current(writer)
    writer.measure_recall(lambda: None, said.append)
    assert recalls[-1] < 0.95
    assert said[-1] == "it finds too little, so its search parameters are raised"
    assert record(writer) == LiveRecall(raised=datetime.now(UTC).date().isoformat())

    ask(writer, 40, speech_alone=True)
    writer.measure_recall(lambda: None)
    assert measured(writer).recall >= 0.97
    assert set(record(writer).by_weighting()) == {("speech", False)}
    raised = current(writer).segments[0].tuned, before.segments[0].tuned
    assert raised[0] is not None and raised[1] is not None
    changed = [now != then for now, then in zip(raised[0].corners, raised[1].corners, strict=True)]
    assert changed == [m == "speech" for m in ("", *spec_order(writer))]


def spec_order(writer: Writer) -> tuple[str, ...]:
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    return tuple(generation.spec.order)


def test_raised_parameters_outlive_publications_and_not_a_rebuild(writer: Writer) -> None:
    worsen(writer)
    ask(writer, 40)
    writer.measure_recall(lambda: None)
    raised = current(writer).segments[0].tuned
    add_video(writer, "new", [clip(0.0, 5.0, visual=unit(np.random.default_rng(1), 1)[0])])
    writer.publish()
    index = current(writer)
    assert len(index.segments) == 2 and index.segments[0].tuned == raised and index.segments[0].is_raised
    assert record(writer).raised is not None
    with writer.library.snapshot() as snapshot:
        generation = snapshot.generation()
    assert generation is not None
    writer.publisher.publish_shared(None)
    assert not current(writer).segments[0].is_raised and record(writer) == LiveRecall()


def test_without_time_questions_wait(writer: Writer) -> None:
    ask(writer, 40)
    writer.measure_recall(lambda: 0.0)
    assert kept_count(writer.folder) == 40 and record(writer) == LiveRecall()


def test_time_that_ends_meanwhile_keeps_what_was_measured(writer: Writer) -> None:
    ask(writer, 40)
    left = iter([1.0] * 2)
    writer.measure_recall(lambda: next(left, 0.0))
    done = measured(writer).questions
    assert 0 < done < 40 and kept_count(writer.folder) == 40 - done


def test_an_exact_index_drops_its_questions(writer: Writer, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(writer, 3)
    monkeypatch.setattr(segments, "EXACT_CLIPS", 10 * CLIPS)
    writer.publish()
    assert current(writer).is_exact
    writer.measure_recall(lambda: None)
    assert kept_count(writer.folder) == 0 and record(writer) == LiveRecall()


def test_files_of_the_version_before_know_no_raised_parameters(writer: Writer, tmp_path: Path) -> None:
    index = current(writer)
    file = write_list(writer.library.index / "plain.segments", index.segments)
    assert b"efforts" not in (writer.library.index / file.name).read_bytes()
    assert JointIndex.load(writer.library.index, file).segments[0].tuned == index.segments[0].tuned


# --- the record -----------------------------------------------------------------------------------------------------


def tally(recall: float, count: int, day: str = "2026-11-20", weighting: str = "default") -> Tally:
    return Tally(day, weighting, False, count, recall * count)


def test_the_interval_is_wilson_s() -> None:
    found = Measured.of([tally(0.9, 60), tally(0.9, 40)])
    assert found is not None and found.questions == 100 and found.recall == pytest.approx(0.9)
    assert (found.low, found.high) == (pytest.approx(0.8256, abs=1e-4), pytest.approx(0.9448, abs=1e-4))
    every = Measured.of([tally(1.0, 20)])
    assert every is not None and (every.low, every.high) == (pytest.approx(0.8389, abs=1e-4), pytest.approx(1.0))
    assert Measured.of([]) is None


@pytest.mark.parametrize(
    ("recall", "count", "is_low"), [(0.96, 30, True), (0.96, 29, False), (0.2, 5, True), (0.97, 99, False)]
)
def test_few_questions_raise_no_alarm_by_chance(recall: float, count: int, is_low: bool) -> None:
    assert LiveRecall((tally(recall, count),)).is_low is is_low


def test_one_weighting_that_is_low_counts() -> None:
    good, bad = tally(1.0, 1000), tally(0.9, 40, weighting="speech")
    assert LiveRecall((good, bad)).is_low and not LiveRecall((good,)).is_low


def test_the_record_goes_back_four_weeks() -> None:
    today = date(2026, 11, 29)
    days = [(today - timedelta(days=ago)).isoformat() for ago in (0, 27, 28, 40)]
    kept = LiveRecall(tuple(tally(1.0, 1, day) for day in days), "2026-11-01").since(today)
    assert [each.day for each in kept.tallies] == days[:2]
    assert LiveRecall.from_json(kept.to_json()) == kept


@pytest.mark.parametrize("stored", [None, "", "[]", "{", '{"tallies": [{}]}', '{"tallies": 3}', "[" * 100_000])
def test_a_record_of_another_form_is_none(stored: str | None) -> None:
    assert LiveRecall.from_json(stored) == LiveRecall()


@pytest.mark.parametrize(
    ("questions", "found"), [(5, -3.0), (-5, 4.0), (5, 99.0), (5, math.nan), (5, math.inf), (10**400, 4.0)]
)
def test_a_record_that_cannot_be_is_none(questions: int, found: float) -> None:
    record = LiveRecall((Tally("2026-11-20", "default", False, questions, found),), "2026-11-01")
    assert LiveRecall.from_json(record.to_json()) == LiveRecall()
    assert LiveRecall.from_json('{"tallies": [], "raised": [1]}') == LiveRecall()
