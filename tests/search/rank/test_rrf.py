"""Reciprocal rank fusion: ranks count, missing modalities are neutral."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from asking import fake_query_vectors
from library_maker import add_video, axis, clip, install

from vfindex.search.engine import SearchEngine
from vfindex.search.rank.rrf import RANK_CONSTANT
from vfindex.storage.records import Clip, FloatArray, Segment
from vfindex.storage.writer import writing

EQUAL: dict[Any, float] = {"visual": 1.0, "speech": 1.0, "text": 1.0}


@pytest.fixture(autouse=True)
def queries_are_axis_0(monkeypatch: pytest.MonkeyPatch) -> None:
    fake_query_vectors(monkeypatch, lambda _: axis(0))


def near(cosine: float) -> FloatArray:
    """Return a unit vector with this cosine to the query."""
    return np.asarray(cosine * axis(0) + np.sqrt(1 - cosine**2) * axis(1), np.float32)


def make(folder: Path, videos: dict[str, Clip], said: dict[str, str] | None = None) -> SearchEngine:
    with writing(folder) as writer:
        install(writer)
        for name, one in videos.items():
            text = (said or {}).get(name)
            add_video(writer, name, [one], [Segment(0, 4, text, "sidecar")] if text else None)
        writer.publish()
    return SearchEngine.open(folder)


def scores(engine: SearchEngine, **options: Any) -> dict[str, float]:
    hits = engine.search("zebra", combine="rrf", **options)
    assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
    assert all(hit.confidence is None for hit in hits)
    for hit in hits:
        assert sum(value or 0.0 for value in hit.modalities.values()) == pytest.approx(hit.score)
    return {Path((hit.video or b"").decode()).name: hit.score for hit in hits}


def test_scores_are_reciprocal_ranks(tmp_path: Path) -> None:
    """By scores `far` is first, with much the best picture; by ranks `both`, first in one list and second in one."""
    engine = make(
        tmp_path,
        {
            "both": clip(visual=near(0.12), speech=near(0.5)),
            "far": clip(visual=near(0.99), speech=near(0.1)),
            "third": clip(visual=near(0.11), speech=near(0.4)),
        },
    )
    assert Path((engine.search("zebra", weights=EQUAL)[0].video or b"").decode()).name == "far"
    found = scores(engine, weights=EQUAL)
    average = sum(1 / (RANK_CONSTANT + rank) for rank in (1, 2, 3)) / 3
    ranks = {"both": (2, 1), "far": (1, 3), "third": (3, 2)}
    wanted = {name: sum(1 / (RANK_CONSTANT + rank) - average for rank in places) for name, places in ranks.items()}
    assert found == pytest.approx(wanted)
    assert list(found) == ["both", "far", "third"]


def test_a_modality_that_a_clip_lacks_is_neutral(tmp_path: Path) -> None:
    """Among many talking clips, the best silent picture is first and the worst gains nothing."""
    talking = {f"t{i}": clip(visual=near(0.3 - i / 100), speech=near(0.1)) for i in range(20)}
    engine = make(tmp_path, talking | {"silent": clip(visual=near(0.9)), "dull": clip(visual=near(0.0))})
    found = scores(engine, top_k=99)
    first, *_, last = found
    assert (first, last) == ("silent", "dull")
    silent = next(hit for hit in engine.search("zebra", combine="rrf") if hit.modalities["speech"] is None)
    assert silent.rank == 1


def test_words_are_a_list_of_their_own(tmp_path: Path) -> None:
    same = {name: clip(visual=near(0.5), speech=near(0.5)) for name in "abc"}
    found = scores(make(tmp_path, same, {"b": "a zebra"}))
    assert found == pytest.approx({"b": 0.5 / (RANK_CONSTANT + 1) + found["a"], "a": found["a"], "c": found["a"]})


def test_weights_scale_the_lists_and_0_leaves_one_out(tmp_path: Path) -> None:
    engine = make(
        tmp_path, {"seen": clip(visual=near(0.9), speech=near(0.1)), "said": clip(visual=near(0.1), speech=near(0.9))}
    )
    assert list(scores(engine)) == ["seen", "said"], "the library's own weights"
    assert list(scores(engine, weights={"speech": 2.0})) == ["said", "seen"]
    only = engine.search("zebra", combine="rrf", weights={"speech": 0.0})
    assert [hit.modalities["speech"] for hit in only] == [None, None]


def test_lists_reach_clips_that_the_sum_of_scores_does_not(tmp_path: Path) -> None:
    """Each list has its own candidates: the best clip by speech is behind 700 others in the sum."""
    steps = np.linspace(0.0, 0.05, 700)
    crowd = {f"c{i}": clip(visual=near(0.8 - step), speech=near(step - 0.1)) for i, step in enumerate(steps)}
    engine = make(tmp_path, crowd | {"spoken": clip(visual=near(-0.9), speech=near(0.1))})
    weights: dict[Any, float] = {"visual": 0.5, "speech": 3.0}
    assert next(iter(scores(engine, weights=weights))) == "spoken"
    assert engine.search("zebra", weights=weights)[0].video != b"/videos/spoken"


def test_neighbours_and_pairs_use_similarity_scores(tmp_path: Path) -> None:
    """Reciprocal ranks are close together: by them every neighbour would be merged."""
    clips = [clip(5.0 * i, 5.0 * i + 5, visual=near(c)) for i, c in enumerate((0.1, 0.7, 0.9, 0.2))]
    with writing(tmp_path) as writer:
        install(writer)
        add_video(writer, "a", clips)
        writer.publish()
    engine = SearchEngine.open(tmp_path)
    [hit] = engine.search("zebra", combine="rrf")
    assert (hit.start_s, hit.end_s) == (5, 15)
    [pair] = engine.search("zebra then zebra within 1s", combine="rrf")
    assert (pair.start_s, pair.end_s) == (5, 15)
    assert pair.score == pytest.approx(sum(span.score for span in pair.moments))
