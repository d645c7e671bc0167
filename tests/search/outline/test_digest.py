"""Digests of hand-written libraries: excerpts that stand for all topics, sentences that say nothing twice, chance."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install

from vfindex.search.outline.digest import choose, value
from vfindex.search.service import SearchService
from vfindex.storage.errors import LibraryError, QueryError
from vfindex.storage.records import Clip, Segment
from vfindex.storage.writer import writing

# Topics of clips of 8 s: one is long, four are short.
TOPICS = [0] * 12 + [1, 1, 2, 2, 3, 3, 4, 4]
SAID = (
    "The oven bakes the bread slowly today.",
    "Bakers put bread into the hot oven.",
    "Bread comes out of the oven in the morning.",
    "An oven and some bread are all that bakers want.",
    "The cat sleeps under an old table.",
    "Violins play while nobody listens upstairs.",
)


def noisy(topic: int, seed: int) -> np.ndarray:
    vector = axis(topic) + np.random.default_rng(seed).normal(0, 0.05, DIM).astype(np.float32)
    return vector / np.linalg.norm(vector)


def with_frames(number: int, topic: int) -> Clip:
    """Return a clip of 8 s with four frames; the third is its mean, and the others lie around it."""
    frames = np.stack([noisy(topic, 10 * number + n) for n in range(4)])
    frames[2] = frames[[0, 1, 3]].mean(0) / np.linalg.norm(frames[[0, 1, 3]].mean(0))
    made = clip(8.0 * number, 8.0 * number + 8, visual=frames[2])
    return replace(made, frame_vectors=frames, frame_times_s=8.0 * number + np.arange(4) * 2.0)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    with writing(tmp_path) as writer:
        install(writer)
        clips = [with_frames(number, topic) for number, topic in enumerate(TOPICS)]
        said = [Segment(20.0 * n, 20.0 * n + 4, text, "asr", "en") for n, text in enumerate(SAID)]
        add_video(writer, "topics.mp4", clips, said, end_s=160.0)
        still = [clip(8.0 * n, 8.0 * n + 8, visual=axis(5)) for n in range(10)]
        add_video(writer, "still.mp4", still, end_s=80.0)
        add_video(writer, "silent.mp4", [], end_s=10.0)
        writer.publish()
    return tmp_path


def test_excerpts_show_each_topic_once(folder: Path) -> None:
    with SearchService(folder) as service:
        made = service.digest("topics.mp4", length_s=25)
    assert [TOPICS[int(each.start_s // 8)] for each in made.moments] == [0, 1, 2, 3, 4]
    assert [each.share for each in made.moments] == pytest.approx([0.6, 0.1, 0.1, 0.1, 0.1])
    assert made.length_s == pytest.approx(25) and made.duration_s == 160
    assert made.pictures.better_than_chance and made.pictures.p_value == 0.01


def test_an_excerpt_lies_around_the_frame_nearest_to_its_clip_s_mean(folder: Path) -> None:
    with SearchService(folder) as service:
        for each in service.digest("topics.mp4").moments:
            start_s = each.clip.start_ms / 1000
            assert each.frame_s == start_s + 4
            assert (each.start_s, each.end_s) == (start_s + 1.5, start_s + 6.5)


def test_a_still_picture_has_no_better_moment(folder: Path) -> None:
    with SearchService(folder) as service:
        made = service.digest("still.mp4")
    assert (made.moments, made.pictures.better_than_chance, made.pictures.p_value) == ((), False, 1.0)
    assert (made.sentences, made.text.p_value) == ((), None)


def test_sentences_keep_to_their_words_and_say_nothing_twice(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("vfindex.search.outline.digest.MOST_P", 1.0)
    with SearchService(folder) as service:
        made = service.digest("topics.mp4", words=16)
        none = service.digest("topics.mp4", words=0)
    assert made.words <= 16 and len(made.sentences) == 2
    assert [each.start_s for each in made.sentences] == sorted(each.start_s for each in made.sentences)
    texts = [each.text for each in made.sentences]
    assert set(texts) <= set(SAID) and sum("bread" in text.lower() for text in texts) == 1
    assert none.sentences == () and none.moments == made.moments


def test_the_choice_is_the_best_of_all_where_topics_are_apart() -> None:
    generator = np.random.default_rng(2)
    likeness, masses = generator.uniform(0, 1, (9, 9)), generator.uniform(1, 5, 9)
    likeness = np.maximum(likeness, likeness.T)
    np.fill_diagonal(likeness, 1.0)
    chosen = choose(likeness, masses, np.ones(9), 3.0)
    best = max(value(likeness, masses, rows) for rows in combinations(range(9), 3))
    assert len(chosen) == 3 and value(likeness, masses, chosen) >= (1 - np.exp(-1)) * best


def test_a_choice_keeps_to_its_budget() -> None:
    costs = np.array([5.0, 1.0, 1.0, 3.0])
    assert choose(np.eye(4), np.ones(4), costs, 5.0) == [1, 2, 3]
    assert choose(np.eye(4), np.array([9.0, 1, 1, 1]), costs, 5.0) == [0]
    assert choose(np.eye(4), np.ones(4), costs, 0.5) != [], "one at least"
    assert len(choose(np.ones((4, 4)), np.ones(4), costs, 9.0)) == 1, "the others show nothing new"


def test_a_digest_is_exported(folder: Path) -> None:
    with SearchService(folder) as service:
        made = service.digest("topics.mp4", length_s=25)
        selection = service.selection(made)
        table = service.export(made, "csv").data.decode()
    assert [(each.start_s, each.end_s) for each in selection.excerpts] == [(m.start_s, m.end_s) for m in made.moments]
    assert [each.number for each in selection.excerpts] == [1, 2, 3, 4, 5]
    assert table.count("topics.mp4") >= 5


@pytest.mark.parametrize("wrong", [{"length_s": 1.9}, {"length_s": float("nan")}, {"length_s": "30"}, {"words": -1}])
def test_a_wrong_length_is_refused(folder: Path, wrong: dict[str, float]) -> None:
    with SearchService(folder) as service, pytest.raises(QueryError, match="digest"):
        service.digest("topics.mp4", **wrong)  # type: ignore[arg-type]  # so it is said


def test_a_video_without_clips_is_a_sentence(folder: Path) -> None:
    with SearchService(folder) as service, pytest.raises(LibraryError, match="has no clips"):
        service.digest("silent.mp4")
