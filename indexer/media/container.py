"""Inside the decode child: opens an untrusted file and chooses its video stream."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from fractions import Fraction
from itertools import islice
from typing import Any, Self

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfindex.indexer.boundary import os_problem
from vfindex.indexer.media import sniff
from vfindex.indexer.media.clock import Clock, seconds
from vfindex.indexer.media.limits import ended_after
from vfindex.storage.files.regular import regular_no_link

# Containers that hold their own media. Left out, as they open what they name or generate frames: hls, dash, concat,
# sdp, rtsp, image2, *_pipe, tty, lavfi. Nor raw streams, which have no times.
ALLOWED_FORMATS = (
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv", "live_flv", "asf", "gif", "mxf", "gxf", "wtv",
    "rm", "ivf", "nut", "nsv", "dv", "swf", "dhav", "ty", "pva", "roq", "smk", "bink", "amv", "yuv4mpegpipe",
)  # fmt: skip
MAX_PIXELS = 1 << 26  # 8192 x 8192; 17 reference frames of it at 8 bit 4:2:0 are 1.7 GB
MAX_SIDE_PX = 1 << 15
MAX_PIXEL_ASPECT = 16  # real ones are between 1:4 and 4:1; a wrong 1:60000 must not become an image of that shape
# FFmpeg's time for tags is quadratic: 10,000 take 1 s, 1,000,000 hours. A film of 24 hours opens in 2 s.
OPEN_CPU_S = 10.0
STILLS = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
TRACK_PACKETS = 200  # of all video streams: a track that moves has its second frame within some seconds

Beat = Callable[[], None]  # called between packets: tells the parent that work goes on


class Refusal(Exception):
    """Why a file cannot be read: stage, code, reason and next step of a Problem."""

    def __init__(self, stage: str, code: str, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.fields = {"stage": stage, "code": code, "reason": reason, "next": next_step}


@dataclass(frozen=True)
class Source:
    """An open file, the stream in it that is the video, and its clock."""

    fd: int
    container: InputContainer
    video: VideoStream
    clock: Clock

    @classmethod
    def of(cls, fd: int, container: InputContainer, video: VideoStream) -> Self:
        return cls(fd, container, video, Clock(container, video))

    def only(self, *streams: Stream) -> None:
        """Make the demuxer skip all other streams."""
        kept = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = Discard.default if stream.index in kept else Discard.all

    def reopened(self) -> Source:
        """Return the same file at its beginning. Not every container can be rewound by seeking."""
        index = self.video.index
        self.container.close()
        container = open_container(self.fd)
        if index >= len(container.streams):
            raise Refusal("probe", "no_video", "its streams change as they are read", "copy it again")
        return self.of(self.fd, container, prepared_video(container.streams[index]))

    def seek(self, time_s: float) -> None:
        """Seek to the keyframe at or before a time, as far as the container can. Raises FFmpegError."""
        self.clock.restart()
        base = self.video.time_base or 1
        self.container.seek(int((time_s + self.clock.origin_s) / base), stream=self.video)

    def demux(self, *streams: Stream) -> Iterator[Packet[Any]]:
        """Yield the packets of the streams with their times on the clock. Raises FFmpegError where damaged."""
        for packet in demux(self.container, *streams):
            self.clock.apply(packet)
            yield packet

    def close(self) -> None:
        self.container.close()
        os.close(self.fd)


def packet_time(packet: Packet[Any]) -> float | None:
    """Return a packet's presentation time, its decoding time where the container stores no other."""
    return seconds(packet.pts if packet.pts is not None else packet.dts, packet.time_base)


def is_shown(packet: Packet[Any], codec: str) -> bool:
    """Return whether decoding the packet gives a frame to show: not empty, discarded or a hidden VP8 reference."""
    if packet.is_discard or not packet.size:
        return False
    # RFC 6386, 9.1: bit 4 of a VP8 frame's first byte is show_frame.
    return codec != "vp8" or bool(memoryview(packet)[0] & 0x10)


def is_reset(packet: Packet[Any], codec: str, extradata: bytes | None) -> bool:
    """Return whether no frame from this packet on, in file order, refers to one before it.

    Keyframes of VP8 and VP9, and the IDR pictures of H.264 (7.4.1.2.4) and H.265 (table 7-1). extradata: the decoder's.
    """
    if not packet.is_keyframe or codec not in ("vp8", "vp9", "h264", "hevc"):
        return False
    if codec.startswith("vp"):
        return True
    data, kinds = memoryview(packet), (_slice_kinds_h264 if codec == "h264" else _slice_kinds_h265)
    place = {"h264": 4, "hevc": 21}[codec]
    if extradata is None or len(extradata) <= place or extradata[0] != 1:
        return False  # start codes instead of lengths
    length_bytes = (extradata[place] & 3) + 1
    start = 0
    while start + length_bytes < len(data):
        begin = start + length_bytes
        if (is_idr := kinds(data[begin])) is not None:
            return is_idr
        start = begin + int.from_bytes(data[start:begin], "big")
    return False


def _slice_kinds_h264(header: int) -> bool | None:
    """Return whether a unit is a slice of an IDR picture; None if it is no slice."""
    return {1: False, 2: False, 5: True}.get(header & 0x1F)


