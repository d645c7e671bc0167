"""One video as a sequence: its clips in order of time, their vectors, and its text with times."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.joint.vector import JointSpec
from vfindex.storage.library import reading_spec
from vfindex.storage.modalities import MODALITIES, ModalityName, frame_modality
from vfindex.storage.records import FloatArray, Segment

# Longest sequence whose segments are sought: two hours of clips of 9 s; its 99 random orders take 15 s. Neighbours of a
# longer video are merged until it fits.
MOST_STEPS = 800
# Clips read at a time: of 24 frames each, 75 MB of frame vectors.
_BATCH_CLIPS = 1024


@dataclass(frozen=True, slots=True, eq=False)
class Timeline:
    """The clips of a video in order, as n steps; a step is one clip, in very long videos several.

    edges_s: (n + 1,) where each begins, and the end of the last. vectors: modality -> (n, dim), rows centred on the
    library's mean and of length 1, so that unrelated clips have cosines near 0; a zero row where a step lacks it.
    weights: of the modalities, the library's own. segments: what is said and written, in order of time.
    """

    edges_s: NDArray[np.float64]
    vectors: Mapping[ModalityName, FloatArray]
    weights: Mapping[ModalityName, float]
    segments: tuple[Segment, ...]

    def __len__(self) -> int:
        return len(self.edges_s) - 1

    def span_of(self, video: StoredVideo) -> tuple[float, float]:
        """Return where a video begins and ends, in seconds: by its frames, or clips heard for longer."""
        if not len(self):
            return video.start_s, video.end_s
        return min(video.start_s, float(self.edges_s[0])), max(video.end_s, float(self.edges_s[-1]))

    @property
    def lengths_s(self) -> NDArray[np.float64]:
        return np.diff(self.edges_s)

    def text_between(self, start_s: float, end_s: float) -> tuple[Segment, ...]:
        """Return the segments of which more lies in [start_s, end_s) than before or after it: their middle does."""
        return tuple(each for each in self.segments if start_s <= (each.start_s + each.end_s) / 2 < end_s)


def timed_modalities() -> tuple[ModalityName, ...]:
    """Return the modalities that change within a video: all but the one about the whole file."""
    return tuple(each.name for each in MODALITIES if not each.has_documents)


def timeline_of(snapshot: Snapshot, video: StoredVideo) -> Timeline:
    """Return a video as a timeline; of no steps if it has no clips."""
    clips = snapshot.clips_of(video.id)
    spec, _ = reading_spec(snapshot)
    names = [name for name in timed_modalities() if name in spec.parts]
    read = _vectors(snapshot, clips, {name: spec.parts[name].dim for name in names})
    segments = tuple(each for each in snapshot.segments(video.id) if each.track in timed_modalities() and each.text)
    if not clips:
        return Timeline(np.zeros(1), {}, {}, segments)
    edges_s = np.array([*(clip.start_s for clip in clips), clips[-1].end_s])
    weights = {name: spec.alone_weight(name) for name in names}
    whole = Timeline(edges_s, {name: _centred(rows, name, spec) for name, rows in read.items()}, weights, segments)
    return _merged(whole, -(-len(whole) // MOST_STEPS))


def halves_of(snapshot: Snapshot, clips: Sequence[StoredClip], timeline: Timeline) -> tuple[Timeline, Timeline]:
    """Return a timeline by every other frame of each clip, and by the frames between. Text counts in both.

    A clip of one frame has it in both. clips: those of the timeline, in order.
    """
    spec, _ = reading_spec(snapshot)
    name = frame_modality()
    if name not in timeline.vectors:
        return timeline, timeline
    halves: tuple[list[FloatArray], list[FloatArray]] = ([], [])
    for first in range(0, len(clips), _BATCH_CLIPS):
        ids = [clip.id for clip in clips[first : first + _BATCH_CLIPS]]
        read = snapshot.vectors(ids)
        for id_ in ids:
            frames = read[id_].frames
            if not len(frames):
                frames = read[id_].embeddings.get(name, np.zeros(spec.parts[name].dim, np.float32))[None]
            for number, half in enumerate(halves):
                half.append((frames[number::2] if len(frames) > 1 else frames).mean(axis=0))
    edges_s = np.array([*(clip.start_s for clip in clips), clips[-1].end_s])
    size = -(-len(clips) // len(timeline))
    made = []
    for half in halves:
        alone = Timeline(edges_s, {name: _centred(np.stack(half), name, spec)}, timeline.weights, ())
        vectors = {**timeline.vectors, **_merged(alone, size).vectors}
        made.append(Timeline(timeline.edges_s, vectors, timeline.weights, timeline.segments))
    return made[0], made[1]


def _vectors(
    snapshot: Snapshot, clips: Sequence[StoredClip], dims: Mapping[ModalityName, int]
) -> dict[ModalityName, FloatArray]:
    """Return modality -> (n_clips, dim) for those that any clip has, zero rows where one has none."""
    ids = [clip.id for clip in clips]
    rows: dict[ModalityName, list[FloatArray]] = {name: [] for name in dims}
    for _, batch in snapshot.batches(ids, dims):
        for name, vectors in batch.items():
            rows[name].append(vectors)
    joined = {name: np.concatenate(parts) for name, parts in rows.items() if parts}
    return {name: vectors for name, vectors in joined.items() if np.any(vectors)}


def _centred(rows: FloatArray, name: ModalityName, spec: JointSpec) -> FloatArray:
    """Return rows minus the library's mean, of length 1; zero rows stay."""
    present = np.any(rows, axis=1)
    centred = np.where(present[:, None], rows - spec.parts[name].mean, np.float32(0))
    return unit(centred)


def unit(rows: FloatArray) -> FloatArray:
    """Return rows of length 1; zero rows stay zero."""
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray(rows / np.where(lengths > 0, lengths, 1), np.float32)


def _merged(timeline: Timeline, size: int) -> Timeline:
    """Return a timeline whose steps are `size` of the given ones."""
    if size == 1:
        return timeline
    firsts = np.arange(0, len(timeline), size)
    weights = timeline.lengths_s[:, None].astype(np.float32)
    sums = {name: np.add.reduceat(rows * weights, firsts) for name, rows in timeline.vectors.items()}
    edges_s = np.append(timeline.edges_s[firsts], timeline.edges_s[-1])
    return Timeline(edges_s, {name: unit(rows) for name, rows in sums.items()}, timeline.weights, timeline.segments)
