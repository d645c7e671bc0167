"""Clips for a question, each scored by modality, best first."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from vfindex.storage.joint import JointSpec
from vfindex.storage.records import FloatArray, Modality, Setup
from vfindex.storage.snapshot import Snapshot, StoredClip, StoredVectors, WordMatch

# Documents with words of the question that are looked at; beyond these BM25 has little to say.
MAX_WORD_MATCHES = 300
# Clips of one video that a match in its title or tags brings in.
MAX_CLIPS_PER_TITLE = 20


@dataclass(slots=True)
class Scored:
    """A clip's score as the sum of its modalities' signed contributions; a missing key is a missing modality.

    frame_s: presentation time of the best frame. words: words of the question matched. snippet: where they stand.
    """

    clip: StoredClip
    modalities: dict[Modality, float]
    frame_s: float | None = None
    words: tuple[str, ...] = ()
    snippet: str | None = None

    @property
    def score(self) -> float:
        return sum(self.modalities.values())


@dataclass(slots=True)
class WordEvidence:
    """Which words of a question a clip's speech, or its video's title and tags, holds."""

    speech: dict[int, set[str]] = field(default_factory=dict)  # clip id -> words
    text: dict[int, set[str]] = field(default_factory=dict)  # video id -> words
    snippets: dict[int, tuple[float, str]] = field(default_factory=dict)  # clip id -> (weight, text)
    clip_ids: list[int] = field(default_factory=list)
    weight: dict[str, float] = field(default_factory=dict)  # word -> its share of the question, summing to 1


def find_words(snapshot: Snapshot, words: Sequence[str]) -> WordEvidence:
    """Return where words of the question stand, and what each is worth.

    A word's worth is its inverse document frequency, ln(1 + (N - n + 0.5) / (n + 0.5)) (Robertson and Zaragoza 2009,
    section 3.5, floored at 0), over the sum of all: a clip that holds every word scores 1.
    """
    matches = snapshot.match_words(words, MAX_WORD_MATCHES) if words else []
    if not matches:
        return WordEvidence()
    total, counts = snapshot.document_frequencies(words)
    worth = {w: math.log1p((total - n + 0.5) / (n + 0.5)) for w, n in zip(words, counts, strict=True)}
    evidence = WordEvidence(weight={w: value / sum(worth.values()) for w, value in worth.items()})
    ids = [match.document_id for match in matches]
    holders = {word: snapshot.documents_with(word, ids) for word in words}
    named = {match.video_id for match in matches if match.start_s is None}  # a video has several titles and tags
    clips_of = {id_: [clip.id for clip in snapshot.clips_of(id_)][:MAX_CLIPS_PER_TITLE] for id_ in named}
    for match in matches:
        held = {word for word in words if match.document_id in holders[word]}
        if match.start_s is None or match.end_s is None:
            _note_title(evidence, match, held, clips_of[match.video_id])
        else:
            _note_speech(evidence, match, held, snapshot.clips_between(match.video_id, match.start_s, match.end_s))
    evidence.clip_ids = list(dict.fromkeys(evidence.clip_ids))
    return evidence


def _note_title(evidence: WordEvidence, match: WordMatch, held: set[str], clips: Sequence[int]) -> None:
    evidence.text.setdefault(match.video_id, set()).update(held)
    # Half: what is said at that very moment is the better line to show.
    _offer_snippet(evidence, match.text, sum(evidence.weight[word] for word in held) / 2, clips)


def _note_speech(evidence: WordEvidence, match: WordMatch, held: set[str], clips: Sequence[int]) -> None:
    for clip_id in clips:
        evidence.speech.setdefault(clip_id, set()).update(held)
    _offer_snippet(evidence, match.text, sum(evidence.weight[word] for word in held), clips)


def _offer_snippet(evidence: WordEvidence, text: str, weight: float, clips: Sequence[int]) -> None:
    for clip_id in clips:
        if weight > evidence.snippets.get(clip_id, (0.0, ""))[0]:
            evidence.snippets[clip_id] = (weight, text)
    evidence.clip_ids += clips


def score_clips(
    snapshot: Snapshot,
    ids: Iterable[int],
    query: Mapping[Modality, FloatArray],
    spec: JointSpec,
    setup: Setup,
    evidence: WordEvidence,
) -> list[Scored]:
    """Return the searchable clips among `ids`, scored, best first; ties in order of clip id."""
    clips = snapshot.clips(list(ids))
    vectors = snapshot.vectors(list(clips))
    scored = [_score(clip, vectors[clip.id], query, spec, setup.frame_weight) for clip in clips.values()]
    for each in scored:
        _add_words(each, spec, setup.word_weight, evidence)
    return sorted(scored, key=lambda each: (-each.score, each.clip.id))


def _score(
    clip: StoredClip,
    vectors: StoredVectors,
    query: Mapping[Modality, FloatArray],
    spec: JointSpec,
    frame_weight: float,
) -> Scored:
    """Score one clip: the joint inner product by modality, its visual term mixed with the best frame's.

    Frames are centred and scaled like clips, so that both terms have one scale.
    """
    result = Scored(clip, {})
    for modality, part in spec.parts.items():
        vector = vectors.embeddings.get(modality)
        if vector is None or modality not in query or part.weight == 0:
            continue
        direction = part.weight * (query[modality] - part.query_mean)
        value = float(part.centre(vector) @ direction)
        if modality == "visual" and len(vectors.frames):
            frames = part.centre(vectors.frames) @ direction
            best = int(np.argmax(frames))
            value = (1 - frame_weight) * value + frame_weight * float(frames[best])
            result.frame_s = float(vectors.frame_times_s[best])
        result.modalities[modality] = value
    return result


def _add_words(scored: Scored, spec: JointSpec, word_weight: float, evidence: WordEvidence) -> None:
    found: set[str] = set()
    places: tuple[tuple[Modality, set[str]], ...] = (
        ("speech", evidence.speech.get(scored.clip.id, set())),
        ("text", evidence.text.get(scored.clip.video_id, set())),
    )
    for modality, words in places:
        if words and modality in spec.parts and spec.parts[modality].weight > 0:
            bonus = word_weight * sum(evidence.weight[word] for word in words)
            scored.modalities[modality] = scored.modalities.get(modality, 0.0) + bonus
            found |= words
    scored.words = tuple(word for word in evidence.weight if word in found)
    if found and scored.clip.id in evidence.snippets:
        scored.snippet = evidence.snippets[scored.clip.id][1]
