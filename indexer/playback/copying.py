"""Inside the playback child: packets of a span, copied with new times."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from av.packet import Packet

from vfindex.indexer.media.clock import REORDERED
from vfindex.indexer.media.container import Refusal, packet_time
from vfindex.indexer.playback.output import ENCODE_STEP, Muxer
from vfindex.storage.records import ROUNDING_S


@dataclass
class Window:
    """A span of a source, [start_s, end_s) of its times, and where it goes in the output.

    zero_s: the time of the source that becomes `base_s` of the output.
    """

    start_s: float
    end_s: float
    zero_s: float
    base_s: float = 0.0

    @property
    def first_s(self) -> float:
        """The latest time at which the frame begins that is shown at the start."""
        return self.start_s + ROUNDING_S

    @property
    def beyond_s(self) -> float:
        """The time from which on frames begin that are not shown any more."""
        return max(self.end_s - ROUNDING_S, min(self.end_s, self.first_s))

    def out_s(self, time_s: float) -> float:
        """Return the time in the output of a time of the source."""
        return time_s - self.zero_s + self.base_s


def shifted(packet: Packet[Any], window: Window) -> Packet[Any]:
    """Return the packet with the times of the output."""
    ticks = round((window.base_s - window.zero_s) / packet.time_base)
    packet.pts = None if packet.pts is None else packet.pts + ticks
    packet.dts = None if packet.dts is None else packet.dts + ticks
    return packet


class CopiedVideo:
    """The packets from a keyframe to the end of the window: all that its last frame needs, and no more.

    It sets the window's `zero_s`, to when the keyframe is shown. Frames that are shown before it are left out: they
    refer to frames of the GOP before.
    """

    def __init__(self, muxer: Muxer, window: Window) -> None:
        self._muxer, self._window = muxer, window
        self._key_s: float | None = None
        self._untimed: list[
            Packet[Any]
        ] = []  # without decoding times, which some containers store only from the second GOP on
        self._beyond: list[Packet[Any]] = []  # shown after the end; needed if frames before the end follow
        self.has_begun = self.is_done = False
        self.end_s = 0.0  # of the last frame

    def push(self, packet: Packet[Any]) -> None:
        """Take the next packet. Raises Refusal."""
        if not packet.size or self.is_done:
            return
        time_s = packet_time(packet)
        if self._key_s is None:
            if not packet.is_keyframe:
                return
            self._key_s = time_s
        if time_s is None or packet.pts is None:
            raise _cannot_copy("a packet has no time")
        if self._key_s is not None and time_s < self._key_s:
            return
        if packet.dts is None:
            self._hold(packet)
            return
        self._backfill(packet)
        if packet.dts * packet.time_base >= self._window.beyond_s:
            self.is_done = True
        elif time_s >= self._window.beyond_s:
            self._beyond.append(packet)
        else:
            for each in (*self._beyond, packet):
                self._write(each)
            self._beyond = []

    def finish(self) -> None:
        """Write what waits for a decoding time."""
        if self._untimed:
            last = self._untimed[-1]
            last.dts = last.pts
            self._untimed.pop()
            self._backfill(last)
            self._write(last)

    def _hold(self, packet: Packet[Any]) -> None:
        if self.has_begun or len(self._untimed) > REORDERED:
            raise _cannot_copy("packets have no decoding times")
        self._untimed.append(packet)

    def _backfill(self, packet: Packet[Any]) -> None:
        """Write the packets that wait, each decoded a frame before the next one."""
        if not self._untimed or packet.dts is None:
            return
        step = max(1, packet.duration or 1)
        for back, each in enumerate(reversed(self._untimed), 1):
            each.dts = min(packet.dts - back * step, each.pts or 0)
        waiting, self._untimed = self._untimed, []
        for each in waiting:
            self._write(each)

    def _write(self, packet: Packet[Any]) -> None:
        if packet.dts is None or packet.pts is None or self._key_s is None:
            raise _cannot_copy("a packet has no time")
        if not self.has_begun:
            self.has_begun = True
            self._window.zero_s = self._key_s
        ends_s = float((packet.pts + (packet.duration or 0)) * packet.time_base)
        self.end_s = max(self.end_s, ends_s)
        self._muxer.write(shifted(packet, self._window))


class CopiedAudio:
    """The packets of a track that begin inside the window."""

    def __init__(self, muxer: Muxer, window: Window) -> None:
        self._muxer, self._window = muxer, window
        self.is_done = False

    def push(self, packet: Packet[Any]) -> None:
        """Take the next packet."""
        time_s = packet_time(packet)
        if time_s is None or not packet.size:
            return
        if time_s >= self._window.end_s:
            self.is_done = True
        elif time_s >= self._window.zero_s and not self.is_done:
            packet.pts = packet.pts if packet.pts is not None else packet.dts
            packet.dts = packet.pts
            self._muxer.write(shifted(packet, self._window))

    def keep_up(self, time_s: float) -> None:
        """A gap is copied as a gap."""

    def finish(self) -> None:
        """Nothing waits."""


def _cannot_copy(reason: str) -> Refusal:
    return Refusal("decode", "not_copied", f"its packets cannot be copied: {reason}", ENCODE_STEP)
