"""Which searches are kept to measure the index with, and what of them."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.service import SearchService
from vfindex.storage.index import segment, tuning
from vfindex.storage.user import questions
from vfindex.storage.user.questions import keep_questions, kept_count, kept_questions
from vfindex.storage.writer import writing

VIDEOS, CLIPS_EACH = 20, 5


@pytest.fixture(params=[50, segment.EXACT_CLIPS], ids=["codes", "exact"])
def library(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(segment, "EXACT_CLIPS", request.param)
    monkeypatch.setattr(tuning, "QUESTIONS", 16)
    monkeypatch.setattr(questions, "INTERVAL_S", 0.0)
    monkeypatch.setattr(questions, "SLOTS", 10**9)
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {"visual": axis(1), "speech": axis(1), "text": axis(1)})
    random = np.random.default_rng(2)
    with writing(tmp_path / "library") as writer:
        install(writer)
        for number in range(VIDEOS):
            rows = random.standard_normal((CLIPS_EACH, DIM)).astype(np.float32)
            add_video(writer, f"v{number}", [clip(5.0 * at, 5.0 * at + 5, visual=row) for at, row in enumerate(rows)])
        writer.publish()
    yield tmp_path / "library"


def test_people_s_questions_are_kept_where_the_index_is_not_exact(
    library: Path, request: pytest.FixtureRequest
) -> None:
    with SearchService(library) as service:
        assert service.search("a dog")
        assert service.search("a dog")
    is_exact = request.node.callspec.id == "exact"
    assert kept_count(library) == (0 if is_exact else 2)
    if is_exact:
        assert not (library / "questions").exists()
        return
    for _, question in kept_questions(library, 3 * DIM):
        assert question.top_k >= 200 and question.among is None


@pytest.mark.parametrize("library", [50], indirect=True)
def test_programs_exact_searches_and_a_choice_leave_nothing(library: Path) -> None:
    SearchEngine.open(library).search("a dog")
    with SearchService(library) as service:
        service.search("a dog", exact=True)
        keep_questions(library, False)
        service.search("a dog")
    assert kept_count(library) == 0


@pytest.mark.parametrize("library", [50], indirect=True)
def test_what_people_asked_is_measured_by_the_next_run_and_shown(library: Path) -> None:
    with SearchService(library) as service:
        for text in ("a dog", "a dog longer:1s", "a dog"):
            service.search(text)
        index = service.status().index
        assert index is not None and index.recall is not None
        assert (index.recall.kept, index.recall.recall) == (3, None)
        with writing(library) as writer:
            writer.measure_recall(lambda: None)
        index = service.status().index
    assert index is not None and index.recall is not None
    assert (index.recall.kept, index.recall.questions, index.recall.is_low) == (0, 3, False)
    assert sorted((each.filtered, each.questions) for each in index.recall.weightings) == [(False, 2), (True, 1)]


@pytest.mark.parametrize("library", [50], indirect=True)
def test_the_filters_of_a_question_are_kept_as_its_clips(library: Path) -> None:
    with SearchService(library) as service:
        service.search("a dog longer:1s")
    [(_, question)] = kept_questions(library, 3 * DIM)
    clips = question.clips(np.arange(1, VIDEOS * CLIPS_EACH + 1))
    assert clips is not None and len(clips) == VIDEOS * CLIPS_EACH and question.among is not None
    assert len(question.among) == 1, "clips of consecutive ids are one range"


@pytest.mark.parametrize("library", [50], indirect=True)
def test_a_service_keeps_questions_again_after_its_disk_was_full(
    library: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(questions, "AGAIN_S", 0.0)
    with SearchService(library) as service:
        with monkeypatch.context() as patched:
            patched.setattr(questions, "share", full)
            assert service.search("a dog")
        assert kept_count(library) == 0 and not list((library / "questions").glob("*.part"))
        assert service.search("a dog")
    assert kept_count(library) == 1
