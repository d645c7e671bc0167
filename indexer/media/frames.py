"""Inside the decode child: one pass over a file, which sends sampled frames and audio."""

from __future__ import annotations

import heapq
import math
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, Self

import av
import numpy as np
from av.packet import Packet, PacketSideData
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter
from numpy.typing import NDArray

from vfindex.indexer.media import sniff
from vfindex.indexer.media.audio import AudioReader, Send
from vfindex.indexer.media.clock import FrameTimes, claimed_end_s, seconds
from vfindex.indexer.media.container import (
    Beat,
    Refusal,
    Source,
    check_size,
    is_reset,
    is_shown,
    open_source,
    packet_time,
    rotation,
    shown_px,
)
from vfindex.indexer.media.protocol import FrameTap
from vfindex.indexer.media.sampling import AUTO_GAP_S, MAX_PENDING_BYTES, CodedFrame, Sampler, Step, cell
from vfindex.indexer.media.seeking import packets, packets_from, prime, sparse_packets, streams_read
from vfindex.indexer.options import Mode
from vfindex.storage.encoders.pixels import frame_shape, within
from vfindex.storage.errors import counted

AUDIO_PREROLL_S = 0.5  # audio decoded before the interval, so that the decoder has settled when it begins
MAX_FAILURES = 2_000  # damaged packets in a row, about a minute of video; then reading stops
OVERRUN_S = AUTO_GAP_S + 1.0  # packets read past the end: until the last GOP is decided and its frames are reordered
BACKWARDS_S = 1.0  # a jump back in time that is reported; less is a muxer's jitter and costs one frame
# The filter that most image models were trained with. Against Pillow's, on real frames (tests/bench/parity.py), it is
# off by 0.25 of 255 in the mean and 0.8 at worst; area averaging, by 0.64 and 3.5 in two thirds of the time (720p: 4.6
# ms instead of 8.3, on busy cores). Without full chroma, edges in 1080p are off by up to 75 instead of 22.
SCALING = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
EARLY_END_S = 2.0  # a file that ends this much before its header says is truncated
MIN_EXCESS_S = 60.0  # a header that claims this much beyond twice the frames' time is reported


@dataclass(frozen=True)
class ReadRequest:
    """What to read: see `Decoder.read`. frames: the frame taps. audio: the stream of the audio taps `rates_hz`."""

    mode: Mode
    fps: float
    frames: tuple[FrameTap, ...]
    rates_hz: tuple[int, ...]
    audio: int | None
    start_s: float | None
    end_s: float | None

    @classmethod
    def parse(cls, order: dict[str, Any]) -> Self:
        """Return the request of a message."""
        frames = tuple(FrameTap(**tap) for tap in order["frames"])
        return cls(**{**order, "frames": frames, "rates_hz": tuple(order["rates_hz"])})

    def anchor_s(self, start_s: float) -> float:
        """Return where the first cell begins, of any tap with a rate, that `start_s` lies in."""
        rates = [tap.fps for tap in self.frames if tap.fps is not None]
        return min([start_s, *(cell(start_s, fps) / fps for fps in rates)])


class FrameScaler:
    """Scales decoded frames to upright RGB images of one tap, whatever the shape of each."""

    def __init__(self, source: Source, tap: FrameTap) -> None:
        self._source, self._tap = source, tap
        self._taken_s: float | None = None
        self._coded = self._shape = (0, 0)
        self._scaler = VideoReformatter()

    def takes(self, time_s: float) -> bool:
        """Return whether the tap has the next sampled frame, and remember it."""
        fps, taken_s = self._tap.fps, self._taken_s
        if fps is not None and taken_s is not None and cell(taken_s, fps) == cell(time_s, fps):
            return False
        self._taken_s = time_s
        return True

    def pixels(self, frame: VideoFrame) -> NDArray[np.uint8]:
        """Return (height, width, 3) uint8, contiguous."""
        if self._coded != (frame.width, frame.height):
            check_size(frame.width, frame.height)
            self._coded = (frame.width, frame.height)
            shown = shown_px(*self._coded, self._source.video.sample_aspect_ratio)
            self._shape = (within if self._tap.longest else frame_shape)(*shown, self._tap.size_px)
        small = self._scaler.reformat(
            frame,
            width=self._shape[0],
            height=self._shape[1],
            format="rgb24",
            interpolation=SCALING,
            dst_color_range="JPEG",
            threads=1,
        )
        turns = round(rotation(frame) / 90)  # both count counter-clockwise
        return np.ascontiguousarray(np.rot90(small.to_ndarray(), turns), dtype=np.uint8)


