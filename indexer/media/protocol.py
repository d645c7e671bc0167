"""The messages between a child process and its parent: a length, a JSON header, and the raw bytes that it announces.

Never pickle: whoever made the video may have written what comes out of the child.
"""

from __future__ import annotations

import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

from vfindex.storage.encoders import pixels

LENGTH_BYTES = 4  # big endian, before every header
MAX_HEADER_BYTES = 4 << 20  # tags, chapters or a batch of subtitles, each bounded, with every character escaped
MAX_ITEMS = 1000  # tags, chapters, tracks
MAX_PAYLOAD_BYTES = 64 << 20  # a frame of 2,600 x 7,800 pixels; requests ask for a tenth of that side
MAX_SIZE_PX = 2048  # short side of a frame; long side at most LONG_SIDE times that
MAX_LONG_PX = 1280  # long side of a frame whose text is read: small print of 1080p stays legible
MAX_FRAME_TAPS = 4
LONG_SIDE = pixels.LONG_SIDE
SAMPLE_RATE_HZ = 16_000  # the input rate of speech recognition and voice activity detection
SOUND_RATE_HZ = 48_000  # the input rate of models of sounds
RATES_HZ = (SAMPLE_RATE_HZ, SOUND_RATE_HZ)
TIMECODE = re.compile(r"\d\d:\d\d:\d\d[:;.]\d\d\d?", re.ASCII)  # SMPTE ST 12-1, as FFmpeg writes it


@dataclass(frozen=True, slots=True)
class FrameTap:
    """The sampled frames, scaled to `size_px` of their short side.

    longest: `size_px` bounds the long side instead, and small frames keep their size. fps: the first sampled frame of
    each 1/fps seconds; None: all sampled frames. Raises ValueError for a size beyond the limits.
    """

    size_px: int
    longest: bool = False
    fps: float | None = None

    def __post_init__(self) -> None:
        most_px = MAX_LONG_PX if self.longest else MAX_SIZE_PX
        if not 1 <= self.size_px <= most_px:
            raise ValueError(f"frames of {self.size_px} px are not between 1 and {most_px}")
        if self.fps is not None and not self.fps > 0:
            raise ValueError(f"{self.fps} frames a second")

    @property
    def longest_px(self) -> int:
        """The longest side that a frame may have."""
        return self.size_px if self.longest else LONG_SIDE * self.size_px


@dataclass(frozen=True, slots=True)
class AudioTap:
    """The audio as one channel, at one of RATES_HZ. Raises ValueError for another rate."""

    rate_hz: int = SAMPLE_RATE_HZ

    def __post_init__(self) -> None:
        if self.rate_hz not in RATES_HZ:
            raise ValueError(f"audio at {self.rate_hz} Hz: the rates are {RATES_HZ}")


Tap: TypeAlias = FrameTap | AudioTap
SPEECH_AUDIO = AudioTap(SAMPLE_RATE_HZ)


class WireError(Exception):
    """The bytes from the pipe are no message."""


def pack(header: dict[str, Any], payload: bytes | memoryview = b"") -> list[bytes | memoryview]:
    """Return the message as buffers to write one after the other."""
    text = json.dumps({**header, "bytes": len(payload)}, allow_nan=False).encode()
    if len(text) > MAX_HEADER_BYTES:
        raise WireError(f"header of {len(text)} bytes")
    return [len(text).to_bytes(LENGTH_BYTES, "big") + text, payload]


def write_all(fd: int, buffers: list[bytes | memoryview]) -> None:
    """Write everything. Raises OSError, BrokenPipeError if the reader has closed the pipe."""
    for buffer in buffers:
        rest = memoryview(buffer)
        while rest:
            rest = rest[os.write(fd, rest) :]


def unpack(read: Callable[[int], bytes]) -> tuple[dict[str, Any], bytes]:
    """Return (header, payload) of the next message. read(n) returns exactly n bytes, or raises.

    Raises WireError for an impossible length or header. The caller checks the fields.
    """
    size = int.from_bytes(read(LENGTH_BYTES), "big")
    if not 2 <= size <= MAX_HEADER_BYTES:
        raise WireError(f"header of {size} bytes")
    try:
        header = json.loads(read(size))
    except (ValueError, RecursionError) as exc:
        raise WireError("the header is not JSON") from exc
    if not isinstance(header, dict):
        raise WireError("the header is not an object")
    length = header.get("bytes")
    if type(length) is not int or not 0 <= length <= MAX_PAYLOAD_BYTES:
        raise WireError(f"payload of {length!r} bytes")
    return header, read(length) if length else b""


def read_exactly(size: int) -> bytes:
    """Return `size` bytes of stdin. Raises EOFError."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        raise EOFError
    return data
