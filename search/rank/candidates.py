"""Clips for one moment of a question, each scored by modality, best first."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Part, Place
from vfindex.search.rank.delta import Tail
from vfindex.search.rank.lexical import Found, WordEvidence
from vfindex.search.rank.prefilter import Allowed
from vfindex.search.rank.rrf import ReciprocalRanks
from vfindex.storage.db.ids import held_in, places_in
from vfindex.storage.db.reader import Snapshot, StoredClip, StoredVectors
from vfindex.storage.index.reader import JointIndex
from vfindex.storage.joint.vector import Direction, JointSpec, ModalitySpec, directions, fuse_query
from vfindex.storage.records import FloatArray, Modality, Setup

# Of the similarities of sentences, see `sharpened`. Measured over the public collection against plain weights
# (docs/decisions/lite.md): a plateau from 1.5 spreads to 2.5. At 3.2 spreads a similarity is worth what it was.
NOISE_SPREADS, BELOW_NOISE, ABOVE_NOISE = 2.0, 0.125, 2.5
# Of candidates, the share that is read: the first hundred where two hundred come from the index and one from words. To
# read a clip with its frames takes 25 us at 1,000,000 clips, ten times as long as to compare its joint vector. What is
# lost are clips that their best frame alone would lift over so many others, see docs/decisions/lite.md.
READ_SHARE = 0.5
# So many times as deep is looked where clips drop out for what is said in them.
MAX_DROPPED = 8


@dataclass(slots=True, eq=False)
class Scored:
    """A clip's score as the sum of its modalities' signed contributions; a missing key is a missing modality.

    modalities: weighted similarities and what words add, as `bonus` says. ranked: reciprocal ranks, where these are
    fused. vectors: as stored. frame_s: presentation time of the best frame. found: where words of the question stand.
    words: those, in the question's order.
    """

    clip: StoredClip
    modalities: dict[Modality, float]
    vectors: StoredVectors
    bonus: dict[Place, float] = field(default_factory=dict)
    ranked: Mapping[Modality, float] | None = None
    frame_s: float | None = None
    found: tuple[Found, ...] = ()
    words: tuple[str, ...] = ()
    snippet: str | None = None

    @property
    def contributions(self) -> Mapping[Modality, float]:
        return self.modalities if self.ranked is None else self.ranked

    @property
    def score(self) -> float:
        return sum(self.contributions.values())

    @property
    def strength(self) -> float:
        """How well the clip answers, whatever the others do: its score where scores are fused."""
        return sum(self.modalities.values())

    def similarity(self, modality: Modality) -> float | None:
        """Return a modality's weighted similarity without words, None where the clip has none."""
        value = self.modalities.get(modality) if modality in self.vectors.embeddings else None
        return None if value is None else value - sum(b for place, b in self.bonus.items() if place == modality)


@dataclass(frozen=True, slots=True)
class View:
    """What one search looks at. index: the clips up to `watermark`; None: all clips are scanned exactly.

    watermark: the last clip of the current generation, 0 before the first. is_whole: the index is there, or none is
    wanted. ranks: the weight of each modality's list where ranks are fused, None where scores are.
    """

    snapshot: Snapshot
    spec: JointSpec
    setup: Setup
    index: JointIndex | None
    watermark: int
    is_whole: bool
    ranks: Mapping[Modality, float] | None = None

    @property
    def tail(self) -> Tail:
        """The clips that the index does not answer for."""
        return Tail.of(self.snapshot, self.spec, 0 if self.index is None else self.watermark)


@dataclass(frozen=True, slots=True)
class Asked:
    """What clips are compared with. vectors: modality -> (dim,); modalities that nothing asks are left out.

    strength: modality -> spread of unrelated clips' centred similarities, that of one part of weight 1 being 1.
    """

    vectors: Mapping[Modality, FloatArray]
    strength: Mapping[Modality, float]


