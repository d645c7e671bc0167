"""Inside the decode child: sound as one channel at one rate, in blocks that know their time."""

from __future__ import annotations

import math
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from numpy.typing import NDArray

from vfindex.indexer.decode_open import seconds

Send = Callable[..., None]

SAMPLE_RATE_HZ = 16_000
BLOCK = 8_000  # samples sent at once, half a second
JUMP_S = 0.1  # time stamps this far from the samples counted are a gap; less is rounding and codec padding


class Sound:
    """Decoded sound as mono at SAMPLE_RATE_HZ, in blocks that know their time. Damage costs the packet, no more."""

    def __init__(self, start_s: float | None, end_s: float | None, send: Send) -> None:
        self._start_s, self._end_s, self._send = start_s, end_s, send
        self._stream: AudioStream | None = None
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._next_s = 0.0  # time at which the next input frame is due
        self._out_s = 0.0  # time of the first sample kept back
        self._kept: list[NDArray[np.int16]] = []
        self._kept_samples = 0
        self.damaged = 0

    def decode(self, packet: Packet[AudioStream]) -> None:
        """Take the next packet."""
        self._stream = packet.stream
        try:
            for frame in packet.decode():
                self._add(frame, packet.time_base)
        except av.FFmpegError:
            self.damaged += 1

    def _add(self, frame: AudioFrame, time_base: Fraction | None) -> None:
        time_s = seconds(frame.pts, time_base)
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if time_s is None:
            time_s = self._next_s
        if self._resampler is None or kind != self._kind or abs(time_s - self._next_s) > JUMP_S:
            self.flush()
            self._resampler = AudioResampler(format="s16", layout="mono", rate=SAMPLE_RATE_HZ)
            self._kind, self._out_s = kind, time_s
            self._next_s = time_s
        self._next_s += frame.samples / frame.sample_rate
        frame.pts = None  # times are counted here; the resampler would fill or cut by its own lights
        self._keep(self._resampler.resample(frame))

    def _keep(self, frames: list[AudioFrame]) -> None:
        for frame in frames:
            samples = frame.to_ndarray().reshape(-1).astype(np.int16, copy=False)
            self._kept.append(samples)
            self._kept_samples += len(samples)
        if self._kept_samples >= BLOCK:
            self._flush_kept()

    def finish(self) -> None:
        """Send everything up to the end of the sound."""
        if self._stream is not None:
            try:
                for frame in self._stream.codec_context.decode(None):
                    self._add(frame, self._stream.time_base)
            except av.FFmpegError:
                self.damaged += 1
        self.flush()

    def flush(self) -> None:
        """Send what the resampler and the block still hold."""
        if self._resampler is not None and self._kind is not None:
            self._keep(self._resampler.resample(None))
            self._resampler = None
        self._flush_kept()

    def _flush_kept(self) -> None:
        if not self._kept:
            return
        samples = np.concatenate(self._kept)
        start_s = self._out_s
        self._out_s += len(samples) / SAMPLE_RATE_HZ
        self._kept, self._kept_samples = [], 0
        first, last = 0, len(samples)
        if self._start_s is not None:
            first = max(0, math.ceil((self._start_s - start_s) * SAMPLE_RATE_HZ))
        if self._end_s is not None:
            last = min(last, math.ceil((self._end_s - start_s) * SAMPLE_RATE_HZ))
        for begin in range(first, last, 4 * BLOCK):
            block = np.ascontiguousarray(samples[begin : min(last, begin + 4 * BLOCK)])
            time_s = start_s + begin / SAMPLE_RATE_HZ
            self._send({"kind": "audio", "time_s": time_s, "samples": len(block)}, block.tobytes())
