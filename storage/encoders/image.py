"""Images to unit vectors by ONNX Runtime: frames for `lite`, and image queries for all presets.

A model is a folder as in `encoders.text`: model.onnx, model.onnx.data, and meta.json with `size_px`. `lite` has
labels.npy, colours.npy and perhaps label_map.npy as well; for open_clip, meta.json says how an image becomes a square.
Nothing here imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Protocol

import numpy as np
import onnxruntime as ort

from vfindex.storage.encoders.colours import colour_shares, colour_vector, with_colours
from vfindex.storage.encoders.pixels import Pixels, ResizeMode, crops, square
from vfindex.storage.encoders.text import AXES, check_files, checked, open_session, read_meta
from vfindex.storage.errors import ModelError
from vfindex.storage.records import FloatArray

# Softmax temperature and number of labels kept; the paper has 1 and 10. Measured, docs/decisions/lite.md: 1.4 to 2.2
# rank within 0.01 of nDCG@10, 20 to 100 within 0.02; fewer labels and all of them rank worse.
TEMPERATURE = 1.75
TOP_LABELS = 50
BATCH_FRAMES = 16
# Share of the linear map in an image's vector, where the model has one: docs/decisions/languages.md.
MAP_SHARE = 0.4
LABELS = "labels.npy"
# The map of logits to label vectors: (n_labels + 1, dim), the last row added.
LABEL_MAP = "label_map.npy"
PROTOTYPES = "prototypes.npy"  # the classifier's weights, only while the model is exported
_MODES: Mapping[str, ResizeMode] = {"shortest": "shortest", "squash": "squash"}


class PictureEncoder(Protocol):
    """Encodes images as unit vectors with `dim` dimensions. size_px: short side of its input frames."""

    @property
    def size_px(self) -> int: ...

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1.

        frames: uint8 RGB (height, width, 3), upright, the short side `size_px`. Raises ValueError on another shape.
        """
        ...


def open_image_encoder(folder: Path) -> PictureEncoder:
    """Return the encoder in a folder, for single images. Raises ModelError if it is missing, damaged or unknown."""
    meta = read_meta(folder)
    return LiteImageEncoder.open(folder) if LABELS in meta["files"] else ClipImageEncoder.open(folder)


class LiteImageEncoder:
    """The `lite` preset's open visual model. `encode_images` may be called from several threads at once.

    model: its name. Each of its threads runs one crop at a time, for all callers: a single video uses all cores, many
    videos start no further threads, and a vector does not depend on their number.
    """

    def __init__(
        self,
        session: ort.InferenceSession,
        vectors: tuple[FloatArray, FloatArray],
        *,
        model: str,
        size_px: int,
        threads: int = 1,
        label_map: FloatArray | None = None,
    ) -> None:
        """vectors: of the labels (n_labels, dim), rows of length 1, and of the colour axes (11, dim).

        label_map: see LABEL_MAP.
        """
        self._session = session
        self._map = label_map
        self._labels, self._axes = vectors
        self._threads = ThreadPoolExecutor(threads, thread_name_prefix="image")
        self.model = model
        self.size_px = size_px
        self.dim = self._labels.shape[1]
        self.batch_frames = BATCH_FRAMES

    @classmethod
    def open(cls, folder: Path, *, threads: int = 1) -> LiteImageEncoder:
        """Return the encoder in a folder. Raises ModelError if a file is missing, damaged or of another version."""
        meta = read_meta(folder)
        check_files(folder, meta)
        try:
            vectors = (np.load(folder / LABELS, allow_pickle=False), np.load(folder / AXES, allow_pickle=False))
            label_map = np.load(folder / LABEL_MAP, allow_pickle=False) if LABEL_MAP in meta["files"] else None
            session, size_px = open_session(folder, threads=1, prepack=True), int(meta["size_px"])
            return cls(
                session, vectors, model=str(meta["model"]), size_px=size_px, threads=threads, label_map=label_map
            )
        except (KeyError, ValueError, TypeError) as exc:
            raise ModelError(f"{folder}: the visual model's description is incomplete") from exc

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, as `PictureEncoder` says."""
        vectors = np.zeros((len(frames), self.dim), dtype=np.float32)
        seen = self.logits([crops(frame, self.size_px) for frame in frames])
        for row, (frame, logits) in enumerate(zip(frames, seen, strict=True)):
            shown = conse(logits, self._labels)
            if self._map is not None:
                shown = mixed(shown, logits, self._map)
            vectors[row] = with_colours(shown, colour_vector(colour_shares(frame), self._axes))
        return vectors

    def logits(self, frames: Sequence[Sequence[Pixels]]) -> list[FloatArray]:
        """Return (n_crops, n_labels) float32 for each frame's crops, squares of `size_px`."""
        found = self._threads.map(self._logits, itertools.chain.from_iterable(frames))
        return [np.stack([next(found) for _ in parts]) for parts in frames]

    def _logits(self, crop: Pixels) -> FloatArray:
        logits: FloatArray = self._session.run(None, {"pixels": crop[None]})[0][0]
        return logits


class ClipImageEncoder:
    """An exported open_clip image encoder, for single images."""

    def __init__(
        self, session: ort.InferenceSession, model: str, size_px: int, resize_mode: ResizeMode, filter_: str
    ) -> None:
        self._session = session
        self._model = model
        self._resize_mode: ResizeMode = resize_mode
        self._filter = filter_
        self.size_px = size_px

    @classmethod
    def open(cls, folder: Path) -> ClipImageEncoder:
        """Return the encoder in a folder. Raises ModelError if a file is missing, damaged or of another version."""
        meta = read_meta(folder)
        check_files(folder, meta, weights=False)
        try:
            mode = _MODES[meta["resize_mode"]]
            session, model = open_session(folder, threads=1), str(meta["model"])
            return cls(session, model, int(meta["size_px"]), mode, str(meta["interpolation"]))
        except (KeyError, ValueError, TypeError) as exc:
            raise ModelError(f"{folder}: the visual model's description is incomplete") from exc

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, as `PictureEncoder` says."""
        squares = [square(frame, self.size_px, self._resize_mode, self._filter) for frame in frames]
        rows = [self._session.run(None, {"pixels": each[None]})[0] for each in squares]
        return checked(np.concatenate(rows), self._model)


def conse(logits: FloatArray, labels: FloatArray) -> FloatArray:
    """Return an image's unit vector: the embeddings of its likeliest labels, weighted by their probability.

    logits: (n_crops, n_labels); the crops' probabilities are averaged. labels: (n_labels, dim), rows of length 1.
    Convex combination of semantic embeddings: Norouzi et al. 2014, arXiv 1312.5650.
    """
    scaled = (logits - logits.max(axis=1, keepdims=True)) / TEMPERATURE
    odds = np.exp(scaled)
    posterior = (odds / odds.sum(axis=1, keepdims=True)).mean(axis=0)  # (n_labels,)
    top = np.argpartition(posterior, -TOP_LABELS)[-TOP_LABELS:]
    vector = posterior[top] @ labels[top]
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)


def mixed(shown: FloatArray, logits: FloatArray, label_map: FloatArray) -> FloatArray:
    """Return an image's unit vector (dim,) by ConSE, mixed with what a linear map of its mean logits gives."""
    mapped = logits.mean(axis=0) @ label_map[:-1] + label_map[-1]
    vector = (1 - MAP_SHARE) * shown + MAP_SHARE * mapped
    return np.asarray(vector / np.linalg.norm(vector), dtype=np.float32)
