"""What tests/bench/quality.py tries on the encoders: the library made again from frames and transcripts read once.

A library made again goes through the product's own storage and search. Clips stay as they were cut; `Recipe` says how
pictures become vectors, and transcripts windows.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

from vfindex.indexer.lite import ensure_lite, general_vectors, label_texts, load_priors
from vfindex.indexer.media import Decoder, Frame, Sampling
from vfindex.indexer.priors import background_queries, estimate_prior
from vfindex.indexer.shots import unit
from vfindex.indexer.windows import WINDOW_WORDS, clip_windows, windows
from vfindex.storage import image_encoder
from vfindex.storage.colours import COLOUR_LENGTH, colour_shares, colour_vector
from vfindex.storage.image_encoder import LiteImageEncoder, conse
from vfindex.storage.joint import ModalityPrior
from vfindex.storage.library import Library, setup_from_json
from vfindex.storage.pixels import crops
from vfindex.storage.records import Clip, FloatArray, Modality, Segment
from vfindex.storage.snapshot import StoredVideo
from vfindex.storage.text_encoder import AXES, TextEncoder
from vfindex.storage.units import committed_plans, stored_unit
from vfindex.storage.writer import Writer, writing

Texts = Callable[[str, str], list[str]]


@dataclass(frozen=True, slots=True)
class Recipe:
    """How vectors are made; the defaults are the product's.

    temperature, top_labels: of ConSE. crops: which squares of a frame count. texts: (names,
    definition) -> the sentences of a label. colour_length: of the part of a vector that tells colours. words: of a
    window of speech. confidence: segments that were recognised less surely are left out.
    """

    temperature: float = image_encoder.TEMPERATURE
    top_labels: int = image_encoder.TOP_LABELS
    crops: Callable[[FloatArray], FloatArray] = lambda logits: logits
    texts: Texts = label_texts
    colour_length: float = COLOUR_LENGTH
    words: int = WINDOW_WORDS
    confidence: float = 0.0


@dataclass(frozen=True, slots=True)
class Seen:
    """A sampled frame as the model sees it. logits: (n_crops, n_labels). colours: (11,) shares."""

    logits: FloatArray
    colours: FloatArray


@dataclass(frozen=True, slots=True)
class Material:
    """All that recipes are cooked from. frames: fingerprint -> frames by time, in milliseconds."""

    base: Library
    text: TextEncoder
    text_folder: Path
    axes: FloatArray
    labels: Sequence[Mapping[str, str]]
    priors: Mapping[Modality, ModalityPrior]
    frames: Mapping[str, Mapping[int, Seen]]
    vectors: dict[str, FloatArray] = field(default_factory=dict)

    def encoded(self, texts: Sequence[str]) -> FloatArray:
        """Return the vectors of texts, each text encoded once in the life of this."""
        new = list(dict.fromkeys(text for text in texts if text not in self.vectors))
        self.vectors.update(zip(new, self.text.encode(new), strict=True))
        return np.stack([self.vectors[text] for text in texts])

    def label_vectors(self, texts: Texts) -> FloatArray:
        """Return (n_labels, dim): the mean of each label's sentences, at right angles to the axes of colours."""
        groups = [texts(label["names"], label["definition"]) for label in self.labels]
        rows = self.encoded([text for group in groups for text in group]).reshape(len(groups), len(groups[0]), -1)
        mean = np.stack([unit(row) for row in rows.mean(axis=1)])
        return np.stack([unit(row) for row in mean - mean @ self.axes.T @ self.axes])


def read_material(folder: Path, cache: Path, threads: int, say: Callable[[str], None]) -> Material:
    """Decode the videos of a library and run the visual model over their frames; some 1,000 of them in 40 s."""
    paths = ensure_lite(cache)
    base = Library.open(folder)
    encoder = LiteImageEncoder.open(paths.visual, threads=threads)
    with base.snapshot() as snapshot:
        videos = snapshot.videos()
        sampling = Sampling.parse(setup_from_json(snapshot.get("setup") or "").sampling)
    frames: dict[str, dict[int, Seen]] = {}
    with Decoder() as decoder:
        for video in videos:
            path = video.locations[0].path
            items = decoder.read(path, sampling=sampling, size_px=encoder.size_px, audio=False)
            read = [item for item in items if isinstance(item, Frame)]
            logits = encoder.logits([crops(frame.pixels, encoder.size_px) for frame in read])
            frames[video.fingerprint] = {
                _key(frame.time_s): Seen(of_crops, colour_shares(frame.pixels))
                for frame, of_crops in zip(read, logits, strict=True)
            }
    say(f"{sum(map(len, frames.values()))} frames of {len(videos)} videos")
    labels = json.loads((paths.visual / "labels.json").read_text(encoding="utf-8"))
    axes = np.load(paths.visual / AXES, allow_pickle=False)
    text = TextEncoder.open(paths.text, threads=threads)
    return Material(base, text, paths.text, axes, labels, load_priors(paths.prior), frames)


