"""Inside the playback child: a media file that is written as messages to the parent.

The child may write no files (`media.limits`): the bytes go through its pipe, each with the offset in the file.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Self

import av
from av.audio.stream import AudioStream
from av.bitstream import BitStreamFilterContext
from av.container import OutputContainer
from av.packet import Packet
from av.stream import Stream
from av.video.stream import VideoStream

from vfindex.indexer.media.container import Refusal
from vfindex.indexer.playback.codecs import Container

Send = Callable[..., None]

FRAGMENT_US = 500_000  # a browser starts with the first fragment
# Streams: a header without samples, then fragments; each part is sent as soon as it is complete. The header waits for
# the first packets, as some codec parameters come only with them. Where frames are reordered, the
# first is decoded before 0, and an edit list says that it is shown at 0.
STREAM_OPTIONS: dict[Container, dict[str, str]] = {
    "mp4": {
        "movflags": "frag_keyframe+empty_moov+delay_moov+default_base_moof",
        "frag_duration": str(FRAGMENT_US),
        "use_editlist": "1",
        "avoid_negative_ts": "disabled",
        "flush_packets": "1",
    },
    "webm": {"live": "1", "cluster_time_limit": str(FRAGMENT_US // 1000), "flush_packets": "1"},
}
# A stream with a gap holds the others back for at most this long.
INTERLEAVE = {"max_interleave_delta": "1000000"}
ENCODE_STEP = "cut it exactly (--exact), which encodes it again"
FILE_OPTIONS = {"write_tmcd": "1"}


class StreamPipe:
    """A file that is only appended to. before: called before the first byte. is_muted: drop what is written."""

    def __init__(self, send: Send, before: Callable[[], None]) -> None:
        self._send, self._before = send, before
        self._at = 0
        self.is_muted = False

    def write(self, data: bytes) -> int:
        if self.is_muted:
            return len(data)
        if not self._at:
            self._before()
        self._send({"kind": "bytes", "at": self._at}, data)
        self._at += len(data)
        return len(data)


class FilePipe:
    """A file that is written in any order: MP4 states the length of its media before them."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._at = self._size = 0
        self.is_muted = False

    def write(self, data: bytes) -> int:
        if self.is_muted:
            return len(data)
        self._send({"kind": "bytes", "at": self._at}, data)
        self._at += len(data)
        self._size = max(self._size, self._at)
        return len(data)

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    def tell(self) -> int:
        return self._at


@contextmanager
def written(output: OutputContainer, pipe: StreamPipe | FilePipe) -> Iterator[None]:
    """Close the output after the block. After an error nothing more is sent: closing would pass for success."""
    try:
        yield
        output.close()
    except BaseException:
        pipe.is_muted = True
        raise


def stream_output(container: Container, pipe: StreamPipe) -> OutputContainer:
    """Return a container that a browser plays while it is written."""
    return av.open(pipe, "w", format=container, options=STREAM_OPTIONS[container] | INTERLEAVE)


def file_output(pipe: FilePipe, timecode: str) -> OutputContainer:
    """Return an MP4 file with one header for all of it. timecode: of its first frame, "" for none."""
    output = av.open(pipe, "w", format="mp4", options=FILE_OPTIONS | INTERLEAVE)
    if timecode:
        output.metadata["timecode"] = timecode
    return output


class Muxer:
    """Writes packets of one stream in rising order of decoding, whatever the source stored."""

    def __init__(self, output: OutputContainer, stream: Stream, filtered: BitStreamFilterContext | None = None) -> None:
        self._output, self._stream, self._filter = output, stream, filtered
        self._last_dts: int | None = None

    @classmethod
    def copying(cls, output: OutputContainer, source: VideoStream | AudioStream) -> Self:
        """Return one for packets of an input stream: same codec, rotation, aspect and language. Raises Refusal."""
        try:
            made: Stream = output.add_stream_from_template(source, opaque=True)  # opaque: no encoder is needed
        except ValueError as exc:
            raise Refusal("decode", "not_copied", f"it cannot be copied ({exc})", ENCODE_STEP) from exc
        made.time_base = source.time_base
        if source.language:
            made.metadata["language"] = source.language
        context = source.codec_context
        # Of transport streams. FFmpeg's muxer adds the filter itself, but not where it delays the header.
        is_adts = context.name == "aac" and not context.extradata
        return cls(output, made, BitStreamFilterContext("aac_adtstoasc", source) if is_adts else None)

    def write(self, packet: Packet[Any]) -> None:
        """Write a packet with pts and dts, in its own time base. Raises FFmpegError."""
        if self._filter is None:
            self._mux(packet)
            return
        base = packet.time_base
        for each in self._filter.filter(packet):
            each.time_base = base
            self._mux(each)

    def _mux(self, packet: Packet[Any]) -> None:
        if packet.dts is None or packet.pts is None:
            raise ValueError("a packet without times")
        if self._last_dts is not None:
            packet.dts = max(packet.dts, self._last_dts + 1)
        self._last_dts = packet.dts
        packet.pts = max(packet.pts, packet.dts)
        packet.stream = self._stream
        self._output.mux(packet)
