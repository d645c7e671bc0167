"""Variants of the encoders for tests/bench/quality.py: libraries rebuilt from frames and transcripts read once.

A rebuilt library uses the product's own stages, storage and search. The clips stay the same; `Recipe` defines the
vectors of images and the windows of transcripts.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from unittest.mock import patch

import numpy as np
from quality_frames import Seen, Views, milliseconds, read_frames

from vfindex.indexer.extractors.base import Track
from vfindex.indexer.extractors.chunks import MAX_GAP_S, Window, windows
from vfindex.indexer.models.lite import calibration_vectors, ensure_lite, label_texts, load_prior
from vfindex.indexer.models.priors import background_queries, estimate_prior
from vfindex.indexer.pipeline import stages
from vfindex.indexer.pipeline.shots import unit
from vfindex.storage.db.units import committed_plans, stored_unit
from vfindex.storage.db.videos import StoredVideo
from vfindex.storage.encoders import colours
from vfindex.storage.encoders import image as image_encoder
from vfindex.storage.encoders.colours import COLOUR_LENGTH, colour_vector, with_colours
from vfindex.storage.encoders.image import conse
from vfindex.storage.encoders.text import AXES, TextEncoder
from vfindex.storage.joint.vector import ModalityPrior
from vfindex.storage.library import Library
from vfindex.storage.meta import LibraryMeta
from vfindex.storage.modalities import ModalityName, frame_modality, get_modality, timed_text_modalities
from vfindex.storage.records import Clip, FloatArray, Segment, UnitResult
from vfindex.storage.writer import Writer, writing

Texts = Callable[[str, str], list[str]]


# --- views of a frame, of which the model's posteriors are averaged -------------------------------------------------


def squares(views: Views) -> FloatArray:
    return views["squares"]


def middle(views: Views) -> FloatArray:
    """Return only the square in the middle, the first of two."""
    logits = views["squares"]
    at = (len(logits) - 1) // 2
    return logits[at : at + 1]


def ends(views: Views) -> FloatArray:
    """Return the squares at both ends of a frame."""
    logits = views["squares"]
    return logits[[0, -1]] if len(logits) > 1 else logits


def squashed(views: Views) -> FloatArray:
    return views["squashed"]


def together(*names: str) -> Callable[[Views], FloatArray]:
    """Return a function that combines several views."""
    return lambda views: np.concatenate([views[name] for name in names])


# --- sentences of a label; its definition is its lemmas and their gloss ---------------------------------------------


def name_of(names: str) -> str:
    return names.split(",")[0]


def names_only(names: str, _: str) -> list[str]:
    return [name_of(names)]


def photos_only(names: str, _: str) -> list[str]:
    return [f"a photo of a {name_of(names)}"]


def definitions_only(_: str, definition: str) -> list[str]:
    return [definition]


def with_lemmas(names: str, definition: str) -> list[str]:
    return [*label_texts(names, definition), names]


def with_gloss(names: str, definition: str) -> list[str]:
    """Return the gloss without the lemmas as well."""
    return [*label_texts(names, definition), definition.removeprefix(f"{names}: ")]


def in_video(names: str, definition: str) -> list[str]:
    return [f"a video of a {name_of(names)}", definition]


# --- windows of speech ----------------------------------------------------------------------------------------------


def overlapping(segments: Iterable[Segment], words: int = 13) -> list[Window]:
    """Return windows of twice as many words that overlap by half."""
    halves = windows(segments, words)
    pairs = [(one, next_) for one, next_ in pairwise(halves) if next_.start_s - one.end_s < MAX_GAP_S]
    joined = [Window(one.start_s, next_.end_s, f"{one.text} {next_.text}") for one, next_ in pairs]
    paired = {window for pair in pairs for window in pair}
    return sorted([*joined, *(w for w in halves if w not in paired)], key=lambda w: (w.start_s, w.end_s))


def of_two_sizes(segments: Iterable[Segment]) -> list[Window]:
    """Return windows of 15 words and of 40."""
    listed = list(segments)
    return sorted([*windows(listed, 15), *windows(listed, 40)], key=lambda w: (w.start_s, w.end_s))


@dataclass(frozen=True, slots=True)
class Recipe:
    """Parameters of the vectors; the defaults are the product's.

    temperature, top_labels: of ConSE. views: their posteriors are averaged. texts: (names, definition) -> the sentences
    of a label, as many for each. colour_length: length of the colour part of a vector. windows: of speech.
    confidence: segments with less confidence are dropped.
    """

    temperature: float = image_encoder.TEMPERATURE
    top_labels: int = image_encoder.TOP_LABELS
    views: Callable[[Views], FloatArray] = squares
    texts: Texts = label_texts
    colour_length: float = COLOUR_LENGTH
    windows: Callable[[Iterable[Segment]], list[Window]] = windows
    confidence: float = 0.0


# Each of them is compared with the first, which is the product's own.
RECIPES: Mapping[str, Recipe] = {
    "made again": Recipe(),
    "crop: the middle alone": Recipe(views=middle),
    "crops: both ends": Recipe(views=ends),
    "crop: the frame squashed": Recipe(views=squashed),
    "crops, and the frame squashed": Recipe(views=together("squares", "squashed")),
    "crops, and the same mirrored": Recipe(views=together("squares", "mirrored")),
    "crops, and the middle from near": Recipe(views=together("squares", "near")),
    "crops, all of these": Recipe(views=together("squares", "mirrored", "squashed", "near")),
    "temperature 1": Recipe(temperature=1.0),
    "temperature 1.4": Recipe(temperature=1.4),
    "temperature 2.2": Recipe(temperature=2.2),
    "temperature 3": Recipe(temperature=3.0),
    "top 10 labels": Recipe(top_labels=10),
    "top 20 labels": Recipe(top_labels=20),
    "top 100 labels": Recipe(top_labels=100),
    "all labels": Recipe(top_labels=1000),
    "label: its name alone": Recipe(texts=names_only),
    'label: "a photo of a NAME" alone': Recipe(texts=photos_only),
    "label: its definition alone": Recipe(texts=definitions_only),
    "label: and its lemmas": Recipe(texts=with_lemmas),
    "label: and its bare gloss": Recipe(texts=with_gloss),
    'label: "a video of a NAME"': Recipe(texts=in_video),
    "no colours in the vector": Recipe(colour_length=0.0),
    "colours 0.15 of the length": Recipe(colour_length=0.15),
    "colours 0.3 of the length": Recipe(colour_length=0.3),
    "windows of 15 words": Recipe(windows=partial(windows, words=15)),
    "windows of 40 words": Recipe(windows=partial(windows, words=40)),
    "windows that overlap by half": Recipe(windows=overlapping),
    "windows of 15 and of 40 words": Recipe(windows=of_two_sizes),
    "speech from confidence 0.25": Recipe(confidence=0.25),
    "speech from confidence 0.4": Recipe(confidence=0.4),
}


@dataclass(frozen=True, slots=True)
class Material:
    """The input of all recipes. frames: fingerprint -> frames by time, in milliseconds."""

    base: Library
    text: TextEncoder
    text_folder: Path
    axes: FloatArray
    labels: Sequence[Mapping[str, str]]
    priors: Mapping[ModalityName, ModalityPrior]
    frames: Mapping[str, Mapping[int, Seen]]

    def label_vectors(self, texts: Texts) -> FloatArray:
        """Return (n_labels, dim): the mean of each label's sentences, at right angles to the axes of colours."""
        groups = [texts(label["names"], label["definition"]) for label in self.labels]
        rows = self.text.encode([text for group in groups for text in group]).reshape(len(groups), len(groups[0]), -1)
        mean = np.stack([unit(row) for row in rows.mean(axis=1)])
        return np.stack([unit(row) for row in mean - mean @ self.axes.T @ self.axes])


