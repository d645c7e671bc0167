"""Passages of transcripts and screens, scored against a question as clips are, each by its own words and vector."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

import numpy as np

from vfindex.search.calibration.known_items import MIN_TITLE_WORDS
from vfindex.search.live import Searcher
from vfindex.search.query.ast import FURTHER_STOP_WORDS, STOP_WORDS, Query
from vfindex.search.rank.lexical import match_keywords
from vfindex.search.rank.score import sharpened
from vfindex.storage.db.reader import Snapshot
from vfindex.storage.joint.vector import directions
from vfindex.storage.library import reading_spec
from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import Segment
from vfindex.storage.text.tokenizer import plain_words

# Segments of each track encoded for one question, those with most of its words first.
MAX_ENCODED = 24
# A recogniser and a screen break sentences; two pieces this near are read as one passage, too.
JOINED_GAP_S = 2.0


@dataclass(frozen=True, slots=True)
class Passage:
    """One segment, or two of a track that follow each other. words: of the question. score: as of a clip's modality."""

    segments: tuple[Segment, ...]
    words: tuple[str, ...]
    score: float

    @property
    def track(self) -> ModalityName:
        return self.segments[0].track

    @property
    def has_content(self) -> bool:
        """Whether it has a word of the question, or as many content words as tell one title from another."""
        words = {word for each in self.segments for word in plain_words(each.text) if word.isalpha()}
        return bool(self.words) or len(words - STOP_WORDS - FURTHER_STOP_WORDS) >= MIN_TITLE_WORDS

    @property
    def start_s(self) -> float:
        return min(each.start_s for each in self.segments)

    @property
    def end_s(self) -> float:
        return max(each.end_s for each in self.segments)


def score_passages(
    snapshot: Snapshot, searcher: Searcher, question: str, found: Sequence[tuple[int, Sequence[Segment]]]
) -> list[list[Passage]]:
    """Return the passages with content of each stretch, best first. found: the video of each, and its segments.

    A score is a passage's sharpened similarity in its modality, plus what the question's words in it are worth: the sum
    by which `rank.score` ranks clips. The vector of two segments is the mean of theirs, as a clip's is of its windows.
    Raises ModelError.
    """
    [moment] = Query.plain(question).moments
    [part] = moment.parts()
    spec, _ = reading_spec(snapshot)
    ways = directions(searcher.encoder.encode(part), spec)
    weight = searcher.setup.word_weight
    matches = match_keywords(snapshot, moment.keywords(), {video_id for video_id, _ in found})
    held = {
        (each.modality, each.document.video_id, each.document.start_s, each.document.text): each.keywords
        for each in matches.documents.values()
    }
    pieces: list[tuple[int, Passage]] = []
    for number, (video_id, segments) in enumerate(found):
        for joined in _joined(segments):
            keys = [(each.track, video_id, each.start_s, each.text) for each in joined]
            words = dict.fromkeys(keyword for key in keys for keyword in held.get(key, ()))
            worth = weight * sum(matches.shares.get(word, 0.0) for word in words)
            passage = Passage(joined, tuple(word.text for word in words), worth)
            if passage.has_content:
                pieces.append((number, passage))
    pieces.sort(key=lambda each: -each[1].score)
    scored: list[list[Passage]] = [[] for _ in found]
    for track in dict.fromkeys(each.track for _, each in pieces if each.track in ways):
        of_track = [(number, each) for number, each in pieces if each.track == track]
        texts = list(dict.fromkeys(one.text for _, each in of_track for one in each.segments))[:MAX_ENCODED]
        rows = dict(zip(texts, searcher.encoder.encode_passages(track, texts), strict=True))
        own = [(number, each) for number, each in of_track if all(one.text in rows for one in each.segments)]
        means = np.stack([np.mean([rows[one.text] for one in each.segments], axis=0) for _, each in own])
        values = spec.parts[track].along(means / np.linalg.norm(means, axis=1, keepdims=True), ways[track].own)
        weights = np.full(len(values), spec.parts[track].weight)
        for (number, each), value in zip(own, sharpened(values.astype(np.float64), weights).tolist(), strict=True):
            scored[number].append(replace(each, score=each.score + value))
    return [sorted(each, key=lambda passage: (-passage.score, passage.start_s)) for each in scored]


def _joined(segments: Sequence[Segment]) -> Iterator[tuple[Segment, ...]]:
    """Yield each segment, and each with the next of its track if that follows at once. segments: in order of time."""
    for track in dict.fromkeys(each.track for each in segments):
        own = [each for each in segments if each.track == track]
        yield from ((each,) for each in own)
        yield from ((one, next_) for one, next_ in pairwise(own) if next_.start_s - one.end_s <= JOINED_GAP_S)