class PacketWithParameters(NamedTuple):
    """A video packet with the latest codec parameters, which may have come with a packet that is not decoded.

    shown_s: when its frame is shown; None if it is not, or if that is not stored.
    """

    packet: Packet[Any]
    parameters: PacketSideData | None
    shown_s: float | None


@dataclass
class FrameReader:
    """Decodes the frames that the sampler chooses, sends the sampled ones, and counts."""

    source: Source
    request: ReadRequest
    sampler: Sampler[PacketWithParameters]
    send: Send
    scalers: tuple[FrameScaler, ...]
    times: FrameTimes
    damaged: int = 0
    failures: int = 0  # damaged packets in a row
    coded: int = 0
    decoded: int = 0  # or left out, because nothing needs them
    first_s: float | None = None
    last_s: float | None = None
    rotation_deg: int = 0
    backwards: int = 0
    _latest_s: float = -math.inf
    _from_s: float = -math.inf
    _undrained: bool = False
    _seen_s: float | None = None
    _parameters: PacketSideData | None = None
    _applied: PacketSideData | None = None
    _unused_s: list[float] = field(default_factory=list)  # a heap: frames that the decoder may leave out
    _skips: bool = False  # whether the decoder leaves out frames that no other refers to
    _held: list[PacketWithParameters] = field(default_factory=list)  # needed only if a sampled frame refers to them
    _held_bytes: int = 0

    def __post_init__(self) -> None:
        # PyAV makes both anew each time.
        self._context = self.source.video.codec_context
        self._codec = self._context.name

    def inside(self, time_s: float) -> bool:
        """Return whether the time is in the requested interval."""
        start_s, end_s = self.request.start_s, self.request.end_s
        return (start_s is None or time_s >= start_s) and (end_s is None or time_s < end_s)

    def packet(self, packet: Packet[Any]) -> None:
        """Take the next packet of the video stream, in file order."""
        time_s = packet_time(packet)
        if not packet.size:
            return  # a repeated frame (Theora): decoders refuse empty packets
        if time_s is None:
            time_s = self._seen_s if self._seen_s is not None else 0.0
        self._seen_s = time_s
        if packet.has_sidedata("new_extradata"):
            self._parameters = packet.get_sidedata("new_extradata")
        shown = is_shown(packet, self._codec)
        if shown and self.inside(time_s):
            self.coded += 1
            if self.request.mode != "fps":
                self._span(time_s)
        entry = PacketWithParameters(packet, self._parameters, time_s if shown and packet.pts is not None else None)
        for step in self.sampler.push(CodedFrame(time_s, packet.is_keyframe, packet.size, entry)):
            self._do(step)

    def finish(self) -> None:
        """Decode the remaining frames."""
        for step in self.sampler.finish():
            self._do(step)
        self._leave_out()
        self._drain()

    def _span(self, time_s: float) -> None:
        self.first_s = time_s if self.first_s is None else min(self.first_s, time_s)
        self.last_s = time_s if self.last_s is None else max(self.last_s, time_s)

    def _do(self, step: Step[PacketWithParameters]) -> None:
        packet, _, shown_s = step.packet
        if step.fresh or step.alone:
            self._leave_out()
            self._drain()
        self._from_s = step.from_s
        if self._held and is_reset(packet, self._codec, self._context.extradata):
            self._leave_out()
        if self._unused(shown_s, key=packet.is_keyframe) is not None and not step.alone:
            self._held.append(step.packet)
            self._held_bytes += packet.size
            if self._held_bytes > MAX_PENDING_BYTES:
                self._send_held()
            return
        self._send_held()
        self._decode(step.packet)
        if step.alone:
            self._drain()

    def _send_held(self) -> None:
        """Decode the held frames, as a later one may refer to them."""
        held, self._held, self._held_bytes = self._held, [], 0
        for entry in held:
            self._decode(entry, skips=True)

    def _leave_out(self) -> None:
        """Drop the held frames, as none that follows refers to them."""
        for entry in self._held:
            if entry.shown_s is not None and self.inside(entry.shown_s):
                heapq.heappush(self._unused_s, entry.shown_s)
        self._held, self._held_bytes = [], 0

    def _drain(self) -> None:
        """Take the frames that the decoder holds back, and reset it."""
        if self._undrained:
            self._decode(None)
            self._count_left_out(math.inf)
            self._context.flush_buffers()
            self.times.forget()
            self._undrained = False

    def _decode(self, entry: PacketWithParameters | None, *, skips: bool = False) -> None:
        """Decode a packet, None for what the decoder holds back. skips: its frame is not sampled."""
        packet = None
        if entry is not None:
            packet, parameters, _ = entry
            if parameters is not None and parameters is not self._applied:
                packet.set_sidedata(parameters)
                self._applied = parameters
            self.times.sent(packet)
            if skips is not self._skips:
                # Of frames that no other refers to, which are half of those of common encodings.
                self._context.skip_frame = "NONREF" if skips else "DEFAULT"
                self._skips = skips
        try:
            frames = self._context.decode(packet)
            self._undrained = True
            self.failures = 0
        except MemoryError:
            raise  # PyAV's is an FFmpegError too, but no damage
        except av.FFmpegError:
            self.damaged += 1
            self.failures += 1
            self._undrained = True
            if packet is not None:
                self.times.lost(packet)
            return
        if skips and entry is not None and entry.shown_s is not None and self.inside(entry.shown_s):
            heapq.heappush(self._unused_s, entry.shown_s)
        for frame in frames:
            self._frame(frame)

    def _unused(self, shown_s: float | None, *, key: bool) -> float | None:
        """Return the time of a frame that is shown but not sampled; None if it may be, or its time is unknown."""
        return None if shown_s is None or self.sampler.may_take(shown_s, key=key) else shown_s

    def _count_left_out(self, now_s: float) -> None:
        """Count the frames before `now_s` that the decoder has left out; it gives frames in order of time."""
        while self._unused_s and self._unused_s[0] <= now_s:
            time_s = heapq.heappop(self._unused_s)
            if time_s < now_s:
                self.decoded += 1
                if self.request.mode == "fps":
                    self._span(time_s)

    def _frame(self, frame: VideoFrame) -> None:
        time_s = self.times.of(frame)
        if time_s is None:
            reason = "its frames carry no times"
            raise Refusal("decode", "no_times", reason, "remux it, for example `ffmpeg -i FILE -c copy FILE.mkv`")
        self._count_left_out(time_s)
        if time_s < self._from_s:
            return
        if self.inside(time_s):
            self.decoded += 1
            self.rotation_deg = rotation(frame)
            if self.request.mode == "fps":
                self._span(time_s)
        self.backwards += self._latest_s - time_s > BACKWARDS_S
        self._latest_s = max(self._latest_s, time_s)
        if not self.sampler.takes(time_s, key=frame.key_frame):
            return
        inside = self.inside(time_s)
        for tap, scaler in enumerate(self.scalers):
            if scaler.takes(time_s) and inside:
                pixels = scaler.pixels(frame)
                height, width = pixels.shape[:2]
                header = {"kind": "frame", "tap": tap, "time_s": time_s, "height": height, "width": width}
                self.send(header, pixels.reshape(-1).data)


