"""Equality of two libraries: same clip keys and times, cosine of every vector at least 0.9999, same top 10."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from vfindex.search.engine import SearchEngine
from vfindex.storage.db.clips import StoredVectors
from vfindex.storage.library import Library

SAME_COSINE = 0.9999
TIE = 1e-4
QUESTIONS = ("a cat on a sofa", "red", "people talking about money", "the sea at night", "second")

Key = tuple[str, int]


def contents(folder: Path) -> dict[Key, tuple[float, float, StoredVectors]]:
    """Return clip key (fingerprint, start in ms) -> (start_s, end_s, vectors) of every searchable clip."""
    found = {}
    with Library.open(folder).snapshot() as snapshot:
        prints = {video.id: video.fingerprint for video in snapshot.videos()}
        clips = snapshot.clips(snapshot.clip_ids())
        vectors = snapshot.vectors(list(clips))
        for clip in clips.values():
            key = (prints[clip.video_id], round(clip.start_s * 1000))
            assert key not in found
            found[key] = (clip.start_s, clip.end_s, vectors[clip.id])
    return found


def transcripts(folder: Path) -> dict[str, list[tuple[float, float, str, str]]]:
    """Return fingerprint -> its segments."""
    with Library.open(folder).snapshot() as snapshot:
        return {
            video.fingerprint: [(s.start_s, s.end_s, s.text, s.source) for s in snapshot.segments(video.id)]
            for video in snapshot.videos()
        }


def assert_equal_libraries(a: Path, b: Path) -> None:
    """Fail unless the libraries are equal as the design defines it."""
    ours, theirs = contents(a), contents(b)
    assert ours.keys() == theirs.keys()
    for key, (start_s, end_s, vectors) in ours.items():
        other = theirs[key]
        assert (start_s, end_s) == other[:2]
        assert vectors.embeddings.keys() == other[2].embeddings.keys()
        for modality, vector in vectors.embeddings.items():
            assert _cosine(vector, other[2].embeddings[modality]) >= SAME_COSINE
        assert vectors.frame_times_s.tolist() == other[2].frame_times_s.tolist()
        for mine, his in zip(vectors.frames, other[2].frames, strict=True):
            assert _cosine(mine, his) >= SAME_COSINE
    assert transcripts(a) == transcripts(b)
    engines = SearchEngine.open(a), SearchEngine.open(b)
    for question in QUESTIONS:
        assert_same_ranking(*engines, question)


def assert_same_ranking(a: SearchEngine, b: SearchEngine, question: str) -> None:
    """Fail unless both return the same top 10, except for swaps among scores within TIE."""
    ours = {(hit.video, hit.start_s): hit.score for hit in a.search(question)}
    theirs = {(hit.video, hit.start_s): hit.score for hit in b.search(question)}
    assert np.allclose(sorted(ours.values()), sorted(theirs.values()), atol=TIE)
    floor = min(ours.values(), default=0.0)
    for key in ours.keys() ^ theirs.keys():
        assert abs({**ours, **theirs}[key] - floor) <= TIE


def _cosine(a: np.ndarray, b: np.ndarray) -> float:
    return float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
