"""Whether a temporal head labels held-out videos better than the linear probe does: `vfindex tune --temporal`.

Both are fitted to the same clips, in folds of whole videos (of UCF101 whole groups, of HMDB51 whole films), and label
the clips of the others. Gains are paired by video. The head is stored where the 95 % interval of the mean gain lies
above 0 and `label` would not call it chance; else that goes on with the probe. Training comes in as a function, since
torch is no library of a search.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.search.evaluation.labelled_videos import LabelledVideo, label_of
from vfindex.search.evaluation.metrics import Difference, Figure, compare, summarise
from vfindex.search.live import require_videos
from vfindex.search.understanding.labelling.classes import ClassSet
from vfindex.search.understanding.labelling.label import MAX_CHANCE, against_library, items_of
from vfindex.search.understanding.labelling.mixture import NEVER, fit_separation
from vfindex.search.understanding.labelling.probe import (
    Examples,
    binomial_tail,
    examples_of,
    fitted,
    folds_of,
    joint_rows,
)
from vfindex.search.understanding.labelling.temporal import TemporalClassifier, features_of
from vfindex.search.understanding.labelling.zero_shot import restricted
from vfindex.storage.db.reader import BATCH_CLIPS, Snapshot
from vfindex.storage.errors import LibraryChanged, QueryError, UsageError
from vfindex.storage.heads import TemporalHead, put_head, remove_head
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import FloatArray
from vfindex.storage.settings_backup import setup_of
from vfindex.storage.writer import writing

# Clips that a training reads, evenly spread over more: 5,000 of 20 frames of 384 dimensions are 150 MB, three times.
MAX_CLIPS = 5_000
# Hundredths of one training, in the progress of all.
_STEPS = 100
Progress = Callable[[int, int], None]
# Clips (frames, dim), numbers of their classes, number of classes, steps done and of how many -> weights of a head.
Trainer = Callable[[Sequence[FloatArray], NDArray[np.int64], int, Progress], Mapping[str, FloatArray]]


@dataclass(frozen=True, slots=True)
class TemporalChoice:
    """How a head is compared. labelled: videos of the classes, all clips of each; None: the examples of the classes.

    folds: of the cross-validation. store: whether a head that wins is stored.
    """

    labelled: Sequence[LabelledVideo] | None = None
    folds: int = 5
    store: bool = True


@dataclass(frozen=True, slots=True)
class TunedHead:
    """A temporal head against the probe. clips, videos: labelled ones that have frames; videos: sources, as held out.

    before, after: accuracy on held-out videos, of the probe and of the head. chance: how probable it is that naming the
    most frequent class labels as many of them. wins: whether the interval of the difference lies above 0, and chance is
    below 0.05.
    """

    classes: str
    clips: int
    videos: int
    before: Figure
    after: Figure
    difference: Difference
    chance: float
    wins: bool
    stored: bool

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True, eq=False)
class _Labelled:
    """Labelled clips. frames: (frames, dim) of each. rows: (n, dim) joint vectors. examples: videos: their sources."""

    frames: Sequence[FloatArray]
    rows: FloatArray
    examples: Examples
    classes: int

    def outside(self, held: NDArray[np.bool_]) -> tuple[list[FloatArray], NDArray[np.int64]]:
        """Return frames and labels of the clips that are not held out."""
        return [self.frames[n] for n in np.flatnonzero(~held).tolist()], self.examples.classes[~held]


def tune_temporal(
    folder: Path,
    classes: ClassSet,
    train: Trainer,
    choice: TemporalChoice = TemporalChoice(),
    progress: Progress = lambda done, total: None,
) -> TunedHead:
    """Return how a temporal head compares with the probe on held-out videos; store it if it wins.

    Raises QueryError for a library without labelled videos, UsageError for too few, LibraryLocked; LibraryChanged if an
    upgrade ended meanwhile.
    """
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        require_videos(snapshot, folder)
        setup = setup_of(snapshot, library.folder)
        model = setup.models.get(frame_modality())
        if model is None or (classes.modalities and frame_modality() not in classes.modalities):
            raise UsageError(
                "a temporal head reads vectors of frames, which this library or this class file leaves out"
            )
        data, items = _read(snapshot, classes, choice.labelled), items_of(snapshot)
        trainings = folds_of(data.examples.videos, data.examples.classes, choice.folds)
        count = int(trainings.max()) + 1
        scores, probe = np.zeros((len(data.rows), data.classes), np.float32), np.zeros(len(data.rows))
        for fold in range(count):
            held = trainings == fold
            frames, labels = data.outside(held)
            head = _trained(train, (frames, labels), classes, model, _part(progress, fold, count + 1))
            classifier = against_library(snapshot, head, items)
            scores[held] = _held_out(classifier, [data.frames[n] for n in np.flatnonzero(held).tolist()], labels)
            weights, offsets = fitted(data.rows[~held], labels, data.classes)
            probe[held] = (data.rows[held] @ weights.T + offsets).argmax(axis=1) == data.examples.classes[held]
        done = _compared(classes.name, data, scores, probe)
        if done.wins and choice.store:
            everything = (list(data.frames), data.examples.classes)
            head = _trained(train, everything, classes, model, _part(progress, count, count + 1))
            separation = fit_separation(scores, data.examples.classes)
            _store(folder, library, classes, replace(head, chance=done.chance, separation=separation))
        return replace(done, stored=done.wins and choice.store)


def forget_temporal(folder: Path, classes: str) -> bool:
    """Delete the temporal head of a set of classes; return whether there was one. Raises LibraryError."""
    Library.open(folder).close()
    with writing(folder) as writer:
        return remove_head(writer.catalog, writer.folder, classes)


def _trained(
    train: Trainer, data: tuple[list[FloatArray], NDArray[np.int64]], classes: ClassSet, model: str, progress: Progress
) -> TemporalHead:
    weights = train(*data, len(classes.classes), progress)
    return TemporalHead(classes.names, model, weights, chance=1.0, separation=1.0)


def _part(progress: Progress, training: int, trainings: int) -> Progress:
    """Return the progress of one of several trainings."""

    def part(done: int, total: int) -> None:
        progress(_STEPS * training + _STEPS * done // total, _STEPS * trainings)

    return part


def _held_out(classifier: TemporalClassifier, clips: Sequence[FloatArray], trained: NDArray[np.int64]) -> FloatArray:
    """Return (n, C) scores of clips that a head was not trained on; NEVER for a class that it was not either."""
    scores = classifier.scores(features_of(classifier.head, clips))
    return np.where(np.isin(np.arange(scores.shape[1]), trained), scores, np.float32(NEVER))


def _compared(name: str, data: _Labelled, scores: FloatArray, probe: NDArray[np.float64]) -> TunedHead:
    own = data.examples.classes
    right = (scores.argmax(axis=1) == own).astype(float)
    videos, first, place = np.unique(data.examples.videos, return_index=True, return_inverse=True)
    before, after = (np.bincount(place, of) / np.bincount(place) for of in (probe, right))
    difference = compare(before.tolist(), after.tolist())
    most = float(np.bincount(own[first]).max() / len(videos))
    chance = binomial_tail(int((after > 0.5).sum()), len(videos), most)
    return TunedHead(
        name,
        clips=len(own),
        videos=len(videos),
        before=_figure(before),
        after=_figure(after),
        difference=difference,
        chance=round(chance, 4),
        wins=difference.low > 0 and chance < MAX_CHANCE,
        stored=False,
    )


def _figure(values: NDArray[np.float64]) -> Figure:
    names = [str(n) for n in range(len(values))]
    reciprocal = dict.fromkeys(names, 1.0)
    return summarise({"accuracy": dict(zip(names, values.tolist(), strict=True)), "MRR": reciprocal}, names)["accuracy"]


def _store(folder: Path, library: Library, classes: ClassSet, head: TemporalHead) -> None:
    with writing(folder) as writer:
        setup = writer.existing_setup()
        if writer.folder != library.folder or setup.models.get(frame_modality()) != head.model:
            raise LibraryChanged("an upgrade has changed the library meanwhile; run the same command again")
        put_head(writer.catalog, writer.folder, classes.name, head)


# --- labelled clips ---------------------------------------------------------------------------------------------------


def _read(snapshot: Snapshot, classes: ClassSet, labelled: Sequence[LabelledVideo] | None) -> _Labelled:
    """Return the labelled clips that have frames. Raises QueryError for none, UsageError for too few videos."""
    if labelled is None and not any(each.examples for each in classes.classes):
        raise UsageError(
            f"no class of {classes.name} has examples; add some to the class file, as beach.mp4@0:12, or name labelled "
            "videos with --clips"
        )
    found = examples_of(snapshot, classes.classes) if labelled is None else _clips_of(snapshot, classes, labelled)
    step = 1 + (len(found.clips) - 1) // MAX_CLIPS
    chosen = Examples(found.clips[::step], found.classes[::step], found.videos[::step])
    frames: dict[int, FloatArray] = {}
    for first in range(0, len(chosen.clips), BATCH_CLIPS):
        ids = chosen.clips[first : first + BATCH_CLIPS].tolist()
        frames |= {id_: vectors for id_, (vectors, _) in snapshot.frames(ids).items()}
    known = np.array([id_ in frames for id_ in chosen.clips.tolist()], np.bool_)
    examples = Examples(chosen.clips[known], chosen.classes[known], chosen.videos[known])
    for number, name in enumerate(classes.names):
        if len(np.unique(examples.videos[examples.classes == number])) < 2:
            raise UsageError(
                f"{name!r} has clips with frames of fewer than two videos, so none could be held out; add examples of "
                "other videos to the class file, or a list with --clips"
            )
    spec = restricted(reading_spec(snapshot)[0], classes.modalities)
    rows = joint_rows(snapshot, spec, examples.clips)
    return _Labelled([frames[id_] for id_ in examples.clips.tolist()], rows, examples, len(classes.classes))


def _clips_of(snapshot: Snapshot, classes: ClassSet, labelled: Sequence[LabelledVideo]) -> Examples:
    """Return all clips of the labelled videos of these classes."""
    items, numbers = items_of(snapshot), {name: number for number, name in enumerate(classes.names)}
    labels = {each.stem: each.label for each in labelled}
    sources: dict[str, int] = {}
    of_video: dict[int, tuple[int, int]] = {}
    for video, (_, paths) in snapshot.named(np.unique(items.videos).tolist()).items():
        stem = Path(paths[0].decode(errors="surrogateescape")).stem if paths else ""
        number = numbers.get(label_of(stem, labels) or "")
        if number is not None:
            source = LabelledVideo(stem, classes.names[number]).source
            of_video[video] = number, sources.setdefault(source, len(sources))
    if not of_video:
        raise QueryError(
            "no video of the list has one of these classes and is in this library; they are compared by the names of "
            "their files, and labels with the names of classes"
        )
    chosen = np.isin(items.videos, list(of_video))
    found = np.array([of_video[video] for video in items.videos[chosen].tolist()], np.int64).reshape(-1, 2)
    return Examples(items.ids[chosen], found[:, 0], found[:, 1])
