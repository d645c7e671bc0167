"""Inside the playback child: which rung of the ladder plays a file, and what of it is copied."""

from __future__ import annotations

import os
from dataclasses import dataclass

from av.audio.stream import AudioStream
from av.container import InputContainer
from av.stream import Disposition

from vfindex.indexer.media.container import STILLS, Source, open_source
from vfindex.indexer.media.probe import COMMENTARIES
from vfindex.indexer.playback.codecs import (
    AUDIO_OF,
    VIDEO_OF,
    Container,
    audio_name,
    codec_of,
    mime_type,
    video_name,
)
from vfindex.storage.records import Rung

HEAD_BYTES = 4096  # an EBML header is at the beginning and short
EBML_WEBM = b"\x42\x82\x84webm"  # its DocType (RFC 8794, 11.2.4)
MP4_FORMAT, MATROSKA_FORMAT = "mov,mp4,m4a,3gp,3g2,mj2", "matroska,webm"
CONTAINERS: tuple[Container, ...] = ("mp4", "webm")


@dataclass(frozen=True)
class Choice:
    """How a file is played. container: of the file, or of streams of it. reason: why no rung before serves.

    video: the codec's name for MIME types, "" to encode it again. audio: index of the track, None without one that can
    be decoded: PyAV's stream does not outlive its container, which may be opened again. audio_name: as `video`.
    """

    rung: Rung
    reason: str
    container: Container
    video: str
    audio: int | None
    audio_name: str


def playability(path: bytes) -> dict[str, str]:
    """Return the fields of a Playability; `content_type` of what is copied. Raises Refusal."""
    source = open_source(path)
    try:
        chosen = choose(source)
        names = [name for name in (chosen.video, chosen.audio_name) if name]
        kind = mime_type(chosen.container, names) if chosen.video else f"video/{chosen.container}"
        return {"rung": chosen.rung, "content_type": kind, "reason": chosen.reason}
    finally:
        source.close()


def choose(source: Source, *, copies: bool = True) -> Choice:
    """Return how a browser plays an open file. copies: False to encode all of it, whatever its codecs are."""
    audio = played_audio(source.container)
    codec, sound = codec_of(source.video), "" if audio is None else codec_of(audio)
    index = None if audio is None else audio.index
    video = video_name(codec, source.video.codec_context)
    heard = (audio is not None and audio_name(sound, audio.codec_context)) or ""
    stored = stored_container(source)
    able = [each for each in CONTAINERS if codec in VIDEO_OF[each]]
    whole = [each for each in able if audio is None or (heard and sound in AUDIO_OF[each])]
    reason = _not_copied(source, codec, video, bool(whole or "mp4" in able))
    if reason or not video or not copies:
        kept = heard if copies and sound in AUDIO_OF["mp4"] else ""
        return Choice("transcode", reason or "it is encoded again, as asked", "mp4", "", index, kept)
    container: Container = stored if stored is not None and stored in whole else (whole or ["mp4"])[0]
    reason = _not_a_file(source, stored, container, audio, sound if not whole else "")
    return Choice("remux" if reason else "file", reason, container, video, index, heard if whole else "")


def played_audio(container: InputContainer) -> AudioStream | None:
    """Return the audio track to play: the default one before others, commentaries last; None without a decoder."""
    tracks = [stream for stream in container.streams.audio if stream.codec_context is not None]
    return min(tracks, key=_preference, default=None)


def _preference(stream: AudioStream) -> tuple[bool, bool, int]:
    return bool(stream.disposition & COMMENTARIES), not stream.disposition & Disposition.default, stream.index


def stored_container(source: Source) -> Container | None:
    """Return the container of the file if browsers open it. QuickTime's own brand is not MP4 to all of them."""
    container = source.container
    if container.format.name == MP4_FORMAT:
        return None if container.metadata.get("major_brand", "qt  ") == "qt  " else "mp4"
    if container.format.name == MATROSKA_FORMAT and EBML_WEBM in os.pread(source.fd, HEAD_BYTES, 0):
        return "webm"
    return None


def _not_copied(source: Source, codec: str, video: str | None, fits: bool) -> str:
    """Return why the video has to be encoded again, "" if its packets can be copied."""
    context = source.video.codec_context
    if video is None:
        kind = ", ".join(part for part in (context.profile, context.pix_fmt) if part)
        return f"browsers do not play {codec} ({kind})"
    if source.clock.only_dts:
        return f"{source.container.format.name} stores no presentation times"
    return "" if fits else f"browsers do not play {codec} with this audio"


def _not_a_file(
    source: Source, stored: Container | None, container: Container, audio: AudioStream | None, sound: str
) -> str:
    """Return why a browser cannot be given the file itself, "" if it can. sound: audio to be encoded again."""
    if stored is None:
        return f"browsers do not open {source.container.format.long_name}"
    if sound:
        return f"browsers do not play {sound}"
    if stored != container:
        return f"browsers do not play {codec_of(source.video)} in {stored}"
    if not source.clock.is_stored:
        return "its times do not begin at 0"
    videos = [stream for stream in source.container.streams.video if not stream.disposition & STILLS]
    tracks = source.container.streams.audio
    if len(videos) > 1 or (audio is not None and tracks[0].index != audio.index):
        return "it has several tracks, and a browser plays the first"
    return ""