def combined(parts: Sequence[Part], vectors: Sequence[Mapping[Modality, FloatArray]], spec: JointSpec) -> Asked:
    """Return one query vector a modality, whose centred similarity is the weighted sum of those of the parts.

    vectors: one mapping a part. Parts are taken for independent: their spreads add as squares.
    """
    result: dict[Modality, FloatArray] = {}
    strength: dict[Modality, float] = {}
    for modality, modality_spec in spec.parts.items():
        nu = modality_spec.query_mean
        asked = [
            (part.weight, each[modality])
            for part, each in zip(parts, vectors, strict=True)
            if modality in part.modalities and modality in each
        ]
        strength[modality] = math.sqrt(sum(weight**2 for weight, _ in asked))
        if len(asked) == 1 and asked[0][0] == 1.0:
            result[modality] = asked[0][1]
        elif asked:
            total = np.sum([weight * (vector - nu) for weight, vector in asked], axis=0)
            result[modality] = np.asarray(nu + total, np.float32)
    return Asked(result, strength)


class Ranking:
    """The clips that may answer one moment, ranked as deep as asked; no clip is scored twice."""

    def __init__(self, view: View, asked: Asked, evidence: WordEvidence, among: Allowed | None) -> None:
        self._view = view
        self._asked = asked
        self._evidence = evidence
        self._among = among
        alone = [{m: vector} for m, vector in asked.vectors.items() if m in (view.ranks or ())]
        lists = [asked.vectors] if view.ranks is None else alone
        self._joint = np.stack([fuse_query(each, view.spec) for each in lists or [{}]])  # (n_lists, dim)
        self._clips = None if among is None else among.clips
        tail = view.tail
        self._outdated = tail.outdated
        self._tails = [tail.best(joint, self._clips) for joint in self._joint]
        self._worded = self._pick(evidence.clip_ids)
        self._words = evidence.foreseen()
        self._scored: dict[int, Scored | None] = {}
        self._ranks = ReciprocalRanks((), {})
        held = len(view.index) if view.index is not None else 0
        self._size = held + len(tail.ids)
        if self._clips is not None:
            self._size = min(self._size, len(self._clips))

    def is_exhausted(self, depth: int) -> bool:
        """Return whether looking deeper than `depth` finds no further clip."""
        return READ_SHARE * depth >= self._size

    def best(self, depth: int) -> list[Scored]:
        """Return candidates, best first: the better half of `depth` each of index and tail, and of all with words.

        Where ranks are fused, so many of the index and the tail for each modality, and all of them.
        """
        ids = self._candidates(depth)
        if self._view.ranks is not None:
            self._ranks = ReciprocalRanks(self._similar(ids), self._view.ranks)
            return self.scored(ids)
        return self.scored(self._leading(ids, depth))

    def leading(self, depth: int) -> dict[int, float]:
        """Return the clips that `best` reads, each with its score as `foreseen` has it."""
        if self._view.ranks is not None:
            return {each.clip.id: each.score for each in self.best(depth)}
        return self._leading(self._candidates(depth), depth)

    def foreseen(self, ids: Sequence[int]) -> dict[int, float]:
        """Return the scores of those of the clips that may answer, without best frames where joint vectors tell them.

        Only those of `concat` tell what each modality adds.
        """
        picked = self._pick(ids)
        if self._view.ranks is not None or self._view.spec.fusion != "concat":
            return {each.clip.id: each.score for each in self.scored(picked)}
        scores = skimmed(self._view, np.array(picked, np.int64), self._asked)
        read = {each.clip.id: each.score for each in self.scored(np.array(picked)[np.isinf(scores)].tolist())}
        words = np.array([self._words.get(id_, 0.0) for id_ in picked])
        values = scores + self._view.setup.word_weight * words
        return {id_: read.get(id_, value) for id_, value in zip(picked, values.tolist(), strict=True)}

    def _candidates(self, depth: int) -> list[int]:
        ids = list(self._worded)
        for joint, tail in zip(self._joint, self._tails, strict=True):
            ids += self._first(tail.__getitem__, depth) + self._first(partial(self._nearest, joint), depth)
        return list(dict.fromkeys(ids))

    def _leading(self, ids: Sequence[int], depth: int) -> dict[int, float]:
        wanted = int(READ_SHARE * depth)
        known = self.foreseen(ids)
        chosen = sorted(known, key=lambda id_: -known[id_])[:wanted] if len(known) > wanted else known
        return {id_: known[id_] for id_ in chosen}

    def _nearest(self, joint: FloatArray, wanted: slice) -> list[int]:
        """Return the clips of the index that come first."""
        index = self._view.index
        if index is None:
            return []
        _, ids = index.search(joint[None], wanted.stop, self._clips, self._outdated)
        found: list[int] = ids[0].tolist()
        return found

    def _first(self, ordered: Callable[[slice], list[int]], depth: int) -> list[int]:
        """Return the first `depth` that may answer; where many of them hold what is unwanted, others come up."""
        among = self._among
        if among is None or not among.unwanted:
            return ordered(slice(depth))
        looked = depth + depth // 8
        while True:
            found = ordered(slice(looked))
            picked = among.pick(found)
            if len(picked) >= depth or len(found) < looked or looked >= MAX_DROPPED * depth:
                return picked[:depth]
            looked *= 2

    def bound(self, scores: Sequence[float], depth: int) -> float:
        """Return what a clip scores at most that is not among those of these scores, the first of this depth."""
        if self._view.ranks is not None:
            return self._ranks.bound(depth)
        return min(scores, default=0.0)

    def scored(self, ids: Iterable[int]) -> list[Scored]:
        """Return those of the clips that may answer, scored, best first; ties in order of clip id.

        Where ranks are fused, by their places among the candidates last looked for.
        """
        known = self._similar(ids)
        if self._view.ranks is not None:
            known = [replace(each, ranked=self._ranks.contributions(each)) for each in known]
        return sorted(known, key=lambda each: (-each.score, each.clip.id))

    def _similar(self, ids: Iterable[int]) -> list[Scored]:
        wanted = self._pick(list(dict.fromkeys(ids)))
        new = [id_ for id_ in wanted if id_ not in self._scored]
        self._scored |= dict.fromkeys(new)
        for each in score_clips(self._view, new, self._asked, self._evidence) if new else ():
            self._scored[each.clip.id] = each
        return [scored for id_ in wanted if (scored := self._scored[id_]) is not None]

    def _pick(self, ids: Sequence[int]) -> list[int]:
        return list(ids) if self._among is None else self._among.pick(ids)


