"""Subtitles that lie beside a video or inside it, as transcript segments."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from vfindex.storage.errors import Problem
from vfindex.storage.records import Segment


def find_sidecars(video_path: bytes, siblings: Iterable[bytes] | None) -> list[bytes]:
    """Return the subtitle files of a video, the one to read first first."""
    raise NotImplementedError


def sidecar_language(video_path: bytes, sidecar: bytes) -> str:
    """Return the language tag in the sidecar's name (`talk.en.srt` -> "en"), "" where it has none."""
    raise NotImplementedError


def read_sidecar(path: bytes, language: str = "") -> list[Segment]:
    """Return the segments of one subtitle file in order of time. Raises VideoError (stage `transcribe`)."""
    raise NotImplementedError


def sidecar_transcript(video_path: bytes, siblings: Iterable[bytes] | None) -> tuple[list[Segment], list[Problem]]:
    """Return the segments of the first of `find_sidecars` that has any, and what was wrong with those tried."""
    raise NotImplementedError


def preferred(languages: Sequence[str]) -> list[int]:
    """Return the positions of `languages` in the order to try: English, unmarked, the rest as they stand."""
    raise NotImplementedError


def from_packets(packets: Iterable[tuple[float, float, str]], codec: str, language: str) -> list[Segment]:
    """Return the segments of an embedded text track: (start_s, end_s, raw text) as `Decoder.subtitles` gives them."""
    raise NotImplementedError
