"""The frames of a unit: which are encoded, and that each has the vector of what it shows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from vfindex.indexer import pipeline
from vfindex.indexer.encoders import Pixels
from vfindex.indexer.media import Frame
from vfindex.storage.records import FloatArray


class GreyEncoder:
    """Gives a picture's grey value for a vector, and remembers what it was asked."""

    batch_frames = 16

    def __init__(self) -> None:
        self.asked: list[float] = []

    def encode_images(self, frames: Sequence[Pixels]) -> FloatArray:
        values = [float(frame.mean()) for frame in frames]
        self.asked += values
        return np.asarray(values, dtype=np.float32)[:, None]


def read(greys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return (what was encoded, each frame's vector) for frames of these grey values."""
    encoder: Any = GreyEncoder()
    reading = pipeline._Reading(encoder)
    for second, grey in enumerate(greys):
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels.reshape(-1)[:] = int(grey)
        pixels[:, : int(60 * (grey % 1))] += 1  # a share of the picture one value brighter
        reading.add(Frame(float(second), pixels))
    reading.encode()
    assert reading.times_s == [float(second) for second in range(len(greys))]
    assert len(reading.histograms) == len(greys)
    return encoder.asked, reading.vectors[:, 0].tolist()


@pytest.mark.parametrize("batch", [1, 2, 3, 16])
def test_stills_share_a_vector_whatever_the_batch(batch: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(GreyEncoder, "batch_frames", batch)
    encoded, vectors = read([10, 10, 10, 50, 50, 10, 10, 90])
    assert encoded == [10, 50, 10, 90]
    assert vectors == [10, 10, 10, 50, 50, 10, 10, 90]


def test_slow_change_adds_up() -> None:
    encoded, vectors = read([10, 10.25, 10.5, 10.75, 11, 11.5, 12])
    assert encoded == [10, 11, 12]
    assert vectors == [10, 10, 10, 10, 11, 11, 12]
