"""The encoder protocols, the record of a run's encoders, and the test for still frames."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import ModelError
from vfindex.storage.modalities import ModalityName, ModelKind, frame_modality, get_modality, modality_names
from vfindex.storage.records import FloatArray

if TYPE_CHECKING:
    from vfindex.indexer.speech.whisper import Whisper

Pixels = NDArray[np.uint8]
# Largest mean difference of 8-bit values between frames that count as equal: over the whole frame, and over each square
# of STILL_BLOCK_PX. Coding noise of a still image lies below. On 202 such pairs of the public collection the cosine of
# the two vectors has the median 0.9995 and the minimum 0.995; neighbouring frames of one shot have 0.95.
STILL_MEAN, STILL_BLOCK, STILL_BLOCK_PX = 1, 8, 20
_SOME_ROWS = 8  # every eighth is compared first
# Batches in flight per GPU: one is computed while the next is copied.
LANES_PER_GPU = 2


class ImageEncoder(Protocol):
    """An image model. `encode_images` is thread-safe.

    size_px: short side of its frames. dim: length of its vectors. batch_frames: the fastest number of frames per call;
    any number is allowed.
    """

    @property
    def size_px(self) -> int: ...

    @property
    def dim(self) -> int: ...

    @property
    def batch_frames(self) -> int: ...

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1.

        frames: uint8 RGB (height, width, 3), upright, the short side `size_px`, the aspect ratio that of the video.
        Raises ValueError on any other shape, ModelError if not even one frame fits in memory.
        """
        ...


class PassageEncoder(Protocol):
    """A text model, for indexed texts. Thread-safe. dim: length of its vectors."""

    @property
    def dim(self) -> int: ...

    def encode_passages(self, texts: Sequence[str]) -> FloatArray:
        """Return (n, dim) float32, rows of length 1, in the order of `texts`. Raises ModelError."""
        ...


@dataclass(frozen=True, slots=True)
class Encoders:
    """The models of a run, shared by its workers.

    text: embeds all text. models: those that its modalities use, without those that are left out. gpus: of the image
    model. lanes: batches that one queue gives it at once, of the frames of all running units; 0: it takes images one
    by one, and needs no queue. modalities: of the library. left_out: of them, those that the run does not extract.
    threads: of each model.
    """

    text: PassageEncoder
    models: Mapping[ModelKind, Any] = field(default_factory=dict)
    gpus: int = 0
    lanes: int = 0
    threads: int = 1
    modalities: tuple[ModalityName, ...] = field(default_factory=modality_names)
    left_out: frozenset[ModalityName] = frozenset()

    @property
    def image(self) -> ImageEncoder | None:
        """The model of the modality that has frames; None without images."""
        found: ImageEncoder | None = self.models.get(get_modality(frame_modality()).model)
        return found

    @property
    def speech(self) -> Whisper | None:
        """The speech model; None if none is recognised."""
        found: Whisper | None = self.models.get("speech")
        return found

    def image_model(self) -> ImageEncoder:
        """Return the image model. Raises ModelError without one."""
        if self.image is None:
            raise ModelError("this library has no image model")
        return self.image

    def with_images(self, image: ImageEncoder) -> Encoders:
        """Return the models with another image model."""
        return replace(self, models={**self.models, get_modality(frame_modality()).model: image})


@dataclass(frozen=True, slots=True)
class Texts:
    """The model of a driver whose units are indexed by other processes."""

    text: PassageEncoder
    modalities: tuple[ModalityName, ...] = field(default_factory=modality_names)


def is_still(before: Pixels, frame: Pixels) -> bool:
    """Return whether two frames are equal but for noise, so that one vector serves both: slides, empty rooms."""
    if before.shape != frame.shape:
        return False
    for rows in (slice(None, None, _SOME_ROWS), slice(None)):  # the change of some is enough in most moving frames
        change = np.abs(before[rows].astype(np.int16) - frame[rows])
        if change.sum(dtype=np.int64) >= STILL_MEAN * frame.size:
            return False
    tops, lefts = (np.arange(0, side, STILL_BLOCK_PX) for side in frame.shape[:2])
    blocks = np.add.reduceat(np.add.reduceat(change.sum(axis=2, dtype=np.int64), tops, axis=0), lefts, axis=1)
    return bool(blocks.max() < STILL_BLOCK * STILL_BLOCK_PX**2 * frame.shape[2])
