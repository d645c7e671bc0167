"""Filters: which videos pass each, and that these are ranked as by brute force."""

from __future__ import annotations

import os
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import fake_query_vectors
from hypothesis import given, settings
from hypothesis import strategies as st
from library_maker import DIM, axis, clip, install, video

from vfindex.search.engine import SearchEngine
from vfindex.search.query.filters import recorded_on
from vfindex.search.service import SearchService
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.index.segment import IndexSegment
from vfindex.storage.records import Clip, Location, Segment, UnitPlan, UnitResult
from vfindex.storage.writer import Writer, writing

DAY_NS = 86_400_000_000_000
ASKED = np.random.default_rng(1).standard_normal(DIM).astype(np.float32)
ASKED /= np.linalg.norm(ASKED)


@pytest.fixture(autouse=True)
def every_question_is_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, lambda _: ASKED)


def add(
    writer: Writer,
    path: str,
    clips: list[Clip],
    *,
    day: int = 0,
    segments: tuple[Segment, ...] = (),
    **facts: Any,
) -> None:
    """Add a video at `path`, modified `day` days after 2000-01-01; facts: fields of Video."""
    made = replace(video(path), **facts)
    video_id = writer.catalog.begin_video(made, [UnitPlan(0)], recognised=True)
    [(unit_id, _)] = writer.catalog.pending_units(video_id)
    writer.commit_unit(video_id, path, unit_id, UnitResult(tuple(clips), segments))
    writer.catalog.finish_video(video_id, Location(path.encode(), 1, (10_957 + day) * DAY_NS, 1), [])


def line(language: str) -> tuple[Segment, ...]:
    return (Segment(0, 1, "word", "sidecar", language),)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> SearchEngine:
    """Return a library of five videos that differ in path, day, duration and language."""
    folder = tmp_path_factory.mktemp("filters")
    with writing(folder) as writer:
        install(writer)
        one = [clip(visual=axis(0))]
        add(writer, "/srv/holiday/beach.mp4", one, tags={"creation_time": "2026-03-01T23:30:00.000000Z"})
        add(writer, "/srv/holiday/My Dog/a.mp4", one, end_s=60, day=1, segments=line("en"))
        add(writer, "/srv/work/holiday.mp4", one, end_s=600, tags={"DATE": "20251224"}, segments=line("en-US"))
        writer.publish()
        add(writer, "/srv/work/talk.mkv", one, tags={"creation_time": "1904-01-01T00:00:00Z"}, segments=line("de"))
        add(writer, "/srv/work/eng.mkv", one, end_s=3600, day=400, segments=line("eng"))
    return SearchEngine.open(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("in:holiday", "a beach"),
        ("in:holiday/*", "a beach"),
        ("in:*/holiday*", "a beach holiday"),
        ("in:*.mkv", "eng talk"),
        ('in:"My Dog"', "a"),
        ("in:/srv/work/", "eng holiday talk"),
        ("in:work/t*.mkv in:beach.mp4", "beach talk"),
        ("in:nowhere", ""),
        ("after:2026-03-01", "beach"),
        ("after:2026-03-02", ""),
        ("before:2000-01-02", "talk"),
        ("after:2000-01-02 before:2002-01-01", "a eng"),
        ("after:2025-12-24 before:2025-12-25", "holiday"),
        ("longer:60s", "eng holiday"),
        ("shorter:60s", "beach talk"),
        ("longer:10s shorter:1h", "a holiday"),
        ("lang:en", "a holiday"),
        ("lang:en-us", "holiday"),
        ("lang:de lang:eng", "eng talk"),
        ("lang:en in:work", "holiday"),
    ],
)
def test_what_a_filter_keeps(engine: SearchEngine, text: str, expected: str) -> None:
    """Three of the videos are in the index, two in the delta."""
    hits = engine.search(f"question {text}")
    assert " ".join(sorted(Path(hit.video.decode()).stem for hit in hits if hit.video)) == expected


SPOKEN = {
    "interview": [((0, 4), ("Jane Doe",)), ((5, 9), ("Zoë Li", "Bob"))],
    "talk": [((5, 9), ("JANE",)), ((10, 14), ("Janet",))],
    "film": [((0, 14), ())],
}


