"""Answers: verbatim quotations of the right moment, "does not say" by the library's own calibration, and no guess."""

from __future__ import annotations

import json
import re
import shutil
import sqlite3
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from answering import answering, sending
from library_maker import SETUP, add_video, axis, clip, install, prior

from vfindex.search.calibration.labels import (
    META_KEY,
    Calibration,
    Labeller,
    LibraryLabeller,
    ModalityCalibration,
)
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.remote.address import Address
from vfindex.search.service import SearchService
from vfindex.search.understanding.answering.ask import NOT_SAID, _moment
from vfindex.search.understanding.answering.endpoint import Endpoint
from vfindex.search.understanding.answering.passages import Passage
from vfindex.storage.errors import LibraryDamaged, LibraryError, QueryError
from vfindex.storage.records import Line, Segment
from vfindex.storage.writer import writing

TREE = "Never climb a tree when power lines are nearby."
ROPES = "Climbers bring two ropes along."
BREAD = "Bread rises for hours."
CLIMBING, BAKING = "/videos/climb[1].mp4", "/videos/bread.mp4"
# Words alone lift a score above 0.1 here: the vectors of all questions and passages lie on one axis.
MEASURED = ModalityCalibration(1.0, 40, 60, 0.5, 0.1, 0.15, 5.0, 2.0, -1.0)


@pytest.fixture(autouse=True)
def one_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(QueryEncoder, "encode", lambda *_: {m: axis(1) for m in ("visual", "speech", "text")})

    def passages(_: QueryEncoder, __: str, texts: Sequence[str]) -> Any:
        return np.stack([axis(2)] * len(texts))

    monkeypatch.setattr(QueryEncoder, "encode_passages", passages)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path) as writer:
        install(writer)
        said = [Segment(1, 4, TREE, "asr", "en"), Segment(8.5, 12, ROPES, "sidecar", "en", speakers=("Ann Lee",))]
        clips = [clip(0, 5, visual=axis(1), speech=axis(2)), clip(8, 13, visual=axis(1), speech=axis(3))]
        add_video(writer, "climb[1].mp4", clips, said, end_s=13)
        add_video(writer, "bread.mp4", [clip(0, 5, speech=axis(4))], [Segment(0, 5, BREAD, "asr", "en")])
        add_video(writer, "silent.mp4", [clip(0, 5, visual=axis(5))])
        writer.publish()
        writer.catalog.put(META_KEY, Calibration(4, {"speech": MEASURED}).to_json())
    return tmp_path


def calibrated(folder: Path, calibration: Calibration) -> SearchService:
    with writing(folder) as writer:
        writer.catalog.put(META_KEY, calibration.to_json())
    return SearchService(folder)


def quoted(answer: Any) -> list[list[str]]:
    return [[each.text for each in moment.quotations] for moment in answer.moments]


def test_the_moment_that_answers_is_quoted(folder: Path) -> None:
    with SearchService(folder) as service:
        answer = service.ask("When should one never climb a tree?")
        assert (answer.says, answer.reason, answer.phrased) == (True, None, None)
        first = answer.moments[0]
        assert (first.rank, first.video, first.confidence) == (1, CLIMBING.encode(), "medium")
        [quotation] = first.quotations
        assert (quotation.text, quotation.track, quotation.source) == (TREE, "speech", "asr")
        assert (first.start_s, first.end_s, quotation.start_s, quotation.end_s) == (0.0, 5.0, 1.0, 4.0)
        assert quotation.words == ("never", "climb", "tree")
        assert service.ask("What do climbers bring along?").moments[0].quotations[0].speakers == ("Ann Lee",)
        json.dumps(answer.to_dict(), allow_nan=False)


def test_moments_come_in_the_order_of_a_search(folder: Path) -> None:
    with SearchService(folder) as service:
        # By speech alone the second clip would be first; what is shown, in the first, counts too.
        hits = service.search("climb tree ropes", per_video=2, min_confidence="none")
        answer = service.ask("climb tree ropes")
    counted = [hit.key for hit in hits if hit.modalities["speech"] is not None and hit.modalities["speech"] >= 0.1]
    assert [each.key for each in answer.moments] == counted and len(counted) == 2


