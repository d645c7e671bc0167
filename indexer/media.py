"""Hostile media, read in a child process that can be killed: probe, subtitles, sampled frames and sound.

Nothing here parses media. The child (`decode_child`) does, under limits; its answers are checked before they are used.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray

from vfindex.storage.errors import UsageError

SAMPLE_RATE_HZ = 16_000  # what speech recognition and voice activity detection take


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may cost before its decoder is killed.

    memory_bytes: address space of the child. 8K 10-bit HEVC with 16 reference frames needs about 2 GiB; Python, numpy and
        FFmpeg reserve 0.5 GiB.
    idle_s: silence of the child; decoding one GOP of 4K on a busy machine takes seconds.
    cpu_base_s, cpu_per_mb_s: processor time of one request. The slowest ordinary material (4K AV1 in software) takes
        about 6 s per megabyte of file; ten seconds leave room for a busy machine.
    wall_factor: wall clock over processor time, for slow disks and machines that do other work.
    """

    memory_bytes: int = 4 << 30
    idle_s: float = 60.0
    cpu_base_s: float = 60.0
    cpu_per_mb_s: float = 10.0
    wall_factor: float = 5.0


@dataclass(frozen=True, slots=True)
class Sampling:
    """Which frames are read: `auto`, `keyframes`, or a fixed number a second (`fps`)."""

    mode: Literal["auto", "keyframes", "fps"] = "auto"
    fps: float = 0.0

    @classmethod
    def parse(cls, text: str) -> Self:
        """Return the sampling that `text` names; raises UsageError."""
        word = text.strip().lower()
        if word == "auto":
            return cls("auto")
        if word == "keyframes":
            return cls("keyframes")
        try:
            fps = float(word)
        except ValueError:
            fps = math.nan
        if not MIN_FPS <= fps <= MAX_FPS:
            raise UsageError(
                f"--sampling takes auto, keyframes or frames a second from {MIN_FPS:g} to {MAX_FPS:g}, not {text!r}"
            )
        return cls("fps", fps)

    def __str__(self) -> str:
        return f"{self.fps!r}".removesuffix(".0") if self.mode == "fps" else self.mode


MIN_FPS = 0.01  # one frame in 100 s; fewer finds nothing
MAX_FPS = 120.0  # above that no camera that people own; neighbouring frames show the same


@dataclass(frozen=True, slots=True)
class SubtitleTrack:
    """A text subtitle stream. index: in the container. language: as the container says, "" where it does not."""

    index: int
    language: str
    codec: str


@dataclass(frozen=True, slots=True)
class Probe:
    """What a container says, checked where it is known to lie.

    width_px, height_px: as shown, after pixel aspect and rotation. rotation_deg: counter-clockwise, as in the display
    matrix. start_s, end_s: presentation times of the video stream, end of the last frame. frames: coded frames that are
    shown, None where that would need decoding. tags, chapters: raw text of the file, bounded, not to be trusted.
    """

    container: str
    codec: str
    width_px: int
    height_px: int
    rotation_deg: int
    start_s: float
    end_s: float
    has_audio: bool
    frames: int | None
    subtitles: tuple[SubtitleTrack, ...]
    tags: dict[str, str]
    chapters: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Frame:
    """A sampled frame, upright. time_s: presentation time. pixels: (height, width, 3) uint8 RGB, contiguous."""

    time_s: float
    pixels: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class AudioBlock:
    """Sound from `time_s` on: (n,) int16, mono (all channels mixed), SAMPLE_RATE_HZ."""

    time_s: float
    samples: NDArray[np.int16]


@dataclass(frozen=True, slots=True)
class ReadEnd:
    """How a reading ended; always the last item.

    frames: video frames decoded where all were decoded, else coded frames that would be shown. first_s, last_s: their
    presentation times, None where there were none. damaged: packets that could not be decoded. error: why reading ended
    before the end of the file, "" where it did not.
    """

    frames: int
    first_s: float | None
    last_s: float | None
    rotation_deg: int
    damaged: int
    error: str


class Decoder:
    """One decode child, started when first needed and again after it was killed. One request at a time."""

    def __init__(self, limits: Limits | None = None, command: Sequence[str] | None = None) -> None:
        """command: argv of the child instead of the real one."""
        raise NotImplementedError

    def probe(self, path: bytes) -> Probe:
        """Return what the file holds; raises VideoError."""
        raise NotImplementedError

    def subtitles(self, path: bytes, track: int) -> list[tuple[float, float, str]]:
        """Return (start_s, end_s, text as stored) of the events of the subtitle stream with index `track`."""
        raise NotImplementedError

    def read(
        self,
        path: bytes,
        *,
        sampling: Sampling,
        size_px: int,
        audio: bool,
        start_s: float | None = None,
        end_s: float | None = None,
    ) -> Iterator[Frame | AudioBlock | ReadEnd]:
        """Yield the sampled frames and the sound with start_s <= time < end_s, interleaved, then one ReadEnd.

        size_px: the short side of the frames. Raises VideoError, with `quarantine` where the child had to be killed.
        """
        raise NotImplementedError

    def kill(self) -> None:
        """Kill the child, from any thread; a read that waits for it raises VideoError."""
        raise NotImplementedError

    def close(self) -> None:
        """End the child."""
        raise NotImplementedError

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
