"""Sounds that are about nothing, made by formulas: what unrelated sounds score against background queries.

No package ships recordings; these stand for them until a library has sounds of its own.
"""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.models.sound.mel import FULL_SCALE, Sound

Signal = NDArray[np.float64]
LENGTH_S = 10.0
# Noise whose power falls with the frequency to these powers: white, pink (rain, wind, surf), brown (traffic, thunder).
NOISE_SLOPES = (0.0, 1.0, 2.0)
TONES_HZ = (60.0, 220.0, 440.0, 1_000.0, 4_000.0)
PULSES_HZ = (1.0, 4.0, 12.0)  # steps, knocks, an engine
CHORDS_HZ = ((262.0, 330.0, 392.0), (220.0, 262.0, 330.0))
_PEAK = 0.3  # of full scale


def calibration_sounds(rate_hz: int) -> Iterator[Sound]:
    """Yield some twenty sounds of LENGTH_S, the same on every machine."""
    time_s = np.arange(int(LENGTH_S * rate_hz)) / rate_hz
    for signal in _signals(time_s, np.random.default_rng(0)):
        loudest = float(np.abs(signal).max()) or 1.0
        yield np.rint(signal * (_PEAK * (FULL_SCALE - 1) / loudest)).astype(np.int16)


def _signals(time_s: Signal, random: np.random.Generator) -> Iterator[Signal]:
    for slope in NOISE_SLOPES:
        noise = _noise(len(time_s), slope, random)
        yield noise
        yield noise * (1 + np.sin(2 * np.pi * 0.3 * time_s))  # waves, gusts
        for pulse_hz in PULSES_HZ:
            yield noise * np.exp(-30 * ((time_s * pulse_hz) % 1) / pulse_hz)
    for tone_hz in TONES_HZ:
        yield _harmonics(time_s, tone_hz)
    for chord_hz in CHORDS_HZ:
        decay = np.exp(-3 * (time_s % 1.0))
        yield decay * np.sum([_harmonics(time_s, each_hz) for each_hz in chord_hz], axis=0)
    swept_hz = 700 + 400 * np.sin(2 * np.pi * 0.5 * time_s)  # a siren
    yield np.sin(2 * np.pi * np.cumsum(swept_hz) * (time_s[1] - time_s[0]))


def _harmonics(time_s: Signal, tone_hz: float) -> Signal:
    return np.asarray(np.sum([np.sin(2 * np.pi * n * tone_hz * time_s) / n for n in range(1, 6)], axis=0))


def _noise(count: int, slope: float, random: np.random.Generator) -> Signal:
    """Return noise whose power is proportional to 1 / frequency**slope."""
    spectrum = np.fft.rfft(random.standard_normal(count))
    spectrum[1:] /= np.arange(1, len(spectrum)) ** (slope / 2)
    spectrum[0] = 0
    return np.fft.irfft(spectrum, count)
