"""Shots and clips: boundaries where frames change, clips of 2 to 12 s without gaps."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from vfindex.indexer.extractors.frame_record import colour_histogram
from vfindex.indexer.pipeline.shots import (
    MAX_CLIP_S,
    MIN_CLIP_S,
    cut_clips,
    detect_shots,
    frame_distances,
)
from vfindex.storage.records import FloatArray

DIM = 16


def takes(*lengths: int, noise: float = 0.02, seed: int = 0) -> FloatArray:
    """Return frames of several takes, each around a direction of its own."""
    random = np.random.default_rng(seed)
    rows = [np.eye(DIM)[i % DIM] + noise * random.standard_normal(DIM) for i, n in enumerate(lengths) for _ in range(n)]
    vectors = np.stack(rows).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def colours(*lengths: int) -> FloatArray:
    """Return histograms of as many takes, each in a colour of its own."""
    return np.repeat(np.eye(512, dtype=np.float32)[: len(lengths)], lengths, axis=0)


def distances(*lengths: int, **noise: float) -> np.ndarray:
    return frame_distances(takes(*lengths, **noise), colours(*lengths))  # type: ignore[arg-type]


def seconds(n: int, fps: float = 1.0) -> np.ndarray:
    return np.arange(n) / fps


def test_a_boundary_is_the_first_frame_of_the_next_take() -> None:
    assert detect_shots(distances(8, 5, 9)) == [0, 8, 13]
    assert detect_shots(distances(1)) == [0]


def test_one_take_has_no_boundary_however_restless() -> None:
    assert detect_shots(distances(40, noise=0.05)) == [0]
    drift = np.stack([np.cos(np.linspace(0, 1.5, 60)), np.sin(np.linspace(0, 1.5, 60))], axis=1).astype(np.float32)
    assert detect_shots(frame_distances(drift, colours(*[1] * 60))) == [0]


def test_a_gesture_or_a_lamp_is_not_a_cut() -> None:
    vectors, one_colour = takes(8, 8), colours(16)
    assert detect_shots(frame_distances(vectors, one_colour)) == [0]
    assert detect_shots(frame_distances(takes(16), colours(8, 8))) == [0]
    assert detect_shots(frame_distances(vectors, colours(8, 8))) == [0, 8]


def test_a_histogram_tells_colours_and_sums_to_one() -> None:
    red, blue = np.zeros((40, 60, 3), np.uint8), np.zeros((40, 60, 3), np.uint8)
    red[..., 0], blue[..., 2] = 200, 200
    half = np.concatenate([red, blue])
    assert colour_histogram(red).shape == (512,)
    assert colour_histogram(half).sum() == pytest.approx(1.0)
    assert np.minimum(colour_histogram(red), colour_histogram(blue)).sum() == 0
    assert np.minimum(colour_histogram(red), colour_histogram(half)).sum() == pytest.approx(0.5)


def test_the_bits_of_another_machine_do_not_move_a_boundary() -> None:
    vectors = takes(8, 5, 9)
    jitter = vectors + np.float32(1e-6) * np.random.default_rng(1).standard_normal(vectors.shape).astype(np.float32)
    assert np.array_equal(frame_distances(jitter, colours(8, 5, 9)), frame_distances(vectors, colours(8, 5, 9)))


def test_clips_lie_inside_shots() -> None:
    spans = cut_clips(takes(8, 5, 9), colours(8, 5, 9), seconds(22), start_s=0.0, end_s=22.0)
    assert [(span.start_s, span.end_s) for span in spans] == [(0.0, 8.0), (8.0, 13.0), (13.0, 22.0)]
    assert [span.start_uncertainty_s for span in spans] == [0.0, 1.0, 1.0]


def test_a_long_take_is_cut_into_equal_parts() -> None:
    spans = cut_clips(takes(40), colours(40), seconds(40), start_s=0.0, end_s=40.0)
    assert [span.end_s - span.start_s for span in spans] == [10.0, 10.0, 10.0, 10.0]


def cut(times_s: list[float], end_s: float, start_s: float | None = None) -> list[tuple[float, float]]:
    """Return the clips (start_s, end_s) of one take with frames at these times."""
    n = len(times_s)
    begin = times_s[0] if start_s is None else start_s
    spans = cut_clips(takes(n), colours(n), np.array(times_s), start_s=begin, end_s=end_s)
    assert [span.first for span in spans] == [0, *(span.last for span in spans[:-1])] and spans[-1].last == n
    return [(span.start_s, span.end_s) for span in spans]


def test_no_clip_is_longer_than_frames_ask_for() -> None:
    assert cut([0.0, 5.0, 10.0, 15.0, 20.0], 24.0) == [(0.0, 10.0), (10.0, 15.0), (15.0, 24.0)]
    assert cut([0.0, 1.0, 2.0, 14.0], 14.5) == [(0.0, 2.0), (2.0, 14.0), (14.0, 14.5)]
    assert cut([0.0, 30.0, 31.0, 44.0], 50.0) == [(0.0, 30.0), (30.0, 31.0), (31.0, 44.0), (44.0, 50.0)]
    assert cut([11.0, 12.0, 13.0], 14.0, start_s=0.0) == [(0.0, 12.0), (12.0, 14.0)]
    assert cut([0.0, 0.0, 30.0], 40.0) == [(0.0, 30.0), (30.0, 40.0)]


@given(st.lists(st.floats(0.01, 40.0), min_size=1, max_size=40), st.floats(0, 1e5), st.floats(0, 20))
def test_clips_keep_to_their_length_where_frames_allow_it(gaps_s: list[float], start_s: float, lead_s: float) -> None:
    edges_s = np.array([start_s, *(start_s + lead_s + np.cumsum(gaps_s))])  # the first frame is shown from start_s on
    times_s = [start_s + lead_s, *map(float, edges_s[1:-1])]
    spans = cut(times_s, float(edges_s[-1]), start_s)
    assert (spans[0][0], spans[-1][1]) == (start_s, edges_s[-1])
    allowed = [*pairwise(edges_s)]
    for begin, end in spans:
        assert begin < end
        assert end - begin <= MAX_CLIP_S or (begin, end) in allowed, "one gap between frames is longer"
    for (begin, _), (_, end) in pairwise(spans):
        assert end - begin > MAX_CLIP_S, "two parts that could be one"


def test_a_short_shot_joins_its_more_similar_neighbour() -> None:
    a, b = np.eye(DIM, dtype=np.float32)[:2]
    flash = (0.3 * a + 0.95 * b).astype(np.float32)
    vectors = np.stack([*[a] * 6, flash / np.linalg.norm(flash), *[b] * 6])
    spans = cut_clips(vectors, colours(6, 1, 6), seconds(13), start_s=0.0, end_s=13.0)
    assert [(span.first, span.last) for span in spans] == [(0, 6), (6, 13)]


def test_a_video_under_two_seconds_is_one_clip() -> None:
    spans = cut_clips(takes(2, 2), colours(2, 2), seconds(4, fps=2.5), start_s=0.0, end_s=1.6)
    assert [(span.start_s, span.end_s, span.first, span.last) for span in spans] == [(0.0, 1.6, 0, 4)]


def test_one_frame_is_one_clip_and_none_is_none() -> None:
    [span] = cut_clips(takes(1), colours(1), np.array([8.3]), start_s=8.3, end_s=8.3)
    assert span.start_s < span.end_s
    assert (
        cut_clips(np.zeros((0, DIM), np.float32), np.zeros((0, 512), np.float32), np.zeros(0), start_s=0.0, end_s=1.0)
        == []
    )


def test_sparse_frames_make_long_clips_rather_than_empty_ones() -> None:
    spans = cut_clips(takes(6), colours(6), np.arange(6) * 30.0, start_s=0.0, end_s=180.0)
    assert all(span.last > span.first for span in spans)
    assert spans[-1].end_s == 180.0


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=12),
    st.floats(0.2, 4.0),
    st.floats(0, 50),
    st.integers(0, 99),
)
def test_clips_cover_their_stretch(lengths: list[int], gap_s: float, start_s: float, seed: int) -> None:
    vectors = takes(*lengths, seed=seed)
    times_s = start_s + np.arange(len(vectors)) * gap_s
    end_s = float(times_s[-1] + gap_s)
    spans = cut_clips(vectors, colours(*lengths), times_s, start_s=start_s, end_s=end_s)
    assert spans[0].start_s == start_s
    assert spans[-1].end_s == pytest.approx(end_s, abs=2e-3)
    for one, other in pairwise(spans):
        assert (one.end_s, one.last) == (other.start_s, other.first)
    for span in spans:
        assert span.last > span.first
        length_s = span.end_s - span.start_s
        assert length_s <= MAX_CLIP_S + 2 * gap_s
        assert length_s >= MIN_CLIP_S - 1e-6 or len(spans) == 1 or gap_s * 2 > MIN_CLIP_S


def test_flashes_in_one_take_are_not_shots() -> None:
    vectors, histograms = takes(12, 12), colours(12, 12)
    flash, white = np.eye(DIM, dtype=np.float32)[9], np.eye(512, dtype=np.float32)[9]
    for at in (3, 7, 17):
        vectors[at], histograms[at] = flash, white
    spans = cut_clips(vectors, histograms, seconds(24), start_s=0.0, end_s=24.0)
    assert [(span.start_s, span.end_s) for span in spans] == [(0.0, 12.0), (12.0, 24.0)]


def test_a_flash_at_a_cut_leaves_the_cut() -> None:
    vectors, histograms = takes(10, 1, 10), colours(10, 1, 10)
    spans = cut_clips(vectors, histograms, seconds(21), start_s=0.0, end_s=21.0)
    assert len(spans) == 2 and spans[1].start_s in (10.0, 11.0)
