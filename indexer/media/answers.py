"""The answers of the decode child as records. Every field is checked: a hostile file may have written it."""

from __future__ import annotations

import dataclasses
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.media.protocol import MAX_ITEMS, SPEECH_AUDIO, TIMECODE, AudioTap, FrameTap
from vfindex.storage.records import Chapter

MAX_TEXT_CHARS = 20_000  # of any one text from the child, which sends less
MAX_BLOCK_SAMPLES = 1 << 20
MAX_EVENTS = 1 << 18  # subtitles of one file
MAX_COUNT = 1 << 40  # frames and packets


@dataclass(frozen=True, slots=True)
class AudioTrack:
    """An audio stream. index: in the container. language: as stored, "" if unknown.

    is_commentary: a commentary or an audio description. is_default: marked so. has_decoder: FFmpeg can decode it here.
    codec: its name, "" if FFmpeg does not know it.
    """

    index: int
    language: str = ""
    codec: str = ""
    title: str = ""
    is_default: bool = False
    is_commentary: bool = False
    has_decoder: bool = True


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A text subtitle stream. index: in the container. language, title: as stored, "" where there is none.

    forced, hearing_impaired, default, comment: its dispositions.
    """

    index: int
    language: str
    codec: str
    title: str = ""
    forced: bool = False
    hearing_impaired: bool = False
    default: bool = False
    comment: bool = False


@dataclass(frozen=True, slots=True)
class Probe:
    """The header of a container, corrected where headers are known to be wrong.

    width_px, height_px: as shown, after pixel aspect and rotation. rotation_deg: counter-clockwise, as in the display
    matrix. start_s, end_s: presentation times of the first frame and of the end of the last one. frames: coded frames
    that are shown, None where only decoding could tell. tags, chapters: untrusted text of the file, bounded.
    chapters_left: the number of further ones. clock_s: when the container starts: the 0 s of players and of sidecars.
    """

    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    start_s: float
    end_s: float
    audio: tuple[AudioTrack, ...]
    frames: int | None
    subtitles: tuple[SubtitleTrack, ...]
    tags: dict[str, str]
    chapters: tuple[Chapter, ...]
    clock_s: float = 0.0
    fps: str | None = None
    time_base: str | None = None
    start_timecode: str | None = None
    chapters_left: int = 0

    @property
    def has_audio(self) -> bool:
        """Return whether there is an audio stream, with or without a decoder for it."""
        return bool(self.audio)


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame, upright. time_s: presentation time. pixels: (height, width, 3) uint8 RGB, contiguous."""

    time_s: float
    pixels: NDArray[np.uint8]
    tap: FrameTap


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Audio from `time_s` on: (n,) int16, mono, at the rate of its tap.

    All channels mixed, or the loudest one where they cancel each other.
    """

    time_s: float
    samples: NDArray[np.int16]
    tap: AudioTap = SPEECH_AUDIO


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """The summary of a read; always its last item.

    frames: decoded video frames where all were decoded, else coded frames that would be shown; with sparse sampling,
        those among the packets read. first_s, last_s: their presentation times, None without any.
    damaged: packets that could not be decoded; damaged_audio: those of audio, of audio_packets.
    error: why reading stopped before the end of the file, or "". note: an oddity that loses nothing, or "".
    """

    frames: int
    first_s: float | None
    last_s: float | None
    rotation_deg: int
    damaged: int
    error: str
    damaged_audio: int = 0
    note: str = ""
    audio_packets: int = 0


class InvalidField(Exception):
    """An answer has a field that no decoder writes."""


class Fields:
    """The header of an answer; each method returns one field of its type and range, or raises InvalidField."""

    def __init__(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise InvalidField("no object")
        self._header = header

    def number(self, name: str) -> float:
        return number(self._header.get(name), name)

    def maybe_number(self, name: str) -> float | None:
        return None if self._header.get(name) is None else self.number(name)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._header.get(name)
        if type(value) is not int or not low <= value <= high:
            raise InvalidField(f"{name} is {value!r:.40}")
        return value

    def text(self, name: str) -> str:
        return text(self._header.get(name), name)

    def flag(self, name: str) -> bool:
        value = self._header.get(name)
        if type(value) is not bool:
            raise InvalidField(f"{name} is {value!r:.40}")
        return value

    def items(self, name: str, most: int = MAX_ITEMS) -> list[Any]:
        value = self._header.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise InvalidField(f"{name} is no list of at most {most}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        value = self._header.get(name)
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise InvalidField(f"{name} is no object of at most {MAX_ITEMS}")
        return {text(key, name): text(item, name) for key, item in value.items()}


R = TypeVar("R", AudioTrack, SubtitleTrack, ReadEnd)
# Ranges of whole numbers, by the names of their fields; others count up to MAX_COUNT.
_RANGES = {"index": (0, 1 << 16), "rotation_deg": (-360, 360)}
# What checks a field of a record, by its type.
_CHECKS: dict[str, Callable[[Fields, str], Any]] = {
    "int": lambda fields, name: fields.integer(name, *_RANGES.get(name, (0, MAX_COUNT))),
    "str": Fields.text,
    "bool": Fields.flag,
    "float | None": Fields.maybe_number,
}


def number(value: object, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise InvalidField(f"{name} is {value!r:.40}")
    return float(value)  # type: ignore[arg-type]


def text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise InvalidField(f"{name} is no text of at most {MAX_TEXT_CHARS} characters")
    return value


def record(kind: type[R], fields: Fields) -> R:
    """Return a record of numbers, texts and flags, each checked by its type."""
    return kind(**{each.name: _CHECKS[str(each.type)](fields, each.name) for each in dataclasses.fields(kind)})


def chapter(item: Any) -> Chapter:
    """Return a chapter of (start_s, end_s, title), the times None where there are none."""
    if not isinstance(item, list) or len(item) != 3:
        raise InvalidField("a chapter is no triple")
    title = text(item[2], "chapters")
    if item[0] is None:
        return Chapter(title)
    start_s, end_s = number(item[0], "chapters"), number(item[1], "chapters")
    if end_s < start_s:
        raise InvalidField(f"a chapter runs from {start_s} to {end_s}")
    return Chapter(title, start_s, end_s)


def fraction(fields: Fields, name: str) -> str | None:
    """Return a positive fraction as text, None for the empty text."""
    found = fields.text(name)
    if found and not re.fullmatch(r"[1-9]\d{0,9}/[1-9]\d{0,9}", found, re.ASCII):
        raise InvalidField(f"{name} is no fraction: {found!r}")
    return found or None


def timecode(fields: Fields, name: str) -> str | None:
    """Return a timecode (SMPTE ST 12-1), None for the empty text."""
    found = fields.text(name)
    if found and not TIMECODE.fullmatch(found):
        raise InvalidField(f"{name} is no timecode: {found!r}")
    return found or None


def probe(fields: Fields) -> Probe:
    frames = None if fields.maybe_number("frames") is None else fields.integer("frames", 0, 1 << 40)
    return Probe(
        container=fields.text("container"),
        codec=fields.text("codec"),
        width_px=fields.integer("width_px", 1, 1 << 20),
        height_px=fields.integer("height_px", 1, 1 << 20),
        rotation_deg=fields.integer("rotation_deg", -360, 360),
        start_s=fields.number("start_s"),
        end_s=fields.number("end_s"),
        audio=tuple(record(AudioTrack, Fields(track)) for track in fields.items("audio")),
        frames=frames,
        subtitles=tuple(record(SubtitleTrack, Fields(track)) for track in fields.items("subtitles")),
        tags=fields.texts("tags"),
        chapters=tuple(chapter(each) for each in fields.items("chapters")),
        clock_s=fields.number("clock_s"),
        fps=fraction(fields, "fps"),
        time_base=fraction(fields, "time_base"),
        start_timecode=timecode(fields, "start_timecode"),
        chapters_left=fields.integer("chapters_left", 0, 1 << 40),
    )


def frame(fields: Fields, payload: bytes, taps: Sequence[FrameTap]) -> Frame:
    """Return a frame of one of the taps that were asked for."""
    tap = taps[fields.integer("tap", 0, len(taps) - 1)]
    height, width = fields.integer("height", 1, tap.longest_px), fields.integer("width", 1, tap.longest_px)
    if len(payload) != height * width * 3:
        raise InvalidField(f"{len(payload)} bytes for {width}x{height} pixels")
    return Frame(fields.number("time_s"), np.frombuffer(payload, np.uint8).reshape(height, width, 3).copy(), tap)


def audio(fields: Fields, payload: bytes, taps: Sequence[AudioTap]) -> AudioBlock:
    """Return a block of one of the taps that were asked for."""
    tap = taps[fields.integer("tap", 0, len(taps) - 1)]
    samples = fields.integer("samples", 0, MAX_BLOCK_SAMPLES)
    if len(payload) != samples * 2:
        raise InvalidField(f"{len(payload)} bytes for {samples} samples")
    return AudioBlock(fields.number("time_s"), np.frombuffer(payload, np.int16).copy(), tap)


def subtitle_events(fields: Fields) -> list[tuple[float, float, str]]:
    """Return (start_s, end_s, text) of each event of one message."""
    events = []
    for item in fields.items("events", MAX_EVENTS):
        if not isinstance(item, list) or len(item) != 3:
            raise InvalidField("a subtitle is no triple")
        events.append((number(item[0], "start"), number(item[1], "end"), text(item[2], "subtitle")))
    return events
