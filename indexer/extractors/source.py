"""A video's file before it is decoded: what the modalities' metadata come from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from vfindex.indexer.media.decoder import AudioTrack, Decoder, Probe
from vfindex.indexer.options import Options
from vfindex.indexer.scan.walk import Found
from vfindex.storage.records import Chapter


@dataclass(frozen=True, slots=True)
class VideoSource:
    """A file, its header, and its tags and chapters, of itself and of its `.info.json`.

    audio: the audio track that is read, None if none can be decoded.
    """

    found: Found
    probe: Probe
    tags: Mapping[str, str]
    chapters: tuple[Chapter, ...]
    audio: AudioTrack | None
    options: Options
    decoder: Decoder
