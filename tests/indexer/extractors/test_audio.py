"""The sound of a unit: its windows, what is silent, where there are gaps, and how much is in memory."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from vfindex.indexer.extractors.audio import MIN_WINDOW_S, SILENT_PEAK, AudioExtractor
from vfindex.indexer.extractors.base import Extraction, Known, Track, Unit
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, ReadEnd
from vfindex.indexer.models.sound.mel import Sound
from vfindex.indexer.options import Options, Sampling
from vfindex.storage.records import FloatArray, UnitPlan

RATE_HZ = 48_000
TAP = AudioTap(RATE_HZ)
END = ReadEnd(0, None, None, 0, 0, "")
OPTIONS = Options(Sampling(), asr=False)


class Loudness:
    """Instead of a model: a window of two seconds has the vector (1, its loudest sample)."""

    rate_hz, window_s, dim, batch_windows = RATE_HZ, 2.0, 2, 3

    def __init__(self) -> None:
        self.batches: list[list[int]] = []

    def encode_sounds(self, sounds: Sequence[Sound]) -> FloatArray:
        self.batches.append([len(sound) for sound in sounds])
        return np.array([[1, np.abs(sound.astype(int)).max()] for sound in sounds], np.float32)


def begun(model: Any, *, options: Options = OPTIONS, has_audio: bool = True, decodes: bool = True) -> Extraction:
    video: Any = SimpleNamespace(has_audio=has_audio)
    track: Any = SimpleNamespace(index=1) if decodes else None
    return AudioExtractor(model).begin(Unit(video, UnitPlan(0), options, Known(), track))


def heard(model: Any, *parts: tuple[float, float, int]) -> Track:
    """Return the track of parts (start_s, length_s, level), in blocks of half a second."""
    extraction = begun(model)
    for start_s, length_s, level in parts:
        samples = np.full(round(length_s * RATE_HZ), level, np.int16)
        for at in range(0, len(samples), RATE_HZ // 2):
            extraction.feed(AudioBlock(start_s + at / RATE_HZ, samples[at : at + RATE_HZ // 2], TAP))
    return extraction.finish(END)


def test_windows_follow_each_other_and_keep_their_times() -> None:
    model = Loudness()
    track = heard(model, (1.0, 5.0, 700), (6.0, 2.0, 900))
    assert track.spans_s.tolist() == [[1, 3], [3, 5], [5, 7], [7, 8]]
    assert track.vectors is not None
    assert track.vectors[:, 1].tolist() == [700, 700, 900, 900]
    assert model.batches == [[96_000] * 3, [48_000]], "the rest is shorter"
    assert (track.coverage, track.problems, track.segments) == ("4 windows of sound", (), ())
    assert begun(model).taps == (TAP,)


def test_silence_has_no_vector() -> None:
    track = heard(Loudness(), (0, 2, SILENT_PEAK), (2, 2, -SILENT_PEAK - 1), (4, 2, 0))
    assert track.spans_s.tolist() == [[2, 4]]
    assert track.coverage == "3 windows of sound, 2 silent"
    quiet = heard(Loudness(), (0, 4, 0))
    assert quiet.vectors is not None and quiet.vectors.shape == (0, 2) and quiet.spans_s.shape == (0, 2)


def test_the_lowest_sample_is_loud() -> None:
    assert heard(Loudness(), (0, 2, -32_768)).coverage == "1 window of sound"


def test_a_gap_ends_a_window() -> None:
    track = heard(Loudness(), (0, 3, 500), (10, 1, 600), (11.05, 1, 600))
    assert track.spans_s.tolist() == [[0, 2], [2, 3], [10, 12]]


def test_what_is_too_short_to_name_is_left_out() -> None:
    track = heard(Loudness(), (0, 2, 500), (5, MIN_WINDOW_S - 0.01, 500), (9, MIN_WINDOW_S, 500))
    assert track.spans_s.tolist() == [[0, 2], [9, 9.5]]


def test_memory_does_not_grow_with_the_length() -> None:
    model = Loudness()
    extraction: Any = begun(model)
    block = np.full(RATE_HZ, 500, np.int16)
    for second in range(600):
        extraction.feed(AudioBlock(float(second), block, TAP))
        kept = len(extraction._begun) + sum(map(len, extraction._batch))
        assert kept <= (model.batch_windows + 1) * model.window_s * RATE_HZ
    assert len(extraction.finish(END).spans_s) == 300


def test_damaged_packets_are_reported() -> None:
    extraction = begun(Loudness())
    extraction.feed(AudioBlock(0.0, np.full(RATE_HZ, 500, np.int16), TAP))
    track = extraction.finish(ReadEnd(0, None, None, 0, 0, "", audio_packets=50, damaged_audio=2))
    assert track.problems == ("2 damaged packets of 50 of its audio were skipped",)
    assert track.coverage == f"1 window of sound; {track.problems[0]}"


@pytest.mark.parametrize(
    ("reason", "how"),
    [
        ("no sound", {"has_audio": False, "decodes": False}),
        ("this FFmpeg has no decoder for its audio", {"decodes": False}),
        ("the preview has no sound", {"options": OPTIONS.coarsely()}),
        ("its decoder failed, so that its pictures alone were read", {"options": OPTIONS.safely()}),
    ],
)
def test_without_sound_nothing_is_decoded(reason: str, how: dict[str, Any]) -> None:
    extraction = begun(Loudness(), **how)
    assert extraction.taps == ()
    track = extraction.finish(END)
    assert (track.coverage, track.vectors, track.problems) == (reason, None, ())


def test_without_a_model_nothing_is_decoded() -> None:
    extraction = begun(None)
    assert (extraction.taps, extraction.finish(END).coverage) == ((), "not read: sounds were off")