def skimmed(view: View, ids: NDArray[np.int64], asked: Asked) -> NDArray[np.float64]:
    """Return the scores (n,) of clips without best frames and words, by the joint vectors that index and tail hold.

    Infinite where neither holds one.
    """
    scores = np.full(len(ids), np.inf)
    slices, ways = view.spec.slices(), directions(asked.vectors, view.spec)
    tail = view.tail
    sources: list[tuple[NDArray[np.int64], NDArray[Any]]] = []
    if view.index is not None:
        sources.append((view.index.all_ids(), view.index.rows))
    if tail.joint is not None:
        sources.append((tail.ids, tail.joint))
    for held, joint in sources:
        places, known = places_in(ids, held)
        if joint is not tail.joint:
            known &= ~held_in(ids, tail.outdated)
        rows = np.take(joint, places[known], axis=0).astype(np.float32)
        scores[known] = 0.0
        for modality, way in ways.items():
            values = (rows[:, slices[modality]] @ way.own).astype(np.float64)
            spread = np.full(len(rows), view.spec.parts[modality].weight * asked.strength[modality])
            scores[known] += values if modality == "visual" else sharpened(values, spread)
    return scores


def score_clips(view: View, ids: Sequence[int], asked: Asked, evidence: WordEvidence) -> list[Scored]:
    """Return the searchable clips among `ids`, scored; without those that hold nothing of what is asked."""
    scored = [Scored(clip, {}, vectors) for clip, vectors in view.snapshot.with_vectors(ids).values()]
    for modality, way in directions(asked.vectors, view.spec).items():
        having = [each for each in scored if modality in each.vectors.embeddings]
        if having:
            _compare(having, modality, way, (view, asked.strength[modality]))
    evidence.meet(view.snapshot, [each.clip for each in scored])
    for each in scored:
        _add_words(each, view, evidence)
    return [each for each in scored if each.modalities]


