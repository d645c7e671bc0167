"""Digests of hand-written libraries: excerpts that stand for all topics, sentences that say nothing twice, chance."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations, pairwise
from pathlib import Path

import numpy as np
import pytest
from library_maker import DIM, add_video, axis, clip, install

from vfindex.search.outline.digest import choose
from vfindex.search.outline.segmentation import partitions
from vfindex.search.outline.timeline import Timeline
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


def line(vectors: list[np.ndarray], lengths_s: list[float]) -> Timeline:
    edges_s = np.concatenate([[0.0], np.cumsum(lengths_s)])
    return Timeline(edges_s, {"visual": np.stack(vectors)}, {"visual": 1.0}, ())


def test_parts_scatter_least_of_all() -> None:
    generator = np.random.default_rng(2)
    rows = generator.normal(size=(9, DIM)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    lengths_s = generator.uniform(1, 5, 9)

    def scatter(edges: tuple[int, ...]) -> float:
        total = 0.0
        for a, b in pairwise(edges):
            masses = lengths_s[a:b, None]
            total += float((masses * np.square(rows[a:b] - (masses * rows[a:b]).sum(0) / masses.sum())).sum())
        return total

    found = list(partitions(line(list(rows), list(lengths_s))))
    assert [len(edges) - 1 for edges in found] == list(range(1, 10)) and found[-1] == tuple(range(10))
    for edges in found:
        inner = combinations(range(1, 9), len(edges) - 2)
        assert scatter(edges) == pytest.approx(min(scatter((0, *each, 9)) for each in inner))


def test_a_choice_keeps_to_its_length() -> None:
    topics = [axis(0)] * 6 + [axis(1), axis(1), axis(2)]
    assert choose(line(topics, [8.0] * 9), 15.0) == [0, 6, 8], "one of each part, however long"
    assert choose(line(topics, [8.0] * 9), 14.9) == [0, 6] and choose(line(topics, [8.0] * 9), 2.0) == [0]
    assert len(choose(line(topics, [2.0] * 9), 10.0)) == 5, "short clips leave room for more"
    assert choose(line(topics, [8.0] * 9), 1e6) == list(range(9))


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
