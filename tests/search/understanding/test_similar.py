"""Recommendations: like a clip or a video, without the video itself, and diverse."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from asking import names
from library_maker import DIM, add_video, clip, install

from vfindex.cli.commands import similar as command
from vfindex.search.service import SearchService
from vfindex.search.understanding.diversity import BALANCE
from vfindex.storage.errors import LibraryError, QueryError, UsageError
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing


def _near(axis: int, other: int, share: float) -> FloatArray:
    """Return a unit vector with a cosine of `share` to one axis, the rest along another."""
    vector = np.zeros(DIM, np.float32)
    vector[axis], vector[other] = share, (1 - share**2) ** 0.5
    return vector


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a library: a video of axis 0 and 1; four that are alike; two that are like it in another way."""
    folder = tmp_path_factory.mktemp("similar")
    with writing(folder) as writer:
        install(writer)
        add_video(writer, "asked.mp4", [clip(5.0 * i, 5.0 * i + 5, visual=_near(0, 1, 1.0 - i)) for i in range(2)])
        for number in range(4):
            add_video(writer, f"alike {number}.mp4", [clip(visual=_near(0, 2, 0.9 - 0.001 * number))])
        add_video(writer, "differs.mp4", [clip(visual=_near(0, 3, 0.8))])
        add_video(writer, "second.mp4", [clip(visual=_near(1, 4, 0.95))])
        add_video(writer, "silent.mp4", [clip(speech=_near(5, 6, 1.0))])
        writer.publish()
    return folder


def test_a_diverse_list_does_not_repeat_itself(folder: Path) -> None:
    with SearchService(folder) as service:
        plain = service.similar("asked.mp4@1", top_k=3)
        diverse = service.similar("asked.mp4@1", top_k=3, balance=0.5)
    assert names(plain) == ["alike 0.mp4", "alike 1.mp4", "alike 2.mp4"]
    assert names(diverse)[:2] == ["alike 0.mp4", "differs.mp4"]
    assert [hit.rank for hit in diverse] == [1, 2, 3]
    assert diverse.like == plain.like == ("asked.mp4@1",)


def test_a_video_is_like_what_any_of_its_clips_is_like(folder: Path) -> None:
    with SearchService(folder) as service:
        first, whole = service.similar("asked.mp4@1", top_k=20), service.similar("asked.mp4", top_k=20)
    assert "second.mp4" in names(whole)[:2]
    assert "second.mp4" not in names(first)[:5]
    assert "asked.mp4" not in names(whole)
    assert [hit.rank for hit in whole] == list(range(1, len(whole) + 1))


def test_no_more_hits_than_asked_for(folder: Path) -> None:
    with SearchService(folder) as service:
        assert (
            len(service.similar("asked.mp4", top_k=2)) == len(service.similar("asked.mp4", top_k=2, balance=0.7)) == 2
        )


def test_what_is_no_example_is_a_sentence(folder: Path) -> None:
    with SearchService(folder) as service:
        with pytest.raises(QueryError, match=r"^silent.mp4 has no frames to compare"):
            service.similar("silent.mp4")
        with pytest.raises(UsageError, match=r"a clip is a video and a time, as in .* not 'nowhere.mp4@x'"):
            service.similar("nowhere.mp4@x")
        with pytest.raises(LibraryError, match=r"^nowhere.mp4 is not in this library"):
            service.similar("nowhere.mp4")
        with pytest.raises(QueryError, match="balance must lie between 0 and 1, not 2"):
            service.similar("asked.mp4@1", balance=2)


def test_the_default_of_the_command_is_the_code_s() -> None:
    assert command._BALANCE == BALANCE
