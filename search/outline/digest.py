"""Extractive summaries of a video: the excerpts and the sentences that stand for the rest.

Excerpts are the medoids of segments: the video is cut into as many parts as excerpts fit, so that clips scatter least
about the means of their parts (kernel change points; for summaries Potapov et al. 2014, ECCV), and the clip that is
most like its part stands for it. Sentences are those of most LexRank that say nothing twice (`sentences.centrality`;
maximal marginal relevance, Carbonell and Goldstein 1998).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from vfindex.search.outline.chapters import Progress, quotation
from vfindex.search.outline.records import DIGEST_LENGTH_S, DIGEST_WORDS, Digest, Moment, Quotation, Verdict
from vfindex.search.outline.segmentation import partitions
from vfindex.search.outline.sentences import MOST_SENTENCES, Sentence, centrality, sentences_of, terms_of
from vfindex.search.outline.timeline import Timeline, halves_of, timeline_of
from vfindex.search.query.values import is_number
from vfindex.storage.db.clips import StoredClip
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.errors import LibraryError, QueryError
from vfindex.storage.library import Library
from vfindex.storage.modalities import spoken_modalities
from vfindex.storage.records import ClipKey
from vfindex.storage.text.tokenizer import words_of

Matrix = NDArray[np.float64]
# Long enough to be seen, short enough that half a minute shows six.
EXCERPT_S = 5.0
# An excerpt is not shorter than the shortest clip.
LEAST_EXCERPT_S = 2.0
# Content words of a sentence that says something alone.
_LEAST_TERMS = 3
# Maximal marginal relevance: rank and novelty count equally.
_BALANCE = 0.5
# Random choices that the test of chance draws, and the highest p-value that is above it.
DRAWS, MOST_P = 99, 0.05


@dataclass(frozen=True, slots=True)
class Wanted:
    """How long a digest may be: seconds of excerpts, words of sentences. Raises QueryError for what is no length."""

    length_s: float = DIGEST_LENGTH_S
    words: int = DIGEST_WORDS

    def __post_init__(self) -> None:
        if not is_number(self.length_s) or not LEAST_EXCERPT_S <= self.length_s < float("inf"):
            raise QueryError(f"a digest lasts {LEAST_EXCERPT_S:g} s or more, not {self.length_s!r}")
        if not isinstance(self.words, int) or isinstance(self.words, bool) or self.words < 0:
            raise QueryError(f"the words of a digest are a whole number of 0 or more, not {self.words!r}")


def digest_of(
    library: Library,
    snapshot: Snapshot,
    video: StoredVideo,
    wanted: Wanted,
    progress: Progress = lambda done, of: None,
) -> Digest:
    """Return the digest of a video. Raises LibraryError for one without clips."""
    timeline = timeline_of(snapshot, video)
    clips = snapshot.clips_of(video.id)
    if not clips:
        raise LibraryError(f"{video.fingerprint} has no clips, so nothing is chosen; index it with: vfindex retry")
    steps, (start_s, end_s) = choose(timeline, wanted.length_s), timeline.span_of(video)
    progress(1, 3)
    pictures = _pictures_verdict(snapshot, clips, timeline, wanted.length_s, len(steps))
    moments = () if pictures.better_than_chance is False else _moments(library, snapshot, video, clips, timeline, steps)
    progress(2, 3)
    sentences = [each for each in sentences_of(timeline.segments) if len(set(terms_of(each.text))) >= _LEAST_TERMS]
    spoken = [each for each in sentences if each.track in spoken_modalities()] or sentences
    text, quoted = _sentences(spoken, wanted.words)
    progress(3, 3)
    return Digest(
        video=video.locations[0].path if video.locations else None,
        video_id=video.id,
        fingerprint=video.fingerprint,
        title=video.title,
        duration_s=end_s - start_s,
        length_s=sum(each.end_s - each.start_s for each in moments),
        words=sum(_count(each.text) for each in quoted),
        pictures=pictures,
        text=text,
        moments=moments,
        sentences=quoted,
    )


def choose(timeline: Timeline, length_s: float) -> list[int]:
    """Return steps that stand for all, in order: one of each part, of as many parts as excerpts fit; at least one."""
    likeness, masses = _likeness(timeline), timeline.lengths_s
    costs_s = np.minimum(masses, EXCERPT_S)
    chosen: list[int] = []
    for edges in partitions(timeline):
        steps = [_medoid(likeness[a:b, a:b], masses[a:b]) + a for a, b in pairwise(edges)]
        if float(costs_s[steps].sum()) <= length_s + 1e-9 or not chosen:
            chosen = steps
        elif len(edges) - 1 > length_s / EXCERPT_S:  # so many fit however long they are
            break
    return chosen


def _medoid(likeness: Matrix, masses: Matrix) -> int:
    """Return the row that is most like all, which count by their masses."""
    return int(np.argmax(likeness @ masses))


def value(likeness: Matrix, masses: Matrix, rows: Sequence[int]) -> float:
    """Return how well some rows stand for all: the mean likeness to the nearest of them, 0 to 1."""
    if not len(rows):
        return 0.0
    return float(masses @ likeness[:, list(rows)].max(axis=1) / masses.sum())


def _likeness(timeline: Timeline) -> Matrix:
    """Return the cosines (n, n) of the steps, over all their modalities, at least 0."""
    total = np.zeros((len(timeline), len(timeline)))
    for name, rows in timeline.vectors.items():
        total += timeline.weights[name] * (rows @ rows.T)
    lengths = np.sqrt(np.diag(total))
    return np.asarray(np.clip(total / np.maximum(lengths[:, None] * lengths, 1e-9), 0.0, 1.0))


def _verdict(chosen: Sequence[int], likeness: Matrix, masses: Matrix) -> Verdict:
    """Compare a choice with as many random times, each of the row that it falls into, by other likenesses than its."""
    n, generator = len(masses), np.random.default_rng(0)
    if len(chosen) >= n:
        return Verdict(None, None)
    own, as_good = value(likeness, masses, chosen), 1
    for _ in range(DRAWS):
        drawn = generator.choice(n, len(chosen), p=masses / masses.sum())
        as_good += value(likeness, masses, [int(row) for row in drawn]) >= own - 1e-12
    p_value = as_good / (DRAWS + 1)
    return Verdict(p_value <= MOST_P, p_value)


def _pictures_verdict(
    snapshot: Snapshot, clips: Sequence[StoredClip], timeline: Timeline, length_s: float, count: int
) -> Verdict:
    """Choose by every other frame, and compare with random choices by the frames between."""
    if count >= len(timeline):
        return Verdict(None, None)
    first, second = halves_of(snapshot, clips, timeline)
    return _verdict(choose(first, length_s), _likeness(second), timeline.lengths_s)


def _moments(
    library: Library,
    snapshot: Snapshot,
    video: StoredVideo,
    clips: Sequence[StoredClip],
    timeline: Timeline,
    steps: Sequence[int],
) -> tuple[Moment, ...]:
    """Return the excerpts of some steps: around the frame that is nearest to the mean of its clip."""
    likeness = _likeness(timeline)
    nearest = likeness[:, list(steps)].argmax(axis=1)
    shares = np.bincount(nearest, timeline.lengths_s, len(steps)) / timeline.lengths_s.sum()
    starts_s = np.array([clip.start_s for clip in clips])
    made = []
    for number, step in enumerate(steps):
        middle_s = (timeline.edges_s[step] + timeline.edges_s[step + 1]) / 2
        clip = clips[max(0, int(np.searchsorted(starts_s, middle_s, side="right")) - 1)]
        frame_s = _key_frame_s(snapshot, clip)
        length_s = min(EXCERPT_S, clip.end_s - clip.start_s)
        start_s = min(max(frame_s - length_s / 2, clip.start_s), clip.end_s - length_s)
        key = ClipKey(video.fingerprint, clip.start_ms)
        share, picture = float(shares[number]), library.thumbnail(clip.thumbnail)
        made.append(Moment(start_s, start_s + length_s, frame_s, share, key, picture))
    return tuple(made)


def _key_frame_s(snapshot: Snapshot, clip: StoredClip) -> float:
    """Return the time of the frame that is nearest to the mean of the clip's frames; its middle without any."""
    vectors = snapshot.vectors([clip.id])[clip.id]
    if not len(vectors.frame_times_s):
        return (clip.start_s + clip.end_s) / 2
    return float(vectors.frame_times_s[int(np.argmax(vectors.frames @ vectors.frames.mean(axis=0)))])


