"""Sentences of transcripts with their times, the most central of them, and the words that tell a part from the rest."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import chain

import numpy as np
from numpy.typing import NDArray

from vfindex.search.query.ast import FURTHER_STOP_WORDS, STOP_WORDS
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Segment
from vfindex.storage.text.folding import folded
from vfindex.storage.text.tokenizer import words_of

# Text without punctuation, as recognisers may give it, ends a sentence at a silence, or after so many segments.
_MOST_GAP_S = 2.0
_MOST_PARTS = 8
# Sentences compared with each other: 32 MB. Of more, the longest are.
MOST_SENTENCES = 2000
# Content words of a sentence that are compared. What has more is a list, and time grows with them.
_MOST_TERMS = 200
# A word of more than one in so many sentences is multiplied in blocks of words, a rarer one by its sentences alone: at
# this share a block takes as long.
_COMMON_SHARE, _BLOCK_WORDS = 8, 1024
# LexRank's damping, as in Erkan and Radev 2004 (JAIR 22), section 3.2.
_DAMPING = 0.85
_ROUNDS, _CONVERGED = 100, 1e-6
_END = re.compile(r"[.!?\u2026\u3002\uff01\uff1f\u061f\u0964][\"'\u201d\u2019)\]]*$")


@dataclass(frozen=True, slots=True)
class Sentence:
    """A sentence: segments of one track as they stand, joined by spaces. Its times are those of its segments."""

    start_s: float
    end_s: float
    text: str
    track: ModalityName


def sentences_of(segments: Iterable[Segment]) -> list[Sentence]:
    """Return segments as sentences, in order of time, tracks apart. What stands on the picture is a sentence a line."""
    made: list[Sentence] = []
    tracks: dict[ModalityName, list[Segment]] = {}
    for each in segments:
        tracks.setdefault(each.track, []).append(each)
    for track in tracks.values():
        made += [_joined(group) for group in _groups(track)]
    return sorted(made, key=lambda each: each.start_s)


def _groups(segments: Sequence[Segment]) -> Iterable[list[Segment]]:
    group: list[Segment] = []
    for each in segments:
        if group and (each.start_s - group[-1].end_s > _MOST_GAP_S or len(group) == _MOST_PARTS):
            yield group
            group = []
        group.append(each)
        if each.source == "frames" or _END.search(each.text.rstrip()):
            yield group
            group = []
    if group:
        yield group


def _joined(group: Sequence[Segment]) -> Sentence:
    text = " ".join(" ".join(each.text.split()) for each in group)
    return Sentence(group[0].start_s, max(each.end_s for each in group), text, group[0].track)


def terms_of(text: str) -> list[str]:
    """Return the content words of a text, folded, as often as they occur; numbers and single letters left out."""
    words = [folded(word) for word in words_of(text)]
    return [w for w in words if not (len(w) == 1 and w.isascii()) and not w.isdigit() and w not in _STOP]


_STOP = STOP_WORDS | FURTHER_STOP_WORDS


def key_terms(parts: Sequence[str], most: int) -> list[list[str]]:
    """Return for each part of a text the words that tell it from the others, the best first.

    Class-based tf-idf (Grootendorst 2022, arXiv 2203.05794): frequency in the part times log(1 + A / f), where f is the
    word's frequency in all parts and A the mean number of words of a part. Ties go to the word that comes first.
    """
    counts = [Counter(terms_of(part)) for part in parts]
    total = sum(counts, Counter[str]())
    mean = total.total() / max(1, sum(1 for each in counts if each))
    found = []
    for each in counts:
        scores = {word: n / each.total() * math.log(1 + mean / total[word]) for word, n in each.items()}
        found.append(sorted(scores, key=lambda word: -scores[word])[:most])
    return found


def centrality(sentences: Sequence[str], half: int | None = None) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return (n,) how central each sentence is, summing to 1, and (n, n) how alike they are, 0 to 1.

    Continuous LexRank (Erkan and Radev 2004): the stationary distribution of a walk over sentences by the cosine of
    their tf-idf vectors, no step from a sentence to itself, so that one that is like no other has no rank by itself.
    half: 0 or 1 counts every other word alone, in order of their first use.
    """
    n = len(sentences)
    terms = [terms_of(each)[:_MOST_TERMS] for each in sentences]
    if half is not None:
        counted = {word for number, word in enumerate(dict.fromkeys(chain.from_iterable(terms))) if number % 2 == half}
        terms = [[word for word in each if word in counted] for each in terms]
    likeness = _cosines([Counter(each) for each in terms])
    others = likeness - np.diag(np.diag(likeness))
    sums = others.sum(axis=1, keepdims=True)
    walk = np.where(sums > 0, others / np.where(sums > 0, sums, 1), 1 / max(1, n))
    ranks = np.full(n, 1 / max(1, n))
    for _ in range(_ROUNDS):
        following = (1 - _DAMPING) / n + _DAMPING * (ranks @ walk)
        moved = float(np.abs(following - ranks).sum())
        ranks = following
        if moved < _CONVERGED:
            break
    return np.where(np.diag(likeness) > 0, ranks, 0.0), likeness


def _cosines(counts: Sequence[Counter[str]]) -> NDArray[np.float64]:
    """Return the cosines (n, n) of tf-idf vectors, idf = log(n / sentences with the word) + 1."""
    n = len(counts)
    frequency = Counter(word for each in counts for word in each)
    postings: dict[str, list[tuple[int, float]]] = {}
    for number, each in enumerate(counts):
        weights = {word: count * (math.log(n / frequency[word]) + 1) for word, count in each.items()}
        length = math.sqrt(sum(weight**2 for weight in weights.values()))
        for word, weight in weights.items():
            postings.setdefault(word, []).append((number, weight / length))
    cosines = np.zeros((n, n))
    common: list[list[tuple[int, float]]] = []
    for places in postings.values():
        if len(places) * _COMMON_SHARE > n:
            common.append(places)
            continue
        rows = np.array([number for number, _ in places])
        values = np.array([weight for _, weight in places])
        cosines[np.ix_(rows, rows)] += values[:, None] * values
    for first in range(0, len(common), _BLOCK_WORDS):
        block = np.zeros((n, min(_BLOCK_WORDS, len(common) - first)))
        for column, places in enumerate(common[first : first + _BLOCK_WORDS]):
            block[[number for number, _ in places], column] = [weight for _, weight in places]
        cosines += block @ block.T
    return cosines
