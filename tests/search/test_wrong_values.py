"""Values of a wrong type, and numbers out of range: one sentence for each call of the service."""

from __future__ import annotations

import json
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.query.ast import Filters, Moment, Query, Term
from vfindex.search.query.like import Like
from vfindex.search.service import SearchService
from vfindex.storage.errors import QueryError, UsageError
from vfindex.storage.records import ClipKey, Segment
from vfindex.storage.writer import writing


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a library in which video N has two clips of axis N, and says N."""
    fake_query_vectors(monkeypatch, axis_of_digit)
    library = tmp_path / "library"
    with writing(library) as writer:
        install(writer)
        for number in range(4):
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(number), speech=axis(number)) for i in range(2)]
            add_video(writer, f"v{number}", clips, [Segment(6, 8, f"number {number}", "asr", "en")])
        writer.publish()
    return library


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"text": None}, "the query must be a text or a Query, not None"),
        ({"text": b"3"}, "the query must be a text or a Query"),
        ({"top_k": "5"}, "top_k must be a whole number of 1 or more, not '5'"),
        ({"top_k": 0}, "top_k must be a whole number of 1 or more, not 0"),
        ({"top_k": True}, "top_k must be a whole number"),
        ({"per_video": 1.5}, "per_video must be a whole number of 1 or more, not 1.5"),
        ({"weights": 3}, "weights must map modalities"),
        ({"weights": {"sound": 1}}, "there is no modality 'sound'"),
        ({"weights": {"visual": "1"}}, "the weight of visual must be a number of 0 to 1,000, not '1'"),
        ({"weights": {"visual": float("nan")}}, "the weight of visual must be a number"),
        ({"weights": {"visual": -1}}, "the weight of visual must be a number of 0 to 1,000, not -1"),
        ({"weights": {"visual": 1e200}}, "the weight of visual must be a number of 0 to 1,000, not 1e+200"),
        ({"weights": {"visual": 10**400}}, "the weight of visual must be a number"),
        ({"combine": "sum"}, "combine must be one of convex, rrf, not 'sum'"),
        ({"exact": "no"}, "exact must be True or False, not 'no'"),
        ({"images": "dog.jpg"}, "images must be a list"),
        ({"images": [3]}, "an image must be a Path, a Picture, a Like or a ClipKey, not 3"),
        ({"timeout_s": 0}, "timeout_s must be a number of seconds above 0"),
        ({"timeout_s": 10**400}, "timeout_s must be a number of seconds above 0"),
        ({"images": [ClipKey(None, 0)]}, "a clip is a ClipKey of text and milliseconds"),  # type: ignore[arg-type]
        ({"images": [Like(Path("/videos/v1"), "1")]}, "a clip is a ClipKey of text"),  # type: ignore[arg-type]
        ({"text": Query(())}, "a Query has one Moment, or two"),
        ({"text": Query((Moment((Term("3"),)),), "then", 5.0)}, "a Query has one Moment, or two"),
        ({"text": Query((Moment((Term("3", weight=float("nan")),)),))}, "the weight of a Term"),
        ({"text": Query((Moment((Term("3", modality="sound"),)),))}, "there is no modality 'sound'"),
        ({"text": Query((Moment((Term("3"),)),), filters=Filters(since="2026"))}, "since and until"),  # type: ignore[arg-type]
        (
            {"text": Query((Moment((Term("3"),)),), filters=Filters(inside=["*"]))},
            "inside, languages, speakers, labels and",
        ),  # type: ignore[arg-type]
        ({"timeout_s": "1"}, "timeout_s must be a number of seconds above 0"),
        ({"min_confidence": "sure"}, "min_confidence must be one of none, low, medium, high"),
    ],
)
def test_a_wrong_value_is_one_sentence(folder: Path, options: dict[str, Any], sentence: str) -> None:
    with SearchService(folder) as service, pytest.raises(QueryError) as refused:
        service.search(**{"text": "3", **options})
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        (lambda service: service.video(5), "the name of a video must be a path, not 5"),
        (lambda service: service.transcript("a\0b"), "the name of a video 'a\\x00b' has a NUL character"),
        (lambda service: service.transcript("v1", track="visual"), "track must be one of speech, screen, text, not"),
        (lambda service: service.frames("\ud800", [0.0]), "the name of a video '\\ud800' is not valid text"),
        (lambda service: service.thumbnail(Path("v1@2")), "a clip is a ClipKey of text and milliseconds"),
        (lambda service: service.mark(["v1", 0]), "a clip is a ClipKey of text and milliseconds"),
        (lambda service: service.similar("a\0b@2"), "the name of a video 'a\\x00b' has a NUL character"),
        (lambda service: service.search(images=[Path("a\0b")]), "the image 'a\\x00b' has a NUL"),
        (lambda service: service.videos(None), "filters must be Filters, not None"),
        (lambda service: service.run("1"), "run_id must be a whole number, not '1'"),
        (lambda service: service.saved_query(5), "the name must be text, not 5"),
        (lambda service: service.save_query("name", 5), "a query must be text, not 5"),
        (lambda service: service.remove_marks(7), "ids must be a list of whole numbers, not 7"),
        (lambda service: service.engine.search("3").with_confidence("sure"), "min_confidence must be one of"),
        (lambda service: SearchService(5), "the folder of a library must be a path, not 5"),
        (lambda service: SearchEngine.open(Path("a\0b")), "the folder of a library 'a\\x00b' has a NUL"),
        (lambda service: Query.plain(5), "a query must be text, not 5"),
        (lambda service: Like.parse(5), "a clip is a video and a time, as in beach.mp4@12.5"),
    ],
)
def test_a_wrong_value_of_any_call_is_one_sentence(
    folder: Path, call: Callable[[SearchService], object], sentence: str
) -> None:
    with SearchService(folder) as service, pytest.raises((QueryError, UsageError)) as refused:
        call(service)
    assert str(refused.value).startswith(sentence) and "\n" not in str(refused.value)


def test_a_folder_may_be_text(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(folder)
    with SearchService(str(folder)) as service, SearchService([folder, str(tmp_path / "link")]) as twice:
        assert service.folder == folder and service.search("3") == SearchEngine.open(str(folder)).search("3")
        assert len(twice.engines) == 1, "a library named twice is one"


def test_the_working_folder_may_change(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Documents name the library as those of the command line do, and it is found from any folder."""
    monkeypatch.chdir(folder.parent)
    with SearchService(folder.name) as service:
        engine = SearchEngine.open(Path(folder.name))
        monkeypatch.chdir("/")
        [hit] = service.search("3", top_k=1)
        assert hit.library == service.status().library == folder
        assert engine.search("3", top_k=1) == [hit]


def test_any_number_of_hits_and_any_real_weight(folder: Path) -> None:
    with SearchService(folder) as service:
        most = service.search("3", top_k=10**6, per_video=10**6)
        assert service.search("3", top_k=10**400, per_video=10**400) == most
        for weight in (Fraction(1, 2), np.float32(0.5)):
            hits = service.search("3", weights={"visual": weight}, combine="rrf")  # type: ignore[dict-item]
            assert json.loads(json.dumps(hits.to_dict(), allow_nan=False)) == hits.to_dict()
