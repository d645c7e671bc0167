"""Inside the decode child: one pass over a file that gives sampled frames and sound."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from typing import Any

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vfindex.indexer.decode_open import Beat, Refusal, Source, is_shown, open_source, packet_time, seconds, shape_px
from vfindex.indexer.sampling import AUTO_GAP_S, Coded, Mode, Sampler, Step
from vfindex.indexer.wire import LONG_SIDE

Send = Callable[..., None]

SAMPLE_RATE_HZ = 16_000
AUDIO_BLOCK = 8_000  # samples sent at once, half a second
AUDIO_JUMP_S = 0.1  # time stamps this far from the samples counted are a gap; less is rounding and codec padding
AUDIO_PREROLL_S = 0.5  # sound read before a stretch, so that the decoder has settled when it begins
SEEK_BACK_S = (0.0, 10.0, 60.0)  # how much earlier to try again when a seek lands too late, before giving up on seeking
MAX_FAILURES = 2_000  # damaged packets in a row, about a minute; then the rest is not worth its time
MAX_DEMUX_FAILURES = 20  # a demuxer that fails without moving on would fail for ever
OVERRUN_S = AUTO_GAP_S + 1.0  # how far past the end packets are read: until the last GOP is settled, and reordered
EARLY_END_S = 2.0  # a file that ends this much before its header says is cut off


@dataclass(frozen=True)
class Order:
    """What is asked for: see `media.Decoder.read`."""

    mode: Mode
    fps: float
    size_px: int
    audio: bool
    start_s: float | None
    end_s: float | None


def frame_shape(width_px: int, height_px: int, size_px: int) -> tuple[int, int]:
    """Return (width, height) with the short side `size_px` and the long side at most LONG_SIDE times that."""
    scale = size_px / min(width_px, height_px)
    longest = LONG_SIDE * size_px
    return min(longest, max(size_px, round(width_px * scale))), min(longest, max(size_px, round(height_px * scale)))


class Painter:
    """Turns decoded frames into small upright RGB pictures."""

    def __init__(self, source: Source, size_px: int) -> None:
        self._shape = frame_shape(*shape_px(source.video, 0), size_px)
        self._scaler = VideoReformatter()

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (height, width, 3) uint8, contiguous."""
        small = self._scaler.reformat(
            frame,
            width=self._shape[0],
            height=self._shape[1],
            format="rgb24",
            interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT,
            dst_color_range="JPEG",
            threads=1,
        )
        turns = round(frame.rotation / 90)  # both count counter-clockwise
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), turns), dtype=np.uint8)


class Sound:
    """Decoded sound as mono at SAMPLE_RATE_HZ, in blocks that know their time. Damage costs the packet, no more."""

    def __init__(self, order: Order, send: Send) -> None:
        self._order, self._send = order, send
        self._resampler: AudioResampler | None = None
        self._kind: tuple[str, str, int] | None = None
        self._next_s = 0.0  # time at which the next input frame is due
        self._out_s = 0.0  # time of the first sample kept back
        self._kept: list[NDArray[np.int16]] = []
        self._kept_samples = 0
        self.damaged = 0

    def decode(self, packet: Packet[AudioStream]) -> None:
        """Take the next packet."""
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
        if self._resampler is None or kind != self._kind or abs(time_s - self._next_s) > AUDIO_JUMP_S:
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
        if self._kept_samples >= AUDIO_BLOCK:
            self._flush_kept()

    def finish(self, stream: AudioStream) -> None:
        """Send everything up to the end of the sound."""
        try:
            for frame in stream.codec_context.decode(None):
                self._add(frame, stream.time_base)
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
        if self._order.start_s is not None:
            first = max(0, math.ceil((self._order.start_s - start_s) * SAMPLE_RATE_HZ))
        if self._order.end_s is not None:
            last = min(last, math.ceil((self._order.end_s - start_s) * SAMPLE_RATE_HZ))
        for begin in range(first, last, 4 * AUDIO_BLOCK):
            block = np.ascontiguousarray(samples[begin : min(last, begin + 4 * AUDIO_BLOCK)])
            time_s = start_s + begin / SAMPLE_RATE_HZ
            self._send({"kind": "audio", "time_s": time_s, "samples": len(block)}, block.tobytes())


