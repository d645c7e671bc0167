"""The demo's videos: made from installed packages, deterministic, with speech and images about different things."""

from __future__ import annotations

import hashlib
from pathlib import Path

import av
import numpy as np
import pytest

from vfindex.cli import demo_media
from vfindex.cli.demo_media import QUESTIONS, VIDEOS, View, make_demo_videos
from vfindex.indexer.extractors.metadata_text import describe
from vfindex.indexer.models.export.calibration_images import crop_box
from vfindex.storage.errors import VfindexError


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return make_demo_videos(tmp_path_factory.mktemp("demo"))


def test_videos_are_as_announced(made: list[Path]) -> None:
    assert [path.name for path in made] == [video.name for video in VIDEOS]
    for path, video in zip(made, VIDEOS, strict=True):
        with av.open(str(path)) as container:
            frames = [frame.to_ndarray(format="rgb24") for frame in container.decode(video=0)]
        duration_s = sum(shot.duration_s for shot in video.shots)
        assert 8 <= duration_s <= 12
        assert len(frames) == duration_s * demo_media.FPS
        assert frames[0].shape == (360, 640, 3)
        cut = video.shots[0].duration_s * demo_media.FPS
        moved, cut_apart = (np.abs(frames[a].astype(int) - frames[b]).mean() for a, b in ((0, 1), (cut - 1, cut)))
        assert 0 < moved < cut_apart


def test_sidecars_contain_the_speech(made: list[Path]) -> None:
    for path, video in zip(made, VIDEOS, strict=True):
        text = path.with_suffix(".srt").read_text(encoding="utf-8")
        assert all(line in text for line in video.speech)
        assert text.count(" --> ") == len(video.speech)
        assert text.startswith("1\n00:00:00,000 --> 00:00:03,667\n")


def test_the_same_bytes_each_time(made: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_media, "VIDEOS", VIDEOS[:1])
    (again,) = make_demo_videos(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(made[0].read_bytes()).digest()


def test_names_give_nothing_away() -> None:
    assert all(describe(b"/demo/" + video.name.encode(), {}, []).text == "" for video in VIDEOS)


def test_questions_ask_for_videos_of_both_kinds() -> None:
    assert {question.expected for question in QUESTIONS} <= {video.name for video in VIDEOS}
    assert sorted(question.modality for question in QUESTIONS) == ["speech", "speech", "visual", "visual"]


@pytest.mark.parametrize("size", [(451, 300), (512, 512), (300, 900), (640, 360)])
@pytest.mark.parametrize("view", [View(0, 0, 1), View(1, 1, 1.5), View(0.5, 0.5, 3), View(0.5, 0.5, 1)])
def test_views_stay_inside_the_photograph_and_keep_the_film_s_shape(size: tuple[int, int], view: View) -> None:
    left, top, right, bottom = crop_box(size, view.x, view.y, 1 / view.zoom)
    assert 0 <= left < right <= size[0] and 0 <= top < bottom <= size[1]
    assert (right - left) / (bottom - top) == pytest.approx(640 / 360)


def test_a_missing_photograph_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo_media, "photograph_folder", lambda: tmp_path)
    with pytest.raises(VfindexError, match=r"gravel\.png.*pip install"):
        make_demo_videos(tmp_path / "out")
