"""Labels every clip and video of a library by a set of classes, and stores the labels.

A clip is labelled with its most probable class, unless none of these is more probable. A video has a label of its own
by the mean of its clips' vectors over time. Work and memory grow with the number of clips; vectors are read in batches,
in order of videos.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from vfindex.search.live import required_setup
from vfindex.search.query.encode import QueryEncoder
from vfindex.search.results import Record
from vfindex.search.understanding.labelling.classes import NONE, ClassSet
from vfindex.search.understanding.labelling.mixture import Mixture, fit_mixture
from vfindex.search.understanding.labelling.probe import (
    Probe,
    examples_of,
    joint_rows,
    learn_probe,
)
from vfindex.search.understanding.labelling.temporal import TemporalClassifier
from vfindex.search.understanding.labelling.zero_shot import restricted, zero_shot
from vfindex.storage.db.reader import BATCH_CLIPS, Snapshot
from vfindex.storage.errors import LibraryChanged, LibraryDamaged, QueryError, UsageError
from vfindex.storage.heads import TemporalHead, check_head, stored_head
from vfindex.storage.labels import StoredLabel, clips_by_video, label_sets, library_state, put_labels, remove_labels
from vfindex.storage.library import Library, reading_spec
from vfindex.storage.meta import LibraryMeta, no_videos
from vfindex.storage.modalities import frame_modality
from vfindex.storage.records import FloatArray, Setup
from vfindex.storage.writer import writing

# Clips, and videos, by which probabilities and the comparison with chance are set; evenly spread over a larger library.
SAMPLE = 20_000
# As a test at 5 %.
MAX_CHANCE = 0.05
NOT_BETTER = "not better than chance here"
# Called with how many steps are done, and how many there are: texts encoded, clips of the sample, clips labelled.
Progress = Callable[[int, int], None]


class Classifier(Protocol):
    """Scores items against C classes. Features of clips are averaged over time for their video."""

    @property
    def separation(self) -> float | None:
        """Of the choices for labelled items that it has not seen (`mixture`); None: it is fitted to the library."""

    @property
    def known(self) -> Sequence[float]:
        """Scores of labelled items that it has not seen for their own class; empty: the library alone tells."""

    def read(self, snapshot: Snapshot, ids: NDArray[np.int64]) -> FloatArray:
        """Return features (n, dim) of clips; zero rows for those with nothing to compare."""

    def scores(self, features: FloatArray) -> FloatArray:
        """Return (n, C) in standard deviations of unrelated items, which say whether an item is of a class."""

    def choices(self, features: FloatArray) -> FloatArray | None:
        """Return (n, C), which say of which class an item is if it is of one; None: the scores say it."""

    def chance(self, features: FloatArray) -> float:
        """Return how probable it is that the classes say no more than chance does, from items (n, dim)."""


@dataclass(frozen=True, slots=True, eq=False)
class Items:
    """Clips in order of their videos. ids, videos: (n,). lengths_s: (n,)."""

    ids: NDArray[np.int64]
    videos: NDArray[np.int64]
    lengths_s: NDArray[np.float64]

    def batches(self) -> Iterator[Items]:
        """Yield parts of at least BATCH_CLIPS clips, whole videos each."""
        starts = np.flatnonzero(np.diff(self.videos, prepend=-1))
        edges = [0]
        for start in starts.tolist():
            if start - edges[-1] >= BATCH_CLIPS:
                edges.append(start)
        for first, last in pairwise([*edges, len(self.ids)]):
            yield Items(self.ids[first:last], self.videos[first:last], self.lengths_s[first:last])


@dataclass(frozen=True, slots=True)
class VideoLabel(Record):
    """What a video is. label: a class, or `none`. probability: of that; none: of no class. clips: label -> how many."""

    video: bytes | None
    fingerprint: str
    label: str
    probability: float
    none: float
    clips: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class ClassCount(Record):
    """How many videos and clips have a label."""

    name: str
    videos: int
    clips: int


@dataclass(frozen=True, slots=True)
class Labelling(Record):
    """The labels of a library by one set of classes.

    method: `zero-shot`, `linear probe` or `temporal head`. chance: how probable it is that the classes say no more than
    chance does. better: whether that is below 0.05; if not, there are no labels: counts and videos are empty, none is
    None, and nothing was stored. none: what is of no class. empty: clips with nothing to compare, which have no label.
    stored: number of labels written.
    """

    classes: str
    method: str
    chance: float
    better: bool
    counts: tuple[ClassCount, ...]
    none: ClassCount | None
    empty: int
    stored: int
    videos: tuple[VideoLabel, ...]


@dataclass(frozen=True, slots=True, eq=False)
class Found:
    """The outcome for n items. ids: of clips or videos. classes: (n,), C for none, -1 for nothing to compare.

    probabilities, none: (n,) of that outcome, and of none.
    """

    ids: NDArray[np.int64]
    classes: NDArray[np.int64]
    probabilities: FloatArray
    none: FloatArray


class _Steps:
    """Counts the steps of a labelling for its progress."""

    def __init__(self, progress: Progress, classes: ClassSet, items: Items) -> None:
        self._progress, self._done = progress, 0
        sampled = sum(len(part.ids) for part in _sample(items))
        self._total = sum(len(each.texts) for each in classes.classes) + sampled + len(items.ids)

    def add(self, steps: int) -> None:
        self._done += steps
        self._progress(min(self._done, self._total), self._total)


def items_of(snapshot: Snapshot) -> Items:
    """Return the clips of searchable videos, in order of their videos."""
    return Items(*clips_by_video(snapshot))


def read_features(
    snapshot: Snapshot, classifier: Classifier, part: Items
) -> tuple[FloatArray, NDArray[np.int64], FloatArray]:
    """Return (features of the clips (n, dim), their videos (m,), features of these (m, dim)).

    A video's are the means over time of its clips that have any; zeros where none has.
    """
    clips = classifier.read(snapshot, part.ids)
    videos, first = np.unique(part.videos, return_index=True)
    weights = (np.maximum(part.lengths_s, 1e-3) * _present(clips))[:, None].astype(np.float32)
    totals = np.add.reduceat(weights, first)
    return clips, videos, np.asarray(np.add.reduceat(clips * weights, first) / np.where(totals > 0, totals, 1))


def label_library(
    folder: Path,
    classes: ClassSet,
    *,
    store: bool = True,
    by_text: bool = False,
    progress: Progress = lambda done, total: None,
    clip_rows: Callable[[Iterator[ClipLabel]], None] | None = None,
) -> Labelling:
    """Label all clips and videos of the library in `folder`; store the labels in place of those of the same set.

    store: False only returns them. by_text: compare texts, though the classes have examples. clip_rows: called with
    every clip's label, in order of videos, unless the classes say no more than chance does. Raises QueryError for a
    library without clips, UsageError, ModelError, LibraryLocked; LibraryChanged if a run or an upgrade ended meanwhile,
    or the set's temporal head was trained or deleted.
    """
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        state, items = library_state(snapshot), items_of(snapshot)
        steps = _Steps(progress, classes, items)
        method, classifier = _classifier(library, snapshot, classes, items, steps, by_text=by_text)
        chance, mixtures = _measured(snapshot, classifier, items, steps)
        clips, videos = _labelled(snapshot, classifier, items, mixtures, steps)
        is_better = chance < MAX_CHANCE
        stored = 0
        if store and is_better:
            given = _stored(classes.names, items, clips, videos)
            with writing(folder) as writer:
                if writer.folder != library.folder:
                    raise LibraryChanged("an upgrade has changed the library meanwhile; run the same command again")
                if not by_text:
                    check_head(snapshot, writer.catalog, classes.name)
                stored = put_labels(writer.catalog, classes.name, given, state)
        if clip_rows is not None and is_better:
            clip_rows(_clip_labels(snapshot, classes.names, items, clips))
        return _labelling(snapshot, classes, (method, chance, stored), items, (clips, videos))


def unlabel_library(folder: Path, classes: str) -> int:
    """Delete the labels of a set of classes; return how many there were. Raises LibraryError."""
    Library.open(folder).close()
    with writing(folder) as writer:
        return remove_labels(writer.catalog, classes)


def stored_sets(folder: Path) -> list[str]:
    """Return the sets of classes of which a library has labels. Raises LibraryError."""
    with Library.open(folder).snapshot() as snapshot:
        return label_sets(snapshot)


def video_shares(
    folder: Path, classes: ClassSet, *, by_text: bool = False, progress: Progress = lambda done, total: None
) -> Iterator[tuple[bytes, NDArray[np.float64]]]:
    """Yield (path, (C + 1,) probabilities of the classes and of none) of each video with a file. Raises as above."""
    library = Library.open(folder)
    with library.snapshot() as snapshot:
        items = items_of(snapshot)
        steps = _Steps(progress, classes, items)
        _, classifier = _classifier(library, snapshot, classes, items, steps, by_text=by_text)
        _, (_, mixture) = _measured(snapshot, classifier, items, steps)
        for part in items.batches():
            _, videos, pooled = read_features(snapshot, classifier, part)
            named = snapshot.named(videos.tolist())
            for video, shares in zip(videos.tolist(), shares_of(classifier, mixture, pooled), strict=True):
                if named[video][1]:
                    yield named[video][1][0], shares
            steps.add(len(part.ids))


def _classifier(
    library: Library, snapshot: Snapshot, classes: ClassSet, items: Items, steps: _Steps, *, by_text: bool
) -> tuple[str, Classifier]:
    """Return the name of the method and the classifier. Raises as `required_setup`, also without clips."""
    setup = required_setup(snapshot, library.root)
    if not len(items.ids):
        raise QueryError(no_videos(library.root))
    head = None if by_text else _head(library, snapshot, classes)
    texts = sum(len(each.texts) for each in classes.classes)
    if head is not None:
        classifier = _temporal(snapshot, setup, head, classes, items)
        steps.add(texts)
        return "temporal head", classifier
    if not by_text and any(each.examples for each in classes.classes):
        probe = _probe(snapshot, classes, items)
        steps.add(texts)
        return "linear probe", probe
    spec, priors = reading_spec(snapshot)[0], LibraryMeta(snapshot).priors
    encoder = QueryEncoder(library, setup)
    return "zero-shot", zero_shot(classes.classes, encoder, spec, priors, classes.modalities, steps.add)


def _head(library: Library, snapshot: Snapshot, classes: ClassSet) -> TemporalHead | None:
    """Return the head of a set of classes, None without. Raises LibraryDamaged; LibraryChanged if it was replaced."""
    try:
        return stored_head(snapshot, library.folder, classes.name)
    except LibraryDamaged:
        with library.snapshot() as now:
            check_head(snapshot, now, classes.name)
        raise


def _probe(snapshot: Snapshot, classes: ClassSet, items: Items) -> Probe:
    """Return the probe of the classes' examples, against the clips of a sample."""
    spec = restricted(reading_spec(snapshot)[0], classes.modalities)
    examples = examples_of(snapshot, classes.classes, ", or compare texts alone with --zero-shot")
    rows = joint_rows(snapshot, spec, examples.clips)
    sample = _sample(items)
    library = np.concatenate([joint_rows(snapshot, spec, part.ids) for part in sample])
    return learn_probe(rows, examples, spec, library, np.concatenate([part.videos for part in sample]))