def read_material(folder: Path, cache: Path, threads: int, kept: Path) -> Material:
    """Return the material of a library. kept: see `read_frames`."""
    paths = ensure_lite(cache)
    base = Library.open(folder)
    with base.snapshot() as snapshot:
        names = LibraryMeta(snapshot).priors.keys()
    frames = read_frames(base, paths.visual, threads, kept)
    labels = json.loads((paths.visual / "labels.json").read_text(encoding="utf-8"))
    axes = np.load(paths.visual / AXES, allow_pickle=False)
    text = TextEncoder.open(paths.text, threads=threads)
    priors = {name: load_prior(paths.prior, get_modality(name)) for name in names}
    return Material(base, text, paths.text, axes, labels, priors, frames)


def make_again(material: Material, recipe: Recipe, folder: Path) -> Path:
    """Rebuild the library by a recipe in a new folder; return the folder."""
    labels = material.label_vectors(recipe.texts)
    with ExitStack() as changed, writing(folder) as writer, material.base.snapshot() as snapshot:
        mixing = patch.multiple(image_encoder, TEMPERATURE=recipe.temperature, TOP_LABELS=recipe.top_labels)
        changed.enter_context(mixing)
        changed.enter_context(patch.multiple(colours, COLOUR_LENGTH=recipe.colour_length))
        changed.enter_context(patch.multiple(stages, windows=recipe.windows))
        setup = LibraryMeta(snapshot).existing_setup()
        visual = estimate_prior(
            material.text.encode(background_queries()),
            calibration_vectors(labels, material.axes),
            centred=False,
            weight=material.priors["visual"].weight,
        )
        name = setup.query["visual"].folder
        writer.install(setup, {**material.priors, "visual": visual}, {name: material.text_folder})
        for video in snapshot.videos():
            _make_video_again(material, recipe, labels, (writer, video))
        writer.publish()
    return folder


