"""Synthetic joint vectors and queries for ann.py.

Three modalities of 128 dimensions, their variances falling like 1 / rank, as those of real embeddings do. Clips are of
videos, videos of topics, of very different size. Every clip has a visual vector; about half of the videos have speech,
in nine of ten clips; nine of ten videos have a title, the same for all their clips. Half of the queries have a matching
clip in the library, half have none; the modalities are centred and scaled as `storage/joint/vector.py` does it.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.modalities import ModalityName
from vfindex.storage.records import FloatArray

DIM = 128
ORDER: tuple[ModalityName, ...] = ("visual", "speech", "text")
# Shares of topic, video and clip in a vector; a title has no share of the clip.
SHARES = ((0.55, 0.55, 0.63), (0.55, 0.6, 0.58), (0.6, 0.8, 0.0))
SPEAKING, TITLED, SILENT_CLIPS = 0.55, 0.9, 0.1
CLIPS_A_VIDEO = 12
# Even ones have a matching clip, odd ones none. Queries come from the first half; background queries for building an
# index are the odd ones of the second.
QUESTIONS, KNOWN = 1000, 500
_BATCH = 100_000


@dataclass(frozen=True)
class Material:
    """clips: (n, 384), mapped. asked: queries (n, 384). background: background queries for building an index (n, 384).
    kept: ids of the 1 % that the filter keeps.
    """

    clips: FloatArray
    asked: FloatArray
    background: FloatArray
    kept: NDArray[np.int64]


def material(folder: Path, count: int, asked: int) -> Material:
    """Return the data of `count` clips, created in `folder` if missing. asked: questions, <= KNOWN."""
    clips, questions = folder / f"x{count}.npy", folder / f"q{count}.npy"
    if not clips.exists():
        made, about = _make(count)
        np.save(questions, about)
        np.save(clips, made)
    random = np.random.default_rng(1)
    runs = random.choice(count // CLIPS_A_VIDEO, max(1, count // 100 // CLIPS_A_VIDEO), replace=False)
    kept = np.sort((runs[:, None] * CLIPS_A_VIDEO + np.arange(CLIPS_A_VIDEO)).reshape(-1))
    every = np.load(questions)
    return Material(np.load(clips, mmap_mode="r"), every[:asked], every[KNOWN:][1::2], kept.astype(np.int64))


def _make(count: int) -> tuple[FloatArray, FloatArray]:
    """Return clips (count, 384) and questions (QUESTIONS, 384), centred and scaled."""
    random = np.random.default_rng(0)
    turns = [np.linalg.qr(random.standard_normal((DIM, DIM)))[0] for _ in ORDER]
    topics = max(20, int(4 * np.sqrt(count))) // 4
    centres = [_spread(random, topics) for _ in ORDER]
    sizes = 1 / np.arange(1, topics + 1) ** 0.7
    lengths = random.geometric(1 / CLIPS_A_VIDEO, size=count // 6 + 10)
    lengths = lengths[np.cumsum(lengths) <= count]
    if lengths.sum() < count:
        lengths = np.append(lengths, count - lengths.sum())
    topic = random.choice(topics, len(lengths), p=sizes / sizes.sum())
    video = np.repeat(np.arange(len(lengths)), lengths)
    has = (np.ones(len(lengths), bool), random.random(len(lengths)) < SPEAKING, random.random(len(lengths)) < TITLED)
    clips = np.zeros((count, len(ORDER) * DIM), np.float32)
    questions = np.zeros((QUESTIONS, len(ORDER) * DIM), np.float32)
    about = random.integers(0, count, QUESTIONS)
    nothing = np.arange(QUESTIONS) % 2 == 1
    for number, (of_topic, of_video, of_clip) in enumerate(SHARES):
        where = slice(number * DIM, (number + 1) * DIM)
        videos = of_topic * centres[number][topic] + of_video * _spread(random, len(lengths))
        for first in range(0, count, _BATCH):
            rows = videos[video[first : first + _BATCH]]
            if of_clip:
                rows = rows + of_clip * _spread(random, len(rows))
            clips[first : first + _BATCH, where] = _units(rows) @ turns[number].T
        gone = ~has[number][video]
        if number == 1:
            gone |= random.random(count) < SILENT_CLIPS
        clips[gone, where] = 0
        near = of_topic * centres[number][topic[video[about]]] + of_video * videos[video[about]]
        near = near + 0.6 * _spread(random, QUESTIONS)
        near[nothing] = _spread(random, QUESTIONS)[nothing]
        questions[:, where] = _units(near) @ turns[number].T
    _centre(clips, questions, nothing)
    return clips, questions


def _spread(random: np.random.Generator, count: int) -> FloatArray:
    scale = np.arange(1, DIM + 1) ** -0.5
    return random.standard_normal((count, DIM), np.float32) * (scale / np.sqrt((scale**2).sum()))


def _units(rows: FloatArray) -> FloatArray:
    return rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9)


def _centre(clips: FloatArray, questions: FloatArray, nothing: NDArray[np.bool_]) -> None:
    """Subtract the means and scale unrelated scores to a spread of 1, in place; missing modalities stay 0."""
    for number in range(len(ORDER)):
        where = slice(number * DIM, (number + 1) * DIM)
        present = np.any(clips[:, where], axis=1)
        mean = clips[present, where][:200_000].mean(0)
        questions[:, where] -= questions[nothing][:, where].mean(0)
        spread = (questions[nothing][:200, where] @ (clips[present, where][:20_000] - mean).T).std()
        clips[:, where] -= mean
        clips[~present, where] = 0
        clips[:, where] /= spread
