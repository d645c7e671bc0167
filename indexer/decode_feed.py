"""Inside the decode child: the packets of a stretch of a file, from the keyframe on at which it can be begun."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Any

import av
from av.packet import Packet
from av.stream import Disposition, Stream

from vfindex.indexer.decode_open import Beat, Source, demux, packet_time

SEEK_BACK_S = (0.0, 10.0, 60.0)  # how much earlier to try again when a seek lands too late, before giving up on seeking
MAX_DEMUX_FAILURES = 20  # a demuxer that fails without moving on would fail for ever


def streams_read(source: Source, audio: bool) -> list[Stream]:
    """Return the video stream and, where sound is wanted, the audio stream: the default, else the first decodable."""
    if not audio:
        return [source.video]
    heard = [stream for stream in source.container.streams.audio if stream.codec_context is not None]
    heard.sort(key=lambda stream: not stream.disposition & Disposition.default)  # stable
    return [source.video, *heard[:1]]


def prime(source: Source) -> float | None:
    """Show the decoder the file's first keyframe, return its time, None where there is none. Moves the source on.

    Some of what a decoder must know stands only there: without x264's version FFmpeg gets its 4:4:4 pictures wrong.
    """
    video = source.video
    try:
        for packet in demux(source.container, video):
            if packet.is_keyframe and packet.size:
                video.codec_context.decode(packet)
                video.codec_context.decode(None)
                return packet_time(packet)
    except MemoryError:
        raise
    except av.FFmpegError:
        return None  # damaged at its beginning; the stretch asked for may be sound
    return None


def sought(source: Source, target_s: float, audio: bool, beat: Beat) -> tuple[Source, Iterator[Packet[Any] | str]]:
    """Return the source, perhaps reopened, and its packets from a keyframe at or before `target_s` on.

    Packets that were read to find out are not read again: a change of codec parameters may ride on them only once.
    Where seeking does not work, the packets are those from the beginning of the file.
    """
    for back_s in SEEK_BACK_S:
        streams = streams_read(source, audio)
        source.only(*streams)
        try:
            source.container.seek(int((target_s - back_s) / (source.video.time_base or 1)), stream=source.video)
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
    return source, packets(source, streams, beat)


def packets(source: Source, streams: list[Stream], beat: Beat) -> Iterator[Packet[Any] | str]:
    """Yield the packets of the streams, and at the end of a file that breaks off a sentence that says so."""
    failures = 0
    while True:
        try:
            for packet in demux(source.container, *streams):
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