def _sentences(sentences: Sequence[Sentence], words: int) -> tuple[Verdict, tuple[Quotation, ...]]:
    """Return the sentences that stand for the rest, in order of time, and how they compare with random ones."""
    chosen = sorted(sorted(sentences, key=lambda each: -len(each.text))[:MOST_SENTENCES], key=lambda each: each.start_s)
    costs = [_count(each.text) for each in chosen]
    rows = _central(*centrality([each.text for each in chosen]), costs, words) if chosen else []
    if not rows:
        return Verdict(None, None), ()
    # The same choice by every other content word, compared with random choices by the words between.
    halves = [centrality([each.text for each in chosen], half) for half in (0, 1)]
    half_rows = _central(*halves[0], costs, words)
    verdict = _verdict(half_rows, halves[1][1], np.ones(len(chosen))) if half_rows else Verdict(None, None)
    if verdict.better_than_chance is False:
        return verdict, ()
    return verdict, tuple(quotation(chosen[row]) for row in sorted(rows))


def _central(ranks: Matrix, likeness: Matrix, costs: Sequence[int], words: int) -> list[int]:
    """Return sentences of high rank that are unlike each other, within a number of words."""
    relevance = ranks / max(float(ranks.max()), 1e-12)
    nearest, rows, left = np.zeros(len(ranks)), list[int](), words
    fits = np.array(costs) <= left
    while fits.any():
        best = int(np.argmax(np.where(fits, _BALANCE * relevance - (1 - _BALANCE) * nearest, -np.inf)))
        rows.append(best)
        left -= costs[best]
        nearest = np.maximum(nearest, likeness[best])
        fits &= np.array(costs) <= left
        fits[best] = False
    return rows


def _count(text: str) -> int:
    return sum(1 for _ in words_of(text))
