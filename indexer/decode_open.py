"""Inside the decode child: a hostile file opened, its video stream chosen, and what the container says about it."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfindex.indexer import sniff
from vfindex.indexer.confined import ended_after

# Containers that hold their own media. Not here, as they open what they name or make pictures up: hls, dash, concat,
# sdp, rtsp, image2, *_pipe, tty, lavfi. Nor raw streams, which have no times.
ALLOWED_FORMATS = (
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv", "live_flv", "asf", "gif", "mxf", "gxf", "wtv",
    "rm", "ivf", "nut", "nsv", "dv", "swf", "dhav", "ty", "pva", "roq", "smk", "bink", "amv", "yuv4mpegpipe",
)  # fmt: skip
MAX_PIXELS = 1 << 26  # 8192 x 8192; 17 reference frames of it at 8 bit 4:2:0 are 1.7 GB
MAX_SIDE_PX = 1 << 15
MAX_PIXEL_ASPECT = 16  # real ones are between 1:4 and 4:1; a lie of 1:60000 must not become a picture of that shape
TEXT_CODECS = frozenset({"subrip", "text", "mov_text", "webvtt", "ass", "ssa"})
MAX_SUBTITLE_BYTES = 10 << 20  # the same limit as for a sidecar
MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 64, 64, 2000  # the last two in characters; longer is no title
MAX_CHAPTERS, MAX_CHAPTER_TITLE, MAX_TRACKS = 500, 200, 100
MAX_EVENT_CHARS = 10_000  # one subtitle; what is longer is no subtitle
# FFmpeg's time for tags is quadratic: 10,000 take 1 s, 1,000,000 hours. A film of 24 hours opens in 2 s.
OPEN_CPU_S = 10.0
PROBE_PACKETS = 400  # video packets tried for a first frame: more than the damage of a GOP, less than a film
TAIL_S = 10.0  # how far before the end that the header names the last frames are looked for

Beat = Callable[[], None]  # called between packets: tells the parent that work goes on


class Refusal(Exception):
    """Why a file cannot be read: stage, code, reason and next step of a Problem."""

    def __init__(self, stage: str, code: str, reason: str, next_step: str) -> None:
        super().__init__(reason)
        self.fields = {"stage": stage, "code": code, "reason": reason, "next": next_step}


@dataclass(frozen=True)
class Source:
    """An open file and the stream in it that is the video."""

    fd: int
    container: InputContainer
    video: VideoStream

    def only(self, *streams: Stream) -> None:
        """Have the demuxer skip all other streams."""
        wanted = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = Discard.default if stream.index in wanted else Discard.all

    def reopened(self) -> Source:
        """Return the same file, read from its beginning. Not every container can be rewound by seeking."""
        self.container.close()
        container = open_container(self.fd)
        return Source(self.fd, container, choose_video(container))

    def close(self) -> None:
        self.container.close()
        os.close(self.fd)


def seconds(value: int | None, time_base: Fraction | None) -> float | None:
    """Return a time stamp in seconds, None where there is none."""
    return None if value is None or time_base is None else float(value * time_base)


def packet_time(packet: Packet[Any]) -> float | None:
    """Return a packet's presentation time, its decoding time where the container stores no other."""
    return seconds(packet.pts if packet.pts is not None else packet.dts, packet.time_base)


def is_shown(packet: Packet[Any], codec: str) -> bool:
    """Return whether decoding the packet gives a frame to show: not empty, discarded or a hidden VP8 reference."""
    if packet.is_discard or not packet.size:
        return False
    # RFC 6386, 9.1: bit 4 of a VP8 frame's first byte is show_frame.
    return codec != "vp8" or bool(memoryview(packet)[0] & 0x10)


def demux(container: InputContainer, *streams: Stream) -> Iterator[Packet[Any]]:
    """Yield the packets of the streams, without PyAV's signs to drain decoders; raises FFmpegError where damaged."""
    try:
        for packet in container.demux(*streams):
            if packet.size or packet.dts is not None:
                yield packet
    except IndexError:
        return  # PyAV 18, at the end of a transport stream in which further streams appeared on the way


