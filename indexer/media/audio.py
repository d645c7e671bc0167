"""Inside the decode child: audio as one channel, at each rate that is asked for, in blocks with their time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from vfindex.indexer.media.clock import seconds
from vfindex.storage.records import FloatArray

Send = Callable[..., None]

BLOCK_S = 0.5  # sent at once, at least
MAX_BLOCK_S = 2.0
# Relative loudness of channels in the mix, from ITU-R BS.775's downmix of surround sound; LFE has no speech.
WEIGHTS = {"FC": 1.0, "FL": 0.7071, "FR": 0.7071, "LFE": 0.0, "LFE2": 0.0}
SURROUND_WEIGHT = 0.5
# Channels that cancel each other leave this little of the power of the loudest one. Speech in one of two channels
# leaves a quarter, in the centre of 5.1 a twelfth.
CANCELLED = 0.05
# ValueError, ArithmeticError: frames whose rate, layout or format no resampler takes. MemoryError: audio that needs too
# much memory is dropped, and reading frames continues.
DECODE_ERRORS = (av.FFmpegError, ValueError, ArithmeticError, MemoryError)
JUMP_S = 0.1  # time stamps this far from the samples counted are a gap; less is rounding and codec padding


def mono_weights(channels: Sequence[str]) -> FloatArray:
    """Return the weight of each channel, by FFmpeg's name, in the mix: (n,) float32, summing to 1."""
    weights = np.array([WEIGHTS.get(name, SURROUND_WEIGHT) for name in channels], np.float32)
    return weights / weights.sum() if weights.any() else np.full(len(channels), 1 / len(channels), np.float32)


def to_mono(channels: NDArray[np.int16], weights: FloatArray | None) -> NDArray[np.int16]:
    """Return (n,) of (channels, n): their mix, or the loudest channel if they cancel each other."""
    if len(channels) == 1 or weights is None:
        return channels[:1].reshape(-1)
    sound = channels.astype(np.float32)
    mixed: FloatArray = weights @ sound
    powers: FloatArray = np.einsum("ij,ij->i", sound, sound)
    loudest = int(np.argmax(powers))
    is_cancelled = float(mixed @ mixed) < CANCELLED * float(powers[loudest])
    return channels[loudest : loudest + 1].reshape(-1) if is_cancelled else np.rint(mixed).astype(np.int16)


class AudioReader:
    """Decodes audio once, and sends it as mono at each rate, in blocks with their time.

    A failure costs its packet, never the frames. packets: those in the interval; damaged: those of them that could not
    be decoded.
    """

    def __init__(self, start_s: float | None, end_s: float | None, rates_hz: Sequence[int], send: Send) -> None:
        self._start_s = start_s
        self._taps = [_MonoTap(number, rate_hz, (start_s, end_s), send) for number, rate_hz in enumerate(rates_hz)]
        self._stream: AudioStream | None = None
        self._kind: tuple[str, str, int] | None = None  # None: the next frame begins anew
        self._next_s = 0.0  # time at which the next input frame is due
        self.packets = 0
        self.damaged = 0

    def decode(self, packet: Packet[AudioStream]) -> None:
        """Take the next packet."""
        self._stream = packet.stream
        time_s = seconds(packet.pts, packet.time_base)
        counts = self._start_s is None or time_s is None or time_s >= self._start_s  # before it, a decoder only settles
        self.packets += counts
        try:
            for frame in packet.decode():
                self._add(frame, packet.time_base)
        except DECODE_ERRORS:
            self.damaged += counts
            self._kind = None
            for tap in self._taps:
                tap.forget()

    def _add(self, frame: AudioFrame, time_base: Fraction | None) -> None:
        time_s = seconds(frame.pts, time_base)
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if time_s is None:
            time_s = self._next_s
        if kind != self._kind or abs(time_s - self._next_s) > JUMP_S:
            self._kind = None  # until every tap has begun anew
            for tap in self._taps:
                tap.restart(frame, time_s)
            self._kind, self._next_s = kind, time_s
        self._next_s += frame.samples / frame.sample_rate
        frame.pts = None  # times are counted here; the resampler would pad and cut by its own rules
        for tap in self._taps:
            tap.add(frame)

    def finish(self) -> None:
        """Send the rest."""
        if self._stream is None:
            return
        try:
            for frame in self._stream.codec_context.decode(None):
                self._add(frame, self._stream.time_base)
            for tap in self._taps:
                tap.flush()
        except DECODE_ERRORS:
            self.damaged += 1
            for tap in self._taps:
                tap.send_kept()


class _MonoTap:
    """Resamples decoded audio to one rate, mixes it to mono and sends it."""

    def __init__(self, number: int, rate_hz: int, interval: tuple[float | None, float | None], send: Send) -> None:
        self._number, self._rate_hz, self._interval, self._send = number, rate_hz, interval, send
        self._resampler: AudioResampler | None = None
        self._weights: FloatArray | None = None
        self._out_s = 0.0  # time of the first sample kept back
        self._kept: list[NDArray[np.int16]] = []  # (channels, n) each
        self._kept_samples = 0

    def restart(self, frame: AudioFrame, time_s: float) -> None:
        """Begin anew with this frame."""
        self.flush()
        # Packed: of planar frames, PyAV 18 reads the channels after the eighth from wrong memory, and crashes.
        self._resampler = AudioResampler(format="s16", layout=frame.layout, rate=self._rate_hz)
        self._weights = mono_weights([channel.name for channel in frame.layout.channels])
        self._out_s = time_s

    def add(self, frame: AudioFrame) -> None:
        """Take the next frame."""
        if self._resampler is not None:
            self._keep(self._resampler.resample(frame))

    def forget(self) -> None:
        """Drop what the resampler buffers."""
        self._resampler = None

    def flush(self) -> None:
        """Send what the resampler and the block still buffer."""
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            self._keep(resampler.resample(None))
        self.send_kept()

    def _keep(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1, frame.layout.nb_channels).T.astype(np.int16, copy=False)
            self._kept.append(samples)
            self._kept_samples += samples.shape[1]
        if self._kept_samples >= BLOCK_S * self._rate_hz:
            self.send_kept()

    def send_kept(self) -> None:
        """Send the samples kept back."""
        if not self._kept:
            return
        rate_hz, (from_s, to_s) = self._rate_hz, self._interval
        samples = to_mono(np.concatenate(self._kept, axis=1), self._weights)
        start_s = self._out_s
        self._out_s += len(samples) / rate_hz
        self._kept, self._kept_samples = [], 0
        first, last = 0, len(samples)
        if from_s is not None:
            first = max(0, math.ceil((from_s - start_s) * rate_hz))
        if to_s is not None:
            last = min(last, math.ceil((to_s - start_s) * rate_hz))
        step = int(MAX_BLOCK_S * rate_hz)
        for begin in range(first, last, step):
            block = np.ascontiguousarray(samples[begin : min(last, begin + step)])
            header = {"kind": "audio", "tap": self._number, "time_s": start_s + begin / rate_hz, "samples": len(block)}
            self._send(header, block.tobytes())
