"""Spans of files as media for a browser, and cuts of them, made in child processes under limits."""

from __future__ import annotations

import logging
import os
import re
import sys
from collections import OrderedDict
from collections.abc import Callable, Generator, Sequence
from threading import Lock
from types import TracebackType
from typing import Self

from vfindex.indexer.boundary import NO_RESOURCES
from vfindex.indexer.media.answers import Fields, InvalidField, number
from vfindex.indexer.media.decoder import Decoder, Limits
from vfindex.indexer.playback.slots import Slots
from vfindex.indexer.playback.stream import ChildStream, StreamEnd, StreamStart
from vfindex.storage.errors import VideoError
from vfindex.storage.machine import usable_cores
from vfindex.storage.records import CutEnd, CutPart, Playability, Rung

logger = logging.getLogger(__name__)

STREAMS = 16  # at a time, copies included; the child of one takes some 100 MB
# Processor time for a second of media, besides what the size of the file allows: decoding 4K at 60 frames a second
# takes some 2 s of a core, encoding it in full size some 10 s more.
STREAM_CPU_S, CUT_CPU_S = 5.0, 20.0
CACHED_FILES = 512
MAX_CUT_BYTES = 1 << 40
CONTENT_TYPE = re.compile(r'video/(mp4|webm)(; codecs="[\w., -]{1,100}")?', re.ASCII)  # it becomes a header of HTTP
CHILD_RUNGS: tuple[Rung, ...] = ("file", "remux", "transcode")
ERRORS_OF_NOW = ("killed", "missing", "unreadable", NO_RESOURCES)  # codes that say nothing about the file's media

Identity = tuple[bytes, int, int]