def make_again(material: Material, recipe: Recipe, folder: Path) -> Path:
    """Make the library of the material again by a recipe, in a new folder, and return that."""
    labels = material.label_vectors(recipe.texts)
    with writing(folder) as writer, material.base.snapshot() as snapshot:
        setup = setup_from_json(snapshot.get("setup") or "")
        visual = estimate_prior(
            material.encoded(background_queries()),
            general_vectors(labels, material.axes),
            centred=False,
            weight=material.priors["visual"].weight,
        )
        name = setup.query["visual"].folder
        writer.install(setup, {**material.priors, "visual": visual}, {name: material.text_folder})
        with patch.multiple(image_encoder, TEMPERATURE=recipe.temperature, TOP_LABELS=recipe.top_labels):
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
            spoken = _spoken(material, [(c.start_s, c.end_s) for c in result.clips], segments, recipe.words)
            seen = material.frames[video.fingerprint]
            clips = tuple(
                _clip(clip, said, _pictures(clip, seen, recipe, (labels, material.axes)))
                for clip, said in zip(result.clips, spoken, strict=True)
            )
            writer.catalog.commit_unit(video_id, unit_id, replace(result, clips=clips, segments=segments))
        writer.catalog.finish_video(video_id, video.locations[0], [])


def _pictures(
    clip: Clip, seen: Mapping[int, Seen], recipe: Recipe, vectors: tuple[FloatArray, FloatArray]
) -> FloatArray:
    """Return the frame vectors (n, dim) of a clip. vectors: of labels and of the axes of colours."""
    labels, axes = vectors
    rows = []
    for time_s in clip.frame_times_s:
        frame = seen[_key(float(time_s))]
        shown = conse(recipe.crops(frame.logits), labels)
        length = recipe.colour_length
        rows.append((1 - length**2) ** 0.5 * shown + length * colour_vector(frame.colours, axes))
    return np.stack(rows).astype(np.float32)


def _spoken(
    material: Material, clips: Sequence[tuple[float, float]], segments: Sequence[Segment], words: int
) -> list[FloatArray | None]:
    """Return for each clip the mean of its windows' vectors, as the pipeline has it, with windows of so many words."""
    spans = windows(segments, words)
    if not spans:
        return [None] * len(clips)
    vectors = material.encoded([span.text for span in spans])
    return [unit(vectors[rows].mean(axis=0)) if rows else None for rows in clip_windows(clips, spans)]


def _clip(clip: Clip, spoken: FloatArray | None, frames: FloatArray) -> Clip:
    vectors: dict[Modality, FloatArray] = {m: v for m, v in clip.embeddings.items() if m == "text"}
    vectors["visual"] = unit(frames.mean(axis=0))
    if spoken is not None:
        vectors["speech"] = spoken
    return replace(clip, embeddings=vectors, frame_vectors=frames)


def _key(time_s: float) -> int:
    return round(1000 * time_s)


def middle(logits: FloatArray) -> FloatArray:
    """Return the square in the middle alone, the first of two."""
    return logits[(len(logits) - 1) // 2][None]


def ends(logits: FloatArray) -> FloatArray:
    """Return the squares at both ends of a frame."""
    return logits[[0, -1]] if len(logits) > 1 else logits


def names_only(names: str, _: str) -> list[str]:
    return [names.split(",")[0]]


def photos_only(names: str, _: str) -> list[str]:
    return [f"a photo of a {names.split(',')[0]}"]


def definitions_only(_: str, definition: str) -> list[str]:
    return [definition]
