"""Log mel spectrograms, as `ClapFeatureExtractor` of transformers makes them for models without feature fusion."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import ModelError
from vfindex.storage.files.regular import read_file
from vfindex.storage.records import FloatArray

Sound = NDArray[np.int16]  # (n,) samples of one channel
CONFIG = "preprocessor_config.json"
FULL_SCALE = 32768.0
# Power below which a band counts as silent, and so the lowest value, -100 dB.
LEAST_POWER = 1e-10
# Slaney's mel scale (Auditory Toolbox, 1998): linear up to 1,000 Hz, then 27 steps for each factor of 6.4.
_LINEAR_HZ, _HZ_A_MEL, _STEP = 1000.0, 200.0 / 3, float(np.log(6.4)) / 27


@dataclass(frozen=True)
class MelSettings:
    """The input of a model. hop, fft, window: in samples. bands: mel filters from low_hz to high_hz."""

    rate_hz: int
    hop: int
    fft: int
    window: int
    bands: int
    low_hz: float
    high_hz: float

    @classmethod
    def read(cls, folder: Path) -> MelSettings:
        """Return the settings of a model folder. Raises ModelError if they are missing or not supported."""
        path = folder / CONFIG
        try:
            config = json.loads(read_file(path))
            settings = cls(
                rate_hz=int(config["sampling_rate"]),
                hop=int(config["hop_length"]),
                fft=int(config["fft_window_size"]),
                window=int(config["max_length_s"]) * int(config["sampling_rate"]),
                bands=int(config["feature_size"]),
                low_hz=float(config["frequency_min"]),
                high_hz=float(config["frequency_max"]),
            )
            chosen = (config["truncation"], config["padding"], config.get("top_db"))
        except (OSError, ValueError, KeyError, TypeError) as exc:
            raise ModelError(f"{path}: no settings of a CLAP model; copy the model's folder again") from exc
        if chosen != ("rand_trunc", "repeatpad", None):
            raise ModelError(
                f"{path}: a model that hears by feature fusion or other padding, which vfindex does not support; take "
                "laion/clap-htsat-unfused"
            )
        return settings

    @property
    def window_s(self) -> float:
        """Length of the sound that the model takes at once."""
        return self.window / self.rate_hz

    def spectrograms(self, sounds: Sequence[Sound]) -> FloatArray:
        """Return (n, 1, frames, bands) float32 in dB.

        A sound shorter than the window is repeated as often as it fits, and silence follows; a longer one is cut.
        """
        return np.stack([self._spectrogram(self._filled(sound)) for sound in sounds])[:, None]

    def _filled(self, sound: Sound) -> FloatArray:
        if not len(sound):
            raise ValueError("a sound without samples")
        samples = np.tile(sound, max(1, self.window // len(sound)))[: self.window]
        return np.pad(samples, (0, self.window - len(samples))).astype(np.float32) / np.float32(FULL_SCALE)

    def _spectrogram(self, samples: FloatArray) -> FloatArray:
        padded = np.pad(samples, self.fft // 2, mode="reflect")
        frames = np.lib.stride_tricks.sliding_window_view(padded, self.fft)[:: self.hop]
        power = np.abs(np.fft.rfft(frames * self._hann, axis=1)) ** 2  # (frames, fft // 2 + 1)
        return np.asarray(10 * np.log10(np.maximum(power @ self._filters, LEAST_POWER)), np.float32)

    @cached_property
    def _hann(self) -> FloatArray:
        """The periodic window, which is what a spectrogram takes."""
        return np.hanning(self.fft + 1)[:-1].astype(np.float32)

    @cached_property
    def _filters(self) -> FloatArray:
        """(fft // 2 + 1, bands): triangles between neighbouring centres, each of area 1 (Slaney)."""
        bins_hz = np.linspace(0, self.rate_hz // 2, self.fft // 2 + 1)
        edges_hz = _to_hz(np.linspace(_to_mel(self.low_hz), _to_mel(self.high_hz), self.bands + 2))
        width_hz = np.diff(edges_hz)
        slopes = edges_hz[None] - bins_hz[:, None]
        rising, falling = -slopes[:, :-2] / width_hz[:-1], slopes[:, 2:] / width_hz[1:]
        triangles = np.maximum(0, np.minimum(rising, falling))
        return np.asarray(triangles * (2 / (edges_hz[2:] - edges_hz[:-2])), np.float32)


def _to_mel(hz: float) -> float:
    if hz < _LINEAR_HZ:
        return hz / _HZ_A_MEL
    return _LINEAR_HZ / _HZ_A_MEL + float(np.log(hz / _LINEAR_HZ)) / _STEP


def _to_hz(mel: NDArray[np.float64]) -> NDArray[np.float64]:
    knee = _LINEAR_HZ / _HZ_A_MEL
    return np.where(mel < knee, mel * _HZ_A_MEL, _LINEAR_HZ * np.exp(_STEP * (mel - knee)))