def read(path: bytes, request: ReadRequest, send: Send, beat: Beat) -> dict[str, Any]:
    """Send frames and audio, and return the fields of a ReadEnd. Raises Refusal."""
    source = open_source(path)
    try:
        sampler: Sampler[PacketWithParameters] = Sampler(request.mode, request.fps)
        heard = () if request.audio is None else (request.audio,)
        if request.start_s is None:
            streams = streams_read(source, heard)
            source.only(*streams)
            feed = packets(source, streams, beat)
        else:
            sampler.opening_s = prime(source)
            preroll_s = 0.0 if request.audio is None else AUDIO_PREROLL_S
            anchor_s = sampler.anchor_s(request.anchor_s(request.start_s))
            source, feed = packets_from(source, anchor_s - preroll_s, heard, beat)
        if request.mode == "sparse" and request.audio is None:
            feed = sparse_packets(source, feed, sampler.next_due_s, beat)
        scalers = tuple(FrameScaler(source, tap) for tap in request.frames)
        reader = FrameReader(source, request, sampler, send, scalers, FrameTimes(source.clock))
        sound = AudioReader(request.start_s, request.end_s, request.rates_hz, send)
        error = _read_packets(feed, reader, sound)
        return {
            "frames": reader.decoded if request.mode == "fps" else reader.coded,
            "first_s": reader.first_s,
            "last_s": reader.last_s,
            "rotation_deg": reader.rotation_deg,
            "damaged": reader.damaged,
            "damaged_audio": sound.damaged,
            "audio_packets": sound.packets,
            "error": error or truncation(source, reader) or _out_of_order(reader),
            "note": excess_length(source, reader),
        }
    finally:
        source.close()


