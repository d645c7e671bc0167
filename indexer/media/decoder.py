"""Decoding of untrusted media in a child process: probe, subtitles, sampled frames and audio.

Nothing here parses media. The child (`worker`) does, under limits, and its answers are checked before they are used.
"""

from __future__ import annotations

import logging
import os
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any, NoReturn, Self, TypeVar

from vfindex.indexer.boundary import NO_RESOURCES, RESOURCES_STEP
from vfindex.indexer.media import answers, protocol
from vfindex.indexer.media.answers import (
    AudioBlock,
    AudioTrack,
    Fields,
    Frame,
    InvalidField,
    Probe,
    ReadEnd,
    SubtitleTrack,
)
from vfindex.indexer.media.child import Child, Death
from vfindex.indexer.media.protocol import MAX_FRAME_TAPS, AudioTap, FrameTap, Tap
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import Problem, Stage, VideoError

__all__ = [
    "AudioBlock",
    "AudioTap",
    "AudioTrack",
    "Decoder",
    "Frame",
    "FrameTap",
    "Limits",
    "Probe",
    "ReadEnd",
    "SubtitleTrack",
    "Tap",
]

logger = logging.getLogger(__name__)

Answer = TypeVar("Answer")
Parse = Callable[[str, Fields, bytes], tuple[Answer, bool]]  # (kind, header, payload) -> (item, whether it is the last)