@pytest.fixture(scope="module")
def speaking(tmp_path_factory: pytest.TempPathFactory) -> SearchEngine:
    """Return a library of three videos of three clips; two are in the index, one is in the delta."""
    folder = tmp_path_factory.mktemp("speakers")
    with writing(folder) as writer:
        install(writer)
        for name, said in SPOKEN.items():
            lines = tuple(Segment(*span, f"word in {name}", "sidecar", speakers=names) for span, names in said)
            clips = [clip(at, at + 5, visual=axis(0)) for at in (0, 5, 10)]
            add(writer, f"/srv/{name}.vtt.mp4", clips, segments=lines, end_s=15.0)
            if name == "talk":
                writer.publish()
    return SearchEngine.open(folder)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("speaker:jane", {"interview 0", "talk 5"}),
        ('speaker:"jane doe"', {"interview 0"}),
        ("speaker:zoe", {"interview 5"}),
        ("speaker:BOB speaker:janet", {"interview 5", "talk 10"}),
        ("speaker:jane in:talk*", {"talk 5"}),
        ('speaker:"doe jane"', set()),
        ("speaker:jan", set()),
        ("speaker:word", set()),
        ('"in talk" speaker:janet', {"talk 10"}),
        ('"in film" speaker:janet', set()),
        ('-"in talk" speaker:jane', {"interview 0"}),
    ],
)
def test_a_speaker_chooses_clips(speaking: SearchEngine, text: str, expected: set[str]) -> None:
    hits = speaking.search(f"question {text}", per_video=9, top_k=20)
    starts = {(Path(h.video.decode()).name.split(".")[0], span.start_s) for h in hits if h.video for span in h.moments}
    assert {f"{name} {start_s:.0f}" for name, start_s in starts} == expected


@pytest.mark.parametrize(
    ("text", "kind", "words"),
    [
        ("speaker:jan", "speaker", "speaker:jan matches no speaker"),
        ("speaker:jan", "speaker", "Jane Doe, Janet"),
        ("speaker:zoee", "speaker", "names like it: Zo\u00eb Li"),
        ('speaker:"jame doe"', "speaker", "names like it: Jane Doe"),
        ("speaker:xyzzy", "speaker", "whole words of a name are compared"),
        ("lang:fr", "lang", "lang:fr matches no transcript in this library; no transcript has a language"),
    ],
)
def test_a_filter_that_matches_nothing_gives_a_hint(speaking: SearchEngine, text: str, kind: str, words: str) -> None:
    [hint] = speaking.search(f"question {text}").hints
    assert hint.kind == kind and words in hint.text
    with SearchService(speaking.library().root) as service:
        assert service.videos(text).hints == (hint,)


def test_filters_that_match_give_no_hint(speaking: SearchEngine) -> None:
    assert speaking.search("question speaker:jane speaker:zoe").hints == ()


def test_two_moments_of_a_speaker(speaking: SearchEngine) -> None:
    assert len(speaking.search('question then question within 20s speaker:"jane doe"')) == 0
    assert len(speaking.search("question then question within 20s speaker:jane speaker:zoe")) == 1


def test_a_hit_names_the_speakers(speaking: SearchEngine) -> None:
    [hit] = speaking.search('question "word in interview" speaker:bob')
    assert [match.speakers for match in hit.matches] == [("Zoë Li", "Bob")]
    assert hit.to_dict()["matches"][0]["speakers"] == ["Zoë Li", "Bob"]


def test_the_day_of_a_video() -> None:
    places = [Location(b"/a", 1, 20 * DAY_NS, 1), Location(b"/b", 1, 10 * DAY_NS, 1)]
    assert recorded_on({}, places) == date(1970, 1, 11)
    assert recorded_on({}, []) is None
    assert recorded_on({"creation_time": "2020-05-04T10:00:00.000000Z"}, places) == date(2020, 5, 4)
    assert recorded_on({"com.apple.quicktime.creationdate": "2020-05-04T00:30:00+0200"}, []) == date(2020, 5, 3)
    assert recorded_on({"date": "20200504"}, []) == date(2020, 5, 4)
    assert recorded_on({"date": "2020:05:04 10:00:00"}, []) == date(2020, 5, 4)
    assert recorded_on({"date": "2020"}, places) == date(1970, 1, 11)
    assert recorded_on({"date": "20201340", "creation_time": "nonsense"}, places) == date(1970, 1, 11)


