"""Inside the decode child: one rising clock for files whose time stamps wrap, restart, jump or start anywhere.

Every packet's time stamps are rewritten when it is demuxed, so that all decoders see the one clock.
"""

from __future__ import annotations

import heapq
import math
from dataclasses import dataclass
from fractions import Fraction
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

# A start up to this late is a delay of decoders (ISO/IEC 13818-1, 2.4.2.3: 1 s, of MPEG-4 10 s) or meant, and is kept
# as stored; clocks of containers that are joined start anywhere.
MAX_START_S = 10.0
MAX_JOINED_START_S = 1.0
BACK_S = 1.0  # decoding times never run back; beyond jitter, it is a new clock
NEW_CLOCK_S = 60.0  # a jump ahead as long as this is a new clock, in containers that may change clocks
WEEK_S = 7 * 86_400.0  # a longer duration or jump is not credible
MAX_STEP_S = 10.0  # a frame that claims to last longer does not tell where a new clock continues
COARSEST_TICK = Fraction(1)  # slower time bases cannot tell frames apart
FINE_TICK = Fraction(1, 1000)
REORDERED = 16  # frames that a decoder may hold back (H.264, A.3.1; H.265, A.4.2)
# Containers that are streamed, or joined by appending: their clocks may restart.
_JOINED = frozenset({"mpegts", "mpeg", "flv", "live_flv", "ogg", "nsv", "wtv", "dhav", "ty", "pva"})
# Containers that store decoding times only; FFmpeg guesses the others, wrongly where frames are reordered.
_DECODING_TIMES = frozenset({"avi"})

# Containers whose duration FFmpeg sets to the end of the last frame, whenever the first begins.
_END_TIMES = frozenset({"asf", "nut", "matroska,webm"})


def seconds(value: int | None, time_base: Fraction | None) -> float | None:
    """Return a time stamp in seconds, None for none."""
    return None if value is None or time_base is None else scaled(value, time_base)


def scaled(value: int, time_base: Fraction) -> float:
    """Return float(value * time_base), rounded equally, without the cost of a Fraction for every packet."""
    return value * time_base.numerator / time_base.denominator


def claimed_s(container: InputContainer, stream: Stream) -> float | None:
    """Return the stream's duration by the header, None if it has none."""
    length_s = seconds(stream.duration, stream.time_base)
    if length_s is None and len(container.streams) == 1 and container.duration:
        length_s = container.duration / av.time_base
    if _name(container) == "avi" and stream.frames and stream.average_rate:
        return max(length_s or 0.0, float(stream.frames / stream.average_rate))  # FFmpeg scales it by the file's size
    return tagged_s(stream) if length_s is None else length_s


def claimed_end_s(container: InputContainer, stream: Stream) -> float | None:
    """Return the stream's end by the header, in stored time, None if it has none."""
    length_s = claimed_s(container, stream)
    if length_s is None or _name(container) in _END_TIMES:
        return length_s
    return (seconds(stream.start_time, stream.time_base) or 0.0) + length_s


def tagged_s(stream: Stream) -> float | None:
    """Return Matroska's DURATION tag (HH:MM:SS.fraction) in seconds, None where there is none."""
    try:
        hours, minutes, rest = (float(part) for part in stream.metadata.get("DURATION", "").split(":"))
    except ValueError:
        return None
    total_s = hours * 3600 + minutes * 60 + rest
    return total_s if math.isfinite(total_s) else None


@dataclass
class _Track:
    """The state of one stream: the clock that it follows, and when its next packet is due."""

    clock: int = 0
    due_s: float | None = None