def rotation(frame: VideoFrame) -> int:
    """Return by how many degrees, counter-clockwise, the frame must be turned; 0 for a matrix that is no rotation."""
    turn_deg = frame.rotation
    return turn_deg if -180 <= turn_deg <= 180 else 0


def out_of_memory(stage: str) -> Refusal:
    """Return the refusal of a file whose decoding hit the limit on memory."""
    return Refusal(stage, "memory", "reading it takes more memory than a file may", "check the file, or convert it")


def open_fd(path: bytes) -> int:
    """Return an fd of a regular file; raises Refusal. Does not block on a FIFO, nor follow a link."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as exc:
        if exc.errno == errno.ELOOP:
            raise Refusal("open", "not_regular", "a symbolic link", "name the file that it points to") from exc
        if exc.errno in (errno.ENXIO, errno.ENODEV):
            raise Refusal("open", "not_regular", "a socket or device, not a regular file", "name a video file") from exc
        reason = f"it cannot be opened ({exc.strerror})"
        raise Refusal("open", "unreadable", reason, "check that it exists and may be read") from exc
    mode = os.fstat(fd).st_mode
    if not stat.S_ISREG(mode):
        os.close(fd)
        kinds = {stat.S_IFIFO: "a named pipe", stat.S_IFDIR: "a folder"}
        kind = kinds.get(stat.S_IFMT(mode), "a device")
        raise Refusal("open", "not_regular", f"{kind}, not a regular file", "name a video file")
    return fd


def open_container(fd: int) -> InputContainer:
    """Return the container, opened by path so that FFmpeg's own checks hold; raises Refusal with a reason in words."""
    try:
        head = os.pread(fd, sniff.HEAD_BYTES, 0)
    except OSError as exc:
        raise Refusal("open", "unreadable", f"it cannot be read ({exc.strerror})", "check the disk") from exc
    if not head or sniff.still_picture(head):
        raise Refusal("open", *sniff.verdict(head))
    folder = "/proc/self/fd" if sys.platform == "linux" else "/dev/fd"
    options = {"protocol_whitelist": "file", "format_whitelist": ",".join(ALLOWED_FORMATS)}
    try:
        with ended_after(OPEN_CPU_S):
            return av.open(f"file:{folder}/{fd}", "r", options=options, metadata_errors="replace")
    except MemoryError as exc:
        raise out_of_memory("open") from exc
    except av.FFmpegError as exc:
        raise Refusal("open", *sniff.verdict(head)) from exc


def choose_video(container: InputContainer) -> VideoStream:
    """Return the stream to index: the first marked default, else the first; cover pictures are none. Raises Refusal."""
    real = [stream for stream in container.streams.video if not stream.disposition & Disposition.attached_pic]
    if not real:
        reason = "only a cover picture in it, no video" if container.streams.video else "no video stream in it"
        raise Refusal("probe", "no_video", reason, "vfindex indexes videos; leave it out with --exclude")
    chosen = next((stream for stream in real if stream.disposition & Disposition.default), real[0])
    context = chosen.codec_context
    if context is None:
        raise Refusal("probe", "no_decoder", "this FFmpeg has no decoder for its video", "convert it, say to H.264")
    check_size(context.width, context.height)
    context.options = {"max_pixels": str(MAX_PIXELS)}  # for a size that changes on the way
    context.thread_count = 1  # one request is one core: the pipeline spreads files, and memory stays small
    return chosen


def check_size(width: int, height: int) -> None:
    """Raise Refusal where pictures are too large to be decoded in bounded memory."""
    if width * height > MAX_PIXELS or max(width, height) > MAX_SIDE_PX:
        limits = f"{MAX_PIXELS / 1e6:.0f} million pixels and {MAX_SIDE_PX} a side"
        raise Refusal(
            "probe", "too_large", f"pictures of {width}x{height}, over the limit of {limits}", "scale it down"
        )


