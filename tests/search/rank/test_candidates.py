"""Scores of clips: sharpened similarities, best frames, and sums of modalities."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from asking import fake_query_vectors
from hypothesis import given
from hypothesis import strategies as st
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.rank.score import ABOVE_NOISE, BELOW_NOISE, NOISE_SPREADS, sharpened
from vfindex.search.results import Hit
from vfindex.storage.records import Clip, FloatArray
from vfindex.storage.writer import writing


@pytest.fixture(autouse=True)
def queries_are_axis_0(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, lambda _: axis(0))


def near(cosine: float) -> FloatArray:
    """Return a unit vector with this cosine to the query."""
    return np.asarray(cosine * axis(0) + np.sqrt(1 - cosine**2) * axis(1), np.float32)


def ranked(folder: Path, videos: dict[str, Clip]) -> dict[str, Hit]:
    """Return name -> hit, best first."""
    with writing(folder) as writer:
        install(writer)
        for name, one in videos.items():
            add_video(writer, name, [one])
        writer.publish()
    hits = SearchEngine.open(folder).search("x", weights={"speech": 1.0}, top_k=99)
    return {Path((hit.video or b"").decode()).name: hit for hit in hits}


finite = st.floats(-50, 50)
spreads = st.floats(0.01, 10)


@given(finite, finite, spreads)
def test_sharpening_keeps_order_and_sign(first: float, second: float, spread: float) -> None:
    assert (first < second) <= (sharpened(first, spread) <= sharpened(second, spread))
    assert sharpened(-first, spread) == -sharpened(first, spread)
    assert sharpened(2 * first, 2 * spread) == pytest.approx(2 * sharpened(first, spread))


@given(spreads)
def test_noise_shrinks_and_large_similarities_grow(spread: float) -> None:
    edge = NOISE_SPREADS * spread
    assert sharpened(edge / 2, spread) == pytest.approx(BELOW_NOISE * edge / 2)
    assert sharpened(edge + spread, spread) - sharpened(edge, spread) == pytest.approx(ABOVE_NOISE * spread)
    assert sharpened(edge, spread) < edge and sharpened(5 * spread, spread) > 5 * spread


def test_unrelated_talk_does_not_outweigh_a_picture(tmp_path: Path) -> None:
    """Without sharpening the talker, whose speech is noise, would be first by 0.55 to 0.4."""
    hits = ranked(tmp_path, {"silent": clip(visual=near(0.4)), "talker": clip(visual=near(0.1), speech=near(0.45))})
    assert list(hits) == ["silent", "talker"]
    assert hits["silent"].score > 2 * hits["talker"].score


def test_the_picture_is_mixed_with_the_best_frame_alone(tmp_path: Path) -> None:
    """0.4 of the clip and 0.6 of its best frame, in units of the library's scale."""
    frames = np.stack([near(0.0), near(0.8), near(0.4)])
    mixed = Clip(0, 9, 0.0, {"visual": near(0.3)}, frames, np.array([0.0, 3.0, 6.0]))
    hits = ranked(tmp_path, {"mixed": mixed, "even": clip(visual=near(0.6))})
    assert hits["mixed"].frame_s == 3.0 and hits["even"].frame_s == 0.0
    assert hits["mixed"].score == pytest.approx(hits["even"].score, rel=2e-3), "0.4 * 0.3 + 0.6 * 0.8 is 0.6"
