"""Scores of clips, modality by modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import Place
from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import Found, WordEvidence
from vfindex.search.rank.query_vectors import Asked
from vfindex.storage.db.clips import StoredClip, StoredVectors
from vfindex.storage.ids import held_in, places_in
from vfindex.storage.joint.vector import Direction, ModalitySpec, directions
from vfindex.storage.records import FloatArray, Modality

# Of the similarities of sentences, see `sharpened`. Measured over the public collection against plain weights
# (docs/decisions/lite.md): a plateau from 1.5 spreads to 2.5. At 3.2 spreads a similarity is worth what it was.
NOISE_SPREADS, BELOW_NOISE, ABOVE_NOISE = 2.0, 0.125, 2.5


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
