"""The sounds that calibrate a model: many kinds, the same everywhere, none silent or clipped."""

from __future__ import annotations

import numpy as np

from vfindex.indexer.models.sound.calibration_sounds import LENGTH_S, calibration_sounds


def test_they_are_audible_unlike_each_other_and_the_same_each_time() -> None:
    sounds = list(calibration_sounds(8_000))
    assert len(sounds) >= 20
    assert {len(sound) for sound in sounds} == {int(LENGTH_S * 8_000)}
    assert all(9_000 < np.abs(sound.astype(int)).max() < 10_000 for sound in sounds)
    assert len({sound.tobytes() for sound in sounds}) == len(sounds)
    assert all(np.array_equal(a, b) for a, b in zip(sounds, calibration_sounds(8_000), strict=True))
