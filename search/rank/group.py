"""From ranked candidates to results: one per video, neighbours merged, duplicates of the same footage folded."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfindex.search.rank.candidates import Candidates
from vfindex.search.rank.score import Footage, ScoredClip, VideoKey
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.records import FloatArray

# The clips that match a query: one for each of its moments.
Group = tuple[ScoredClip, ...]
# A neighbour is merged if its score is at least this share of the best clip's. Measured on 85 moments of real videos of
# several clips: mean temporal IoU 0.38 without merging, 0.55 at 0.8, 0.62 at 0.6 and below.
MERGED_SHARE = 0.6
# The largest gap between merged neighbours, and the longest merged hit; anything longer is a chapter.
MERGED_GAP_S = 1.0
MAX_MERGED_S = 60.0
# Neighbours are first read within this distance, mostly a clip or two on either side; then within twice as much.
REACH_S = 10.0
# Two moving clips show the same footage from the first cosine on; from the second if they also have the same time in
# videos of the same length. Measured with `lite` over 56 real videos, 19 of them also re-encoded at half the size and
# a low bit rate (x264, CRF 34): no false duplicate; of 24 re-encoded moving clips 15 are found, 10 by the first cosine
# alone. 0.97 would give three false duplicates, and 0.93 for the second three more.
SAME_VISUAL, COPY_VISUAL = 0.98, 0.95
# Timed text must be the same, too. Speech of different videos has cosines of at most 0.36 in clips that pass the visual
# test; the same speech recognised twice differs in some words. The vectors are centred: some models give all texts much
# in common. Of 46 clips with speech, 76 % of the pairs are above 0.8 with multilingual-e5-small, 0.5 % when centred.
SAME_WORDS = 0.8
SAME_LENGTH = 0.8
_MIN_LENGTH = 1e-9  # of a vector that is all mean
COPY_LENGTH = 0.98
COPY_OFFSET_S = 1.0


@dataclass(frozen=True, slots=True)
class Duplicate:
    """Another place of the footage of a result."""

    video: VideoKey
    start_s: float
    end_s: float


@dataclass(slots=True)
class Result:
    """What becomes a hit. moments: its clips. start_s, end_s: including merged neighbours."""

    moments: Group
    start_s: float
    end_s: float
    duplicates: list[Duplicate] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group) -> Result:
        return cls(group, *_span(group))

    @property
    def video(self) -> VideoKey:
        return self.moments[0].video

    @property
    def score(self) -> float:
        return sum(each.score for each in self.moments)

    @property
    def similarity_score(self) -> float:
        return sum(each.similarity_score for each in self.moments)

    def overlaps(self, group: Group) -> bool:
        """Return whether a group is of the same video and overlaps in time."""
        if group[0].video != self.video:
            return False
        start_s, end_s = _span(group)
        return start_s < self.end_s and end_s > self.start_s


def _span(group: Group) -> tuple[float, float]:
    return min(each.clip.start_s for each in group), max(each.clip.end_s for each in group)


def select_results(
    groups: Sequence[Group],
    limits: tuple[int, int],
    duration_s: Callable[[VideoKey], float],
    expand: Callable[[Result, Sequence[Result]], object],
    examples: Sequence[Result] = (),
) -> list[Result]:
    """Return the best results, duplicates folded into the best of them.

    groups: best first. limits: results in all, and per video. duration_s: of a video. expand: merges neighbours
    into a new result, without touching those before it. examples: clips given as the query; neither they nor their
    duplicates are results.
    """
    top_k, per_video = limits
    results = list(examples)
    count: dict[VideoKey, int] = {}
    original: dict[VideoKey, VideoKey] = {}  # copy of a whole video -> the video whose limit it shares
    visual = _stacked([group[0].visual for group in groups])  # (n_groups, dim)
    similar: dict[int, list[Result]] = {}  # number of a group -> results that may be the same footage

    def compare(result: Result) -> None:
        vector = result.moments[0].visual
        for row in np.flatnonzero(visual @ vector >= COPY_VISUAL).tolist() if vector is not None else ():
            similar.setdefault(row, []).append(result)

    for example in examples if groups else ():
        compare(example)
    for number, group in enumerate(groups):
        video = group[0].video
        same = (result for result in similar.get(number, ()) if is_same_footage(result.moments, group, duration_s))
        best = next(same, None)
        if best is not None:
            if all(duplicate.video != video for duplicate in best.duplicates):
                best.duplicates.append(Duplicate(video, *_span(group)))
            if _is_copy(best.moments[0], group[0], duration_s):
                original[video] = original.get(best.video, best.video)
            continue
        owner = original.get(video, video)
        has_room = len(results) < top_k + len(examples) and count.get(owner, 0) < per_video
        if has_room and not any(result.overlaps(group) for result in results):
            count[owner] = count.get(owner, 0) + 1
            results.append(Result.of(group))
            expand(results[-1], results[:-1])
            compare(results[-1])
    return results[len(examples) :]


def _stacked(vectors: Sequence[FloatArray | None]) -> FloatArray:
    """Return vectors (n, dim), rows of 0 for those that are missing."""
    dim = next((len(vector) for vector in vectors if vector is not None), 0)
    nothing = np.zeros(dim, np.float32)
    return np.stack([nothing if vector is None else vector for vector in vectors]) if vectors else nothing[None]


def is_same_footage(first: Group, second: Group, duration_s: Callable[[VideoKey], float]) -> bool:
    """Return whether groups of different videos show and say the same, as re-encodes and intros do.

    Still pictures never count: black frames and title cards are all alike. Speech, and any other text that is timed,
    must be the same, too; silence and speech differ. duration_s: of a video.
    """
    if first[0].video == second[0].video or len(first) != len(second):
        return False
    return all(_is_same_clip(*clips, duration_s) for clips in zip(first, second, strict=True))


def _is_same_clip(first: ScoredClip, second: ScoredClip, duration_s: Callable[[VideoKey], float]) -> bool:
    if first.visual is None or second.visual is None:
        return False
    visual = float(first.visual @ second.visual)
    lengths = sorted(each.clip.end_s - each.clip.start_s for each in (first, second))
    if visual < COPY_VISUAL or lengths[0] < SAME_LENGTH * lengths[1]:
        return False
    one, other = first.footage, second.footage
    if not _has_same_words(one, other):
        return False
    return one.moves and other.moves and (visual >= SAME_VISUAL or _is_copy(first, second, duration_s))


def _has_same_words(first: Footage, second: Footage) -> bool:
    """Return whether two clips have the same timed text, or none. Text of whole videos, as titles, may differ."""
    if first.texts.keys() != second.texts.keys():
        return False
    return all(_cosine(vector, second.texts[m]) >= SAME_WORDS for m, vector in first.texts.items())


def _cosine(first: FloatArray, second: FloatArray) -> float:
    return float(first @ second) / max(float(np.linalg.norm(first) * np.linalg.norm(second)), _MIN_LENGTH)


def _is_copy(first: ScoredClip, second: ScoredClip, duration_s: Callable[[VideoKey], float]) -> bool:
    """Return whether two clips have the same time in videos of the same length."""
    if abs(first.clip.start_s - second.clip.start_s) > COPY_OFFSET_S:
        return False
    lengths = sorted((duration_s(first.video), duration_s(second.video)))
    return lengths[0] >= COPY_LENGTH * lengths[1]


def merge_neighbours(
    snapshot: Snapshot, candidates: Candidates, results: Sequence[Result], apart: Sequence[Result] = ()
) -> None:
    """Extend the span of each single-clip result by neighbours with at least MERGED_SHARE of its score.

    The result keeps the score of its best clip. results: of one library. apart: results that no other may overlap.
    """
    growing = [_Expansion(result) for result in results if len(result.moments) == 1 and result.similarity_score > 0]
    reach_s = REACH_S
    while growing:
        spans = [each.next_span(reach_s) for each in growing]
        around = snapshot.clips_around(spans)
        scored = {each.clip.id: each for each in candidates.score(id_ for _, id_ in around)}
        for number, id_ in around:
            if id_ in scored and not any(other.overlaps((scored[id_],)) for other in apart):
                growing[number].neighbours.append(scored[id_])
        growing = [each for each in growing if each.grow()]
        reach_s *= 2


@dataclass(slots=True)
class _Expansion:
    """A result that may grow. read_s: the span of its video whose clips have been read."""

    result: Result
    read_s: tuple[float, float] = (math.inf, -math.inf)
    neighbours: list[ScoredClip] = field(default_factory=list)

    def next_span(self, reach_s: float) -> tuple[int, float, float]:
        """Return the span to read next, as `Snapshot.clips_around` takes it."""
        self.read_s = (self.result.start_s - reach_s, self.result.end_s + reach_s)
        self.neighbours = []
        return (self.result.video[1], *self.read_s)

    def grow(self) -> bool:
        """Merge the neighbours; return whether there may be more beyond what was read."""
        result, grown = self.result, True
        while grown:
            first_s, last_s = result.start_s - MERGED_GAP_S, result.end_s + MERGED_GAP_S
            if first_s < self.read_s[0] or last_s > self.read_s[1]:
                return True
            near = [n for n in self.neighbours if n.clip.start_s <= last_s and n.clip.end_s >= first_s]
            grown = any([_merge(result, neighbour) for neighbour in sorted(near, key=lambda n: n.clip.start_s)])
        return False


def _merge(result: Result, neighbour: ScoredClip) -> bool:
    """Merge a neighbour into a result; return whether its span has grown."""
    start_s, end_s = min(result.start_s, neighbour.clip.start_s), max(result.end_s, neighbour.clip.end_s)
    grows = (start_s, end_s) != (result.start_s, result.end_s)
    too_weak = neighbour.similarity_score < MERGED_SHARE * result.similarity_score
    if not grows or too_weak or end_s - start_s > MAX_MERGED_S:
        return False
    result.start_s, result.end_s = start_s, end_s
    return True
