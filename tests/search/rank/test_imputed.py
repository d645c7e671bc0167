"""Words of a query that no document contains, such as those of another language: their score is imputed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from asking import fake_query_vectors, names
from hypothesis import given
from hypothesis import strategies as st
from library_maker import SETUP, add_video, axis, clip, prior

from vfindex.search.engine import SearchEngine
from vfindex.search.rank.score import NOISE_SPREADS, imputed, sharpened
from vfindex.storage.records import FloatArray, Segment
from vfindex.storage.writer import writing

SLOPE, WORD_WEIGHT, SPEECH_WEIGHT = 0.1, 3.0, 0.5
SILENT = 150  # clips, more than one search reads with their best frames


def near(cosine: float) -> FloatArray:
    """Return a unit vector with this cosine to the query."""
    return np.asarray(cosine * axis(0) + np.sqrt(1 - cosine**2) * axis(1), np.float32)


def made(folder: Path, slope: float, silent: int = 3) -> SearchEngine:
    """Return an engine over a clip that is about the query in its speech, and clips that look like it."""
    narrow = {"speech": prior(weight=SPEECH_WEIGHT), "visual": prior(), "text": prior()}
    priors = {name: replace(each, spread=0.1) for name, each in narrow.items()}
    with writing(folder) as writer:
        writer.install(replace(SETUP, word_weight=WORD_WEIGHT, imputed_share=slope), priors, {})
        for number in range(silent):
            add_video(writer, f"silent {number}", [clip(visual=near(0.9))])
        said = [Segment(0, 4, "hello world", "asr")]
        add_video(writer, "spoken", [clip(speech=near(0.45))], said)
        writer.publish()
    return SearchEngine.open(folder)


@pytest.fixture(autouse=True)
def queries_are_axis_0(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, lambda _: axis(0))


def speech_score(engine: SearchEngine, query: str) -> float:
    [value] = [hit.modalities["speech"] for hit in engine.search(query) if names([hit]) == ["spoken"]]
    assert value is not None
    return value


@given(st.floats(-9, 99))
def test_only_what_is_above_noise_is_taken_to_match(spreads: float) -> None:
    share = float(imputed(np.array([spreads]), SLOPE)[0])
    assert 0 <= share <= 1
    assert share == pytest.approx(min(1.0, max(0.0, SLOPE * (spreads - NOISE_SPREADS))))


def test_absent_words_add_to_similar_text(tmp_path: Path) -> None:
    with_it, without = made(tmp_path / "a", SLOPE), made(tmp_path / "b", 0.0)
    plain = speech_score(without, "bonjour monde")
    grid = np.arange(2, 9, 0.001)
    spreads = grid[np.abs(SPEECH_WEIGHT * sharpened(grid, np.ones_like(grid)) - plain).argmin()]
    share = SLOPE * (spreads - NOISE_SPREADS)
    assert share > 0.1
    assert speech_score(with_it, "bonjour monde") == pytest.approx(plain + WORD_WEIGHT * share, abs=0.002)
    half = speech_score(with_it, "hello bonjour") - speech_score(without, "hello bonjour")
    assert 0.4 * WORD_WEIGHT * share < half < 0.9 * WORD_WEIGHT * share, "by the share of the words that are absent"


def test_words_that_occur_are_not_imputed(tmp_path: Path) -> None:
    with_it, without = made(tmp_path / "a", SLOPE), made(tmp_path / "b", 0.0)
    assert speech_score(with_it, "hello world") == speech_score(without, "hello world")
    fused = [[hit.score for hit in engine.search("bonjour", combine="rrf")] for engine in (with_it, without)]
    assert fused[0] == fused[1], "reciprocal ranks count words that match"


def test_a_clip_that_only_absent_words_lift_is_read(tmp_path: Path) -> None:
    """Without them, so many others have better joint vectors that it is not among those read."""
    assert names(list(made(tmp_path / "a", 0.0, SILENT).search("bonjour")))[0] != "spoken"
    assert names(list(made(tmp_path / "b", 0.3, SILENT).search("bonjour")))[0] == "spoken"
