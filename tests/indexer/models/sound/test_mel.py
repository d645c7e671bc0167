"""Log mel spectrograms equal those of transformers' ClapFeatureExtractor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tiny_clap import FEATURES

from vfindex.indexer.models.sound.mel import CONFIG, LEAST_POWER, MelSettings, Sound
from vfindex.storage.errors import ModelError

SETTINGS = MelSettings(48_000, 480, 1024, 480_000, 64, 50.0, 14_000.0)
SECOND = replace(SETTINGS, window=48_000)


def tone(hz: float, samples: int, peak: int = 12_000) -> Sound:
    return np.rint(peak * np.sin(2 * np.pi * hz * np.arange(samples) / 48_000)).astype(np.int16)


def written(folder: Path, **changes: Any) -> Path:
    (folder / CONFIG).write_text(json.dumps({**FEATURES, **changes}), encoding="utf-8")
    return folder


@pytest.mark.parametrize("samples", [480_000, 200_000, 24_001, 600])
def test_they_equal_those_of_transformers(samples: int) -> None:
    """Whole, padded, repeated and padded, and hardly longer than a step."""
    transformers = pytest.importorskip("transformers")
    noise = np.random.default_rng(samples).standard_normal(samples) * 3000 + tone(440, samples)
    sound = noise.astype(np.int16)
    reference = transformers.ClapFeatureExtractor(**FEATURES)
    expected = reference(sound / 32768, sampling_rate=48_000, return_tensors="np")["input_features"]
    found = SETTINGS.spectrograms([sound])
    assert found.shape == (1, 1, 1001, 64) == expected.shape
    assert np.abs(found - expected).max() < 1e-3, "dB"


def test_a_tone_is_loudest_in_the_band_that_holds_it() -> None:
    low, high = SECOND.spectrograms([tone(300, 48_000), tone(6_000, 48_000)])[:, 0, 50]
    assert low.argmax() < 10 and high.argmax() > 45
    assert low.max() > 30 + low[30:].max()


def test_silence_has_the_least_value_everywhere() -> None:
    quiet = SECOND.spectrograms([np.zeros(48_000, np.int16)])
    assert np.allclose(quiet, 10 * np.log10(LEAST_POWER))


def test_a_longer_sound_is_cut_and_a_sound_without_samples_is_refused() -> None:
    sound = tone(440, 60_000)
    assert SECOND.spectrograms([sound]).tolist() == SECOND.spectrograms([sound[:48_000]]).tolist()
    with pytest.raises(ValueError, match="without samples"):
        SECOND.spectrograms([np.zeros(0, np.int16)])


def test_the_settings_are_those_of_the_folder(tmp_path: Path) -> None:
    assert MelSettings.read(written(tmp_path)) == SETTINGS
    assert SETTINGS.window_s == 10.0
    assert MelSettings.read(written(tmp_path, max_length_s=5)).window == 240_000


@pytest.mark.parametrize("changes", [{"truncation": "fusion"}, {"padding": "pad"}, {"top_db": 80}])
def test_settings_that_are_not_supported_are_refused(changes: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="vfindex does not support; take laion/clap-htsat-unfused"):
        MelSettings.read(written(tmp_path, **changes))


@pytest.mark.parametrize("text", ["", "{}", "[]", '{"sampling_rate": "fast"}'])
def test_a_damaged_file_is_one_sentence(text: str, tmp_path: Path) -> None:
    (tmp_path / CONFIG).write_text(text, encoding="utf-8")
    with pytest.raises(ModelError, match="no settings of a CLAP model"):
        MelSettings.read(tmp_path)
