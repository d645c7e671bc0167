"""Inside the decode child: a hostile file opened, its video stream chosen, and what the container says about it."""

from __future__ import annotations

import errno
import os
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from itertools import chain, islice
from typing import Any, Self

import av
from av.container import InputContainer
from av.packet import Packet
from av.stream import Discard, Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfindex.indexer.media import sniff
from vfindex.indexer.media.clock import MAX_STEP_S, Clock, FrameTimes, claimed_end_s, seconds
from vfindex.indexer.media.limits import ended_after
from vfindex.indexer.media.tracks import TEXT_CODECS, audio_tracks, chapters, codec_name, subtitle_tracks, tags

# Containers that hold their own media. Not here, as they open what they name or make pictures up: hls, dash, concat,
# sdp, rtsp, image2, *_pipe, tty, lavfi. Nor raw streams, which have no times.
ALLOWED_FORMATS = (
    "mov", "matroska", "webm", "avi", "mpegts", "mpeg", "ogg", "flv", "live_flv", "asf", "gif", "mxf", "gxf", "wtv",
    "rm", "ivf", "nut", "nsv", "dv", "swf", "dhav", "ty", "pva", "roq", "smk", "bink", "amv", "yuv4mpegpipe",
)  # fmt: skip
MAX_PIXELS = 1 << 26  # 8192 x 8192; 17 reference frames of it at 8 bit 4:2:0 are 1.7 GB
MAX_SIDE_PX = 1 << 15
MAX_PIXEL_ASPECT = 16  # real ones are between 1:4 and 4:1; a lie of 1:60000 must not become a picture of that shape
MAX_SUBTITLE_BYTES = 10 << 20  # the same limit as for a sidecar
MAX_EVENT_CHARS = 10_000  # one subtitle; what is longer is no subtitle
# FFmpeg's time for tags is quadratic: 10,000 take 1 s, 1,000,000 hours. A film of 24 hours opens in 2 s.
OPEN_CPU_S = 10.0
STILLS = Disposition.attached_pic | Disposition.still_image | Disposition.timed_thumbnails
TRACK_PACKETS = 200  # of all video streams: a track that moves has its second picture within some seconds
MAX_LAST_S = 600.0  # how long a last frame may claim to be shown where no header says how long the video is
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
    """An open file, the stream in it that is the video, and its clock."""

    fd: int
    container: InputContainer
    video: VideoStream
    clock: Clock

    @classmethod
    def of(cls, fd: int, container: InputContainer, video: VideoStream) -> Self:
        return cls(fd, container, video, Clock(container, video))

    def only(self, *streams: Stream) -> None:
        """Have the demuxer skip all other streams."""
        wanted = {stream.index for stream in streams}
        for stream in self.container.streams:
            stream.discard = Discard.default if stream.index in wanted else Discard.all

    def reopened(self) -> Source:
        """Return the same file, read from its beginning. Not every container can be rewound by seeking."""
        index = self.video.index
        self.container.close()
        container = open_container(self.fd)
        if index >= len(container.streams):
            raise Refusal("probe", "no_video", "its streams change as they are read", "copy it again")
        return self.of(self.fd, container, prepared_video(container.streams[index]))

    def seek(self, time_s: float) -> None:
        """Jump to the keyframe at or before a time of the clock, as far as the container can; raises FFmpegError."""
        self.clock.restart()
        base = self.video.time_base or 1
        self.container.seek(int((time_s + self.clock.origin_s) / base), stream=self.video)

    def demux(self, *streams: Stream) -> Iterator[Packet[Any]]:
        """Yield the packets of the streams, their stamps on the clock; raises FFmpegError where damaged."""
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