class MediaPlayer:
    """Prepares files for browsers and cuts them; safe for threads. `close`, or leaving the `with` block, ends all."""

    def __init__(self, limits: Limits | None = None, *, transcodes: int | None = None, streams: int = STREAMS) -> None:
        """transcodes: how many may encode at a time; None: one a core. streams: copies included."""
        self._limits = limits
        self._prober, self._probing = self._decoder(), Lock()
        self._known: OrderedDict[Identity, Playability] = OrderedDict()
        most = usable_cores() if transcodes is None else transcodes
        self._slots = Slots(streams, "videos play")
        self._encodings = Slots(most, "videos are being converted")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """End all streams, and the child that opens files."""
        self._slots.close()
        self._encodings.close()
        self._prober.kill()
        with self._probing:
            self._prober.close()

    def playability(self, path: bytes) -> Playability:
        """Return the first rung for a file; `strip`, with the reason, if it cannot be decoded. Raises VideoError."""
        identity = _identity(path)
        with self._probing:
            found = self._known.pop(identity, None)
            if found is None:
                found = self._probed(path)
            if found.rung != "strip":  # the reason may be the machine's, which passes
                self._known[identity] = found
            while len(self._known) > CACHED_FILES:
                self._known.popitem(last=False)
            return found

    def stream(self, path: bytes, start_s: float, end_s: float, rung: Rung | None = None) -> ChildStream:
        """Return a span as media. rung: `transcode` to skip the copy. Raises VideoError, Overloaded."""
        if rung != "transcode":
            encodes = self.playability(path).rung not in ("file", "remux")
            try:
                return self._stream(path, (start_s, end_s), copies=True, encodes=encodes)
            except VideoError as exc:
                if exc.problem.code in ERRORS_OF_NOW:
                    raise
                logger.info("%s is encoded instead of copied: %s", os.fsdecode(path), exc.problem.reason)
        return self._stream(path, (start_s, end_s), copies=False, encodes=True)

    def cut(
        self,
        parts: Sequence[CutPart],
        write: Callable[[int, bytes], None],
        *,
        exact: bool,
        timecode: str | None = None,
    ) -> CutEnd:
        """Write one MP4 file of the parts, one after the other. write: (offset, bytes), in no order of offsets.

        exact: encode again, so that each part begins and ends with the frame asked for; otherwise copy packets from
        the keyframe before. timecode: of the first frame of an exact cut, SMPTE ST 12-1; a copy carries none, as it
        begins with another frame. Raises VideoError, also for parts that only `exact` can cut or join, and Overloaded.
        """
        order = {
            "spans": [[part.start_s, part.end_s] for part in parts],
            "exact": exact,
            "timecode": timecode if timecode and exact else "",
        }
        length_s = sum(part.end_s - part.start_s for part in parts)

        def parse(kind: str, fields: Fields, payload: bytes) -> tuple[tuple[int, bytes] | CutEnd, bool]:
            if kind == "bytes":
                return (fields.integer("at", 0, MAX_CUT_BYTES), payload), False
            if kind == "end":
                return _cut_end(fields, len(parts)), True
            raise InvalidField(f"{kind} while cutting")

        with (self._encodings if exact else self._slots).held(), self._decoder() as decoder:
            request = {"kind": "cut", "order": order}
            paths = [part.path for part in parts]
            more_cpu_s = CUT_CPU_S * length_s
            for item in decoder.ask(paths[0], "decode", request, parse, more_cpu_s=more_cpu_s, paths=paths):
                if isinstance(item, CutEnd):
                    return item
                write(*item)
        raise RuntimeError("a cut ends with its summary, or an error")

    def _stream(self, path: bytes, span: tuple[float, float], *, copies: bool, encodes: bool) -> ChildStream:
        """Return a stream that has begun. copies: what can be copied. encodes: its video is not, so that it counts."""
        decoder, (start_s, end_s) = self._decoder(), span
        order = {"start_s": start_s, "end_s": end_s, "copies": copies}
        request, more_cpu_s = {"kind": "stream", "order": order}, STREAM_CPU_S * max(0.0, end_s - start_s)

        def messages() -> Generator[StreamStart | bytes | StreamEnd]:
            yield from decoder.ask(path, "decode", request, _stream_message, more_cpu_s=more_cpu_s)

        made = ChildStream(decoder, messages())
        for slots in (self._slots, self._encodings) if encodes else (self._slots,):
            made.take(slots)
        made.begin()
        return made

    def _probed(self, path: bytes) -> Playability:
        def parse(kind: str, fields: Fields, _: bytes) -> tuple[Playability, bool]:
            if kind != "playability":
                raise InvalidField(f"{kind} as answer to playability")
            return Playability(_rung(fields), _content_type(fields), fields.text("reason")), True

        try:
            (found,) = self._prober.ask(path, "probe", {"kind": "playability"}, parse)
        except VideoError as exc:
            if exc.problem.code in ERRORS_OF_NOW:
                raise
            return Playability("strip", "", exc.problem.reason)
        return found

    def _decoder(self) -> Decoder:
        limits = self._limits if self._limits is not None else Limits()
        module = [sys.executable, "-P", "-m", "vfindex.indexer.playback.worker", str(limits.memory_bytes)]
        return Decoder(limits, module)


def _identity(path: bytes) -> Identity:
    try:
        state = os.stat(path)
    except OSError:
        return (path, 0, 0)  # the child says what is wrong with it
    return (path, state.st_size, state.st_mtime_ns)


def _stream_message(kind: str, fields: Fields, payload: bytes) -> tuple[StreamStart | bytes | StreamEnd, bool]:
    if kind == "stream":
        return StreamStart(_rung(fields), _content_type(fields), fields.number("start_s")), False
    if kind == "bytes":
        return payload, False
    if kind == "end":
        return StreamEnd(fields.number("end_s"), fields.text("error")), True
    raise InvalidField(f"{kind} while streaming")


def _rung(fields: Fields) -> Rung:
    found = next((rung for rung in CHILD_RUNGS if rung == fields.text("rung")), None)
    if found is None:
        raise InvalidField(f"rung is {fields.text('rung')!r:.40}")
    return found


def _content_type(fields: Fields) -> str:
    found = fields.text("content_type")
    if not CONTENT_TYPE.fullmatch(found):
        raise InvalidField(f"content type is {found!r:.40}")
    return found


def _cut_end(fields: Fields, parts: int) -> CutEnd:
    spans = []
    for item in fields.items("spans"):
        if not isinstance(item, list) or len(item) != 2:
            raise InvalidField("a span is no pair")
        spans.append((number(item[0], "span"), number(item[1], "span")))
    if len(spans) != parts:
        raise InvalidField(f"{len(spans)} spans of {parts}")
    return CutEnd(tuple(spans), fields.number("duration_s"), fields.text("error"))
