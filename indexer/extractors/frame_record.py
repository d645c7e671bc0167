"""The record of a unit's frames without their pixels: what clips are cut by."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.extractors.thumbnails import ThumbnailPicker
from vfindex.indexer.media.decoder import Frame
from vfindex.indexer.models.base import Pixels, is_still
from vfindex.storage.records import FloatArray

# Levels per colour in a histogram, and the pixel stride: coarse, so that a change of light moves few counts.
_LEVELS = 8
_STRIDE = 4


class FrameRecord:
    """Times, colours, thumbnail candidates and rows of vectors of a unit's frames.

    A frame equal to the last encoded one (`is_still`) shares its vector. Frames are compared with the last encoded one,
    so slow changes add up until they count. rows: for every frame, the row of its vector among those of the encoded
    frames.
    """

    def __init__(self) -> None:
        self._last: Pixels | None = None  # of the pictures to encode
        self._n_pictures = 0
        self._histograms: list[FloatArray] = []
        self.rows: list[int] = []
        self.times_s: list[float] = []
        self.thumbnails = ThumbnailPicker()

    @property
    def histograms(self) -> FloatArray:
        return np.stack(self._histograms) if self._histograms else np.zeros((0, 512), np.float32)  # (n_frames, 512)

    def add(self, frame: Frame) -> bool:
        """Record a frame; return whether it must be encoded."""
        self.thumbnails.offer(frame.time_s, frame.pixels)
        moved = self._last is None or not is_still(self._last, frame.pixels)
        if moved:
            self._last = frame.pixels
            self._n_pictures += 1
        self.rows.append(self._n_pictures - 1)
        self._histograms.append(colour_histogram(frame.pixels))
        self.times_s.append(frame.time_s)
        return moved

    def finish(self) -> None:
        """Let go of the last frame's pixels."""
        self._last = None


def colour_histogram(pixels: NDArray[np.uint8]) -> FloatArray:
    """Return the share of an image's pixels in each of 8 x 8 x 8 cells of RGB: (512,) float32, summing to 1.

    pixels: (height, width, 3) uint8.
    """
    levels = pixels[::_STRIDE, ::_STRIDE].reshape(-1, 3).astype(np.intp) * _LEVELS // 256
    cells = (levels[:, 0] * _LEVELS + levels[:, 1]) * _LEVELS + levels[:, 2]
    return (np.bincount(cells, minlength=_LEVELS**3) / len(cells)).astype(np.float32)