def _compare(having: Sequence[Scored], modality: Modality, way: Direction, by: tuple[View, float]) -> None:
    """Score clips in one modality: the joint inner product, pictures mixed with the best frame, sentences sharpened.

    by: the view, and the strength of what is asked. Frames are centred and scaled like clips, so that both terms have
    one scale. What modalities share counts as it is.
    """
    view, strength = by
    part = view.spec.parts[modality]
    rows = np.stack([each.vectors.embeddings[modality] for each in having])  # (n_clips, dim)
    values = part.along(rows, way.own)
    shared = np.zeros(len(rows)) if way.shared is None else part.along(rows, way.shared)
    if modality == "visual":
        values = _with_best_frames(having, values, part, (way.own, view.setup.frame_weight))
    shares = np.array([view.spec.share(each.vectors.embeddings) for each in having])
    own = shares * values if modality == "visual" else sharpened(shares * values, shares * part.weight * strength)
    for each, value in zip(having, (own + shared).tolist(), strict=True):
        each.modalities[modality] = value


def _with_best_frames(
    having: Sequence[Scored],
    values: FloatArray,
    part: ModalitySpec,
    by: tuple[FloatArray, float],
) -> FloatArray:
    """Return clips' values mixed with those of their best frames, and note when these are.

    by: the direction, and the share of the best frame.
    """
    direction, share = by
    framed = [row for row, each in enumerate(having) if len(each.vectors.frames)]
    if not framed:
        return values
    frames = part.along(np.concatenate([having[row].vectors.frames for row in framed]), direction)  # (n_frames,)
    mixed, stop = values.copy(), 0
    for row in framed:
        vectors = having[row].vectors
        start, stop = stop, stop + len(vectors.frames)
        best = int(frames[start:stop].argmax())
        mixed[row] = (1 - share) * values[row] + share * frames[start + best]
        having[row].frame_s = float(vectors.frame_times_s[best])
    return mixed


def sharpened(value: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return similarities of sentences with what lies in the noise made small, and what stands out made large.

    spread: of unrelated sentences. Unrelated talk scores within some 2 spreads; in a sum with pictures it is noise,
    which a plain weight turns down together with the matches.
    """
    size, noise = np.abs(value), NOISE_SPREADS * spread
    return np.copysign(BELOW_NOISE * np.minimum(size, noise) + ABOVE_NOISE * np.maximum(size - noise, 0.0), value)


def _add_words(scored: Scored, view: View, evidence: WordEvidence) -> None:
    said, titled = evidence.speech.get(scored.clip.id, ()), evidence.text.get(scored.clip.video_id, ())
    if not said and not titled:
        return
    found: list[tuple[float, Found]] = []
    places: tuple[tuple[Place, Sequence[Found]], ...] = (("speech", said), ("text", titled))
    for place, here in places:
        part = view.spec.parts.get(place)
        if here and part is not None and part.weight > 0:
            bonus = view.setup.word_weight * evidence.worth(here)
            scored.bonus[place] = bonus
            scored.modalities[place] = scored.modalities.get(place, 0.0) + bonus
            # Half for a title: what is said at that very moment is the better line to show.
            share = 1.0 if place == "speech" else 0.5
            found += [(share * each.worth, each) for each in here]
    scored.found = tuple(each for _, each in found)
    if found:
        scored.words = evidence.words(scored.found)
        scored.snippet = max(found, key=lambda pair: pair[0])[1].match.text