@dataclass
class Pictures:
    """Decodes what the sampler chooses, and counts."""

    source: Source
    order: Order
    sampler: Sampler[Packet[Any]]
    send: Send
    painter: Painter
    damaged: int = 0
    failures: int = 0  # damaged packets in a row
    coded: int = 0
    decoded: int = 0
    first_s: float | None = None
    last_s: float | None = None
    rotation_deg: int = 0
    backwards: int = 0
    _sent_s: float = -math.inf
    _from_s: float = -math.inf
    _undrained: bool = False
    _seen_s: float | None = field(default=None)

    def inside(self, time_s: float) -> bool:
        """Return whether the time lies in the stretch asked for."""
        start_s, end_s = self.order.start_s, self.order.end_s
        return (start_s is None or time_s >= start_s) and (end_s is None or time_s < end_s)

    def packet(self, packet: Packet[Any]) -> None:
        """Take the next packet of the video stream, in file order."""
        time_s = packet_time(packet)
        if not packet.size:
            return  # a repeated frame (Theora): decoders refuse empty packets
        if time_s is None:
            time_s = self._seen_s if self._seen_s is not None else 0.0
        self._seen_s = time_s
        if is_shown(packet, self.source.video.codec_context.name) and self.inside(time_s):
            self.coded += 1
            if self.order.mode != "fps":
                self._span(time_s)
        for step in self.sampler.push(Coded(time_s, packet.is_keyframe, packet.size, packet)):
            self._do(step)

    def finish(self) -> None:
        """Decode what is left."""
        for step in self.sampler.finish():
            self._do(step)
        self._drain()

    def _span(self, time_s: float) -> None:
        self.first_s = time_s if self.first_s is None else min(self.first_s, time_s)
        self.last_s = time_s if self.last_s is None else max(self.last_s, time_s)

    def _do(self, step: Step[Packet[Any]]) -> None:
        if step.fresh or step.alone:
            self._drain()
        self._from_s = step.from_s
        self._decode(step.packet)
        if step.alone:
            self._drain()

    def _drain(self) -> None:
        """Get the frames that the decoder holds back, and have it forget everything."""
        if self._undrained:
            self._decode(None)
            self.source.video.codec_context.flush_buffers()
            self._undrained = False

    def _decode(self, packet: Packet[Any] | None) -> None:
        try:
            frames = self.source.video.codec_context.decode(packet)
            self._undrained = True
            self.failures = 0
        except av.FFmpegError:
            self.damaged += 1
            self.failures += 1
            self._undrained = True
            return
        for frame in frames:
            self._frame(frame)

    def _frame(self, frame: VideoFrame) -> None:
        time_s = seconds(frame.pts, self.source.video.time_base)  # drained frames know no time base of their own
        if time_s is None:
            reason = "its frames carry no times"
            raise Refusal("decode", "no_times", reason, "remux it, for example `ffmpeg -i FILE -c copy FILE.mkv`")
        if time_s < self._from_s:
            return
        if self.inside(time_s):
            self.decoded += 1
            self.rotation_deg = frame.rotation
            if self.order.mode == "fps":
                self._span(time_s)
        taken = self.sampler.takes(time_s, key=frame.key_frame)
        if not taken or not self.inside(time_s):
            return
        if time_s <= self._sent_s:
            self.backwards += 1
            return
        self._sent_s = time_s
        pixels = self.painter.pixels(frame)
        height, width = pixels.shape[:2]
        self.send({"kind": "frame", "time_s": time_s, "height": height, "width": width}, pixels.reshape(-1).data)


def first_key(source: Source) -> float | None:
    """Return the time of the file's first keyframe, None where there is none. Moves the source on."""
    try:
        for packet in source.container.demux(source.video):
            if packet.is_keyframe and packet.size:
                return packet_time(packet)
    except av.FFmpegError:
        return None
    return None


def sought(source: Source, target_s: float) -> Source:
    """Return the source where the next keyframe is at or before `target_s`, or at its beginning."""
    video = source.video
    for back_s in SEEK_BACK_S:
        try:
            source.container.seek(int((target_s - back_s) / (video.time_base or 1)), stream=video)
        except av.FFmpegError:
            break  # this container cannot seek
        key_s = first_key(source)
        if key_s is not None and key_s <= target_s:
            source.container.seek(int((target_s - back_s) / (video.time_base or 1)), stream=video)
            return source
    return source.reopened()


