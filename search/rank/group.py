"""From scored clips to answers: neighbours merged, at most so many of one video, the same footage told once."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfindex.search.rank.candidates import Ranking
from vfindex.search.rank.score import Scored
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.records import FloatArray, Modality

# The clips that answer a question: one, or one for each of its moments.
Group = tuple[Scored, ...]
# A neighbour belongs to the hit with this share of the best clip's score. Measured on 85 moments of real videos of
# several clips: mean temporal IoU 0.38 without merging, 0.55 at 0.8, 0.62 from 0.6 down; less of a share takes in more.
MERGED_SHARE = 0.6
# Neighbours stand this close; a longer hit is a chapter and no moment.
MERGED_GAP_S = 1.0
MAX_MERGED_S = 60.0
# How far neighbours are looked for at first: mostly a clip or two on either side; then twice as far.
REACH_S = 10.0
# From this cosine on two moving clips show the same, and from the lower one on if each stands at the same time of
# videos that last as long. Measured with `lite` over 56 real videos, 19 of them once more at half the size and few bits
# (x264, CRF 34): no two others are taken for the same; of 24 moving clips encoded again 15 are found, 10 by the first
# alone. At 0.97 three pairs of others are the same, and at 0.93 for the lower three more.
SAME_PICTURES, COPY_PICTURES = 0.98, 0.95
# Frames this much alike are one picture; plain cards of different videos had 0.995.
STILL = 0.995
# Speech of other videos has cosines of at most 0.36 there; recognised twice it is not the same to the word.
SAME_SPEECH = 0.8
SAME_LENGTH = 0.8
COPY_LENGTH = 0.98
COPY_OFFSET_S = 1.0


@dataclass(frozen=True, slots=True)
class Place:
    """Where the footage of a hit stands a further time."""

    video_id: int
    start_s: float
    end_s: float


@dataclass(slots=True)
class Answer:
    """What becomes a hit. moments: the clips that answer. start_s, end_s: with their neighbours."""

    moments: Group
    start_s: float
    end_s: float
    also: list[Place] = field(default_factory=list)

    @classmethod
    def of(cls, group: Group) -> Answer:
        return cls(group, min(each.clip.start_s for each in group), max(each.clip.end_s for each in group))

    @property
    def video_id(self) -> int:
        return self.moments[0].clip.video_id

    @property
    def score(self) -> float:
        return sum(each.score for each in self.moments)

    @property
    def strength(self) -> float:
        return sum(each.strength for each in self.moments)

    def covers(self, group: Group) -> bool:
        """Return whether the answer holds, in part, what the group would tell."""
        if group[0].clip.video_id != self.video_id:
            return False
        start_s, end_s = min(each.clip.start_s for each in group), max(each.clip.end_s for each in group)
        return start_s < self.end_s and end_s > self.start_s


def gather(
    groups: Sequence[Group],
    wanted: tuple[int, int],
    lasts_s: Callable[[int], float],
    settle: Callable[[Answer, Sequence[Answer]], object],
    asked: Sequence[Answer] = (),
) -> list[Answer]:
    """Return the best answers, at most so many in all and of one video (`wanted`), duplicates folded into the best.

    groups: best first. lasts_s: a video's length. settle: gives a new answer its span, apart from those before it.
    asked: clips that the question itself names; neither they nor their duplicates answer it.
    """
    top_k, per_video = wanted
    answers = list(asked)
    count: dict[int, int] = {}
    original: dict[int, int] = {}  # a copy of a whole video shares the places of the first
    pictures = _stacked([group[0].vectors.embeddings.get("visual") for group in groups])  # (n_groups, dim)
    alike: dict[int, list[Answer]] = {}  # number of a group -> answers whose pictures may be its own

    def compare(answer: Answer) -> None:
        vector = answer.moments[0].vectors.embeddings.get("visual")
        for row in np.flatnonzero(pictures @ vector >= COPY_PICTURES).tolist() if vector is not None else ():
            alike.setdefault(row, []).append(answer)

    for answer in asked if groups else ():
        compare(answer)
    for number, group in enumerate(groups):
        video_id = group[0].clip.video_id
        same = (answer for answer in alike.get(number, ()) if is_same_footage(answer.moments, group, lasts_s))
        folded = next(same, None)
        if folded is not None:
            if all(place.video_id != video_id for place in folded.also):
                again = Answer.of(group)
                folded.also.append(Place(video_id, again.start_s, again.end_s))
            if _is_copy(folded.moments[0], group[0], lasts_s):
                original[video_id] = original.get(folded.video_id, folded.video_id)
            continue
        owner = original.get(video_id, video_id)
        is_wanted = len(answers) < top_k + len(asked) and count.get(owner, 0) < per_video
        if is_wanted and not any(answer.covers(group) for answer in answers):
            count[owner] = count.get(owner, 0) + 1
            answers.append(Answer.of(group))
            settle(answers[-1], answers[:-1])
            compare(answers[-1])
    return answers[len(asked) :]


def _stacked(vectors: Sequence[FloatArray | None]) -> FloatArray:
    """Return vectors (n, dim), rows of 0 for those that are missing."""
    dim = next((len(vector) for vector in vectors if vector is not None), 0)
    nothing = np.zeros(dim, np.float32)
    return np.stack([nothing if vector is None else vector for vector in vectors]) if vectors else nothing[None]


def is_same_footage(first: Group, second: Group, lasts_s: Callable[[int], float]) -> bool:
    """Return whether two groups of different videos show and say the same, clip by clip, as re-encodes and intros do.

    One still picture tells too little: black frames, plain cards and title cards are all alike. What is said must be
    alike too, and silence is not like speech. lasts_s: a video's length.
    """
    if first[0].clip.video_id == second[0].clip.video_id or len(first) != len(second):
        return False
    return all(_is_same_clip(*clips, lasts_s) for clips in zip(first, second, strict=True))


def _is_same_clip(first: Scored, second: Scored, lasts_s: Callable[[int], float]) -> bool:
    pictures = _cosine(first, second, "visual")
    if pictures is None or pictures < COPY_PICTURES:
        return False
    lengths = sorted(each.clip.end_s - each.clip.start_s for each in (first, second))
    spoken = "speech" in first.vectors.embeddings or "speech" in second.vectors.embeddings
    if lengths[0] < SAME_LENGTH * lengths[1] or (spoken and (_cosine(first, second, "speech") or 0.0) < SAME_SPEECH):
        return False
    moving = _moves(first) and _moves(second)
    return moving and (pictures >= SAME_PICTURES or _is_copy(first, second, lasts_s))


def _moves(scored: Scored) -> bool:
    """Return whether a clip's frames are of more than one picture."""
    frames = scored.vectors.frames
    return len(frames) > 1 and float((frames @ frames[0]).min()) < STILL