MAX_WORD_CHARS = 2000  # length of a refusal's code, reason or next step
_NEXT = "check that it plays, or convert it; it is left alone until it changes"


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a file, beyond which its decoder is killed.

    memory_bytes: address space of the child. 8192 x 8192 frames with 17 reference frames take 1.7 GB; Python, numpy
        and FFmpeg reserve under 1 GB. idle_s: silence; the child sends a beat between packets, and one packet of 8K
        takes a few seconds on a busy machine. cpu_base_s, cpu_per_mb_s: processor time of one request; the slowest
        ordinary material (4K AV1 in software) takes some 6 s per megabyte of file. wall_factor: limit on waiting for
        the child, relative to processor time, for slow disks and busy machines.
    """

    memory_bytes: int = 4 << 30
    idle_s: float = 60.0
    cpu_base_s: float = 60.0
    cpu_per_mb_s: float = 10.0
    wall_factor: float = 5.0

    def cpu_s(self, size_bytes: float) -> float:
        """Return the processor time limit for this many bytes of a file."""
        return self.cpu_base_s + self.cpu_per_mb_s * size_bytes / (1 << 20)


class Decoder:
    """A decode child, started on demand and restarted after it was killed. One request at a time."""

    def __init__(self, limits: Limits | None = None, command: Sequence[str] | None = None) -> None:
        """command: argv that replaces the child's, for tests."""
        self._limits = limits if limits is not None else Limits()
        module = [sys.executable, "-P", "-m", "vfindex.indexer.media.worker", str(self._limits.memory_bytes)]
        self._command = command if command is not None else module
        self._child: Child | None = None
        self._busy = self._killed = False

    def start(self) -> None:
        """Start the child, which takes a moment to import its libraries. If it fails, the first request says so."""
        if self._child is None:
            with suppress(OSError):
                self._child = Child(self._command)

    def probe(self, path: bytes) -> Probe:
        """Return the file's header. Raises VideoError."""

        def parse(kind: str, fields: Fields, _: bytes) -> tuple[Probe, bool]:
            if kind != "probe":
                raise InvalidField(f"{kind} as answer to a probe")
            return answers.probe(fields), True

        (found,) = self.ask(path, "probe", {"kind": "probe"}, parse)
        return found

    def subtitles(self, path: bytes, track: int) -> list[tuple[float, float, str]]:
        """Return (start_s, end_s, text as stored) of the events of the text subtitle stream with index `track`.

        The text is the packet's: an ASS event is `ReadOrder,Layer,Style,Name,MarginL,MarginR,MarginV,Effect,Text`.
        At most 10 MB of it. Raises VideoError.
        """

        def parse(kind: str, fields: Fields, _: bytes) -> tuple[list[tuple[float, float, str]], bool]:
            if kind != "subtitles":
                raise InvalidField(f"{kind} as answer to subtitles")
            return answers.subtitle_events(fields), fields.flag("last")

        batches = self.ask(path, "probe", {"kind": "subtitles", "track": track}, parse)
        return [event for batch in batches for event in batch]

    def keyframes_before(self, path: bytes, times_s: Sequence[float]) -> list[float]:
        """Return for each of at most MAX_ITEMS times the last keyframe at or before it.

        The time itself if seeking finds none. Decodes nothing. Raises VideoError.
        """

        def parse(kind: str, fields: Fields, _: bytes) -> tuple[list[float], bool]:
            found = [answers.number(time_s, "time") for time_s in fields.items("times")]
            if kind != "cuts" or len(found) != len(times_s) or any(a > b for a, b in zip(found, times_s, strict=True)):
                raise InvalidField(f"{kind} as answer to cuts")
            return found, True

        (found,) = self.ask(path, "probe", {"kind": "cuts", "times": list(times_s)}, parse)
        return found

    def read(  # noqa: PLR0913  the fields of a request
        self,
        path: bytes,
        *,
        taps: Sequence[Tap],
        sampling: Sampling,
        audio: int | None = None,
        start_s: float | None = None,
        end_s: float | None = None,
        share: float = 1.0,
    ) -> Iterator[Frame | AudioBlock | ReadEnd]:
        """Yield the frames and the audio of all taps with start_s <= time < end_s, interleaved, then one ReadEnd.

        The file is decoded once, whatever the taps; no frame is decoded without a FrameTap, no audio without an
        AudioTap. Frames of a tap are in order of time, and an interval yields exactly the frames that the whole file
        yields there. Only the pipe buffers frames.
        sampling: of all frames. audio: index of the audio stream, None for no audio. share: of the whole file's
        processor time limit.
        Raises VideoError, with `quarantine` if the child had to be killed; ValueError for too many taps.
        """
        frames = [tap for tap in taps if isinstance(tap, FrameTap)]
        sounds = [tap for tap in taps if isinstance(tap, AudioTap)]
        if len(frames) > MAX_FRAME_TAPS or len({*taps}) < len(taps):
            raise ValueError(f"at most {MAX_FRAME_TAPS} frame taps, and each tap once, not {taps}")
        order = {
            "mode": sampling.mode,
            "fps": sampling.fps,
            "frames": [asdict(tap) for tap in frames],
            "rates_hz": [] if audio is None else [tap.rate_hz for tap in sounds],
            "audio": audio if sounds else None,
            "start_s": start_s,
            "end_s": end_s,
        }
        request = {"kind": "read", "order": order}

        def parse(kind: str, fields: Fields, payload: bytes) -> tuple[Frame | AudioBlock | ReadEnd, bool]:
            if kind == "frame":
                return answers.frame(fields, payload, frames), False
            if kind == "audio":
                return answers.audio(fields, payload, sounds), False
            if kind == "end":
                return answers.record(ReadEnd, fields), True
            raise InvalidField(f"{kind} while reading")

        return self.ask(path, "decode", request, parse, share=share)

    def kill(self) -> None:
        """Kill the child permanently, from any thread. Requests then raise VideoError, code `killed`."""
        self._killed = True
        child = self._child
        if child is not None:
            child.kill()

    def refuse_if_killed(self, path: bytes) -> None:
        """Raise VideoError, code `killed`, after `kill`; for callers that process frames read earlier."""
        if self._killed:
            raise _interrupted(path, "decode")

    def close(self) -> None:
        """End the child."""
        child, self._child = self._child, None
        if child is not None:
            child.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def ask(  # noqa: PLR0913  a request and its limits
        self,
        path: bytes,
        stage: Stage,
        request: dict[str, Any],
        parse: Parse[Answer],
        *,
        share: float = 1.0,
        more_cpu_s: float = 0.0,
        paths: Sequence[bytes] = (),
    ) -> Iterator[Answer]:
        """Yield the parsed answers up to the one that `parse` calls the last.

        paths: of a request for several files; `path` is then the one that errors name. more_cpu_s: besides what the
        size of the file allows. The child is ended unless all answers were read, or it refused the file properly.
        """
        self.refuse_if_killed(path)
        if self._busy:
            raise RuntimeError("a decoder does one request at a time")
        child = self._start(path, stage)
        self.refuse_if_killed(path)  # `kill` may have come before there was a child
        files = paths or [path]
        cpu_s = self._limits.cpu_s(sum(map(_size_bytes, files)) * share) + more_cpu_s
        child.start_clock(wall_s=cpu_s * self._limits.wall_factor, idle_s=self._limits.idle_s)
        self._busy, reusable = True, False
        try:
            child.send(protocol.pack({**request, "cpu_s": cpu_s}, b"\0".join(files)))
            while not reusable:
                header, payload = protocol.unpack(child.read_exactly)
                kind = str(header.get("kind"))
                if kind == "error":
                    error = _refusal(path, stage, Fields(header))
                    reusable = not error.quarantine
                    raise error
                if kind != "beat":
                    item, reusable = parse(kind, Fields(header), payload)
                    yield item
        except TimeoutError as exc:
            raise _lost(path, stage, "timeout", f"its decoder {exc}") from exc
        except (EOFError, BrokenPipeError) as exc:
            self._raise_death(path, stage, child.death(), cpu_s, exc)
        except (protocol.WireError, InvalidField) as exc:  # the file may have compromised the child
            raise _lost(path, stage, "crashed", f"its decoder answered nonsense ({exc})") from exc
        finally:
            self._busy = False
            if not reusable:
                self.close()

    def _start(self, path: bytes, stage: Stage) -> Child:
        """Return the child, started if needed. Raises VideoError, code `no_resources`, if that fails."""
        if self._child is not None and not self._child.running():
            self.close()
        if self._child is None:
            try:
                self._child = Child(self._command)
            except OSError as exc:
                reason = f"the process that decodes it cannot be started ({exc.strerror or exc})"
                raise VideoError(Problem(path, stage, NO_RESOURCES, reason, RESOURCES_STEP)) from exc
        return self._child

    def _raise_death(self, path: bytes, stage: Stage, death: Death, cpu_s: float, cause: Exception) -> NoReturn:
        if death.was_stopped:
            raise _interrupted(path, stage) from cause
        if death.status == -signal.SIGXCPU:
            reason = f"reading it took more than the limit of {cpu_s:g} s of processor time"
            raise _lost(path, stage, "cpu", reason) from cause
        if death.status == -signal.SIGVTALRM:
            reason = "opening it takes too long: its header holds far more tags or tracks than any film"
            raise VideoError(Problem(path, stage, "header", reason, _NEXT)) from cause  # a retry takes as long
        if death.is_out_of_memory:
            reason = f"reading it took more memory than the limit of {self._limits.memory_bytes / 1e9:.1f} GB"
            raise _lost(path, stage, "memory", reason) from cause
        logger.warning("the decode child %s: %s", death, death.last_words)
        raise _lost(path, stage, "crashed", f"its decoder {death}") from cause


def _size_bytes(path: bytes) -> int:
    try:
        return os.lstat(path).st_size
    except OSError:
        return 0  # the child says what is wrong with the file


def _interrupted(path: bytes, stage: Stage) -> VideoError:
    return VideoError(Problem(path, stage, "killed", "reading it was interrupted", "index it again"))


def _lost(path: bytes, stage: Stage, code: str, reason: str) -> VideoError:
    """Return the error of a file that killed its decoder."""
    return VideoError(Problem(path, stage, code, reason, _NEXT), quarantine=True)


def _refusal(path: bytes, stage: Stage, fields: Fields) -> VideoError:
    """Return the error of a file that the child refuses. Raises InvalidField."""
    code, reason, next_step = (fields.text(name) for name in ("code", "reason", "next"))
    if not all(0 < len(words) <= MAX_WORD_CHARS for words in (code, reason, next_step)):
        raise InvalidField("a refusal without reason")
    named: Stage = "open" if fields.text("stage") == "open" else "probe" if fields.text("stage") == "probe" else stage
    # After running out of memory, its heap is fragmented.
    return VideoError(Problem(path, named, code, reason, next_step), quarantine=code == "memory")
