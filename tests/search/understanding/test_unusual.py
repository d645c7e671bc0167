"""Clips least like the others: which stand out, what they are compared with, and large libraries."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import axis_of_digit, fake_query_vectors
from library_maker import DIM, add_video, clip, install

from vfindex.search.service import SearchService
from vfindex.search.understanding import unusual as module
from vfindex.search.understanding.unusual import METHODS, UnusualList
from vfindex.storage.errors import QueryError, QueryTimeout, UsageError
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

ODD = "odd.mp4"


def _vector(random: np.random.Generator, axis: int, noise: float = 0.15) -> FloatArray:
    vector = random.normal(scale=noise, size=DIM)
    vector[axis] += 1.0
    return np.asarray(vector / np.linalg.norm(vector), np.float32)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library of 30 videos about axis 0 or 1, each with two clips, and one about axis 5; a part unindexed."""
    folder, random = tmp_path_factory.mktemp("unusual"), np.random.default_rng(0)
    with writing(folder) as writer:
        install(writer)
        for number in range(30):
            if number == 20:
                writer.publish()
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=_vector(random, number % 2)) for i in range(2)]
            add_video(writer, f"cam{number % 2}/{number:02}.mp4", clips)
        add_video(writer, ODD, [clip(5.0 * i, 5.0 * i + 5, visual=_vector(random, 5, 0.01)) for i in range(3)])
    return folder


def _names(found: UnusualList) -> list[str]:
    return [Path(each.video.decode()).name for each in found.clips if each.video]


def test_what_all_clips_share_keeps_them_near_each_other(tmp_path: Path) -> None:
    random = np.random.default_rng(1)
    with writing(tmp_path) as writer:
        install(writer)
        for number in range(15):  # of 300 clips the mean is nearly axis 0, that of generic clips is 0
            clips = [clip(5.0 * i, 5.0 * i + 5, visual=_vector(random, 0, 0.2)) for i in range(20)]
            add_video(writer, f"road{number:02}.mp4", clips, end_s=100.0)
        add_video(writer, ODD, [clip(visual=_vector(random, 5, 0.01))])
        writer.publish()
    with SearchService(tmp_path) as service:
        found = service.unusual(modality="visual", top_k=2)
    assert _names(found)[0] == ODD and found.clips[0].score > 1.45 * found.clips[1].score


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("modality", [None, "visual"])
def test_the_odd_clips_come_first_though_their_own_video_is_like_them(
    folder: Path, method: str, modality: str | None
) -> None:
    with SearchService(folder) as service:
        found = service.unusual(method=method, modality=modality, per_video=3, top_k=5)
    assert _names(found)[:3] == [ODD] * 3
    assert [each.stands_out for each in found.clips[:3]] == [True] * 3
    assert (found.scored, found.compared) == (63, 63)
    first = found.clips[0]
    assert first.nearest is not None
    assert first.nearest.video != first.video
    assert [each.score for each in found.clips] == sorted((each.score for each in found.clips), reverse=True)
    assert first.to_dict()["key"] == [ODD, first.key.start_ms]


def test_one_clip_of_a_video_unless_more_are_asked_for(folder: Path) -> None:
    with SearchService(folder) as service:
        assert len(set(_names(service.unusual()))) == 10


def test_without_odd_clips_nothing_stands_out(folder: Path) -> None:
    with SearchService(folder) as service:
        found = service.unusual("in:cam0")
    assert len(found.clips) == 10
    assert found.outstanding == ()


def test_clips_of_one_place_are_compared_with_another(folder: Path) -> None:
    with SearchService(folder) as service:
        alike, other = service.unusual("in:cam0", among="in:cam0"), service.unusual("in:cam0", among="in:cam1")
        assert other.clips[0].score > 2 * alike.clips[0].score
        assert (other.scored, other.compared) == (30, 30)


def test_clips_are_compared_with_the_answers_to_a_question(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)
    monkeypatch.setattr(module, "ANSWERS", 10)
    with SearchService(folder) as service:
        found = service.unusual(against="1", top_k=40)
    assert found.compared <= 10
    names = [Path(each.video.decode()).parent.name for each in found.clips if each.video]
    assert all(np.isfinite(each.score) for each in found.clips)
    assert set(names[:16]) == {"cam0", "videos"}, "those of axis 1 are most like the answers"


def test_a_clip_that_only_its_own_video_is_compared_with_has_no_score(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_query_vectors(monkeypatch, axis_of_digit)
    monkeypatch.setattr(module, "ANSWERS", 1)
    with SearchService(folder) as service:
        found = service.unusual(against="5", top_k=1000, per_video=9)
    assert found.compared == 1
    assert len(found.clips) == 60
    assert ODD not in _names(found)


@pytest.mark.parametrize("modality", [None, "visual"])
def test_a_sample_and_the_index_find_what_all_clips_do(
    folder: Path, monkeypatch: pytest.MonkeyPatch, modality: str | None
) -> None:
    with SearchService(folder) as service:
        exact = service.unusual(per_video=3, top_k=3, modality=modality)
        monkeypatch.setattr(module, "MOST_COMPARED", 25)
        sampled = service.unusual(per_video=3, top_k=3, modality=modality)
    assert [each.key for each in sampled.clips] == [each.key for each in exact.clips]
    np.testing.assert_allclose([e.score for e in sampled.clips], [e.score for e in exact.clips], rtol=1e-4)
    assert all(each.stands_out for each in sampled.clips)


def test_progress_ends_with_all(folder: Path) -> None:
    calls: list[tuple[int, int]] = []
    with SearchService(folder) as service:
        service.unusual(progress=lambda done, total: calls.append((done, total)))
    assert calls[-1] == (63, 63)


def test_what_cannot_be_compared_is_a_sentence(folder: Path, tmp_path: Path) -> None:
    with SearchService(folder) as service:
        with pytest.raises(QueryError, match="too few videos with speech to say what is unusual: 0 of at least 3"):
            service.unusual(modality="speech")
        with pytest.raises(UsageError, match="this library has no audio; it has visual, speech, text"):
            service.unusual(modality="audio")
        with pytest.raises(QueryError, match="method must be one of knn, lof"):
            service.unusual(method="x")
        with pytest.raises(UsageError, match="unusual takes filters only"):
            service.unusual("dog")
        with pytest.raises(QueryError, match="use one of them"):
            service.unusual(among="in:a", against="b")
    with writing(tmp_path) as writer:
        assert writer
    with SearchService(tmp_path) as service, pytest.raises(QueryError, match="holds no videos yet"):
        service.unusual()


def test_true_neighbours_can_be_stopped(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_COMPARED", 25)
    refined: list[int] = []

    def end(done: int, total: int) -> None:
        if refined:
            raise QueryTimeout("comparing clips")

    nearest = module.nearest_clips

    def counted(*given: Any) -> Any:
        refined.append(1)
        return nearest(*given)

    monkeypatch.setattr(module, "nearest_clips", counted)
    with SearchService(folder) as service, pytest.raises(QueryTimeout):
        service.unusual(top_k=1000, per_video=1000, progress=end)
    assert len(refined) == 1
