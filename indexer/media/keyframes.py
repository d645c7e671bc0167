"""Inside the decode child: where a long video may be cut, so that no stretch begins between two keyframes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import av

from vfindex.indexer.media.container import Beat, Source, begins_anew, open_source, packet_time

# Packets looked at after a jump: formats with an index land on a keyframe, others somewhere before one.
LOOK_PACKETS = 400


def keyframes_before(path: bytes, times_s: Sequence[float], beat: Beat) -> list[float]:
    """Return for each time the presentation time of the keyframe at or before it that a jump leads to.

    The time itself where jumps lead nowhere, or too late (formats without an index). Raises Refusal.
    """
    source = open_source(path)
    try:
        if begins_anew(source, beat):
            return list(times_s)
        source.only(source.video)
        return [_keyframe(source, time_s, beat) for time_s in times_s]
    finally:
        source.close()


def _keyframe(source: Source, time_s: float, beat: Beat) -> float:
    video = source.video
    try:
        source.seek(time_s)
        for packet in islice(source.demux(video), LOOK_PACKETS):
            beat()
            if packet.is_keyframe and packet.size:
                key_s = packet_time(packet)
                return key_s if key_s is not None and key_s <= time_s else time_s
    except MemoryError:
        raise
    except av.FFmpegError:
        return time_s
    return time_s