def choose_video(fd: int, container: InputContainer) -> VideoStream:
    """Return the stream to index: the first marked default, else the first, of those that move, if any does.

    Cover pictures are none. Raises Refusal.
    """
    real = [stream for stream in container.streams.video if not stream.disposition & STILLS]
    if not real:
        reason = "only a cover picture in it, no video" if container.streams.video else "no video stream in it"
        raise Refusal("probe", "no_video", reason, "vfindex indexes videos; leave it out with --exclude")
    if len(real) > 1:
        moving = moving_streams(fd, [stream.index for stream in real])
        real = [stream for stream in real if stream.index in moving] or real
    return prepared_video(next((s for s in real if s.disposition & Disposition.default), real[0]))


def moving_streams(fd: int, indices: list[int]) -> set[int]:
    """Return which of the streams have more than one picture, as far as the first TRACK_PACKETS packets tell."""
    container = open_container(fd)
    counts: Counter[int] = Counter()
    try:
        streams = [container.streams[index] for index in indices]
        for packet in islice(demux(container, *streams), TRACK_PACKETS):
            counts[packet.stream_index] += bool(packet.size)
    except MemoryError:
        raise
    except av.FFmpegError:
        pass  # the readable part tells
    finally:
        container.close()
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
        return Source.of(fd, container, choose_video(fd, container))
    except Refusal:
        container.close()
        os.close(fd)
        raise


def shape_px(frame: VideoFrame, video: VideoStream) -> tuple[int, int]:
    """Return (width, height) of a frame as shown: a quarter turn swaps."""
    width, height = shown_px(frame.width, frame.height, video.sample_aspect_ratio)
    return (height, width) if round(rotation(frame) / 90) % 2 else (width, height)


def shown_px(width: int, height: int, aspect: Fraction | None) -> tuple[int, int]:
    """Return (width, height) once the pixel aspect has widened or narrowed the picture."""
    if not aspect or not 1 / MAX_PIXEL_ASPECT <= aspect <= MAX_PIXEL_ASPECT:
        aspect = Fraction(1)
    return max(1, round(width * aspect)), max(1, height)


def first_frame(source: Source, beat: Beat) -> tuple[VideoFrame, float | None]:
    """Return the first frame that decodes and is shown, and its time; raises Refusal."""
    source.only(source.video)
    context = source.video.codec_context
    times = FrameTimes(source.clock)
    tried = (packet for packet in source.demux(source.video) if packet.size)
    try:
        for packet in chain(islice(tried, PROBE_PACKETS), (None,)):  # None: what the decoder holds back
            beat()
            if packet is not None:
                times.sent(packet)
            try:
                frames = context.decode(packet)
            except MemoryError:
                raise  # PyAV's is an FFmpegError too, but no damage
            except av.FFmpegError:
                if packet is not None:
                    times.lost(packet)
                continue  # damaged; a later packet may do
            if frames:
                check_size(frames[0].width, frames[0].height)
                return frames[0], times.of(frames[0])
    except MemoryError as exc:
        raise out_of_memory("probe") from exc
    except av.FFmpegError:
        pass  # the container ends in damage before any frame: the same refusal
    reason = f"not one frame of its {context.name} video can be decoded"
    raise Refusal("probe", "no_frames", reason, "check that it plays; copy it again")


def last_end(source: Source, beat: Beat) -> float | None:
    """Return when the last frame ends, by demuxing on from where the container stands; None without frames.

    A last frame that claims to go on after the length in the header does not.
    """
    end_s = last_s = None
    frame_s = source.clock.frame_s
    try:
        for packet in source.demux(source.video):
            beat()
            start_s = packet_time(packet)
            if start_s is None or not is_shown(packet, source.video.codec_context.name):
                continue
            packet_end_s = start_s + (seconds(packet.duration, packet.time_base) or frame_s)
            last_s = start_s if last_s is None else max(last_s, start_s)
            end_s = packet_end_s if end_s is None else max(end_s, packet_end_s)
    except MemoryError:
        raise
    except av.FFmpegError:
        pass  # the readable part ends here
    if end_s is None or last_s is None:
        return None
    header_s = claimed_end_s(source.container, source.video)
    if not source.clock.is_trusted:
        return end_s if end_s - last_s <= MAX_STEP_S else last_s + frame_s
    if header_s is None:
        return min(end_s, last_s + MAX_LAST_S)
    return min(end_s, max(last_s + frame_s, header_s - source.clock.origin_s))