def _cosine(first: Scored, second: Scored, modality: Modality) -> float | None:
    one, other = (each.vectors.embeddings.get(modality) for each in (first, second))
    return None if one is None or other is None else float(one @ other)


def _is_copy(first: Scored, second: Scored, lasts_s: Callable[[int], float]) -> bool:
    """Return whether two clips stand at the same time of videos that last as long."""
    if abs(first.clip.start_s - second.clip.start_s) > COPY_OFFSET_S:
        return False
    lengths = sorted((lasts_s(first.clip.video_id), lasts_s(second.clip.video_id)))
    return lengths[0] >= COPY_LENGTH * lengths[1]


def merge_neighbours(
    snapshot: Snapshot, ranking: Ranking, answers: Sequence[Answer], apart: Sequence[Answer] = ()
) -> None:
    """Let the span of each answer of one clip take in the neighbours that answer nearly as well.

    A neighbour has MERGED_SHARE of the best clip's strength at least; the answer's score stays that of its best clip.
    apart: answers whose spans no other may touch.
    """
    growing = [_Growing(answer) for answer in answers if len(answer.moments) == 1 and answer.strength > 0]
    reach_s = REACH_S
    while growing:
        spans = [each.look(reach_s) for each in growing]
        around = snapshot.clips_around(spans)
        scored = {each.clip.id: each for each in ranking.scored(id_ for _, id_ in around)}
        for number, id_ in around:
            if id_ in scored and not any(other.covers((scored[id_],)) for other in apart):
                growing[number].neighbours.append(scored[id_])
        growing = [each for each in growing if each.reaches_further()]
        reach_s *= 2


@dataclass(slots=True)
class _Growing:
    """An answer that may take in neighbours. seen_s: the stretch of its video that was looked at."""

    answer: Answer
    seen_s: tuple[float, float] = (math.inf, -math.inf)
    neighbours: list[Scored] = field(default_factory=list)

    def look(self, reach_s: float) -> tuple[int, float, float]:
        """Return the stretch to look at next, as `Snapshot.clips_around` takes it."""
        self.seen_s = (self.answer.start_s - reach_s, self.answer.end_s + reach_s)
        self.neighbours = []
        return (self.answer.video_id, *self.seen_s)

    def reaches_further(self) -> bool:
        """Take in the neighbours; return whether there may be more of them where nobody has looked."""
        answer, grows = self.answer, True
        while grows:
            first_s, last_s = answer.start_s - MERGED_GAP_S, answer.end_s + MERGED_GAP_S
            if first_s < self.seen_s[0] or last_s > self.seen_s[1]:
                return True
            near = [n for n in self.neighbours if n.clip.start_s <= last_s and n.clip.end_s >= first_s]
            grows = any([_grow(answer, neighbour) for neighbour in sorted(near, key=lambda n: n.clip.start_s)])
        return False


def _grow(answer: Answer, neighbour: Scored) -> bool:
    """Take a neighbour in; return whether the answer has grown."""
    start_s, end_s = min(answer.start_s, neighbour.clip.start_s), max(answer.end_s, neighbour.clip.end_s)
    grows = (start_s, end_s) != (answer.start_s, answer.end_s)
    if not grows or neighbour.strength < MERGED_SHARE * answer.strength or end_s - start_s > MAX_MERGED_S:
        return False
    answer.start_s, answer.end_s = start_s, end_s
    return True
