"""Scores of clips, as sums of what each modality and the matched keywords contribute."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from vfindex.search.rank.delta import View
from vfindex.search.rank.lexical import DocumentMatch, KeywordMatches
from vfindex.search.rank.query_vectors import QueryVectors
from vfindex.storage.db.clips import StoredClip, StoredVectors
from vfindex.storage.ids import in_sorted, positions_in
from vfindex.storage.joint.vector import Direction, ModalitySpec, directions
from vfindex.storage.modalities import ModalityName, frame_modality, get_modality, word_modalities
from vfindex.storage.records import FloatArray

# A video among several libraries: the number of its library, and its id there.
VideoKey = tuple[int, int]
# Constants of `sharpened`, measured over the public collection against plain weights (docs/decisions/lite.md): a
# plateau from 1.5 spreads to 2.5. At 3.2 spreads a similarity keeps its value.
NOISE_SPREADS, BELOW_NOISE, ABOVE_NOISE = 2.0, 0.125, 2.5


# Frames with this cosine are one still picture; plain cards of different videos had 0.995.
STILL = 0.995


@dataclass(frozen=True, slots=True, eq=False)
class Footage:
    """What tells whether two clips show and say the same.

    visual: (dim,), None without frames. texts: modality with timed text -> centred (dim,). moves: whether the frames
    show more than one still picture.
    """

    visual: FloatArray | None
    texts: Mapping[ModalityName, FloatArray]
    moves: bool


@dataclass(slots=True, eq=False)
class ScoredClip:
    """A clip and its score, a sum of signed contributions; a modality that the clip lacks has no key.

    modalities: weighted similarities plus `bonus`. bonus: what keywords add in each modality, matched or imputed.
    rank_scores: reciprocal ranks, if ranks are fused. frame_s: presentation time of the best frame. matches: documents
    that contain keywords. words: those keywords, in the order of the query. library: `View.number`. means: mu of each
    modality. shown: the footage of a clip whose vectors are elsewhere.
    """

    clip: StoredClip
    modalities: dict[ModalityName, float]
    vectors: StoredVectors
    bonus: dict[ModalityName, float] = field(default_factory=dict)
    rank_scores: Mapping[ModalityName, float] | None = None
    frame_s: float | None = None
    matches: tuple[DocumentMatch, ...] = ()
    words: tuple[str, ...] = ()
    snippet: str | None = None
    library: int = 0
    means: Mapping[ModalityName, FloatArray] = field(default_factory=dict)
    shown: Footage | None = None

    @property
    def visual(self) -> FloatArray | None:
        """The vector (dim,) of the frames, None without any."""
        return self.vectors.embeddings.get(frame_modality()) if self.shown is None else self.shown.visual

    @property
    def footage(self) -> Footage:
        """What the clip shows and says."""
        if self.shown is None:
            of, frames = self.vectors.embeddings, self.vectors.frames
            timed = (m for m in word_modalities() if m in of and not get_modality(m).has_documents)
            moves = len(frames) > 1 and float((frames @ frames[0]).min()) < STILL
            self.shown = Footage(self.visual, {m: of[m] - self.means[m] for m in timed}, moves)
        return self.shown

    @property
    def video(self) -> VideoKey:
        return self.library, self.clip.video_id

    @property
    def contributions(self) -> Mapping[ModalityName, float]:
        return self.modalities if self.rank_scores is None else self.rank_scores

    @property
    def score(self) -> float:
        return sum(self.contributions.values())

    @property
    def similarity_score(self) -> float:
        """The score without reciprocal ranks, which depend on the other candidates."""
        return sum(self.modalities.values())

    def similarity(self, modality: ModalityName) -> float | None:
        """Return the weighted similarity in a modality, without keywords; None if the clip lacks the modality."""
        value = self.modalities.get(modality) if modality in self.vectors.embeddings else None
        return None if value is None else value - self.bonus.get(modality, 0.0)


def score_clips(view: View, ids: Sequence[int], query: QueryVectors, keywords: KeywordMatches) -> list[ScoredClip]:
    """Return the searchable clips of `ids` with their scores, except those with no modality that the query uses."""
    read = view.snapshot.with_vectors(ids).values()
    means = {modality: part.mean for modality, part in view.spec.parts.items()}
    scored = [ScoredClip(clip, {}, vectors, library=view.number, means=means) for clip, vectors in read]
    absent = absent_score(view, keywords)
    for modality, direction in directions(query.vectors, view.spec).items():
        present = [each for each in scored if modality in each.vectors.embeddings]
        if present:
            _score_modality(present, modality, direction, (view, query.spread[modality], absent))
    keywords.load_clips(view.snapshot, [each.clip for each in scored])
    for each in scored:
        _add_keywords(each, view, keywords)
    return [each for each in scored if each.modalities]


def _score_modality(
    clips: Sequence[ScoredClip], modality: ModalityName, direction: Direction, by: tuple[View, float, float]
) -> None:
    """Add the joint inner product in one modality: mixed with that of the best frame, or sharpened if it has words.

    by: the view, the spread of the query, and `absent_score`. Frames are centred and scaled like clips, so that both
    terms have the same scale. The similarity in the shared space of learned heads is added as it is.
    """
    view, spread, absent = by
    part, kind = view.spec.parts[modality], get_modality(modality)
    rows = np.stack([each.vectors.embeddings[modality] for each in clips])  # (n_clips, dim)
    values = part.along(rows, direction.own)
    shared = np.zeros(len(rows)) if direction.shared is None else part.along(rows, direction.shared)
    if kind.has_frames:
        values = _mix_best_frames(clips, values, part, (direction.own, view.setup.frame_weight))
    shares = view.spec.shares([each.vectors.embeddings for each in clips])
    own = sharpened(shares * values, shares * part.weight * spread) if kind.has_words else shares * values
    for each, value in zip(clips, (own + shared).tolist(), strict=True):
        each.modalities[modality] = value
    if kind.has_words and absent:
        spreads = np.asarray(values / (part.weight * spread), np.float64)
        words = absent * imputed(spreads, view.setup.imputed_share)
        for each, value in zip(clips, words.tolist(), strict=True):
            each.bonus[modality] = value
            each.modalities[modality] += value


def _mix_best_frames(
    clips: Sequence[ScoredClip],
    values: FloatArray,
    part: ModalitySpec,
    by: tuple[FloatArray, float],
) -> FloatArray:
    """Return the values of clips mixed with those of their best frames, and set `frame_s`.

    by: the query's direction, and the weight of the best frame.
    """
    direction, weight = by
    framed = [row for row, each in enumerate(clips) if len(each.vectors.frames)]
    if not framed:
        return values
    frames = part.along(np.concatenate([clips[row].vectors.frames for row in framed]), direction)  # (n_frames,)
    mixed, stop = values.copy(), 0
    for row in framed:
        vectors = clips[row].vectors
        start, stop = stop, stop + len(vectors.frames)
        best = int(frames[start:stop].argmax())
        mixed[row] = (1 - weight) * values[row] + weight * frames[start + best]
        clips[row].frame_s = float(vectors.frame_times_s[best])
    return mixed


def sharpened(value: NDArray[np.float64], spread: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return similarities of texts, damped within NOISE_SPREADS of 0 and amplified beyond.

    spread: standard deviation for unrelated texts. Unrelated speech scores within some 2 spreads. Added to visual
    scores that is noise, and a smaller weight would suppress the matches with it.
    """
    size, noise = np.abs(value), NOISE_SPREADS * spread
    return np.copysign(BELOW_NOISE * np.minimum(size, noise) + ABOVE_NOISE * np.maximum(size - noise, 0.0), value)