def open_source(path: bytes) -> Source:
    """Return the file opened and its video stream chosen; raises Refusal."""
    fd = open_fd(path)
    try:
        container = open_container(fd)
    except Refusal:
        os.close(fd)
        raise
    try:
        return Source(fd, container, choose_video(container))
    except Refusal:
        container.close()
        os.close(fd)
        raise


def shape_px(video: VideoStream, rotation_deg: int) -> tuple[int, int]:
    """Return (width, height) as shown: the pixel aspect widens or narrows, a quarter turn swaps."""
    context = video.codec_context
    aspect = video.sample_aspect_ratio
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        aspect = Fraction(1)
    width, height = max(1, round(context.width * aspect)), max(1, context.height)
    return (height, width) if round(rotation_deg / 90) % 2 else (width, height)


def first_frame(source: Source, beat: Beat) -> VideoFrame:
    """Return the first frame that decodes and is shown; raises Refusal."""
    source.only(source.video)
    context = source.video.codec_context
    tried = (packet for packet in demux(source.container, source.video) if packet.size)
    try:
        for packet in chain(islice(tried, PROBE_PACKETS), (None,)):  # None: what the decoder holds back
            beat()
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise  # PyAV's is an FFmpegError too, but no damage
            except av.FFmpegError:
                continue  # damaged; a later packet may do
            if frames:
                check_size(frames[0].width, frames[0].height)
                return frames[0]
    except MemoryError as exc:
        raise out_of_memory("probe") from exc
    except av.FFmpegError:
        pass  # the container ends in damage before any frame: the same refusal
    reason = f"not one frame of its {context.name} video can be decoded"
    raise Refusal("probe", "no_frames", reason, "check that it plays; copy it again")


def last_end(source: Source, beat: Beat) -> float | None:
    """Return when the last frame ends, by demuxing on from where the container stands; None without frames."""
    end_s = None
    rate = source.video.average_rate
    frame_s = float(1 / rate) if rate else 0.0
    try:
        for packet in demux(source.container, source.video):
            beat()
            start_s = packet_time(packet)
            if start_s is None or not is_shown(packet, source.video.codec_context.name):
                continue
            packet_end_s = start_s + (seconds(packet.duration, packet.time_base) or frame_s)
            end_s = packet_end_s if end_s is None else max(end_s, packet_end_s)
    except MemoryError:
        raise
    except av.FFmpegError:
        return end_s  # the readable part ends here
    return end_s


def video_end(source: Source, start_s: float, beat: Beat) -> tuple[Source, float]:
    """Return the source, perhaps reopened, and the end of its last frame.

    Headers lie (truncated files, sound longer than the picture), so the last packets are looked at; only where there is
    no way to jump to them are all packets read, without decoding.
    """
    video = source.video
    header_s = seconds(video.duration, video.time_base)
    if header_s is None and source.container.duration is not None:
        header_s = source.container.duration / av.time_base
    if header_s and header_s > TAIL_S and video.time_base:
        try:
            source.container.seek(int((start_s + header_s - TAIL_S) / video.time_base), stream=video)
            end_s = last_end(source, beat)
        except MemoryError:
            raise
        except av.FFmpegError:
            end_s = None  # this container cannot seek
        if end_s is not None and end_s > start_s:
            return source, end_s
    source = source.reopened()
    source.only(source.video)
    return source, max(last_end(source, beat) or start_s, start_s)


def coded_frames(video: VideoStream) -> int | None:
    """Return the number of shown frames where the container's index lists them all, else None."""
    entries = video.index_entries
    if not video.frames or len(entries) != video.frames or not any(entry.size for entry in entries):
        return None
    return sum(1 for entry in entries if entry.size and not entry.is_discard)


