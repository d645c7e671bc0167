"""Inside the decode child: seeking. Where to start reading an interval, and which packets sparse sampling skips."""

from __future__ import annotations

import os
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterator, Sequence
from functools import lru_cache
from itertools import chain, islice
from typing import Any

import av
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vfindex.indexer.media.clock import MAX_STEP_S, REORDERED, claimed_end_s, seconds
from vfindex.indexer.media.container import (
    Beat,
    Source,
    choose_video,
    is_shown,
    open_container,
    open_source,
    packet_time,
    until_damage,
)
from vfindex.indexer.media.sampling import MAX_PENDING_BYTES

SEEK_BACK_S = (0.0, 10.0, 60.0)  # how much earlier to try again when a seek lands too late, before giving up on seeking
MAX_DEMUX_FAILURES = 20  # a demuxer that fails without advancing would fail forever
WORTH_PACKETS = 16  # skipping fewer saves nothing
# Packets read after a seek: formats with an index land on a keyframe, others somewhere before one.
LOOK_PACKETS = 400
MAX_LAST_S = 600.0  # longest credible duration of a last frame if no header says how long the video is


def keyframes_before(path: bytes, times_s: Sequence[float], beat: Beat) -> list[float]:
    """Return for each time the presentation time of the keyframe at or before it that a seek leads to.

    The time itself where a seek fails or lands too late (formats without an index). Raises Refusal.
    """
    source = open_source(path)
    try:
        if has_clock_jumps(source, beat):
            return list(times_s)
        source.only(source.video)
        return [_keyframe(source, time_s, beat) for time_s in times_s]
    finally:
        source.close()


def _keyframe(source: Source, time_s: float, beat: Beat) -> float:
    video = source.video
    with until_damage():
        source.seek(time_s)
        for packet in islice(source.demux(video), LOOK_PACKETS):
            beat()
            if packet.is_keyframe and packet.size:
                key_s = packet_time(packet)
                return key_s if key_s is not None and key_s <= time_s else time_s
    return time_s


def has_clock_jumps(source: Source, beat: Beat) -> bool:
    """Return whether the file's clock jumps on the way, so that times cannot be sought."""
    if source.clock.is_trusted:
        return False
    state = os.fstat(source.fd)
    return _has_clock_jumps((source.fd, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), beat)


@lru_cache(maxsize=1)  # the units of a file are read one after another
def _has_clock_jumps(identity: tuple[int, ...], beat: Beat) -> bool:
    container = open_container(identity[0])
    source = Source.of(identity[0], container, choose_video(identity[0], container))
    source.only(source.video)
    last_end(source, beat)
    container.close()
    return source.clock.clocks > 1


def last_end(source: Source, beat: Beat) -> float | None:
    """Return when the last frame ends, demuxing from the current position; None without frames.

    The length in the header bounds what the last frame claims.
    """
    end_s = last_s = None
    frame_s = source.clock.frame_s
    with until_damage():
        for packet in source.demux(source.video):
            beat()
            start_s = packet_time(packet)
            if start_s is None or not is_shown(packet, source.video.codec_context.name):
                continue
            packet_end_s = start_s + (seconds(packet.duration, packet.time_base) or frame_s)
            last_s = start_s if last_s is None else max(last_s, start_s)
            end_s = packet_end_s if end_s is None else max(end_s, packet_end_s)
    if end_s is None or last_s is None:
        return None
    header_s = claimed_end_s(source.container, source.video)
    if not source.clock.is_trusted:
        return end_s if end_s - last_s <= MAX_STEP_S else last_s + frame_s
    if header_s is None:
        return min(end_s, last_s + MAX_LAST_S)
    return min(end_s, max(last_s + frame_s, header_s - source.clock.origin_s))


def streams_read(source: Source, audio: Collection[int]) -> list[Stream]:
    """Return the video stream and the audio streams with these indices that can be decoded."""
    heard = [s for s in source.container.streams.audio if s.index in audio and s.codec_context is not None]
    return [source.video, *heard]


def prime(source: Source) -> float | None:
    """Decode the file's first keyframe and return its time, None if there is none. Advances the source.

    Some parameters are stored only there: without x264's version FFmpeg decodes its 4:4:4 frames wrongly.
    """
    video = source.video
    with until_damage():  # at its beginning: the requested interval may be intact
        for packet in source.demux(video):
            if packet.is_keyframe and packet.size:
                video.codec_context.decode(packet)
                video.codec_context.decode(None)
                return packet_time(packet)
    return None


def packets_from(
    source: Source, target_s: float, audio: Collection[int], beat: Beat
) -> tuple[Source, Iterator[Packet[Any] | str]]:
    """Return the source, perhaps reopened, and its packets from a keyframe at or before `target_s` on.

    Packets read while searching are passed on, not read again: codec parameters may come with them only once. Where
    seeking does not work, the packets come from a pass over the file from its beginning.
    """
    for back_s in () if has_clock_jumps(source, beat) else SEEK_BACK_S:
        streams = streams_read(source, audio)
        source.only(*streams)
        try:
            source.seek(target_s - back_s)
        except av.FFmpegError:
            break
        feed = packets(source, streams, beat)
        ahead: list[Packet[Any] | str] = []
        for packet in feed:
            ahead.append(packet)
            if isinstance(packet, str) or packet.stream_index != source.video.index or not packet.is_keyframe:
                continue
            key_s = packet_time(packet)
            if key_s is not None and key_s <= target_s:
                return source, chain(ahead, feed)
            break
        source = source.reopened()
        prime(source)
    source = source.reopened()
    streams = streams_read(source, audio)
    source.only(*streams)
    return source, _from_keyframe(source, packets(source, streams, beat), target_s)