def absent_score(view: View, keywords: KeywordMatches) -> float:
    """Return the score that a text would get for the keywords that no document contains; 0 if none are imputed."""
    return view.setup.word_weight * keywords.absent if view.setup.imputed_share and view.rank_weights is None else 0.0


def imputed(similarity: NDArray[np.float64], slope: float) -> NDArray[np.float64]:
    """Return the share of absent keywords that texts are taken to match, by their similarity in spreads.

    A keyword that no document contains, as those of another language, tells nothing between documents. It is missing
    data, not a mismatch, and gets its mean given what is known (regression imputation: Little and Rubin 2002, section
    4.2).
    """
    return np.minimum(slope * np.maximum(similarity - NOISE_SPREADS, 0.0), 1.0)


def _add_keywords(scored: ScoredClip, view: View, keywords: KeywordMatches) -> None:
    counted: list[tuple[float, DocumentMatch]] = []
    by_modality = keywords.of_clip(scored.clip.id, scored.clip.video_id)
    shares = keywords.shares_of(by_modality)
    for modality, documents in by_modality.items():
        part = view.spec.parts.get(modality)
        if part is not None and part.weight > 0:
            bonus = view.setup.word_weight * shares[modality]
            scored.bonus[modality] = scored.bonus.get(modality, 0.0) + bonus
            scored.modalities[modality] = scored.modalities.get(modality, 0.0) + bonus
            # Half for a title: as a snippet, the text of that very moment is better.
            counted += [
                (each.share if each.document.start_s is not None else 0.5 * each.share, each) for each in documents
            ]
    scored.matches = tuple(each for _, each in counted)
    if counted:
        scored.words = keywords.words_of(scored.matches)
        scored.snippet = max(counted, key=lambda pair: pair[0])[1].document.text


def joint_scores(view: View, ids: NDArray[np.int64], query: QueryVectors, absent: float) -> NDArray[np.float64]:
    """Return the scores (n,) of clips by their joint vectors alone: without best frames and matched keywords.

    absent: see `absent_score`. Infinite for a clip with no joint vector in the index or the delta. The form of fusion
    must be `concat`.
    """
    scores = np.full(len(ids), np.inf)
    slices, ways = view.spec.slices(), directions(query.vectors, view.spec)
    delta = view.delta
    sources: list[tuple[NDArray[np.int64], FloatArray]] = []  # positions in `ids`, and their joint vectors
    if view.index is not None:
        current = np.flatnonzero(~in_sorted(ids, delta.outdated))
        held, rows = view.index.vectors(ids[current])
        sources.append((current[held], rows))
    if delta.joint is not None:
        positions, present = positions_in(ids, delta.ids)
        sources.append((np.flatnonzero(present), delta.joint[positions[present]]))
    for at, rows in sources:
        scores[at] = 0.0
        for modality, direction in ways.items():
            values = (rows[:, slices[modality]] @ direction.own).astype(np.float64)
            if get_modality(modality).has_words:
                spread = np.full(len(rows), view.spec.parts[modality].weight * query.spread[modality])
                words = absent * imputed(values / spread, view.setup.imputed_share) if absent else 0.0
                values = sharpened(values, spread) + words
            scores[at] += values
    return scores