def video_end(source: Source, start_s: float, beat: Beat) -> tuple[Source, float]:
    """Return the source, perhaps reopened, and the end of its last frame.

    Headers lie (truncated files, sound longer than the picture), so the last packets are looked at; only where there is
    no way to jump to them are all packets read, without decoding.
    """
    video = source.video
    header_s = seconds(video.duration, video.time_base)
    if header_s is None and source.container.duration is not None:
        header_s = source.container.duration / av.time_base
    if header_s and header_s > TAIL_S and video.time_base and source.clock.is_trusted:
        try:
            source.seek(start_s + header_s - TAIL_S)
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


def begins_anew(source: Source, beat: Beat) -> bool:
    """Return whether one cannot jump in the file by its times, as its clock begins anew on the way."""
    if source.clock.is_trusted:
        return False
    state = os.fstat(source.fd)
    return _begins_anew((source.fd, state.st_dev, state.st_ino, state.st_size, state.st_mtime_ns), beat)


@lru_cache(maxsize=1)  # the units of a file are asked for one after another
def _begins_anew(identity: tuple[int, ...], beat: Beat) -> bool:
    container = open_container(identity[0])
    source = Source.of(identity[0], container, choose_video(identity[0], container))
    source.only(source.video)
    last_end(source, beat)
    container.close()
    return source.clock.clocks > 1


def coded_frames(video: VideoStream) -> int | None:
    """Return the number of shown frames where the container's index lists them all, else None."""
    entries = video.index_entries
    if not video.frames or len(entries) != video.frames or not any(entry.size for entry in entries):
        return None
    return sum(1 for entry in entries if entry.size and not entry.is_discard)


def probe(path: bytes, beat: Beat) -> dict[str, Any]:
    """Return the fields of a Probe; raises Refusal."""
    source = open_source(path)
    try:
        frame, start_s = first_frame(source, beat)
        if start_s is None:
            reason = "its frames carry no times"
            raise Refusal("probe", "no_times", reason, "remux it, for example `ffmpeg -i FILE -c copy FILE.mkv`")
        width_px, height_px = shape_px(frame, source.video)
        container = source.container
        found = {
            "container": container.format.name,
            "codec": source.video.codec_context.codec.canonical_name,
            "width_px": width_px,
            "height_px": height_px,
            "rotation_deg": rotation(frame),
            "start_s": start_s,
            "clock_s": source.clock.start_s,
            "audio": audio_tracks(container),
            "frames": coded_frames(source.video),
            "subtitles": subtitle_tracks(container),
            "tags": tags(container, source.video),
            "chapters": chapters(container),
        }
        source, found["end_s"] = video_end(source, start_s, beat)
        return found
    finally:
        source.close()


def subtitles(path: bytes, track: int, beat: Beat) -> list[tuple[float, float, str]]:
    """Return (start_s, end_s, text as stored) of a text subtitle stream; raises Refusal."""
    source = open_source(path)
    try:
        container = source.container
        stream = next((s for s in container.streams.subtitles if s.index == track), None)
        if stream is None or codec_name(stream) not in TEXT_CODECS:
            raise Refusal("probe", "no_subtitles", f"its stream {track} holds no text subtitles", "index it again")
        source.only(stream)
        return _events(source, stream, beat)
    finally:
        source.close()


def _events(source: Source, stream: Stream, beat: Beat) -> list[tuple[float, float, str]]:
    events: list[tuple[float, float, str]] = []
    total_bytes = 0
    try:
        for packet in source.demux(stream):
            beat()
            start_s = packet_time(packet)
            data = bytes(packet)
            if codec_name(stream) == "mov_text":  # 3GPP TS 26.245: 16 bit length, text, then style boxes
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
