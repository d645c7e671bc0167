"""Labels by a temporal head: videos with clips that lack frames, and few held-out clips."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from vfindex.search.evaluation.classification import classify
from vfindex.search.evaluation.labelled_videos import LabelledVideo
from vfindex.search.evaluation.temporal import TemporalChoice, _compared, _Labelled, tune_temporal
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.search.understanding.labelling.label import Items, read_features
from vfindex.search.understanding.labelling.probe import Examples
from vfindex.search.understanding.labelling.temporal import TemporalClassifier, features_of
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.heads import TemporalHead, put_head, shapes_of
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

DIM = 64


def by_axes(*_: Any) -> dict[str, FloatArray]:
    """Return a head whose classes are the first two axes; its logits are below 1."""
    weights = {name: np.zeros(shape, np.float32) for name, shape in shapes_of(DIM, 2).items()}
    weights["spread"] += 1
    weights["encoder.norm.weight"] += 1
    weights["project.weight"][:2, :2] = 100 * np.eye(2)
    weights["classify.weight"][:2, :2] = 0.1 * np.eye(2)
    return weights


def test_clips_without_frames_do_not_move_a_video() -> None:
    head = TemporalHead(("a", "b"), "m", by_axes(), 0.0, 2.0)
    frames = np.eye(DIM, dtype=np.float32)[:1]

    class First:
        def frames(self, ids: Sequence[int]) -> dict[int, tuple[FloatArray, FloatArray]]:
            return {id_: (frames, np.zeros(1, np.float32)) for id_ in ids if id_ == 0}

    items = Items(np.arange(11), np.array([*[1] * 10, 2]), np.full(11, 10.0))
    _, videos, features = read_features(cast(Snapshot, First()), TemporalClassifier.of(head), items)
    assert videos.tolist() == [1, 2]
    assert features[0] == pytest.approx(features_of(head, [frames])[0])
    assert not features[1].any()


def test_one_held_out_video_is_scored_as_label_would(make_kinds: Callable[[float], Path]) -> None:
    pytest.importorskip("sklearn", reason="scikit-learn fits the probe: pip install 'vfindex[index]'")
    examples = {"cooking": (0, 3), "sport": (1, 4)}
    classes = tuple(
        LabelClass(kind, (), tuple(f"{kind} {n}.mp4@{at}" for n in numbers for at in (1, 6)))
        for kind, numbers in examples.items()
    )
    choice = TemporalChoice(folds=4, store=False)
    done = tune_temporal(make_kinds(0.9), ClassSet("kinds", classes), by_axes, choice)
    assert (done.clips, done.videos, done.after.value) == (8, 4, 1.0)


def test_labels_of_truths_are_compared_by_text(make_kinds: Callable[[float], Path]) -> None:
    folder = make_kinds(0.9)
    with writing(folder) as writer:
        put_head(writer.catalog, folder, "truth", TemporalHead(("a", "b"), "m", by_axes(), 0.0, 2.0))
    truths = [LabelledVideo(f"{kind} {n}", kind) for kind, n in (("cooking", 0), ("sport", 1))]
    found, absent = classify(folder, truths, None, lambda done, total: None)
    assert found.classes == ("cooking", "sport") and not absent


@pytest.mark.parametrize(("videos", "wins"), [(4, False), (6, True)])
def test_a_head_wins_only_above_chance(videos: int, wins: bool) -> None:
    classes = np.arange(videos) % 2
    examples = Examples(np.arange(videos), classes, np.arange(videos))
    data = _Labelled([], np.zeros((videos, DIM), np.float32), examples, 2)
    done = _compared("kinds", data, np.eye(2, dtype=np.float32)[classes], np.zeros(videos))
    assert (done.chance < 0.05, done.difference.low, done.wins) == (wins, 1.0, wins)