def _temporal(snapshot: Snapshot, setup: Setup, head: TemporalHead, classes: ClassSet, items: Items) -> Classifier:
    """Return the classifier by a head. Raises UsageError for one of other classes, or of another model's frames."""
    again = "train it again with: vfindex tune CLASSES --temporal, or delete it with --reset"
    if head.classes != classes.names:
        raise UsageError(f"the temporal head of {classes.name!r} was trained on other classes than these; {again}")
    if head.model != setup.models.get(frame_modality()):
        raise UsageError(f"the temporal head of {classes.name!r} was trained on frames of another model; {again}")
    return against_library(snapshot, head, items)


def against_library(snapshot: Snapshot, head: TemporalHead, items: Items) -> TemporalClassifier:
    """Return the classifier by a head, with centre and spread of a sample of the library's clips."""
    classifier = TemporalClassifier.of(head)
    return classifier.against(np.concatenate([classifier.read(snapshot, part.ids) for part in _sample(items)]))


def _sample(items: Items) -> list[Items]:
    """Return batches of about SAMPLE clips, evenly spread."""
    return list(items.batches())[:: max(1, len(items.ids) // SAMPLE)]


def _measured(
    snapshot: Snapshot, classifier: Classifier, items: Items, steps: _Steps
) -> tuple[float, tuple[Mixture, Mixture]]:
    """Return how probable chance is, and the mixtures of clips and of videos, from a sample."""
    of_clips, of_videos, features = [], [], []
    for part in _sample(items):
        clips, _, videos = read_features(snapshot, classifier, part)
        of_clips.append(classifier.scores(clips[_present(clips)]))
        features.append(videos[_present(videos)])
        of_videos.append(classifier.scores(features[-1]))
        steps.add(len(part.ids))
    pooled = np.concatenate(features)
    if not len(pooled):
        raise QueryError("no clip of this library has what these classes compare; `vfindex status` shows what it has")
    of_items = (np.concatenate(of_clips), np.concatenate(of_videos))
    mixtures = [fit_mixture(scores, classifier.separation, classifier.known) for scores in of_items]
    return classifier.chance(pooled), (mixtures[0], mixtures[1])


def shares_of(classifier: Classifier, mixture: Mixture, features: FloatArray) -> NDArray[np.float64]:
    """Return (n, C + 1) probabilities of the classes and of none, for features of items (n, dim)."""
    return mixture.probabilities(classifier.scores(features), classifier.choices(features))


def _present(features: FloatArray) -> NDArray[np.bool_]:
    return np.asarray(np.any(features, axis=1))


def _labelled(
    snapshot: Snapshot, classifier: Classifier, items: Items, mixtures: tuple[Mixture, Mixture], steps: _Steps
) -> tuple[Found, Found]:
    """Return the outcome for each clip, in the order of `items`, and for each video."""
    of_clips, of_videos = [], []
    for part in items.batches():
        clips, videos, pooled = read_features(snapshot, classifier, part)
        of_clips.append(_decided(part.ids, clips, classifier, mixtures[0]))
        of_videos.append(_decided(videos, pooled, classifier, mixtures[1]))
        steps.add(len(part.ids))
    return _joined(of_clips), _joined(of_videos)


def _decided(ids: NDArray[np.int64], features: FloatArray, classifier: Classifier, mixture: Mixture) -> Found:
    shares = shares_of(classifier, mixture, features)
    best = shares.argmax(axis=1)
    chosen = shares[np.arange(len(best)), best].astype(np.float32)
    return Found(ids, np.where(_present(features), best, -1), chosen, shares[:, -1].astype(np.float32))


def _joined(parts: Sequence[Found]) -> Found:
    columns = zip(*((each.ids, each.classes, each.probabilities, each.none) for each in parts), strict=True)
    return Found(*(np.concatenate(column) for column in columns))


def _stored(names: Sequence[str], items: Items, clips: Found, videos: Found) -> Iterator[StoredLabel]:
    for n in np.flatnonzero((videos.classes >= 0) & (videos.classes < len(names))).tolist():
        yield StoredLabel(int(videos.ids[n]), None, names[videos.classes[n]], float(videos.probabilities[n]))
    for n in np.flatnonzero((clips.classes >= 0) & (clips.classes < len(names))).tolist():
        name = names[clips.classes[n]]
        yield StoredLabel(int(items.videos[n]), int(clips.ids[n]), name, float(clips.probabilities[n]))


# --- what is shown ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClipLabel(Record):
    """A clip's label, for a table. label: "" for a clip with nothing to compare."""

    video: bytes | None
    fingerprint: str
    start_s: float
    end_s: float
    label: str
    probability: float
    none: float


def _name(names: Sequence[str], number: int) -> str:
    return (*names, NONE, "")[number] if number >= 0 else ""


def _clip_labels(snapshot: Snapshot, names: Sequence[str], items: Items, found: Found) -> Iterator[ClipLabel]:
    for first in range(0, len(items.ids), BATCH_CLIPS):
        part = slice(first, first + BATCH_CLIPS)
        stored = snapshot.clips(items.ids[part].tolist())
        videos = snapshot.named(np.unique(items.videos[part]).tolist())
        for n in range(first, min(first + BATCH_CLIPS, len(items.ids))):
            clip = stored[int(items.ids[n])]
            fingerprint, paths = videos[clip.video_id]
            label = _name(names, int(found.classes[n]))
            shares = round(float(found.probabilities[n]), 3), round(float(found.none[n]), 3)
            yield ClipLabel(next(iter(paths), None), fingerprint, clip.start_s, clip.end_s, label, *shares)


def _labelling(
    snapshot: Snapshot, classes: ClassSet, outcome: tuple[str, float, int], items: Items, found: tuple[Found, Found]
) -> Labelling:
    names, (clips, videos), (method, chance, stored) = classes.names, found, outcome
    empty = int(np.sum(clips.classes < 0))
    if chance >= MAX_CHANCE:
        return Labelling(classes.name, method, round(chance, 4), False, (), None, empty, stored, ())
    of_clips, of_videos = Counter(clips.classes.tolist()), Counter(videos.classes.tolist())
    by_video: dict[int, Counter[str]] = {}
    for video, number in zip(items.videos.tolist(), clips.classes.tolist(), strict=True):
        by_video.setdefault(video, Counter())[_name(names, number)] += 1
    counts = [ClassCount(name, of_videos[n], of_clips[n]) for n, name in enumerate((*names, NONE))]
    return Labelling(
        classes=classes.name,
        method=method,
        chance=round(chance, 4),
        better=True,
        counts=tuple(counts[:-1]),
        none=counts[-1],
        empty=empty,
        stored=stored,
        videos=tuple(_video_labels(snapshot, names, videos, by_video)),
    )


def _video_labels(
    snapshot: Snapshot, names: Sequence[str], found: Found, clips: Mapping[int, Counter[str]]
) -> Iterator[VideoLabel]:
    for first in range(0, len(found.ids), BATCH_CLIPS):
        named = snapshot.named(found.ids[first : first + BATCH_CLIPS].tolist())
        for n in range(first, min(first + BATCH_CLIPS, len(found.ids))):
            video = int(found.ids[n])
            fingerprint, paths = named[video]
            label, own = _name(names, int(found.classes[n])), {k: v for k, v in clips[video].most_common() if k}
            shares = round(float(found.probabilities[n]), 3), round(float(found.none[n]), 3)
            yield VideoLabel(next(iter(paths), None), fingerprint, label, *shares, own)