def test_each_track_above_chance_is_quoted(folder: Path) -> None:
    with SearchService(folder) as service:
        hit = service.search("never climb a tree", min_confidence="none")[0]
    said, sign = Segment(1, 4, TREE, "asr", "en"), Segment(0, 5, "NO CLIMBING", "frames", "", track="screen")
    passages = [Passage((said,), (), 2.0), Passage((sign,), (), 0.5)]
    labeller = Labeller([LibraryLabeller({"speech": MEASURED, "screen": MEASURED}, {})])
    for screen, quoted_ in ((0.2, {TREE, "NO CLIMBING"}), (0.05, {TREE}), (None, {TREE})):
        moment = _moment(replace(hit, modalities={"speech": 2.0, "screen": screen}), passages, labeller)
        assert {each.text for each in moment.quotations} == quoted_


def test_what_is_not_above_chance_is_not_said(folder: Path) -> None:
    with SearchService(folder) as service:
        answer = service.ask("Where do zebras sleep?")
        assert (answer.says, answer.reason, answer.moments) == (False, NOT_SAID, ())
        shown = service.ask("Where do zebras sleep?", show_all=True)
        assert (shown.says, {each.confidence for each in shown.moments}) == (False, {"none"})


def above_chance(folder: Path, said: list[Segment], model: str = "all-MiniLM-L6-v2") -> SearchService:
    """Return a library in which every clip is above chance; of some lines."""
    with writing(folder) as writer:
        writer.install(replace(SETUP, references={"text": model}), {"visual": prior(), "speech": prior()}, {})
        add_video(writer, "read.mp4", [clip(0, 5, visual=axis(1), speech=axis(1))], said)
        writer.publish()
        least = replace(MEASURED, weight=1.0, low=-9.0)
        writer.catalog.put(META_KEY, Calibration(1, {"speech": least}).to_json())
    return SearchService(folder)


@pytest.mark.parametrize(
    ("lines", "says"),
    [(["DER", "and"], False), (["OK?"], False), (["Wear a helmet."], True), (["climbers"], True), (["K2"], False)],
)
def test_a_line_without_content_is_no_answer(tmp_path: Path, lines: list[str], says: bool) -> None:
    said = [Segment(n, n + 0.5, text, "asr", "en") for n, text in enumerate(lines)]
    with above_chance(tmp_path, said) as service:
        answer = service.ask("What should climbers put on?")
        assert (answer.says, answer.reason) == (says, None if says else NOT_SAID)


@pytest.mark.parametrize(
    ("question", "model", "says"),
    [
        ("Was trägt ein Kletterer?", "all-MiniLM-L6-v2", False),
        ("Was trägt ein Kletterer?", "BAAI/bge-m3", True),  # a model of many languages
        ("Was steht auf dem Helmet?", "all-MiniLM-L6-v2", True),  # one of its words is said
        ("What do mountaineers put on?", "all-MiniLM-L6-v2", True),
        ("Who painted La Gioconda?", "all-MiniLM-L6-v2", True),
    ],
)
def test_a_question_in_a_language_that_the_model_does_not_know(
    tmp_path: Path, question: str, model: str, says: bool
) -> None:
    with above_chance(tmp_path, [Segment(0, 4, "Wear a helmet and gloves.", "asr", "en")], model) as service:
        answer = service.ask(question)
        assert answer.says is says and bool(answer.moments) is says
        if not says:
            assert answer.reason == f"{NOT_SAID}; its text model knows English alone, and none of these words is in it"


def test_without_a_calibration_nothing_is_an_answer(folder: Path) -> None:
    for calibration, words in (
        (Calibration(4, {}), "have changed since"),
        (Calibration(4, {"speech": ModalityCalibration(0.9, 7, 60, 0.5)}), "7 known items; 20 are needed"),
        (Calibration(4, {"speech": ModalityCalibration(0.9, 1, 60, 0.5)}), "no labels (1 known item; 20 are needed"),
        (Calibration(4, {"speech": ModalityCalibration(0.6, 40, 60, 0.5)}), "AUC 0.60 over 40 known items"),
    ):
        with calibrated(folder, calibration) as service:
            answer = service.ask("When should one never climb a tree?")
            assert (answer.says, answer.moments) == (None, ())
            assert answer.reason is not None and answer.reason.startswith("no answer is better than chance here: ")
            assert words in answer.reason
            assert quoted(service.ask("When should one never climb a tree?", show_all=True))[0] == [TREE]