def _make_video_again(
    material: Material, recipe: Recipe, labels: FloatArray, where: tuple[Writer, StoredVideo]
) -> None:
    writer, video = where
    with material.base.snapshot() as snapshot:
        plans = committed_plans(snapshot, video.id)
        video_id = writer.catalog.begin_video(video, plans, recognised=True)
        for unit_id, plan in writer.catalog.pending_units(video_id):
            result = stored_unit(snapshot, video.id, plan).result
            segments = tuple(s for s in result.segments if s.confidence is None or s.confidence >= recipe.confidence)
            result = replace(result, segments=segments)
            seen = material.frames[video.fingerprint]
            tracks = _tracks(result, recipe)
            spans = [(clip.start_s, clip.end_s) for clip in result.clips]
            rows = {m: stages.clip_vectors(track, spans, material.text) for m, track in tracks.items()}
            clips = tuple(
                _clip(
                    clip, {m: of[n] for m, of in rows.items()}, _pictures(clip, seen, recipe, (labels, material.axes))
                )
                for n, clip in enumerate(result.clips)
            )
            writer.catalog.commit_unit(video_id, unit_id, replace(result, clips=clips))
        writer.catalog.finish_video(video_id, video.locations[0], [])


def _tracks(result: UnitResult, recipe: Recipe) -> dict[ModalityName, Track]:
    """Return the tracks of recognised text and subtitles."""
    names = [name for name in timed_text_modalities() if get_modality(name).origin != "metadata"]
    segments = {name: stages.segments_of(result.segments, name) for name in names}
    return stages.counted_once({m: Track("", of, tuple(recipe.windows(of))) for m, of in segments.items()})


def _pictures(
    clip: Clip, seen: Mapping[int, Seen], recipe: Recipe, vectors: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Return the frame vectors (n, dim) of a clip. vectors: of labels and of the axes of colours."""
    labels, axes = vectors
    frames = [seen[milliseconds(time_s)] for time_s in clip.frame_times_s.tolist()]
    shown = [conse(recipe.views(frame.views), labels) for frame in frames]
    return np.stack(
        [with_colours(row, colour_vector(frame.colours, axes)) for row, frame in zip(shown, frames, strict=True)]
    )


def _clip(clip: Clip, text: Mapping[ModalityName, FloatArray | None], frames: FloatArray) -> Clip:
    """Return a clip with these vectors in place of its own. text: of each modality, None for none."""
    changed = {**clip.embeddings, frame_modality(): unit(frames.mean(axis=0)), **text}
    return replace(clip, embeddings={m: v for m, v in changed.items() if v is not None}, frame_vectors=frames)
