"""Inside the playback child: audio of a span, encoded as AAC, with silence where the source has none."""

from __future__ import annotations

from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from numpy.typing import NDArray

from vfindex.indexer.media.audio import DECODE_ERRORS, JUMP_S
from vfindex.indexer.media.clock import seconds
from vfindex.indexer.playback.copying import Window
from vfindex.indexer.playback.output import Muxer

Samples = NDArray[np.float32]  # (channels, n)

RATE_HZ = 48_000
FRAME_SAMPLES = 1024  # of AAC (ISO/IEC 14496-3, 4.5.1.1)
CHANNEL_BIT_RATE = 80_000
LAYOUTS = {1: "mono", 6: "5.1"}  # by the number of channels; of any other number, two are left
MAX_LAG_S = 3.0  # audio that the file stores this much after its video is silence: players wait for both


class AudioEncoder:
    """Encodes samples at their times as one track without gaps."""

    def __init__(self, output: OutputContainer, channels: int, *, primed: bool, language: str | None = None) -> None:
        """primed: keep what the encoder sends before its first sample, for a container that says so."""
        self.layout = LAYOUTS.get(channels, "stereo")
        stream = output.add_stream("aac", rate=RATE_HZ, layout=self.layout, format="fltp")
        self._channels = len(stream.codec_context.layout.channels)
        stream.codec_context.bit_rate = CHANNEL_BIT_RATE * self._channels
        if language:
            stream.metadata["language"] = language
        self._stream, self._muxer, self._primed = stream, Muxer(output, stream), primed
        self._kept: list[Samples] = []
        self._kept_samples = 0
        self._position = 0  # of the next sample to come

    def add(self, samples: Samples, at: int) -> None:
        """Take samples, the first of which is number `at` of the track; what is late is left out."""
        if at > self._position + JUMP_S * RATE_HZ:
            self.silence(at)
        elif at < self._position - JUMP_S * RATE_HZ:
            samples = samples[:, self._position - at :]
        if samples.shape[1]:
            self._keep(samples)

    def silence(self, until: int) -> None:
        """Add silence up to sample number `until`."""
        while self._position < until:
            count = min(until - self._position, RATE_HZ)
            self._keep(np.zeros((self._channels, count), np.float32))

    def finish(self) -> None:
        """Encode the rest."""
        if self._kept_samples:
            self._encode(np.concatenate(self._kept, axis=1))
        self._kept, self._kept_samples = [], 0
        self._write(self._stream.codec_context.encode(None))

    def _keep(self, samples: Samples) -> None:
        self._kept.append(samples)
        self._kept_samples += samples.shape[1]
        self._position += samples.shape[1]
        if self._kept_samples >= FRAME_SAMPLES:
            whole = np.concatenate(self._kept, axis=1)
            ready = self._kept_samples // FRAME_SAMPLES * FRAME_SAMPLES
            self._kept, self._kept_samples = [whole[:, ready:]], self._kept_samples - ready
            for begin in range(0, ready, FRAME_SAMPLES):
                self._encode(whole[:, begin : begin + FRAME_SAMPLES], behind=whole.shape[1] - begin)

    def _encode(self, samples: Samples, behind: int | None = None) -> None:
        frame = AudioFrame.from_ndarray(np.ascontiguousarray(samples), format="fltp", layout=self.layout)
        frame.sample_rate = RATE_HZ
        frame.pts = self._position - (samples.shape[1] if behind is None else behind)
        self._write(self._stream.codec_context.encode(frame))

    def _write(self, packets: list[Packet[Any]]) -> None:
        for packet in packets:
            if self._primed or (packet.pts or 0) >= 0:
                self._muxer.write(packet)


class DecodedAudio:
    """Decodes the packets of a track and gives the encoder the samples inside the window."""

    def __init__(self, encoder: AudioEncoder, window: Window) -> None:
        self._encoder, self._window = encoder, window
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None  # None: the next frame begins anew
        self._stream: AudioStream | None = None
        self._next_s = 0.0  # when the next input frame is due
        self._at = 0  # number of the next sample from the resampler
        self.is_done = False

    def push(self, packet: Packet[AudioStream]) -> None:
        """Take the next packet; one that cannot be decoded is silence."""
        if self.is_done:
            return
        self._stream = packet.stream
        time_s = seconds(packet.pts, packet.time_base)
        if time_s is not None and time_s >= self._window.end_s:
            self.is_done = True
            return
        try:
            for frame in packet.decode():
                self._add(frame, seconds(frame.pts, packet.time_base))
        except DECODE_ERRORS:
            self._kind = self._resampler = None

    def keep_up(self, time_s: float) -> None:
        """Add silence where the track stays behind the video, which has come to `time_s` of the source."""
        if not self.is_done:
            self._encoder.silence(min(round(self._window.out_s(time_s - MAX_LAG_S) * RATE_HZ), self._span[1]))

    def finish(self) -> None:
        """Give the encoder what the decoder and the resampler still hold."""
        try:
            if self._stream is not None and not self.is_done:
                for frame in self._stream.codec_context.decode(None):
                    self._add(frame, seconds(frame.pts, self._stream.time_base))
            self._flush()
        except DECODE_ERRORS:
            self._resampler = None

    def _add(self, frame: AudioFrame, time_s: float | None) -> None:
        time_s = self._next_s if time_s is None else time_s
        kind = (frame.format.name, frame.layout.name, frame.sample_rate)
        if kind != self._kind or abs(time_s - self._next_s) > JUMP_S:
            self._flush()
            self._resampler = AudioResampler(format="fltp", layout=self._encoder.layout, rate=RATE_HZ)
            self._kind, self._next_s = kind, time_s
            self._at = round(self._window.out_s(time_s) * RATE_HZ)
        self._next_s += frame.samples / frame.sample_rate
        frame.pts = None  # times are counted here
        if self._resampler is not None:
            self._take(self._resampler.resample(frame))

    @property
    def _span(self) -> tuple[int, int]:
        """The samples of the window, which is known once its video has begun."""
        window = self._window
        return round(window.base_s * RATE_HZ), round(window.out_s(window.end_s) * RATE_HZ)

    def _flush(self) -> None:
        resampler, self._resampler = self._resampler, None
        if resampler is not None:
            self._take(resampler.resample(None))

    def _take(self, frames: list[av.AudioFrame]) -> None:
        first, last = self._span
        for frame in frames:
            samples = frame.to_ndarray().astype(np.float32, copy=False)
            at, self._at = self._at, self._at + samples.shape[1]
            begin, end = max(at, first), min(self._at, last)
            if begin < end:
                self._encoder.add(samples[:, begin - at : end - at], begin)