class Clock:
    """The time line of one open file.

    origin_s: the stored time that is 0 s here. start_s: when the container starts, on this clock; players call it 0.
    is_trusted: stored times rise from beginning to end, so that seeking works. tick: unit of the rewritten video time
    stamps. frame_s: duration of a frame that stores none. only_dts: the container stores no presentation times.
    """

    def __init__(self, container: InputContainer, video: VideoStream) -> None:
        start_s = _start_s(container, video)
        first_s = seconds(video.start_time, video.time_base)
        is_joined = _name(container) in _JOINED
        is_odd = start_s > (MAX_JOINED_START_S if is_joined else MAX_START_S) or (first_s is not None and first_s < 0)
        self.origin_s = start_s if is_odd else 0.0
        self.start_s = start_s - self.origin_s
        lengths = (claimed_s(container, video), (container.duration or 0) / av.time_base)
        self.is_trusted = not is_joined and all(0 <= length <= WEEK_S for length in lengths if length)
        base = video.time_base or FINE_TICK
        self.tick = base if base <= COARSEST_TICK else FINE_TICK
        self._max_jump_s = WEEK_S if self.is_trusted else NEW_CLOCK_S
        self._video = video.index
        self.only_dts = _name(container) in _DECODING_TIMES
        rate = video.average_rate
        self.frame_s = float(1 / rate) if rate and rate >= 1 / MAX_STEP_S else 1.0
        self._offsets_s = [-self.origin_s]  # of each clock in turn, added to what is stored
        self._tracks: dict[int, _Track] = {}

    @property
    def clocks(self) -> int:
        """Return how many clocks the packets so far follow."""
        return len(self._offsets_s)

    @property
    def carried_s(self) -> float:
        """Return by how much the last clock is shifted against the first."""
        return self._offsets_s[-1] - self._offsets_s[0]

    @property
    def is_stored(self) -> bool:
        """Return whether times are used as the container stores them."""
        return self.is_trusted and not self.origin_s

    def restart(self) -> None:
        """Reset the streams, after a seek."""
        del self._offsets_s[1:]
        self._tracks.clear()

    def apply(self, packet: Packet[Any]) -> None:
        """Rewrite a packet's time stamps. Packets of a stream come in file order."""
        base = packet.time_base
        if not base:
            return
        is_video = packet.stream_index == self._video
        track = self._tracks.get(packet.stream_index)
        if track is None:
            track = self._tracks[packet.stream_index] = _Track()
        if packet.dts is not None:
            stored_s = self._stored_s(packet.dts, packet.pts, base)
            time_s = stored_s + self._offsets_s[track.clock]
            if track.due_s is not None and not -BACK_S <= time_s - track.due_s <= self._max_jump_s:
                self._change_clock(track, stored_s, track.due_s)
                time_s = stored_s + self._offsets_s[track.clock]
            track.due_s = time_s + self._step_s(packet, base)
        self._shift(packet, base, self.tick if is_video else base, self._offsets_s[track.clock])
        if is_video and self.only_dts:
            packet.pts = None

    def _stored_s(self, dts: int, pts: int | None, base: Fraction) -> float:
        """Return a packet's decoding time, or its presentation time if a clock jump lies between the two.

        Encoders delay decoding times by a frame or more, so the first ones after a jump still belong before it.
        """
        is_apart = pts is not None and scaled(abs(pts - dts), base) > self._max_jump_s
        return scaled(pts if pts is not None and is_apart else dts, base)

    def _change_clock(self, track: _Track, stored_s: float, due_s: float) -> None:
        """Move a stream to a clock that another stream already follows, if its time fits there, else to a new one."""
        for clock in range(track.clock + 1, len(self._offsets_s)):
            if abs(stored_s + self._offsets_s[clock] - due_s) <= MAX_STEP_S:
                track.clock = clock
                return
        self._offsets_s.append(due_s - stored_s)
        track.clock = len(self._offsets_s) - 1

    def _step_s(self, packet: Packet[Any], base: Fraction) -> float:
        length_s = scaled(packet.duration, base) if packet.duration else 0.0
        return length_s if 0 < length_s <= MAX_STEP_S else self.frame_s if packet.stream_index == self._video else 0.0

    @staticmethod
    def _shift(packet: Packet[Any], base: Fraction, tick: Fraction, offset_s: float) -> None:
        if tick == base:
            if not offset_s:
                return
            shift = round(offset_s / tick)
            packet.pts = None if packet.pts is None else packet.pts + shift
            packet.dts = None if packet.dts is None else packet.dts + shift
            return
        packet.pts = None if packet.pts is None else round((scaled(packet.pts, base) + offset_s) / tick)
        packet.dts = None if packet.dts is None else round((scaled(packet.dts, base) + offset_s) / tick)
        packet.duration = 0
        packet.time_base = tick


class FrameTimes:
    """Presentation times of decoded frames.

    If packets have decoding times only, frames, which come in presentation order, take these in ascending order.
    """

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._waiting: list[int] = []

    def sent(self, packet: Packet[Any]) -> None:
        """Record a packet sent to the decoder."""
        if packet.pts is None and packet.dts is not None:
            heapq.heappush(self._waiting, packet.dts)
            if len(self._waiting) > REORDERED + 1:
                heapq.heappop(self._waiting)

    def lost(self, packet: Packet[Any]) -> None:
        """Record that a packet gave no frame."""
        if packet.dts in self._waiting:
            self._waiting.remove(packet.dts)
            heapq.heapify(self._waiting)

    def forget(self) -> None:
        """Record that the decoder was reset."""
        self._waiting.clear()

    def of(self, frame: VideoFrame) -> float | None:
        """Return the presentation time of a frame, None if unknown."""
        if frame.pts is None and self._waiting:
            return seconds(heapq.heappop(self._waiting), self._clock.tick)
        return seconds(frame.pts, self._clock.tick)  # drained frames have no time base


def _name(container: InputContainer) -> str:
    return container.format.name


def _start_s(container: InputContainer, video: VideoStream) -> float:
    start_s = None if container.start_time is None else container.start_time / av.time_base
    first_s = seconds(video.start_time, video.time_base)
    return start_s if start_s is not None else first_s if first_s is not None else 0.0