def test_one_video_is_asked_by_its_path_though_it_looks_like_a_glob(folder: Path) -> None:
    with SearchService(folder) as service:
        assert {each.video for each in service.ask("bread", show_all=True).moments} >= {BAKING.encode()}
        assert quoted(service.ask("never climb a tree", video="climb[1].mp4"))[0] == [TREE]
        other = service.ask("never climb a tree", video=BAKING)
        assert (other.says, other.reason, other.video) == (False, "the video does not say", BAKING.encode())
        with pytest.raises(LibraryError, match="is not in this library"):
            service.ask("bread", video="/videos/none.mp4")
        with pytest.raises(QueryError, match=r"^nothing is said or written in silent\.mp4"):
            service.ask("bread", video="silent.mp4")


def test_a_question_for_a_number_needs_one(folder: Path) -> None:
    with SearchService(folder) as service:
        assert quoted(service.ask("How many ropes do climbers bring?"))[0] == [ROPES]
        assert service.ask("How many trees does one climb?").says is False, "the quotation has no number"
        assert service.ask("Which trees does one never climb?").says is True


def test_a_corrected_line_is_quoted_as_corrected(folder: Path) -> None:
    with SearchService(folder) as service:
        said = service.transcript("bread.mp4")
        service.correct(Line.of(said.fingerprint, said.segments[0]), "Sourdough bread rises for a day.")
        assert quoted(service.ask("How does sourdough bread rise?"))[0] == ["Sourdough bread rises for a day."]


@pytest.mark.parametrize("harm", ["UPDATE generation SET spec = '{}'", "DROP TABLE generation"])
def test_the_damaged_one_of_several_libraries_is_named(
    folder: Path, tmp_path_factory: pytest.TempPathFactory, harm: str
) -> None:
    other = shutil.copytree(folder, tmp_path_factory.mktemp("several") / "other")
    with closing(sqlite3.connect(other / "library.db")) as connection, connection:
        connection.execute(harm)
    with SearchService([folder, other]) as service, pytest.raises(LibraryDamaged, match=f"^{re.escape(str(other))}: "):
        service.ask("how does one build a house in a tree?")


@pytest.mark.parametrize("question", ["", "  ", 7])
def test_a_question_has_words(folder: Path, question: Any) -> None:
    with SearchService(folder) as service, pytest.raises(QueryError, match="the question has no words"):
        service.ask(question)


def test_a_library_where_nothing_is_said_or_written(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "silent.mp4", [clip(visual=axis(1))])
        writer.publish()
    with SearchService(tmp_path) as service, pytest.raises(QueryError, match="nothing is said or written in this"):
        service.ask("bread")


def test_an_endpoint_is_asked_only_where_there_is_an_answer(folder: Path) -> None:
    text = "One should not when power lines are nearby [1]. Elephants fly."
    reply = sending(b"HTTP/1.1 200 OK", json.dumps({"choices": [{"message": {"content": text}}]}).encode())
    with answering(reply) as (port, received), SearchService(folder) as service:
        endpoint = Endpoint(Address("http", "127.0.0.1", port), "m")
        assert service.ask("Where do zebras sleep?", endpoint=endpoint).phrased is None
        assert received == []
        answer = service.ask("When should one never climb a tree?", endpoint=endpoint)
        assert answer.phrased is not None and answer.phrased.dropped == 1
        assert [each.to_dict() for each in answer.phrased.sentences] == [
            {"text": "One should not when power lines are nearby.", "moments": [1]}
        ]
    assert len(received) == 1 and TREE.encode() in received[0] and BREAD.encode() not in received[0]
    with SearchService(folder) as service:  # the port is closed now
        answer = service.ask("When should one never climb a tree?", endpoint=endpoint)
        assert answer.says and quoted(answer)[0] == [TREE]
        assert answer.phrased is not None and answer.phrased.problem is not None
