"""Runs of the same footage: where they are, and what is none."""

from __future__ import annotations

import math

import numpy as np
import pytest

from vfindex.search.understanding.alignment import LEAST_EVIDENCE, STEP_S, Frames, align, least_evidence
from vfindex.storage.records import FloatArray

DIM, USUAL = 32, 0.5
OFFSETS = [STEP_S * i for i in range(-120, 121)]


def _frames(vectors: FloatArray, start_s: float = 0.0, step_s: float = 0.5) -> Frames:
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    return Frames(start_s + step_s * np.arange(len(vectors)), unit.astype(np.float32))


def _moving(seed: int, count: int = 40) -> FloatArray:
    """Return vectors in which each differs from the last, around a place of their own."""
    random = np.random.default_rng(seed)
    return np.asarray(random.normal(size=DIM) + 0.3 * np.cumsum(random.normal(size=(count, DIM)), axis=0), np.float32)


def _noise(vectors: FloatArray, share: float = 0.2) -> FloatArray:
    random = np.random.default_rng(9)
    return np.asarray(vectors + share * random.normal(size=vectors.shape), np.float32)


def test_a_copy_is_found_whole_with_its_times() -> None:
    scene = _moving(1)
    run = align(_frames(scene), _frames(_noise(scene), 7.0), OFFSETS, USUAL)
    assert run is not None
    assert run.first_s == (0.0, 19.5)
    assert run.second_s == (7.0, 26.5)
    assert run.frames == 40
    assert run.left < 0.6


def test_a_shared_intro_is_found_alone() -> None:
    intro = _moving(1, 14)
    first, second = (np.concatenate([_noise(intro, 0.05 * i), _moving(5 + i)]) for i in range(2))
    run = align(_frames(first), _frames(second), OFFSETS, USUAL)
    assert run is not None
    assert run.first_s[0] == run.second_s[0] == 0.0
    assert run.first_s[1] == pytest.approx(6.5, abs=1.0)


def test_one_still_scene_in_two_videos_is_no_copy() -> None:
    scene = np.tile(_moving(3, 1), (40, 1))
    assert align(_frames(_noise(scene)), _frames(scene), OFFSETS, USUAL) is None


def test_the_same_place_at_other_moments_is_no_copy() -> None:
    random = np.random.default_rng(4)
    place = 3 * random.normal(size=DIM)
    first, second = (np.asarray(place + random.normal(size=(40, DIM)), np.float32) for _ in range(2))
    assert align(_frames(first), _frames(second), OFFSETS, USUAL) is None


def test_unrelated_videos_and_too_few_frames_are_none() -> None:
    assert align(_frames(_moving(1)), _frames(_moving(2)), OFFSETS, USUAL) is None
    scene = _moving(1, 4)
    assert align(_frames(scene), _frames(scene), OFFSETS, USUAL) is None
    assert align(_frames(_moving(1)), _frames(_moving(1)), [], USUAL) is None
    nothing = Frames(np.zeros(0), np.zeros((0, DIM), np.float32))
    assert align(_frames(_moving(1)), nothing, OFFSETS, USUAL) is None


def test_a_run_ends_at_a_gap() -> None:
    scene = _moving(1)
    whole = _frames(scene)
    late = Frames(whole.times_s + np.where(np.arange(40) >= 25, 10.0, 0.0), whole.vectors)
    run = align(late, late, OFFSETS, USUAL)
    assert run is not None
    assert run.first_s == (0.0, 12.0)


def test_more_pairs_need_more_evidence() -> None:
    assert least_evidence(0) == least_evidence(100) == LEAST_EVIDENCE
    assert least_evidence(1_000_000) == pytest.approx(math.log(1_000_000))