def _from_keyframe(source: Source, feed: Iterator[Packet[Any] | str], target_s: float) -> Iterator[Packet[Any] | str]:
    """Yield packets from the last keyframe at or before `target_s` on, or from MAX_PENDING_BYTES before it.

    Of the packets left out, the last one that carries codec parameters comes first.
    """
    pending: list[Packet[Any] | str] = []
    pending_bytes = 0
    carrier: Packet[Any] | None = None
    for packet in feed:
        if not isinstance(packet, str) and packet.stream_index == source.video.index and packet.is_keyframe:
            key_s = packet_time(packet)
            if key_s is not None and key_s > target_s:
                feed = chain([packet], feed)
                break
            passed = (p for p in reversed(pending) if not isinstance(p, str) and p.has_sidedata("new_extradata"))
            carrier = next(passed, carrier)
            pending, pending_bytes = [], 0
        pending.append(packet)
        pending_bytes += 0 if isinstance(packet, str) else packet.size
        if pending_bytes > MAX_PENDING_BYTES:
            break
    if carrier is not None:
        yield carrier
    yield from chain(pending, feed)


def packets(source: Source, streams: list[Stream], beat: Beat) -> Iterator[Packet[Any] | str]:
    """Yield the packets of the streams; at the end of a damaged file, a sentence that says so."""
    failures = 0
    while True:
        try:
            for packet in source.demux(*streams):
                beat()
                failures = 0
                yield packet
            return
        except MemoryError:
            raise
        except av.FFmpegError as exc:
            failures += 1
            if failures > MAX_DEMUX_FAILURES:
                yield f"the container is damaged ({exc.strerror})"
                return


def sparse_packets(
    source: Source, feed: Iterator[Packet[Any] | str], next_due_s: Callable[[], float | None], beat: Beat
) -> Iterator[Packet[Any] | str]:
    """Yield the packets that sparse sampling needs, seeking over the others where the index lists all frames.

    next_due_s: called after each keyframe: the time of the next one needed, None for any. The keyframes are those that
    reading every packet would give. From the last keyframe on every packet comes, to find where the video ends.
    """
    video = source.video
    can_jump = source.clock.is_stored and bool(video.frames) and len(video.index_entries) == video.frames
    while True:
        for packet in feed:
            yield packet
            if not can_jump or isinstance(packet, str) or not packet.is_keyframe:
                continue
            until_s = next_due_s()
            target = None if until_s is None else _keyframe_after(video, packet, until_s)
            if target is not None:
                jumped = _jump_to(source, target, beat)
                can_jump, feed = jumped is not None, jumped or _after(source, packet, beat)
                break
        else:
            return


def _keyframe_after(video: VideoStream, packet: Packet[Any], until_s: float) -> int | None:
    """Return the time stamp of the first keyframe that may be shown at `until_s` or later, else of the last one.

    None if it is too near to seek. The index holds decoding times only: a keyframe is assumed to be shown as much later
    as the current one is, and at most REORDERED frames later.
    """
    entries = video.index_entries
    if packet.pts is None or packet.dts is None or not video.time_base:
        return None
    earliest = int(until_s / video.time_base) - (packet.pts - packet.dts)
    first = bisect_left(entries, earliest, key=lambda entry: entry.timestamp) - REORDERED
    first = min(max(first, 0), len(entries) - 1)
    found = entries.search_timestamp(entries[first].timestamp, backward=False)
    found = found if found >= 0 else entries.search_timestamp(entries[len(entries) - 1].timestamp)
    here = entries.search_timestamp(packet.dts)
    return entries[found].timestamp if found - here >= WORTH_PACKETS else None


def _jump_to(source: Source, target: int, beat: Beat) -> Iterator[Packet[Any] | str] | None:
    """Return the packets from the keyframe with this time stamp on, None if the seek lands elsewhere."""
    with until_damage():
        # A backward seek in HEVC goes by presentation time, and lands on the keyframe before.
        source.clock.restart()
        source.container.seek(target, stream=source.video, backward=False)
        feed = packets(source, [source.video], beat)
        first = next(feed, None)
        if first is not None and not isinstance(first, str) and first.is_keyframe and first.dts == target:
            return chain([first], feed)
    return None


def _after(source: Source, packet: Packet[Any], beat: Beat) -> Iterator[Packet[Any] | str]:
    """Yield the packets after this keyframe, once a seek from it has failed."""
    try:
        source.clock.restart()
        source.container.seek(packet.dts or 0, stream=source.video)
    except MemoryError:
        raise
    except av.FFmpegError as exc:
        yield f"the container is damaged ({exc.strerror})"
        return
    for later in packets(source, [source.video], beat):
        if isinstance(later, str) or later.dts is None or later.dts > (packet.dts or 0):
            yield later
