"""Inside the decode child: the fields of a Probe, and text subtitles. All of it is bounded."""

from __future__ import annotations

from fractions import Fraction
from itertools import chain, islice
from typing import Any

import av
from av.container import InputContainer
from av.stream import Disposition, Stream
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from vfindex.indexer.media.clock import FrameTimes, seconds
from vfindex.indexer.media.container import (
    Beat,
    Refusal,
    Source,
    check_size,
    open_source,
    out_of_memory,
    packet_time,
    rotation,
    shown_px,
    until_damage,
)
from vfindex.indexer.media.protocol import MAX_ITEMS, TIMECODE
from vfindex.indexer.media.seeking import last_end

TEXT_CODECS = frozenset({"subrip", "text", "mov_text", "webvtt", "ass", "ssa"})
MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 64, 64, 2000  # the last two in characters
MAX_CHAPTERS, MAX_CHAPTER_TITLE, MAX_TRACKS = MAX_ITEMS, 200, 100
COMMENTARIES = Disposition.comment | Disposition.visual_impaired | Disposition.descriptions
MAX_SUBTITLE_BYTES = 10 << 20  # the same limit as for a sidecar
MAX_EVENT_CHARS = 10_000  # of one subtitle
PROBE_PACKETS = 400  # video packets tried for a first frame: more than the damage of a GOP, less than a film
TAIL_S = 10.0  # before the end by the header, from where the last frames are read


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
            "chapters": chapters(container, source.clock.origin_s),
            "chapters_left": max(0, len(container.chapters()) - MAX_CHAPTERS),
            "fps": fraction(source.video.guessed_rate),
            "time_base": fraction(source.video.time_base),
            "start_timecode": start_timecode(container),
        }
        source, found["end_s"] = video_end(source, start_s, beat)
        return found
    finally:
        source.close()


def first_frame(source: Source, beat: Beat) -> tuple[VideoFrame, float | None]:
    """Return the first shown frame that decodes, and its time. Raises Refusal."""
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
                continue  # damaged; a later packet may decode
            if frames:
                check_size(frames[0].width, frames[0].height)
                return frames[0], times.of(frames[0])
    except MemoryError as exc:
        raise out_of_memory("probe") from exc
    except av.FFmpegError:
        pass  # the container ends in damage before any frame: the same refusal
    reason = f"not one frame of its {context.name} video can be decoded"
    raise Refusal("probe", "no_frames", reason, "check that it plays; copy it again")


def video_end(source: Source, start_s: float, beat: Beat) -> tuple[Source, float]:
    """Return the source, perhaps reopened, and the end of its last frame.

    Headers are wrong in truncated files and where audio outlasts video, so the last packets decide. If seeking to them
    fails, all packets are read, without decoding.
    """
    video = source.video
    header_s = seconds(video.duration, video.time_base)
    if header_s is None and source.container.duration is not None:
        header_s = source.container.duration / av.time_base
    if header_s and header_s > TAIL_S and video.time_base and source.clock.is_trusted:
        end_s: float | None = None
        with until_damage():  # of a container that cannot seek
            source.seek(start_s + header_s - TAIL_S)
            end_s = last_end(source, beat)
        if end_s is not None and end_s > start_s:
            return source, end_s
    source = source.reopened()
    source.only(source.video)
    return source, max(last_end(source, beat) or start_s, start_s)


def fraction(value: Fraction | None) -> str:
    """Return a positive number as a fraction in text, "" where there is none or it has more than ten digits."""
    shown = f"{value.numerator}/{value.denominator}" if value and value > 0 else ""
    return shown if max(map(len, shown.split("/"))) <= 10 else ""


def start_timecode(container: InputContainer) -> str:
    """Return the timecode of the first frame that the container or one of its streams states, else "".

    QuickTime keeps it in a stream of its own; Matroska and MXF in the container.
    """
    stated = (container.metadata, *(stream.metadata for stream in container.streams))
    codes = (code for metadata in stated for key, code in metadata.items() if key.lower() == "timecode")
    return next((code for code in codes if TIMECODE.fullmatch(code)), "")


def coded_frames(video: VideoStream) -> int | None:
    """Return the number of shown frames if the container's index lists them all, else None."""
    entries = video.index_entries
    if not video.frames or len(entries) != video.frames or not any(entry.size for entry in entries):
        return None
    return sum(1 for entry in entries if entry.size and not entry.is_discard)


def shape_px(frame: VideoFrame, video: VideoStream) -> tuple[int, int]:
    """Return (width, height) of a frame as shown: a quarter turn swaps."""
    width, height = shown_px(frame.width, frame.height, video.sample_aspect_ratio)
    return (height, width) if round(rotation(frame) / 90) % 2 else (width, height)


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
    with until_damage():
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
    return events


def tags(container: InputContainer, video: Stream) -> dict[str, str]:
    """Return the tags of the container, then those of the video stream, keys in lower case, bounded."""
    found: dict[str, str] = {}
    for metadata in (container.metadata, video.metadata):
        for key, value in metadata.items():
            if len(found) < MAX_TAGS:
                found.setdefault(key.lower()[:MAX_TAG_KEY], value[:MAX_TAG_VALUE])
    return found


def chapters(container: InputContainer, origin_s: float) -> list[tuple[float | None, float | None, str]]:
    """Return (start_s, end_s, title) of the chapters; None where the file states no time that can be."""
    found: list[tuple[float | None, float | None, str]] = []
    for chapter in container.chapters()[:MAX_CHAPTERS]:
        title = chapter["metadata"].get("title", "")[:MAX_CHAPTER_TITLE]
        start_s, end_s = (seconds(chapter[edge], chapter["time_base"]) for edge in ("start", "end"))
        if start_s is None or end_s is None or end_s < start_s:
            found.append((None, None, title))
        else:
            found.append((start_s - origin_s, end_s - origin_s, title))
    return found


def audio_tracks(container: InputContainer) -> list[dict[str, Any]]:
    """Return the fields of an AudioTrack for each audio stream."""
    return [
        {
            "index": stream.index,
            "language": (stream.language or "")[:MAX_TAG_KEY],
            "codec": codec_name(stream),
            "title": stream.metadata.get("title", "")[:MAX_TAG_VALUE],
            "is_default": bool(stream.disposition & Disposition.default),
            "is_commentary": bool(stream.disposition & COMMENTARIES),
            "has_decoder": stream.codec_context is not None,
        }
        for stream in container.streams.audio[:MAX_TRACKS]
    ]


def subtitle_tracks(container: InputContainer) -> list[dict[str, Any]]:
    """Return the fields of a SubtitleTrack for each text subtitle stream."""
    text = [stream for stream in container.streams.subtitles if codec_name(stream) in TEXT_CODECS]
    return [
        {
            "index": stream.index,
            "language": (stream.language or "")[:MAX_TAG_KEY],
            "codec": codec_name(stream),
            "title": stream.metadata.get("title", "")[:MAX_TAG_VALUE],
            "forced": bool(stream.disposition & Disposition.forced),
            "hearing_impaired": bool(stream.disposition & Disposition.hearing_impaired),
            "default": bool(stream.disposition & Disposition.default),
            "comment": bool(stream.disposition & Disposition.comment),
        }
        for stream in text[:MAX_TRACKS]
    ]


def codec_name(stream: Stream) -> str:
    """Return the stream's codec name, "" where this FFmpeg does not know it."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""
