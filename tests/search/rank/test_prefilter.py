"""Required and excluded keywords: the same hits for few documents and for thousands."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.rank import candidates as ranking_module
from vfindex.search.rank import required as required_module
from vfindex.search.rank import retrieve as retrieve_module
from vfindex.search.rank.temporal import fitting
from vfindex.storage.library import Library
from vfindex.storage.records import Document, Segment
from vfindex.storage.text import document_lists as lists_module
from vfindex.storage.text import full_text as full_text_module
from vfindex.storage.writer import writing

VIDEOS, CLIPS = 30, 6


@pytest.fixture(autouse=True)
def queries_are_axes(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A library in which every clip says `fox`, every second video `owl`, and every third is called `heron`."""
    folder = tmp_path_factory.mktemp("said")
    with writing(folder) as writer:
        install(writer)
        for number in range(VIDEOS):
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=axis(1 + (number + i) % 5)) for i in range(CLIPS)]
            line = "the fox and the owl" if number % 2 else "the fox alone"
            said = [Segment(5.0 * i, 5.0 * i + 4, line, "asr") for i in range(CLIPS)]
            titles = [Document("title", "heron")] if number % 3 == 0 else []
            add_video(writer, f"v{number:02d}", clips, said, titles)
        writer.publish()
    return folder


def found(folder: Path, text: str, top_k: int = VIDEOS) -> set[int]:
    """Return the numbers of the videos of hits."""
    hits = SearchEngine.open(folder).search(text, top_k=top_k)
    return {int((hit.video or b"").rpartition(b"v")[2]) for hit in hits}


def test_required_keywords_restrict_hits(folder: Path) -> None:
    assert found(folder, "1 said:owl") == {n for n in range(VIDEOS) if n % 2}
    assert found(folder, "1 titled:heron") == {n for n in range(VIDEOS) if n % 3 == 0}
    assert found(folder, "1 said:owl titled:heron") == {n for n in range(VIDEOS) if n % 6 == 3}
    assert found(folder, '1 "fox and the owl"') == {n for n in range(VIDEOS) if n % 2}
    assert found(folder, "1 said:gull") == set()


def test_excluded_keywords_restrict_hits(folder: Path) -> None:
    assert found(folder, "1 -owl") == {n for n in range(VIDEOS) if not n % 2}
    assert found(folder, "1 -titled:heron") == {n for n in range(VIDEOS) if n % 3}
    assert found(folder, '1 -"fox alone"') == {n for n in range(VIDEOS) if n % 2}
    assert found(folder, "1 -fox") == set()


def test_candidates_are_over_fetched_when_keywords_exclude_some(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Half of the fetched clips are excluded: there are as many candidates as without."""
    for name in ("MIN_CANDIDATES", "CANDIDATES_PER_HIT", "MAX_CANDIDATES"):
        monkeypatch.setattr(retrieve_module, name, 12)
    monkeypatch.setattr(ranking_module, "RESCORED_SHARE", 1.0)
    candidates: list[int] = []
    top = ranking_module.Candidates._top

    def note(self: ranking_module.Candidates, ids: Sequence[int], depth: int) -> dict[int, float]:
        candidates.append(len(ids))
        return top(self, ids, depth)

    monkeypatch.setattr(ranking_module.Candidates, "_top", note)
    assert found(folder, "1 -owl", top_k=1) <= {n for n in range(VIDEOS) if not n % 2}
    assert candidates == [12]


def test_of_many_documents_the_newest_and_an_even_sample_are_checked(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(required_module, "MAX_VERIFIED", 10)
    videos = found(folder, "1 said:fox")
    assert VIDEOS - 1 in videos and 5 <= len(videos) <= 10 and max(videos) - min(videos) > VIDEOS // 2


@pytest.mark.parametrize("few", [0, 100])
def test_filters_give_the_same_for_few_and_many_videos(folder: Path, monkeypatch: pytest.MonkeyPatch, few: int) -> None:
    monkeypatch.setattr(lists_module, "FEW_VIDEOS", few)
    monkeypatch.setattr(full_text_module, "MAX_COMPARED", 7)
    monkeypatch.setattr(full_text_module, "MAX_RANKED", 7)
    for text in ("1 fox in:v0*", "1 said:owl in:v0*", '1 "fox and the owl" in:v0*', "1 -owl in:v0*"):
        assert found(folder, text) == {n for n in found(folder, text.removesuffix(" in:v0*")) if n < 10}


def test_the_times_of_pairs() -> None:
    spans = [((0, 5), (5, 10)), ((0, 5), (24, 30)), ((0, 5), (26, 30)), ((5, 10), (0, 5)), ((0, 5), (0, 5))]
    near = np.array([[1, *first, 2, *second] for first, second in spans], np.float64).T
    assert fitting(near, "then", 20).tolist() == [True, True, False, False, False]
    assert fitting(near, "near", 20).tolist() == [True, True, False, True, True]


def test_clips_near_are_found_in_the_middle_of_a_long_video(tmp_path: Path) -> None:
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "long", [clip(7.0 * i, 7.0 * i + 7, visual=axis(1)) for i in range(200)])
    with Library.open(tmp_path).snapshot() as snapshot:
        ids = snapshot.clip_ids()
        for middle in (0, 100, 199):
            for within_s in (0.0, 3.0, 30.0):
                near = snapshot.clips_near([ids[middle]], within_s)
                reach = [n for n in range(200) if 7 * abs(n - middle) <= 7 + within_s]
                assert sorted(near[3].tolist()) == [ids[n] for n in reach]
                around = snapshot.clips_around([(1, 7.0 * middle - within_s, 7.0 * middle + 7 + within_s)])
                assert [id_ for _, id_ in around] == [ids[n] for n in reach]


def test_documents_are_placed_as_clips_during_them_are(folder: Path) -> None:
    with Library.open(folder).snapshot() as snapshot:
        holders = snapshot.words.holders("owl").ids
        places = snapshot.words.places(holders, {"speech"})
        pairs = {(document, clip_id) for document, _, spoken, clip_id in places.T.tolist() if spoken}
        assert pairs == set(snapshot.words.clips_during(holders.tolist())) and len(holders) == VIDEOS // 2 * CLIPS
        assert set(holders.tolist()) == {match.document_id for match in snapshot.words.match(["owl"], 1000)}