def _slice_kinds_h265(header: int) -> bool | None:
    kind = header >> 1 & 0x3F
    return None if kind >= 32 else kind in (19, 20)


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets of the streams, without PyAV's signs to drain decoders; raises FFmpegError where damaged."""
    try:
        for packet in container.demux(*streams):
            if packet.size or packet.dts is not None:
                yield packet
    except IndexError:
        return  # PyAV 18, at the end of a transport stream in which further streams appeared on the way


@contextmanager
def until_damage() -> Iterator[None]:
    """End the block where FFmpeg reports damage. Lack of memory is none, though PyAV makes it an FFmpegError too."""
    try:
        yield
    except MemoryError:
        raise
    except av.FFmpegError:
        pass


def rotation(frame: VideoFrame) -> int:
    """Return by how many degrees, counter-clockwise, the frame must be turned; 0 if its matrix is no rotation."""
    turn_deg = frame.rotation
    return turn_deg if -180 <= turn_deg <= 180 else 0


def out_of_memory(stage: str) -> Refusal:
    """Return the refusal of a file whose decoding hit the limit on memory."""
    return Refusal(stage, "memory", "reading it takes more memory than a file may", "check the file, or convert it")


def open_fd(path: bytes) -> int:
    """Return an fd of a regular file. Raises Refusal. Does not wait for a pipe, nor follow a link."""
    try:
        return regular_no_link(path, os.O_RDONLY)
    except OSError as exc:
        problem = os_problem(path, "open", exc)
        raise Refusal("open", problem.code, problem.reason, problem.next) from exc


def open_container(fd: int) -> InputContainer:
    """Return the container, opened by path so that FFmpeg's own checks hold; raises Refusal with a reason in words."""
    try:
        head = os.pread(fd, sniff.HEAD_BYTES, 0)
    except OSError as exc:
        raise Refusal("open", "unreadable", f"it cannot be read ({exc.strerror})", "check the disk") from exc
    if not head or sniff.still_picture(head):
        raise Refusal("open", *sniff.diagnose(head))
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(ALLOWED_FORMATS)}
    try:
        with ended_after(OPEN_CPU_S):
            return av.open(f"file:{folder}/{fd}", "r", options=options, metadata_errors="replace")
    except MemoryError as exc:
        raise out_of_memory("open") from exc
    except av.FFmpegError as exc:
        raise Refusal("open", *sniff.diagnose(head)) from exc


def choose_video(fd: int, container: InputContainer) -> VideoStream:
    """Return the stream to index: the first marked default, else the first; moving streams before still ones.

    Cover images do not count. Raises Refusal.
    """
    real = [stream for stream in container.streams.video if not stream.disposition & STILLS]
    if not real:
        reason = "only a cover picture in it, no video" if container.streams.video else "no video stream in it"
        raise Refusal("probe", "no_video", reason, sniff.NOT_INDEXED)
    if len(real) > 1:
        moving = moving_streams(fd, [stream.index for stream in real])
        real = [stream for stream in real if stream.index in moving] or real
    return prepared_video(next((s for s in real if s.disposition & Disposition.default), real[0]))


def moving_streams(fd: int, indices: list[int]) -> set[int]:
    """Return which of the streams have more than one frame in the first TRACK_PACKETS packets."""
    counts: Counter[int] = Counter()
    with closing(open_container(fd)) as container, until_damage():
        streams = [container.streams[index] for index in indices]
        for packet in islice(demux(container, *streams), TRACK_PACKETS):
            counts[packet.stream_index] += bool(packet.size)
    return {index for index, count in counts.items() if count > 1}


def prepared_video(chosen: Stream) -> VideoStream:
    """Return a video stream set up for decoding within bounds; raises Refusal."""
    if not isinstance(chosen, VideoStream):
        raise Refusal("probe", "no_video", "its streams change as they are read", "copy it again")
    context = chosen.codec_context
    if context is None:
        raise Refusal("probe", "no_decoder", "this FFmpeg has no decoder for its video", "convert it, say to H.264")
    check_size(context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}  # for a size that changes on the way
    context.thread_count = 1  # one request is one core: the pipeline spreads files, and memory stays small
    return chosen


def check_size(width: int, height: int) -> None:
    """Raise Refusal if frames are too large to be decoded in bounded memory."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        limits = f"{MAX_PIXELS / 1e6:.0f} million pixels and {MAX_SIDE_PX} a side"
        raise Refusal("probe", "too_large", f"frames of {width}x{height}, over the limit of {limits}", "scale it down")


def open_source(path: bytes) -> Source:
    """Return the file opened and its video stream chosen; raises Refusal."""
    fd = open_fd(path)
    try:
        container = open_container(fd)
    except Refusal:
        os.close(fd)
        raise
    try:
        return Source.of(fd, container, choose_video(fd, container))
    except Refusal:
        container.close()
        os.close(fd)
        raise


def shown_px(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return (width, height) with the pixel aspect applied."""
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        aspect = Fraction(1)
    return max(1, round(width * aspect)), max(1, height)
