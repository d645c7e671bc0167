"""Hostile media, read in a child process that can be killed: probe, subtitles, sampled frames and sound.

Nothing here parses media. The child (`decode_child`) does, under limits; its answers are checked before they are used.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self, TypeVar

import numpy as np
from numpy.typing import NDArray

from vfindex.indexer.media import protocol
from vfindex.indexer.media.audio_tracks import AudioTrack
from vfindex.indexer.media.child import Child, Limits
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import Problem, Stage, VideoError

Answer = TypeVar("Answer")

__all__ = ["AudioBlock", "AudioTrack", "Decoder", "Frame", "Limits", "Probe", "ReadEnd", "SubtitleTrack"]

SAMPLE_RATE_HZ = 16_000  # what speech recognition and voice activity detection take
MAX_TEXT_CHARS = 20_000  # of any one text from the child, which sends less
MAX_ITEMS = 1000  # tags, chapters, tracks; the child sends less
MAX_BLOCK_SAMPLES = 1 << 20
MAX_EVENTS = 1 << 18  # subtitles of one file
NO_RESOURCES = "no_resources"  # code of a file that the machine, not its content, kept from being read


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A text subtitle stream. index: in the container. language, title: as the container says, "" where it does not.

    forced, hearing_impaired, default, comment: its dispositions, as marked in the container.
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
    """What a container says, checked where it is known to lie.

    width_px, height_px: as shown, after pixel aspect and rotation. rotation_deg: counter-clockwise, as in the display
    matrix. start_s, end_s: presentation times of the video stream, end of the last frame. frames: coded frames that are
    shown, None where that would need decoding. tags, chapters: raw text of the file, bounded, not to be trusted.
    clock_s: when the container starts, the 0 s of players and of sidecars.
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
    chapters: tuple[str, ...]
    clock_s: float = 0.0

    @property
    def has_audio(self) -> bool:
        """Return whether there is sound, be there a decoder for it or not."""
        return bool(self.audio)


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame, upright. time_s: presentation time. pixels: (height, width, 3) uint8 RGB, contiguous."""

    time_s: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Sound from `time_s` on: (n,) int16, mono, SAMPLE_RATE_HZ.

    All channels mixed, or the loudest where they cancel each other.
    """

    time_s: float
    samples: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """How a reading ended; always the last item.

    frames: video frames decoded where all were decoded, else coded frames that would be shown, of a look in passing
    those that were met. first_s, last_s: their presentation times, None where there were none. damaged: packets that
    could not be decoded. error: why reading ended before the end of the file, "" where it did not. damaged_audio:
    packets of sound that could not be decoded, of audio_packets. note: what is odd, though nothing is lost, or "".
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


class _Doubt(Exception):
    """A field of an answer that cannot be."""


class _Fields:
    """A header from the child, read field by field; raises _Doubt. The child may be in the hands of a hostile file."""

    def __init__(self, header: Any) -> None:
        if not isinstance(header, dict):
            raise _Doubt("no object")
        self._header = header

    def number(self, name: str) -> float:
        return _number(self._header.get(name), name)

    def maybe_number(self, name: str) -> float | None:
        return None if self._header.get(name) is None else self.number(name)

    def integer(self, name: str, low: int, high: int) -> int:
        value = self._header.get(name)
        if type(value) is not int or not low <= value <= high:
            raise _Doubt(f"{name} is {value!r:.40}")
        return value

    def text(self, name: str) -> str:
        return _text(self._header.get(name), name)

    def flag(self, name: str) -> bool:
        value = self._header.get(name)
        if type(value) is not bool:
            raise _Doubt(f"{name} is {value!r:.40}")
        return value

    def items(self, name: str, most: int = MAX_ITEMS) -> list[Any]:
        value = self._header.get(name)
        if not isinstance(value, list) or len(value) > most:
            raise _Doubt(f"{name} is no list of at most {most}")
        return value

    def texts(self, name: str) -> dict[str, str]:
        value = self._header.get(name)
        if not isinstance(value, dict) or len(value) > MAX_ITEMS:
            raise _Doubt(f"{name} is no object of at most {MAX_ITEMS}")
        return {_text(key, name): _text(item, name) for key, item in value.items()}


def _number(value: object, name: str) -> float:
    if type(value) not in (int, float) or not math.isfinite(value):  # type: ignore[arg-type]
        raise _Doubt(f"{name} is {value!r:.40}")
    return float(value)  # type: ignore[arg-type]


def _text(value: object, name: str) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT_CHARS:
        raise _Doubt(f"{name} is no text of at most {MAX_TEXT_CHARS} characters")
    return value


def _track(fields: _Fields) -> SubtitleTrack:
    return SubtitleTrack(
        index=fields.integer("index", 0, 1 << 16),
        language=fields.text("language"),
        codec=fields.text("codec"),
        title=fields.text("title"),
        forced=fields.flag("forced"),
        hearing_impaired=fields.flag("hearing_impaired"),
        default=fields.flag("default"),
        comment=fields.flag("comment"),
    )


def _audio_track(fields: _Fields) -> AudioTrack:
    return AudioTrack(
        index=fields.integer("index", 0, 1 << 16),
        language=fields.text("language"),
        codec=fields.text("codec"),
        title=fields.text("title"),
        is_default=fields.flag("is_default"),
        is_aside=fields.flag("is_aside"),
        has_decoder=fields.flag("has_decoder"),
    )


def _probe(fields: _Fields) -> Probe:
    frames = None if fields.maybe_number("frames") is None else fields.integer("frames", 0, 1 << 40)
    return Probe(
        container=fields.text("container"),
        codec=fields.text("codec"),
        width_px=fields.integer("width_px", 1, 1 << 20),
        height_px=fields.integer("height_px", 1, 1 << 20),
        rotation_deg=fields.integer("rotation_deg", -360, 360),
        start_s=fields.number("start_s"),
        end_s=fields.number("end_s"),
        audio=tuple(_audio_track(_Fields(track)) for track in fields.items("audio")),
        frames=frames,
        subtitles=tuple(_track(_Fields(track)) for track in fields.items("subtitles")),
        tags=fields.texts("tags"),
        chapters=tuple(_text(title, "chapters") for title in fields.items("chapters")),
        clock_s=fields.number("clock_s"),
    )


def _frame(fields: _Fields, payload: bytes, size_px: int) -> Frame:
    longest = protocol.LONG_SIDE * size_px
    height, width = fields.integer("height", 1, longest), fields.integer("width", 1, longest)
    if len(payload) != height * width * 3:
        raise _Doubt(f"{len(payload)} bytes for {width}x{height} pixels")
    return Frame(fields.number("time_s"), np.frombuffer(payload, np.uint8).reshape(height, width, 3).copy())


def _audio(fields: _Fields, payload: bytes) -> AudioBlock:
    samples = fields.integer("samples", 0, MAX_BLOCK_SAMPLES)
    if len(payload) != samples * 2:
        raise _Doubt(f"{len(payload)} bytes for {samples} samples")
    return AudioBlock(fields.number("time_s"), np.frombuffer(payload, np.int16).copy())


def _events(fields: _Fields) -> list[tuple[float, float, str]]:
    events = []
    for item in fields.items("events", MAX_EVENTS):
        if not isinstance(item, list) or len(item) != 3:
            raise _Doubt("a subtitle is no triple")
        events.append((_number(item[0], "start"), _number(item[1], "end"), _text(item[2], "subtitle")))
    return events


def _end(fields: _Fields) -> ReadEnd:
    return ReadEnd(
        frames=fields.integer("frames", 0, 1 << 40),
        first_s=fields.maybe_number("first_s"),
        last_s=fields.maybe_number("last_s"),
        rotation_deg=fields.integer("rotation_deg", -360, 360),
        damaged=fields.integer("damaged", 0, 1 << 40),
        error=fields.text("error"),
        damaged_audio=fields.integer("damaged_audio", 0, 1 << 40),
        note=fields.text("note"),
        audio_packets=fields.integer("audio_packets", 0, 1 << 40),
    )


class Decoder:
    """One decode child, started when first needed and again after it was killed. One request at a time."""

    def __init__(self, limits: Limits | None = None, command: Sequence[str] | None = None) -> None:
        """command: argv of the child, instead of the real one."""
        self._limits = limits if limits is not None else Limits()
        self._command = command
        self._child: Child | None = None
        self._busy = self._killed = False

    def probe(self, path: bytes) -> Probe:
        """Return what the file holds; raises VideoError."""
        (found,) = self._ask(path, "probe", {"kind": "probe"}, _read_probe)
        return found

    def subtitles(self, path: bytes, track: int) -> list[tuple[float, float, str]]:
        """Return (start_s, end_s, text as stored) of the events of the text subtitle stream with index `track`.

        The text is the packet's: an ASS event is `ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text`.
        At most 10 MB of it. Raises VideoError.
        """
        batches = self._ask(path, "probe", {"kind": "subtitles", "track": track}, _read_subtitles)
        return [event for batch in batches for event in batch]

    def keyframes_before(self, path: bytes, times_s: Sequence[float]) -> list[float]:
        """Return for each of at most MAX_ITEMS times the keyframe at or before it, or the time itself where none is
        found by jumping. Nothing is decoded. Raises VideoError.
        """

        def parse(kind: str, fields: _Fields, _: bytes) -> tuple[list[float], bool]:
            found = [_number(time_s, "time") for time_s in fields.items("times")]
            if kind != "cuts" or len(found) != len(times_s) or any(a > b for a, b in zip(found, times_s, strict=True)):
                raise _Doubt(f"{kind} as answer to cuts")
            return found, True

        (found,) = self._ask(path, "probe", {"kind": "cuts", "times": list(times_s)}, parse)
        return found

    def read(  # noqa: PLR0913  what the child is asked, each with its name
        self,
        path: bytes,
        *,
        sampling: Sampling | None,
        size_px: int,
        audio: int | None,
        start_s: float | None = None,
        end_s: float | None = None,
        share: float = 1.0,
    ) -> Iterator[Frame | AudioBlock | ReadEnd]:
        """Yield the sampled frames and the sound with start_s <= time < end_s, interleaved, then one ReadEnd.

        audio: index of the audio stream, None for no sound. size_px: the short side of the frames; the long side is at
        most wire.LONG_SIDE times that. Frames come in order of time, and a stretch gives exactly the frames that the
        whole file gives there. What the pipe holds is all that is read ahead. sampling: None for the sound alone, with
        no frame decoded. share: of the processor time that the file may take. Raises VideoError, with `quarantine`
        where the child had to be killed.
        """
        if not 1 <= size_px <= protocol.MAX_SIZE_PX:
            raise ValueError(f"frames of {size_px} px are not between 1 and {protocol.MAX_SIZE_PX}")
        chosen = sampling or Sampling("keyframes")
        wanted = {"size_px": size_px, "audio": audio, "pictures": sampling is not None}
        order = {"mode": chosen.mode, "fps": chosen.fps, **wanted}
        request = {"kind": "read", "order": {**order, "start_s": start_s, "end_s": end_s}, "share": share}

        def parse(kind: str, fields: _Fields, payload: bytes) -> tuple[Frame | AudioBlock | ReadEnd, bool]:
            if kind == "frame":
                return _frame(fields, payload, size_px), False
            if kind == "audio":
                return _audio(fields, payload), False
            if kind == "end":
                return _end(fields), True
            raise _Doubt(f"{kind} while reading")

        return self._ask(path, "decode", request, parse)

    def kill(self) -> None:
        """Kill the child for good, from any thread; a request under way or to come raises VideoError, code `killed`."""
        self._killed = True
        child = self._child
        if child is not None:
            child.kill()

    def refuse_if_killed(self, path: bytes) -> None:
        """Raise VideoError, code `killed`, after `kill`: who works on frames read before may stop as well."""
        if self._killed:
            raise VideoError(Problem(path, "decode", "killed", "reading it was interrupted", "index it again"))

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _ask(
        self,
        path: bytes,
        stage: Stage,
        request: dict[str, Any],
        parse: Callable[[str, _Fields, bytes], tuple[Answer, bool]],
    ) -> Iterator[Answer]:
        """Yield the parsed answers up to the one that `parse` calls the last.

        A child that is not heard to the end, or raises anything but a plain refusal, is ended.
        """
        self.refuse_if_killed(path)
        if self._busy:
            raise RuntimeError("a decoder does one request at a time")
        child = self._start(path, stage)
        self._busy, reusable = True, False
        try:
            for header, payload in child.ask(path, stage, request):
                item, last = parse(str(header.get("kind")), _Fields(header), payload)
                reusable = last
                yield item
                if last:
                    return
        except _Doubt as exc:
            raise child.nonsense(path, stage, str(exc)) from exc
        except VideoError as exc:
            reusable = not exc.quarantine and exc.problem.code != "killed"
            raise
        finally:
            self._busy = False
            if not reusable:
                self.close()

    def _start(self, path: bytes, stage: Stage) -> Child:
        """Return the child, started if need be. Raises VideoError, code `no_resources`: not for what the file holds."""
        if self._child is not None and not self._child.running():
            self.close()
        if self._child is None:
            try:
                self._child = Child(self._limits, self._command)
            except OSError as exc:
                reason = f"the process that decodes it cannot be started ({exc.strerror or exc})"
                next_step = "free memory, room in the temporary folder or file handles (ulimit -n), and index it again"
                raise VideoError(Problem(path, stage, NO_RESOURCES, reason, next_step)) from exc
        return self._child


def _read_probe(kind: str, fields: _Fields, payload: bytes) -> tuple[Probe, bool]:
    if kind != "probe":
        raise _Doubt(f"{kind} as answer to a probe")
    return _probe(fields), True


def _read_subtitles(kind: str, fields: _Fields, payload: bytes) -> tuple[list[tuple[float, float, str]], bool]:
    if kind != "subtitles":
        raise _Doubt(f"{kind} as answer to subtitles")
    return _events(fields), fields.flag("last")
