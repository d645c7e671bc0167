"""Joint vectors and queries for ann.py, at the width and the default weights of a preset.

Synthetic: the variances of a modality fall like 1 / rank, as those of real embeddings do; clips are of videos, videos
of topics, of very different size. Half of the videos have speech and a third have text on the screen, in nine of ten
clips; nine of ten videos have a title, the same for all their clips.

Real: the vectors of a library, multiplied. A topic is one of its clips, and what a video and a clip add to it is noise
with the covariance that the library's own clips and frames have.

Half of the queries have a matching clip, half have none; vectors are centred and scaled as `storage/joint/vector.py`
does it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from sqlalchemy import text

from vfindex.indexer.models.catalog import find_card
from vfindex.indexer.models.presets import PRESETS, WITH_EXTRAS, modalities_of
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, get_modality
from vfindex.storage.records import FloatArray

# Shares of topic and video in the vector of a video, and of clips in theirs; titles have none.
OF_TOPIC, OF_VIDEO, OF_CLIP = 0.6, 0.6, 0.6
# Shares of videos that have words of a kind, and of their clips that lack them.
SPEAKING, TITLED, SILENT_CLIPS = 0.5, 0.9, 0.1
CLIPS_A_VIDEO = 12
# Share of the matching clip in a query.
NEAR = 0.5
# Even ones have a matching clip, odd ones none. Queries come from the first half; background queries for building an
# index are the odd ones of the second.
QUESTIONS, KNOWN = 1000, 500
# Shares of the clips that filters keep, whole videos.
FILTERS = (0.01, 0.1)
_BATCH = 50_000
Noise = Callable[[np.random.Generator, int], FloatArray]


@dataclass(frozen=True)
class Shape:
    """The modalities of a preset: their widths and default weights, in the order of the joint vector."""

    dims: Mapping[ModalityName, int]
    weights: Mapping[ModalityName, float]

    @classmethod
    def of(cls, preset: str) -> Shape:
        """Return those of a library of this preset with every extra."""
        chosen = next(each for name, each in PRESETS.items() if name == preset)
        models = {**chosen.models, **{kind: reference for kind, (_, reference) in WITH_EXTRAS.items()}}
        table = [get_modality(name) for name in modalities_of(models)]
        dims = {each.name: find_card(each.model, models[each.model]).dim or 0 for each in table}
        return cls(dims, {each.name: each.weight for each in table})

    @property
    def dim(self) -> int:
        return sum(self.dims.values())

    def slices(self) -> dict[ModalityName, slice]:
        """Return where each modality stands in a joint vector."""
        ends = np.cumsum(list(self.dims.values())).tolist()
        return {m: slice(end - dim, end) for (m, dim), end in zip(self.dims.items(), ends, strict=True)}

    def weightings(self) -> dict[str, FloatArray]:
        """Return factors (dim,) of a query: the default weights, and each modality alone."""
        spans = list(self.dims.values())
        default = np.repeat(np.array(list(self.weights.values()), np.float32), spans)
        return {
            "default": default,
            **{m: np.repeat(np.array([m == each for each in self.dims], np.float32), spans) for m in self.dims},
        }


@dataclass(frozen=True)
class Material:
    """clips: (n, dim) float16, mapped. asked: queries (n, dim) at weights of 1. background: those for building an
    index. kept: share that a filter keeps -> the rows that it keeps.
    """

    shape: Shape
    clips: NDArray[np.float16]
    asked: FloatArray
    background: FloatArray
    kept: Mapping[float, NDArray[np.int64]]


@dataclass(frozen=True)
class _Source:
    """What vectors of a modality are made of: topics (k, dim), what a video and a clip add, and unrelated queries."""

    topics: FloatArray
    of_video: Noise
    of_clip: Noise
    unlike: Noise
    has_clips: bool


def material(folder: Path, preset: str, count: int, asked: int, library: Path | None = None) -> Material:
    """Return the data of `count` clips, created in `folder` if missing. library: real vectors. asked: <= KNOWN."""
    shape = Shape.of(preset)
    name = f"{preset}{'-real' if library else ''}-{count}"
    clips, questions = folder / f"clips-{name}.npy", folder / f"questions-{name}.npy"
    if not questions.exists():
        sources = _real(library, shape) if library else _synthetic(shape, count)
        np.save(questions, _make(clips, shape, sources, count))
    random = np.random.default_rng(1)
    kept = {}
    for share in FILTERS:
        videos = random.choice(count // CLIPS_A_VIDEO, max(1, int(count * share) // CLIPS_A_VIDEO), replace=False)
        kept[share] = np.sort((videos[:, None] * CLIPS_A_VIDEO + np.arange(CLIPS_A_VIDEO)).reshape(-1))
    every = np.load(questions)
    return Material(shape, np.load(clips, mmap_mode="r"), every[:asked], every[KNOWN:][1::2], kept)


def _make(path: Path, shape: Shape, sources: Mapping[ModalityName, _Source], count: int) -> FloatArray:
    """Write clips (count, dim), and return questions (QUESTIONS, dim), centred and scaled."""
    random = np.random.default_rng(0)
    clips = np.lib.format.open_memmap(path, "w+", np.float16, (count, shape.dim))
    questions = np.zeros((QUESTIONS, shape.dim), np.float32)
    lengths = random.geometric(1 / CLIPS_A_VIDEO, size=count // 6 + 10)
    lengths = lengths[np.cumsum(lengths) <= count]
    lengths = np.append(lengths, count - lengths.sum()) if lengths.sum() < count else lengths
    video = np.repeat(np.arange(len(lengths)), lengths)
    about = random.integers(0, count, QUESTIONS)
    for (modality, where), source in zip(shape.slices().items(), sources.values(), strict=True):
        sizes = 1 / np.arange(1, len(source.topics) + 1) ** 0.7
        topic = random.choice(len(source.topics), len(lengths), p=sizes / sizes.sum())
        kind = get_modality(modality)
        speaks = random.random(len(lengths)) < (TITLED if kind.has_documents else SPEAKING)
        lacking = np.zeros(count, bool) if kind.has_frames else ~speaks[video]
        if source.has_clips and not kind.has_frames:
            lacking |= random.random(count) < SILENT_CLIPS
        near = np.zeros((QUESTIONS, where.stop - where.start), np.float32)
        scale = 0.0
        for first in range(0, len(lengths), _BATCH // CLIPS_A_VIDEO):
            chosen = slice(first, min(first + _BATCH // CLIPS_A_VIDEO, len(lengths)))
            videos = OF_TOPIC * source.topics[topic[chosen]]
            videos += OF_VIDEO * source.of_video(random, len(videos))
            rows = np.repeat(videos, lengths[chosen], axis=0)
            if source.has_clips:
                rows += OF_CLIP * source.of_clip(random, len(rows))
            start = int(lengths[:first].sum())
            if not scale:
                scale = float((source.unlike(random, 256) @ rows[:4096].T).std())
            inside = (about >= start) & (about < start + len(rows))
            near[inside] = rows[about[inside] - start]
            rows[lacking[start : start + len(rows)]] = 0
            clips[start : start + len(rows), where] = rows / scale
        unlike = source.unlike(random, QUESTIONS)
        near *= np.linalg.norm(unlike, axis=1, keepdims=True) / np.linalg.norm(near, axis=1, keepdims=True)
        is_near = (np.arange(QUESTIONS) % 2 == 0) & ~lacking[about]
        mixed = NEAR * near + np.sqrt(1 - NEAR**2) * unlike
        questions[:, where] = np.where(is_near[:, None], mixed, unlike)
    clips.flush()
    return questions


def _synthetic(shape: Shape, count: int) -> dict[ModalityName, _Source]:
    random = np.random.default_rng(2)
    result = {}
    for modality, dim in shape.dims.items():
        turn = np.linalg.qr(random.standard_normal((dim, dim)))[0].astype(np.float32)
        scale = np.arange(1, dim + 1, dtype=np.float32) ** -0.5
        noise = _noise((scale / np.sqrt((scale**2).sum()))[:, None] * turn.T)
        has_clips = get_modality(modality).has_frames or get_modality(modality).has_segments
        has_clips &= not get_modality(modality).has_documents
        result[modality] = _Source(noise(random, max(20, int(np.sqrt(count)))), noise, noise, noise, has_clips)
    return result


def _real(path: Path, shape: Shape) -> dict[ModalityName, _Source]:
    """Return what the vectors of a library are made of."""
    result = {}
    with Library.open(path).snapshot() as snapshot:
        generation = snapshot.generation()
        ids = [int(id_) for (id_,) in snapshot.stream(text("SELECT id FROM clip ORDER BY id"))]
        stored, priors = snapshot.vectors(ids), LibraryMeta(snapshot).priors
        for modality in shape.dims:
            part, kind = generation.spec.parts[modality], get_modality(modality)
            own = [each for each in stored.values() if modality in each.embeddings]
            rows = part.centre(np.stack([each.embeddings[modality] for each in own]))
            unlike = priors[modality].background - part.query_mean
            within = rows - rows.mean(axis=0)
            if kind.has_frames:
                frames = [part.centre(each.frames) for each in own]
                within = np.concatenate([each - each.mean(axis=0) for each in frames if len(each) > 1])
            topics = rows if kind.has_frames else np.concatenate([rows, part.centre(unlike + part.mean)])
            result[modality] = _Source(topics, _like(topics), _like(within), _like(unlike), not kind.has_documents)
    return result


def _like(rows: FloatArray) -> Noise:
    """Return noise with the covariance of some rows (n, dim)."""
    centred = rows - rows.mean(axis=0)
    return _noise(centred / np.float32(np.sqrt(max(1, len(rows) - 1))))


def _noise(factor: FloatArray) -> Noise:
    """Return noise whose covariance is factor.T @ factor. factor: (k, dim)."""
    return lambda random, count: random.standard_normal((count, len(factor)), np.float32) @ factor