def tags(source: Source) -> dict[str, str]:
    """Return the tags of the container, then those of the video stream, keys in lower case, bounded."""
    found: dict[str, str] = {}
    for metadata in (source.container.metadata, source.video.metadata):
        for key, value in metadata.items():
            if len(found) < MAX_TAGS:
                found.setdefault(key.lower()[:MAX_TAG_KEY], value[:MAX_TAG_VALUE])
    return found


def probe(path: bytes, beat: Beat) -> dict[str, Any]:
    """Return the fields of a Probe; raises Refusal."""
    source = open_source(path)
    try:
        frame = first_frame(source, beat)
        start_s = seconds(frame.pts, source.video.time_base)
        if start_s is None:
            reason = "its frames carry no times"
            raise Refusal("probe", "no_times", reason, "remux it, for example `ffmpeg -i FILE -c copy FILE.mkv`")
        width_px, height_px = shape_px(source.video, rotation(frame))
        container = source.container
        found = {
            "container": container.format.name,
            "codec": source.video.codec_context.codec.canonical_name,
            "width_px": width_px,
            "height_px": height_px,
            "rotation_deg": rotation(frame),
            "start_s": start_s,
            "has_audio": bool(container.streams.audio),
            "frames": coded_frames(source.video),
            "subtitles": subtitle_tracks(container),
            "tags": tags(source),
            "chapters": [
                chapter["metadata"].get("title", "")[:MAX_CHAPTER_TITLE]
                for chapter in container.chapters()[:MAX_CHAPTERS]
            ],
        }
        source, found["end_s"] = video_end(source, start_s, beat)
        return found
    finally:
        source.close()


def subtitle_tracks(container: InputContainer) -> list[dict[str, Any]]:
    """Return the fields of a SubtitleTrack for each text subtitle stream."""
    text = [stream for stream in container.streams.subtitles if subtitle_codec(stream) in TEXT_CODECS]
    return [
        {
            "index": stream.index,
            "language": (stream.language or "")[:MAX_TAG_KEY],
            "codec": subtitle_codec(stream),
            "title": stream.metadata.get("title", "")[:MAX_TAG_VALUE],
            "forced": bool(stream.disposition & Disposition.forced),
            "hearing_impaired": bool(stream.disposition & Disposition.hearing_impaired),
            "default": bool(stream.disposition & Disposition.default),
            "comment": bool(stream.disposition & Disposition.comment),
        }
        for stream in text[:MAX_TRACKS]
    ]


def subtitle_codec(stream: Stream) -> str:
    """Return the stream's codec name, "" where this FFmpeg does not know it."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""


def subtitles(path: bytes, track: int, beat: Beat) -> list[tuple[float, float, str]]:
    """Return (start_s, end_s, text as stored) of a text subtitle stream; raises Refusal."""
    source = open_source(path)
    try:
        container = source.container
        stream = next((s for s in container.streams.subtitles if s.index == track), None)
        if stream is None or subtitle_codec(stream) not in TEXT_CODECS:
            raise Refusal("probe", "no_subtitles", f"its stream {track} holds no text subtitles", "index it again")
        source.only(stream)
        return _events(container, stream, beat)
    finally:
        source.close()


def _events(container: InputContainer, stream: Stream, beat: Beat) -> list[tuple[float, float, str]]:
    events: list[tuple[float, float, str]] = []
    total_bytes = 0
    try:
        for packet in demux(container, stream):
            beat()
            start_s = packet_time(packet)
            data = bytes(packet)
            if subtitle_codec(stream) == "mov_text":  # 3GPP TS 26.245: 16 bit length, text, then style boxes
                data = data[2 : 2 + int.from_bytes(data[:2], "big")]
            if start_s is None or not data:
                continue
            total_bytes += len(data)
            if total_bytes > MAX_SUBTITLE_BYTES:
                break
            length_s = seconds(packet.duration, packet.time_base) or 0.0
            events.append((start_s, start_s + max(0.0, length_s), data.decode("utf-8", "replace")[:MAX_EVENT_CHARS]))
    except MemoryError:
        raise
    except av.FFmpegError:
        return events  # the readable part ends here
    return events