def packets(source: Source, streams: list[Stream], beat: Beat) -> Iterator[Packet[Any] | str]:
    """Yield the packets of the streams, and at the end of a file that breaks off a sentence that says so."""
    failures = 0
    while True:
        try:
            for packet in source.container.demux(*streams):
                beat()
                failures = 0
                if packet.size or packet.dts is not None:  # else it is PyAV's sign to drain the decoder
                    yield packet
            return
        except av.FFmpegError as exc:
            failures += 1
            if failures > MAX_DEMUX_FAILURES:
                yield f"the container is damaged ({exc.strerror})"
                return


def read(path: bytes, order: Order, send: Send, beat: Beat) -> dict[str, Any]:
    """Send frames and sound, return the fields of a ReadEnd; raises Refusal."""
    source = open_source(path)
    try:
        sampler: Sampler[Packet[Any]] = Sampler(order.mode, order.fps)
        if order.start_s is not None:
            sampler.opening_s = first_key(source)
            source = sought(source, sampler.anchor_s(order.start_s) - AUDIO_PREROLL_S * order.audio)
        audio = next(iter(source.container.streams.audio), None) if order.audio else None
        pictures = Pictures(source, order, sampler, send, Painter(source, order.size_px))
        error = _pump(source, audio, pictures, Sound(order, send), beat)
        return {
            "frames": pictures.decoded if order.mode == "fps" else pictures.coded,
            "first_s": pictures.first_s,
            "last_s": pictures.last_s,
            "rotation_deg": pictures.rotation_deg,
            "damaged": pictures.damaged,
            "error": error or cut_off(source, pictures) or out_of_order(pictures),
        }
    finally:
        source.close()


def _pump(source: Source, audio: AudioStream | None, pictures: Pictures, sound: Sound, beat: Beat) -> str:
    """Read packets until the stretch is done; return why reading ended early, or "" ."""
    video, end_s = source.video, pictures.order.end_s
    streams: list[Stream] = [video] if audio is None else [video, audio]
    source.only(*streams)
    error = ""
    for packet in packets(source, streams, beat):
        if isinstance(packet, str):
            error = packet
        elif packet.stream_index == video.index:
            if end_s is not None and (seconds(packet.dts, packet.time_base) or 0.0) > end_s + OVERRUN_S:
                break
            pictures.packet(packet)
            if pictures.failures > MAX_FAILURES:
                error = f"{pictures.failures} damaged packets in a row"
                break
        elif end_s is None or (packet_time(packet) or 0.0) < end_s:
            sound.decode(packet)
    pictures.finish()
    if audio is not None:
        sound.finish(audio)
    return error


def cut_off(source: Source, pictures: Pictures) -> str:
    """Return a sentence where the video ends well before its header says, else "" ."""
    stream = source.video
    header_s = seconds(stream.duration, stream.time_base)
    if header_s is None and len(source.container.streams) == 1 and source.container.duration:
        header_s = source.container.duration / av.time_base
    header_s = _tagged_duration(stream) if header_s is None else header_s
    if header_s is None or pictures.order.end_s is not None or pictures.last_s is None:
        return ""
    begin_s = seconds(stream.start_time, stream.time_base) or 0.0
    frame_s = float(1 / stream.average_rate) if stream.average_rate else 0.0
    if pictures.last_s + frame_s + EARLY_END_S > begin_s + header_s:
        return ""
    return f"the video ends at {pictures.last_s:.1f} s, its header says {begin_s + header_s:.1f} s: it is cut off"


def _tagged_duration(stream: Stream) -> float | None:
    """Return Matroska's DURATION tag (HH:MM:SS.fraction) in seconds, None where there is none."""
    parts = stream.metadata.get("DURATION", "").split(":")
    try:
        hours, minutes, rest = (float(part) for part in parts)
    except ValueError:
        return None
    total_s = hours * 3600 + minutes * 60 + rest
    return total_s if math.isfinite(total_s) else None


def out_of_order(pictures: Pictures) -> str:
    """Return a sentence where frames were left out as their times run backwards, else "" ."""
    return f"{pictures.backwards} frames left out: their times run backwards" if pictures.backwards else ""