@settings(max_examples=30)
@given(st.integers(0, 2**32 - 1), st.integers(1, 60))
def test_an_index_search_among_some_ids_returns_their_best(seed: int, top_k: int) -> None:
    random = np.random.default_rng(seed)
    ids = random.choice(10_000, 300, replace=False).astype(np.int64)
    rows = random.standard_normal((300, 16)).astype(np.float32)
    order = np.argsort(ids)
    index = JointIndex([IndexSegment(ids[order], rows[order])])
    named = ids[random.random(300) < random.random()]
    query = random.standard_normal(16).astype(np.float32)
    belongs = np.isin(ids, named)
    expected = sorted(zip((-(rows @ query)[belongs]).tolist(), ids[belongs].tolist(), strict=True))[:top_k]
    scores, found = index.nearest(query[None], top_k, np.sort(named))
    assert found[0].tolist() == [id_ for _, id_ in expected]
    assert np.allclose(scores[0], [-score for score, _ in expected], atol=1e-4)


def test_a_filtered_search_ranks_the_videos_that_pass(tmp_path: Path) -> None:
    """A filter keeps 30 of the worst of 530 clips, beyond the candidates without a filter: all are found, in order."""
    random = np.random.default_rng(3)
    rows = random.standard_normal((530, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    rows = rows[np.argsort(rows @ ASKED)]  # the worst first
    others = [clip(10.0 * i, 10.0 * i + 5, visual=row) for i, row in enumerate(rows[30:])]
    with writing(tmp_path) as writer:
        install(writer)
        add(writer, "/other/long", others)
        for place in range(30):
            add(writer, f"/kept/{place:02d}", [clip(visual=rows[place])])
            if place == 20:
                writer.publish()
    hits = SearchEngine.open(tmp_path).search("question in:kept", top_k=40)
    assert [int(Path((hit.video or b"").decode()).name) for hit in hits] == list(range(29, -1, -1))


def test_globs_ignore_unicode_composition_and_match_literal_brackets(tmp_path: Path) -> None:
    names = {
        "nfd": "/srv/Cafe\u0301 2024/nfd.mp4",
        "nfc": "/srv/Café 2024/nfc.mp4",
        "trip": "/srv/[2024] Trip/trip.mp4",
        "short": "/srv/2 Trip/short.mp4",
        "question": "/srv/why?/question.mp4",
        "back": "/srv/a\\b/back.mp4",
        "odd": b"/srv/\xff\xfe/odd.mp4".decode("utf-8", "surrogateescape"),
        "two": "/srv/ab/two.mp4",
    }
    with writing(tmp_path) as writer:
        install(writer)
        for number, path in enumerate(names.values()):
            video_id = writer.catalog.begin_video(video(f"f{number}"), [UnitPlan(0)], recognised=True)
            [(unit_id, _)] = writer.catalog.pending_units(video_id)
            writer.commit_unit(video_id, f"f{number}", unit_id, UnitResult((clip(visual=axis(0)),), ()))
            writer.catalog.finish_video(video_id, Location(os.fsencode(path), 1, 1, 1), [])
    engine = SearchEngine.open(tmp_path)

    def kept(glob: str) -> str:
        found = engine.search(f'question in:"{glob}"')
        assert bool(found.hints) == (not found)
        return " ".join(sorted(Path(os.fsdecode(hit.video or b"")).stem for hit in found))

    assert kept("Café 2024") == kept("Cafe\u0301 2024/") == kept("*Cafe\u0301*") == "nfc nfd"
    assert kept("[2024] Trip") == "short trip" and kept("[2024] Trip/*.mp4") == "short trip"
    assert kept("/srv/[2024]*") == "short trip" and kept("[[]2024]*") == "trip"
    assert kept("why?") == "question" and kept("a\\b") == "back" and kept("*odd.mp4") == "odd"
    assert kept("\udcff\udcfe") == "odd" and kept("\udcfe\udcff") == "", "one byte is not as good as another"
    assert kept("CAFÉ 2024") == "" and kept("[9]") == ""
