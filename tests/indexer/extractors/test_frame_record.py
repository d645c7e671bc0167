"""The frames of a unit: which are encoded, and which vector each one has."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from vfindex.indexer.extractors.frame_record import FrameRecord
from vfindex.indexer.media.decoder import Frame, FrameTap


def read(greys: Sequence[float]) -> tuple[list[float], list[float]]:
    """Return (what must be encoded, what each frame's vector stands for) for frames of these grey values."""
    reading = FrameRecord()
    encoded = []
    for second, grey in enumerate(greys):
        pixels = np.zeros((40, 60, 3), dtype=np.uint8)
        pixels.reshape(-1)[:] = int(grey)
        pixels[:, : int(60 * (grey % 1))] += 1  # a share of the picture one value brighter
        if reading.add(Frame(float(second), pixels, FrameTap(40))):
            encoded.append(grey)
    assert reading.times_s == [float(second) for second in range(len(greys))]
    assert len(reading.histograms) == len(greys)
    return encoded, [encoded[row] for row in reading.rows]


def test_stills_share_a_vector() -> None:
    encoded, vectors = read([10, 10, 10, 50, 50, 10, 10, 90])
    assert encoded == [10, 50, 10, 90]
    assert vectors == [10, 10, 10, 50, 50, 10, 10, 90]


def test_slow_change_adds_up() -> None:
    encoded, vectors = read([10, 10.25, 10.5, 10.75, 11, 11.5, 12])
    assert encoded == [10, 11, 12]
    assert vectors == [10, 10, 10, 10, 11, 11, 12]
