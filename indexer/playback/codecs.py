"""Inside the playback child: which codecs all browsers play, with their names for MIME types (RFC 6381).

H.264 in 8 bit 4:2:0, VP8, VP9 of profile 0 and AV1 of the main profile; AAC, MP3, Opus, Vorbis and FLAC. Not HEVC: it
depends on the machine. A stream of any other kind is encoded again.
"""

from __future__ import annotations

from typing import Literal

from av.audio.codeccontext import AudioCodecContext
from av.audio.stream import AudioStream
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

Container = Literal["mp4", "webm"]

H264_PROFILES = frozenset({"Constrained Baseline", "Baseline", "Main", "High", "Progressive High", "Constrained High"})
EIGHT_BIT = frozenset({"yuv420p", "yuvj420p"})
AV1_FORMATS = EIGHT_BIT | {"yuv420p10le", "gray", "gray10le"}
AAC_NAMES = {"LC": "mp4a.40.2", "HE-AAC": "mp4a.40.5", "HE-AACv2": "mp4a.40.29"}
AUDIO_NAMES = {"mp3": "mp4a.6B", "opus": "opus", "vorbis": "vorbis", "flac": "flac"}
# What a container may hold so that browsers play it. VP9 and AV1 are copied to MP4, VP8 to WebM.
VIDEO_OF: dict[Container, frozenset[str]] = {
    "mp4": frozenset({"h264", "vp9", "av1"}),
    "webm": frozenset({"vp8", "vp9", "av1"}),
}
AUDIO_OF: dict[Container, frozenset[str]] = {
    "mp4": frozenset({"aac", "mp3", "opus", "flac"}),
    "webm": frozenset({"opus", "vorbis"}),
}
SPS = 7  # type of the NAL unit that begins with profile, constraints and level (H.264, 7.3.2.1)


def codec_of(stream: VideoStream | AudioStream) -> str:
    """Return the name of a stream's codec, "" where this FFmpeg does not know it."""
    return stream.codec_context.codec.canonical_name if stream.codec_context is not None else ""


def video_name(codec: str, context: VideoCodecContext) -> str | None:
    """Return the name of a video codec for MIME types, None if not every browser plays the stream."""
    if codec == "h264":
        is_played = context.profile in H264_PROFILES and context.pix_fmt in EIGHT_BIT
        return avc1_name(context.extradata or b"") if is_played else None
    if codec == "vp8":
        return "vp8"
    if codec == "vp9":
        return "vp09.00.51.08" if context.profile in ("Profile 0", None) and context.pix_fmt in EIGHT_BIT else None
    if codec == "av1":
        return _av01(context.extradata or b"") if context.pix_fmt in AV1_FORMATS else None
    return None


def audio_name(codec: str, context: AudioCodecContext) -> str | None:
    """Return the name of an audio codec for MIME types, None if not every browser plays the stream."""
    if codec == "aac":
        return AAC_NAMES.get(context.profile or "LC")
    return AUDIO_NAMES.get(codec)


def mime_type(container: Container, names: list[str]) -> str:
    """Return the MIME type of a file with these codecs."""
    return f'video/{container}; codecs="{", ".join(names)}"'


def avc1_name(extradata: bytes) -> str | None:
    """Return `avc1.` with profile, constraints and level in hex, of an avcC record or of Annex B; None without."""
    if extradata[:1] == b"\x01" and len(extradata) >= 4:  # ISO/IEC 14496-15, 5.3.3.1
        return f"avc1.{extradata[1:4].hex()}"
    begin = 0
    while (begin := extradata.find(b"\0\0\1", begin) + 3) >= 3:
        if len(extradata) >= begin + 4 and extradata[begin] & 31 == SPS:
            return f"avc1.{extradata[begin + 1 : begin + 4].hex()}"
    return None


def _av01(extradata: bytes) -> str | None:
    """Return `av01.` with profile, level, tier and depth, of an av1C record (AV1 in ISOBMFF, 2.3.3); None without."""
    if len(extradata) < 4 or extradata[0] != 0x81:
        return None
    profile, level = extradata[1] >> 5, extradata[1] & 31
    tier, depth = "MH"[extradata[2] >> 7], 10 if extradata[2] & 0x40 else 8
    return f"av01.{profile}.{level:02}{tier}.{depth:02}" if profile == 0 else None
