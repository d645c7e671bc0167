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
from vfindex.search.understanding.labelling import label
from vfindex.search.understanding.labelling.classes import ClassSet, LabelClass
from vfindex.search.understanding.labelling.label import Items, against_library, label_library, read_features
from vfindex.search.understanding.labelling.probe import Examples
from vfindex.search.understanding.labelling.temporal import TemporalClassifier, features_of
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.errors import LibraryChanged
from vfindex.storage.heads import TemporalHead, put_head, remove_head, shapes_of
from vfindex.storage.labels import label_names
from vfindex.storage.library import Library
from vfindex.storage.maintenance.assets import head_faults
from vfindex.storage.records import FloatArray
from vfindex.storage.writer import writing

DIM = 64
KINDS = ClassSet("kinds", (LabelClass("cooking"), LabelClass("sport")))


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


def head(scale: float) -> TemporalHead:
    """A head of the classes; another scale, another file."""
    weights = {name: scale * values for name, values in by_axes().items() if name != "spread"}
    return TemporalHead(KINDS.names, "m", weights | {"spread": np.ones(DIM, np.float32)}, 0.0, 2.0)


def put(folder: Path, new: TemporalHead | None) -> None:
    with writing(folder) as writer:
        if new is None:
            remove_head(writer.catalog, folder, "kinds")
        else:
            put_head(writer.catalog, folder, "kinds", new)


@pytest.fixture
def kinds(make_kinds: Callable[[float], Path]) -> Path:
    return make_kinds(0.9)


@pytest.mark.parametrize(
    ("before", "after", "done"), [(1.0, 2.0, "trained again"), (1.0, None, "deleted"), (None, 1.0, "trained")]
)
def test_labels_of_a_head_that_was_replaced_meanwhile_are_not_stored(
    kinds: Path, monkeypatch: pytest.MonkeyPatch, before: float | None, after: float | None, done: str
) -> None:
    monkeypatch.setattr(label, "_temporal", lambda snapshot, _, head, __, items: against_library(snapshot, head, items))
    put(kinds, before and head(before))
    changes = [lambda: put(kinds, after and head(after))]

    def meanwhile(*_: int) -> None:
        while changes:
            changes.pop()()

    with pytest.raises(LibraryChanged, match=f"temporal head of 'kinds' was {done} meanwhile, .* run the same command"):
        label_library(kinds, KINDS, progress=meanwhile)
    with Library.open(kinds).snapshot() as snapshot:
        assert not label_names(snapshot)


def test_labels_by_text_do_not_depend_on_a_head(kinds: Path) -> None:
    done = label_library(kinds, KINDS, by_text=True, progress=lambda *_: put(kinds, head(1.0)))
    assert done.method == "zero-shot" and done.stored


@pytest.mark.parametrize("scale", [2.0, None])
def test_a_head_whose_file_went_before_it_was_read_is_not_damage(
    kinds: Path, monkeypatch: pytest.MonkeyPatch, scale: float | None
) -> None:
    put(kinds, head(1.0))
    real = label.stored_head

    def late(snapshot: Snapshot, folder: Path, classes: str) -> TemporalHead | None:
        put(kinds, scale and head(scale))
        return real(snapshot, folder, classes)

    monkeypatch.setattr(label, "stored_head", late)
    with pytest.raises(LibraryChanged, match="meanwhile"):
        label_library(kinds, KINDS)


def test_verify_reports_no_head_that_was_replaced_meanwhile(kinds: Path) -> None:
    put(kinds, head(1.0))
    library = Library.open(kinds)
    with library.snapshot() as snapshot:
        put(kinds, head(2.0))
        assert head_faults(library, snapshot) == []
    next((kinds / "heads").iterdir()).unlink()
    with library.snapshot() as snapshot:
        assert len(head_faults(library, snapshot)) == 1


@pytest.mark.parametrize(("videos", "wins"), [(4, False), (6, True)])
def test_a_head_wins_only_above_chance(videos: int, wins: bool) -> None:
    classes = np.arange(videos) % 2
    examples = Examples(np.arange(videos), classes, np.arange(videos))
    data = _Labelled([], np.zeros((videos, DIM), np.float32), examples, 2)
    done = _compared("kinds", data, np.eye(2, dtype=np.float32)[classes], np.zeros(videos))
    assert (done.chance < 0.05, done.difference.low, done.wins) == (wins, 1.0, wins)