def _read_packets(feed: Iterator[Packet[Any] | str], reader: FrameReader, sound: AudioReader) -> str:
    """Read packets to the end of the interval; return why reading stopped early, or "" ."""
    video, end_s = reader.source.video, reader.request.end_s
    error = ""
    for packet in feed:
        if isinstance(packet, str):
            error = packet
        elif packet.stream_index == video.index:
            if end_s is not None and (seconds(packet.dts, packet.time_base) or -math.inf) > end_s + OVERRUN_S:
                break
            if reader.request.frames:
                reader.packet(packet)
            if reader.failures > MAX_FAILURES:
                error = f"{reader.failures} damaged packets in a row"
                break
        elif end_s is None or (packet_time(packet) or 0.0) < end_s:
            sound.decode(packet)
    reader.finish()
    sound.finish()
    return error


def truncation(source: Source, reader: FrameReader) -> str:
    """Return a sentence if the file is truncated: the video ends well before its header says. Else "" ."""
    last_s = reader.last_s
    if last_s is None or reader.request.end_s is not None:
        return ""
    announced, size_bytes = _sizes(source)
    is_short = announced is not None and announced > size_bytes
    header_s = _header_end_s(source, reader)
    if header_s is None and is_short:
        if source.container.duration is None:  # FFmpeg does not guess it for truncated files
            return f"the file has {size_bytes:,} of the {announced:,} bytes that its header says: it is cut off"
        header_s = ((source.container.start_time or 0) + source.container.duration) / av.time_base
        header_s -= source.clock.origin_s
    if header_s is None or not (is_short or source.clock.is_trusted):
        return ""
    frame_s = float(1 / source.video.average_rate) if source.video.average_rate else 0.0
    if last_s + frame_s + EARLY_END_S > header_s or is_whole(source):
        return ""
    return f"the video ends at {last_s:.1f} s, its header says {header_s:.1f} s: it is cut off"


def excess_length(source: Source, reader: FrameReader) -> str:
    """Return a sentence if the header claims far more than the frames last, else "" ."""
    header_s, last_s = _header_end_s(source, reader), reader.last_s
    if header_s is None or last_s is None:
        return ""
    without_jumps_s = header_s + min(0.0, source.clock.carried_s)  # FFmpeg adds the jumps between clocks
    if without_jumps_s < 2 * last_s + MIN_EXCESS_S:
        return ""
    return f"its header claims {header_s:.0f} s, its frames end at {last_s:.1f} s"


def _header_end_s(source: Source, reader: FrameReader) -> float | None:
    """Return when the header says that the video ends, None if it does not or only a part was read."""
    claimed_s = claimed_end_s(source.container, source.video)
    return None if claimed_s is None or reader.request.end_s is not None else claimed_s - source.clock.origin_s


def is_whole(source: Source) -> bool:
    """Return whether the file holds all bytes that its structure announces. False if the structure does not say.

    Then a video that ends early is not truncated: its last frame stays, or its header is wrong.
    """
    announced, size_bytes = _sizes(source)
    entries = source.video.index_entries
    if source.video.frames and len(entries) >= source.video.frames:
        return all(entry.pos + entry.size <= size_bytes for entry in entries)
    has_more = source.container.format.name == "avi" and announced is not None and announced + 1 < size_bytes
    return announced is not None and announced <= size_bytes and not has_more


def _sizes(source: Source) -> tuple[int | None, int]:
    """Return (bytes announced by the header or None, bytes of the file)."""
    return sniff.announced_end(os.pread(source.fd, sniff.HEAD_BYTES, 0)), os.fstat(source.fd).st_size


def _out_of_order(reader: FrameReader) -> str:
    """Return a sentence if frames were left out because their times run backwards, else "" ."""
    return f"{counted(reader.backwards, 'frame')} left out, for times run backwards" if reader.backwards else ""
