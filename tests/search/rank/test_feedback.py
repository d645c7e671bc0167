"""Judgements move a question in each modality, by Rocchio, and are questions for evaluation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from library_maker import add_video, axis, clip, install

from vfindex.search.calibration.labels import META_KEY, Calibration, ModalityCalibration
from vfindex.search.evaluation.datasets import read_questions
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.rank.feedback import BETA, GAMMA
from vfindex.search.service import SearchService
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.user import data
from vfindex.storage.writer import writing

BOTH = (axis(1) + axis(2)) / np.sqrt(2, dtype=np.float32)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library in which a question, axis 1, finds a first, then b; c shares an axis with a alone."""
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {m: axis(1) for m in ("visual", "speech", "text")})
    with writing(tmp_path / "library") as writer:
        install(writer)
        for name, vector in (("a", BOTH), ("b", 0.6 * axis(1) + 0.8 * axis(3)), ("c", axis(2)), ("d", axis(4))):
            add_video(writer, f"{name}.mp4", [clip(visual=vector.astype(np.float32))])
        writer.publish()
    return tmp_path / "library"


def order(service: SearchService, text: str = "a dog", **options: Any) -> str:
    return "".join(hit.key.fingerprint[0] for hit in service.search(text, min_confidence="none", **options))


def test_what_is_accepted_draws_the_question_and_what_is_rejected_repels_it(folder: Path) -> None:
    with SearchService(folder) as service:
        assert order(service)[:2] == "ab"
        before = {hit.key.fingerprint: hit.score for hit in service.search("a dog", min_confidence="none")}
        service.mark("a.mp4@1", question="a dog", grade=3)
        service.mark("b.mp4@1", question="a dog", grade=0)
        hits = service.search("a dog", min_confidence="none", feedback=True)
        after = {hit.key.fingerprint: hit.score for hit in hits}
        assert after["c.mp4"] > before["c.mp4"]
        assert after["b.mp4"] / after["a.mp4"] < before["b.mp4"] / before["a.mp4"]
        assert hits.feedback is not None and (hits.feedback.judged, hits.feedback.used) == (2, 2)
        assert set(hits.feedback.cosines) == {"visual"} and 0.5 < hits.feedback.cosines["visual"] < 1
        assert {hit.confidence for hit in hits} == {None}
        assert hits.to_dict()["feedback"]["used"] == 2
        service.remove_marks([1, 2])
        undone = service.search("a dog", min_confidence="none", feedback=True)
        assert {hit.key.fingerprint: hit.score for hit in undone} == before and undone.feedback is None


def test_without_being_asked_for_judgements_move_nothing(folder: Path) -> None:
    with SearchService(folder) as service:
        before = service.search("a dog", min_confidence="none").to_dict()
        service.mark("c.mp4@1", question="a dog", grade=3)
        assert service.search("a dog", min_confidence="none").to_dict() == before
        assert order(service, "another dog", feedback=True) == order(service, "another dog")


def test_the_weights_are_the_published_ones() -> None:
    assert (BETA, GAMMA) == (0.75, 0.15)


def test_a_judged_clip_that_is_gone_moves_nothing(folder: Path) -> None:
    with SearchService(folder) as service:
        service.mark("d.mp4@1", question="a dog", grade=3)
        before = order(service)
    calibrated = ModalityCalibration(1.0, 40, 60, 1.0, 0.1, 0.2, 0.3, 2.0, -1.0)
    with writing(folder) as writer:
        writer.catalog.remove(b"/videos/d.mp4")
        writer.catalog.put(META_KEY, Calibration(3, {"visual": calibrated}).to_json())
    with SearchService(folder) as service:
        hits = service.search("a dog", min_confidence="none", feedback=True)
        plain = service.search("a dog", min_confidence="none")
        assert [each.confidence for each in hits] == [each.confidence for each in plain] != [None] * len(plain)
        assert hits.feedback is not None and (hits.feedback.judged, hits.feedback.used) == (1, 0)
        assert "".join(hit.key.fingerprint[0] for hit in hits) == before.replace("d", "")


def test_two_moments_are_refused(folder: Path) -> None:
    text = "a dog then a cat within 5s"
    with SearchService(folder) as service:
        service.mark("a.mp4@1", question=text, grade=1)
        with pytest.raises(QueryError, match="one moment"):
            service.search(text, feedback=True)


def test_judgements_are_questions_with_grades_and_spans(folder: Path) -> None:
    with pytest.raises(QueryError, match="judge clips first"):
        read_questions(folder / "user.db")
    with SearchService(folder) as service:
        service.mark("a.mp4@1")
        with pytest.raises(QueryError, match="has no judgements"):
            read_questions(folder / "user.db")
        service.mark("a.mp4@1", question="a dog", grade=1, by="ann")
        service.mark("a.mp4@1", question="a dog", grade=3, by="bob")
        service.mark("b.mp4@1", question="a dog", grade=0)
        service.mark("b.mp4@1", question="a car", grade=0)
    dog, car = read_questions(folder / "user.db")
    assert (dog.text, car.text, car.relevant) == ("a dog", "a car", ())
    [relevant] = dog.relevant
    assert (relevant.video, relevant.grade, relevant.spans) == ("/videos/a.mp4", 3, ((0.0, 5.0),))
    with pytest.raises(UsageError, match="neither parts nor paragraphs"):
        read_questions(folder / "user.db", split="test")


def test_a_judgement_that_was_changed_is_the_newest(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with SearchService(folder) as service:
        for second, (by, grade) in enumerate([("ann", 0), ("bob", 0), ("ann", 2)]):
            monkeypatch.setattr(data, "_now", lambda second=second: f"2026-01-01T00:00:0{second}+00:00")
            service.mark("a.mp4@1", question="a dog", grade=grade, by=by)
        assert [each.grade for each in service.judged("a dog")] == [0, 2]
    [dog] = read_questions(folder / "user.db")
    assert [each.grade for each in dog.relevant] == [2]
