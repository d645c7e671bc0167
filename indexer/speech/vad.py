"""Voice activity detection: the spans of audio that may contain speech."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from pocketsphinx import Endpointer, Vad

from vfindex.indexer.media.decoder import AudioBlock
from vfindex.indexer.media.protocol import SAMPLE_RATE_HZ

MAX_UTTERANCE_S = 15.0  # bounds memory and the loss by one failure; speakers pause for breath about every 5 s
CUT_FROM = 2 / 3  # a longer utterance is cut at the quietest moment of the last third of the 15 s
CUT_SMOOTHING_FRAMES = 5  # quiet for 0.15 s, not for one frame inside a consonant
FRAME_HZ, FFT_BINS, WINDOW_SAMPLES = 100, 512, 400  # 25 ms of audio every 10 ms
BAND_EDGES_HZ = np.geomspace(125.0, 7500.0, 21)
SYLLABLES_HZ = (2.0, 8.0)  # people say 2 to 8 syllables a second, in every language
GAP_S = 0.1  # smaller time jumps are rounding of containers; at larger ones audio is missing or repeated


@dataclass(frozen=True, slots=True)
class Utterance:
    """Audio that may contain speech: (n,) int16 at SAMPLE_RATE_HZ, from start_s on."""

    start_s: float
    samples: NDArray[np.int16]

    @property
    def length_s(self) -> float:
        """How long it lasts."""
        return len(self.samples) / SAMPLE_RATE_HZ


class VoiceFinder:
    """Cuts utterances out of a stream of blocks with WebRTC's voice activity detector, part of PocketSphinx.

    It rejects silence and steady noise, but accepts most music; the recogniser's confidence distinguishes these.
    Buffers at most one utterance.
    """

    def __init__(self) -> None:
        self._begin(0.0)

    def _begin(self, time_s: float) -> None:
        self._endpointer = Endpointer(vad_mode=Vad.MEDIUM_LOOSE, sample_rate=SAMPLE_RATE_HZ)
        self._frame_bytes: int = self._endpointer.frame_bytes
        self._origin_s = time_s  # time of the endpointer's first sample
        self._fed = 0  # samples taken since
        self._rest = b""  # less than a frame
        self._voiced = bytearray()
        self._voiced_from_s = time_s

    def feed(self, block: AudioBlock) -> Iterator[Utterance]:
        """Yield the utterances that end in this block. A jump in time ends an utterance."""
        if abs(block.time_s - (self._origin_s + self._fed / SAMPLE_RATE_HZ)) > GAP_S:
            yield from self.finish()
            self._begin(block.time_s)
        self._fed += len(block.samples)
        data = self._rest + np.ascontiguousarray(block.samples, dtype="<i2").tobytes()
        whole = len(data) - len(data) % self._frame_bytes
        for at in range(0, whole, self._frame_bytes):
            voiced = self._endpointer.process(data[at : at + self._frame_bytes])
            if voiced is not None:
                yield from self._add(voiced, ended=not self._endpointer.in_speech)
        self._rest = data[whole:]

    def finish(self) -> Iterator[Utterance]:
        """Yield the unfinished utterance at the end of the audio, and reset the finder."""
        if self._endpointer.in_speech:
            yield from self._add(self._endpointer.end_stream(self._rest) or b"", ended=True)
        self._begin(self._origin_s + self._fed / SAMPLE_RATE_HZ)

    def _add(self, voiced: bytes, *, ended: bool) -> Iterator[Utterance]:
        if not self._voiced:
            self._voiced_from_s = self._origin_s + self._endpointer.speech_start
        self._voiced += voiced
        if not ended and len(self._voiced) < MAX_UTTERANCE_S * SAMPLE_RATE_HZ * 2:
            return
        samples = np.frombuffer(bytes(self._voiced), dtype="<i2").astype(np.int16)
        cut = len(samples) if ended else self._quietest(samples)
        del self._voiced[: 2 * cut]
        if cut:
            yield Utterance(self._voiced_from_s, samples[:cut])
        self._voiced_from_s += cut / SAMPLE_RATE_HZ

    def _quietest(self, samples: NDArray[np.int16]) -> int:
        """Return the sample at which a long utterance is cut."""
        frame = self._frame_bytes // 2
        loudness = np.abs(samples[: len(samples) // frame * frame].reshape(-1, frame).astype(np.int32)).mean(axis=1)
        smooth = np.convolve(loudness, np.ones(CUT_SMOOTHING_FRAMES) / CUT_SMOOTHING_FRAMES, mode="same")
        first = int(len(smooth) * CUT_FROM)
        last = len(smooth) - CUT_SMOOTHING_FRAMES  # beyond it the smoothing window contains padding
        return (first + int(smooth[first:last].argmin())) * frame


def syllable_depth(samples: NDArray[np.int16]) -> float:
    """Return the modulation depth of audio at the rate of syllables: 0 for steady noise, about 1 for speech.

    samples: (n,) int16 at SAMPLE_RATE_HZ, a second or more. In 20 bands from 125 Hz to 7.5 kHz the amplitude is
    followed over time, and its root mean square between 2 and 8 Hz taken as a share of its mean. The result is the mean
    over the half of the bands where this is largest, because noise masks the others. Modulation near 4 Hz makes speech
    intelligible (Houtgast and Steeneken 1985, J. Acoust. Soc. Am. 77, 1069) and distinguishes it from music (Scheirer
    and Slaney 1997, ICASSP).
    """
    windows = np.lib.stride_tricks.sliding_window_view(samples, WINDOW_SAMPLES)[:: SAMPLE_RATE_HZ // FRAME_HZ]
    spectrum = np.fft.rfft(windows * np.hanning(WINDOW_SAMPLES), FFT_BINS, axis=1)
    edges = np.round(BAND_EDGES_HZ * FFT_BINS / SAMPLE_RATE_HZ).astype(int)
    power = np.square(np.abs(spectrum)) + 1.0  # digital silence has mean 0
    bands = np.sqrt(np.add.reduceat(power[:, : edges[-1]], np.unique(edges[:-1]), axis=1))
    modulation = np.fft.rfft(bands / bands.mean(axis=0), axis=0) / len(bands)
    rates_hz = np.fft.rfftfreq(len(bands), 1 / FRAME_HZ)
    inside = (rates_hz > SYLLABLES_HZ[0]) & (rates_hz < SYLLABLES_HZ[1])
    depths = np.sqrt(2 * np.square(np.abs(modulation[inside])).sum(axis=0))
    return float(np.sort(depths)[len(depths) // 2 :].mean())
