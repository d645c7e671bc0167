"""Questions that are kept for a measurement: what is stored, how much of it, and how to be rid of it."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from vfindex.storage.user import questions
from vfindex.storage.user.questions import (
    AskedQuestion,
    QuestionKeeper,
    forget_questions,
    keep_questions,
    keeps_questions,
    kept_count,
    kept_questions,
)

QUERY = np.array([0.5, -1.0, 2.0], np.float32)


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "INTERVAL_S", 0.0)


def kept(version: Path) -> list[AskedQuestion]:
    return [question for _, question in kept_questions(version, len(QUERY))]


@pytest.mark.parametrize("ids", [None, [], [7], [1, 2, 3, 9, 11, 12], [0, 2**40]])
def test_a_question_is_read_as_it_was_asked(tmp_path: Path, ids: list[int] | None) -> None:
    among = None if ids is None else np.array(ids, np.int64)
    QuestionKeeper(tmp_path, tmp_path).keep(QUERY, 200, among)
    [question] = kept(tmp_path)
    assert question.query.tolist() == QUERY.tolist() and question.top_k == 200
    every = np.union1d(np.arange(14), [2**40, 2**40 + 1])
    clips = question.clips(every)
    assert (None if clips is None else clips.tolist()) == ids


def test_only_so_many_are_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SLOTS", 5)
    keeper = QuestionKeeper(tmp_path, tmp_path)
    for number in range(200):
        keeper.keep(QUERY + number, 10, None)
    assert kept_count(tmp_path) == 5
    assert max(question.query[0] for question in kept(tmp_path)) > 100, "later ones replace earlier ones"
    assert len(list((tmp_path / "questions").iterdir())) == 5


def test_a_process_keeps_one_in_a_while(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "INTERVAL_S", 1e6)
    keeper = QuestionKeeper(tmp_path, tmp_path)
    for number in range(50):
        keeper.keep(QUERY + number, 10, None)
    [question] = kept(tmp_path)
    assert question.query.tolist() == QUERY.tolist()


def test_filters_in_many_pieces_are_not_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "MOST_RANGES", 3)
    keeper = QuestionKeeper(tmp_path, tmp_path)
    keeper.keep(QUERY, 10, np.arange(0, 8, 2))
    assert kept_count(tmp_path) == 0
    keeper.keep(QUERY, 10, np.arange(0, 6, 2))
    assert kept_count(tmp_path) == 1


def test_none_are_kept_once_that_is_off_and_all_are_forgotten(tmp_path: Path) -> None:
    other = tmp_path / "editions" / "1"
    other.mkdir(parents=True)
    keeper, of_other = QuestionKeeper(tmp_path, tmp_path), QuestionKeeper(tmp_path, other)
    keeper.keep(QUERY, 10, None)
    of_other.keep(QUERY, 10, None)
    (other / "questions" / "3.question.0a.part").write_bytes(b"killed")
    assert keeps_questions(tmp_path)
    keep_questions(tmp_path, False)
    assert not keeps_questions(tmp_path)
    assert forget_questions(tmp_path) == 2
    for each in (keeper, of_other):
        each.keep(QUERY, 10, None)
    assert [path.name for path in tmp_path.rglob("*") if path.is_file()] == ["off"]
    keep_questions(tmp_path, True)
    keeper.keep(QUERY, 10, None)
    assert kept_count(tmp_path) == 1


@pytest.mark.parametrize("harm", ["cut", "flipped", "words", "other"])
def test_what_is_damaged_or_of_other_models_is_deleted(tmp_path: Path, harm: str) -> None:
    QuestionKeeper(tmp_path, tmp_path).keep(QUERY, 10, np.arange(4))
    [path] = (tmp_path / "questions").iterdir()
    data = path.read_bytes()
    changed = {"cut": data[:-1], "flipped": data[:-1] + bytes([data[-1] ^ 1]), "words": b"[]\n", "other": data}[harm]
    path.write_bytes(changed)
    assert not list(kept_questions(tmp_path, 4 if harm == "other" else 3))
    assert kept_count(tmp_path) == 0


def test_where_nothing_can_be_written_nothing_is_kept(tmp_path: Path) -> None:
    (tmp_path / "questions").write_bytes(b"in the way")
    keeper = QuestionKeeper(tmp_path, tmp_path)
    keeper.keep(QUERY, 10, None)
    assert os.listdir(tmp_path) == ["questions"]
    (tmp_path / "questions").unlink()
    keeper.keep(QUERY, 10, None)
    assert os.listdir(tmp_path) == [], "it does not try again"


def test_on_another_machine_nothing_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "is_on_shared", lambda folder: folder == tmp_path)
    QuestionKeeper(tmp_path, tmp_path).keep(QUERY, 10, None)
    assert os.listdir(tmp_path) == []


def test_many_keep_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "SLOTS", 3)

    def ask(number: int) -> None:
        keeper = QuestionKeeper(tmp_path, tmp_path)
        for _ in range(40):
            keeper.keep(QUERY + number, 10, np.arange(number))

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(ask, range(8)))
    found = kept(tmp_path)
    assert len(found) == 3 == len(list((tmp_path / "questions").iterdir()))
    assert all(question.query[0] - QUERY[0] in range(8) for question in found)


def test_ranges_are_the_ids(tmp_path: Path) -> None:
    random = np.random.default_rng(3)
    for _ in range(50):
        ids: NDArray[np.int64] = np.unique(random.integers(0, 60, 30))
        ranges = questions._ranges(ids)
        assert [id_ for first, last in ranges.tolist() for id_ in range(first, last + 1)] == ids.tolist()
        assert np.all(ranges[1:, 0] > ranges[:-1, 1] + 1)
