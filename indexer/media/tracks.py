"""Inside the decode child: what a container says of its streams, tags and chapters, bounded."""

from __future__ import annotations

from typing import Any

from av.container import InputContainer
from av.stream import Disposition, Stream

TEXT_CODECS = frozenset({"subrip", "text", "mov_text", "webvtt", "ass", "ssa"})
MAX_TAGS, MAX_TAG_KEY, MAX_TAG_VALUE = 64, 64, 2000  # the last two in characters; longer is no title
MAX_CHAPTERS, MAX_CHAPTER_TITLE, MAX_TRACKS = 500, 200, 100
ASIDES = Disposition.comment | Disposition.visual_impaired | Disposition.descriptions


def tags(container: InputContainer, video: Stream) -> dict[str, str]:
    """Return the tags of the container, then those of the video stream, keys in lower case, bounded."""
    found: dict[str, str] = {}
    for metadata in (container.metadata, video.metadata):
        for key, value in metadata.items():
            if len(found) < MAX_TAGS:
                found.setdefault(key.lower()[:MAX_TAG_KEY], value[:MAX_TAG_VALUE])
    return found


def chapters(container: InputContainer) -> list[str]:
    """Return the titles of the chapters."""
    titles = (chapter["metadata"].get("title", "") for chapter in container.chapters()[:MAX_CHAPTERS])
    return [title[:MAX_CHAPTER_TITLE] for title in titles]


def audio_tracks(container: InputContainer) -> list[dict[str, Any]]:
    """Return the fields of an AudioTrack for each audio stream."""
    return [
        {
            "index": stream.index,
            "language": (stream.language or "")[:MAX_TAG_KEY],
            "codec": codec_name(stream),
            "title": stream.metadata.get("title", "")[:MAX_TAG_VALUE],
            "is_default": bool(stream.disposition & Disposition.default),
            "is_aside": bool(stream.disposition & ASIDES),
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
