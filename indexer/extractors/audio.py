"""The audio modality: what is heard besides words, as vectors of windows of sound."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from vfindex.indexer.extractors.base import Track, Unit
from vfindex.indexer.media.decoder import AudioBlock, AudioTap, Frame, ReadEnd
from vfindex.indexer.models.sound.mel import Sound
from vfindex.indexer.speech.audio_tracks import lost_audio
from vfindex.storage.errors import counted
from vfindex.storage.modalities import switches

if TYPE_CHECKING:
    from vfindex.indexer.models.sound.clap import ClapEncoder

NAME = "audio"
# Sound below -60 dB of full scale is silence: it has no vector, so that it neither raises nor lowers a clip.
SILENT_PEAK = 32
# A shorter rest of a track, or of a part between two gaps, is too short to name what it is of.
MIN_WINDOW_S = 0.5
# Blocks whose time differs by more from the samples counted follow a gap, as in the decoder.
GAP_S = 0.1


class AudioExtractor:
    """Encodes the sound of a video; an `Extractor`. encoder: None if the run leaves sounds out."""

    def __init__(self, encoder: ClapEncoder | None) -> None:
        self._encoder = encoder

    def begin(self, unit: Unit) -> AudioExtraction | NoAudio:
        reason = _why_not(unit)
        if self._encoder is None or reason:
            return NoAudio(reason or switches()[NAME].coverage)
        return AudioExtraction(self._encoder)


class NoAudio:
    """A unit without sound; an `Extraction`. reason: why."""

    taps: Sequence[AudioTap] = ()

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def feed(self, item: Frame | AudioBlock) -> None:
        raise NotImplementedError("there are no taps")

    def finish(self, end: ReadEnd) -> Track:
        return Track(self._reason)


class AudioExtraction:
    """The sound of one unit in windows, one after the other. At most one batch is in memory."""

    def __init__(self, encoder: ClapEncoder) -> None:
        self.taps: Sequence[AudioTap] = (AudioTap(encoder.rate_hz),)
        self._encoder = encoder
        self._window = round(encoder.window_s * encoder.rate_hz)  # samples
        self._begun = np.zeros(0, np.int16)
        self._begun_s = 0.0
        self._batch: list[Sound] = []
        self._spans_s: list[tuple[float, float]] = []
        self._vectors = [np.zeros((0, encoder.dim), np.float32)]
        self._n_silent = 0

    def feed(self, item: Frame | AudioBlock) -> None:
        if not isinstance(item, AudioBlock):
            return
        rate_hz = self._encoder.rate_hz
        if not len(self._begun) or abs(item.time_s - self._begun_s - len(self._begun) / rate_hz) > GAP_S:
            self._end_part()
            self._begun_s = item.time_s
        self._begun = np.concatenate([self._begun, item.samples])
        while len(self._begun) >= self._window:
            self._add(self._begun[: self._window])
            self._begun = self._begun[self._window :]
            self._begun_s += self._window / rate_hz

    def finish(self, end: ReadEnd) -> Track:
        self._end_part()
        self._encode()
        silent = f", {self._n_silent} silent" * bool(self._n_silent)
        lost = lost_audio(end.audio_packets, end.damaged_audio)
        words = f"{counted(len(self._spans_s) + self._n_silent, 'window')} of sound{silent}"
        return Track(
            coverage="; ".join(filter(None, [words, lost])),
            spans_s=np.asarray(self._spans_s, np.float64).reshape(-1, 2),
            vectors=np.concatenate(self._vectors),
            problems=tuple(filter(None, [lost])),
        )

    def _end_part(self) -> None:
        """Add the window that was begun, if it is long enough."""
        if len(self._begun) >= MIN_WINDOW_S * self._encoder.rate_hz:
            self._add(self._begun)
        self._begun = np.zeros(0, np.int16)

    def _add(self, sound: Sound) -> None:
        if max(int(sound.max()), -int(sound.min())) <= SILENT_PEAK:
            self._n_silent += 1
            return
        self._batch.append(sound)
        self._spans_s.append((self._begun_s, self._begun_s + len(sound) / self._encoder.rate_hz))
        if len(self._batch) >= self._encoder.batch_windows:
            self._encode()

    def _encode(self) -> None:
        if self._batch:
            self._vectors.append(self._encoder.encode_sounds(self._batch))
            self._batch.clear()


def _why_not(unit: Unit) -> str:
    """Return why the sound of a unit is not heard, "" if it is."""
    if unit.options.sampling.mode == "sparse":
        return "the preview has no sound"
    if not unit.video.has_audio:
        return "no sound"
    if unit.options.safe:
        return "its decoder failed, so that its pictures alone were read"
    return "" if unit.audio is not None else "this FFmpeg has no decoder for its audio"
