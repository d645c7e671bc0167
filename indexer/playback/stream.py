"""A stream of media from a child process, which can be closed at any time from any thread."""

from __future__ import annotations

import logging
import time
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from threading import Lock
from typing import Self

from vfindex.indexer.media.decoder import Decoder
from vfindex.indexer.playback.slots import Slots
from vfindex.storage.errors import VideoError
from vfindex.storage.records import Rung

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class StreamStart:
    """The first message of a stream: see `search.playback.MediaStream`."""

    rung: Rung
    content_type: str
    start_s: float


@dataclass(frozen=True, slots=True)
class StreamEnd:
    """The last message of a stream. error: why it ended before the end of the span, or ""."""

    end_s: float
    error: str


class ChildStream:
    """The media of a span, made as they are read. One thread reads; any thread may close it.

    The child is blocked while nobody reads: the pipe between them holds 64 KiB.
    """

    def __init__(self, decoder: Decoder, messages: Generator[StreamStart | bytes | StreamEnd]) -> None:
        self._decoder, self._messages = decoder, messages
        self._slots: list[Slots] = []
        self._start: StreamStart | None = None
        self._reading = Lock()
        self._closed = False
        self._read_at_s: float | None = None  # when the last read ended; None while one is under way

    def take(self, slots: Slots) -> None:
        """Take a slot that `close` gives back. Raises Overloaded, and is closed then."""
        try:
            slots.take(self)
        except BaseException:
            self.close()
            raise
        self._slots.append(slots)

    def begin(self) -> None:
        """Wait for the first message. Raises VideoError, and is closed then."""
        try:
            first = next(self._messages)
            if not isinstance(first, StreamStart):
                raise TypeError("a stream begins with how it is played")
        except BaseException:
            self.close()
            raise
        self._start = first
        self._read_at_s = time.monotonic()

    @property
    def rung(self) -> Rung:
        return self._begun.rung

    @property
    def content_type(self) -> str:
        return self._begun.content_type

    @property
    def start_s(self) -> float:
        return self._begun.start_s

    @property
    def _begun(self) -> StreamStart:
        if self._start is None:
            raise RuntimeError("the stream has not begun")
        return self._start

    def idle_s(self) -> float:
        """Return for how long nobody has waited for it; 0 while somebody does."""
        read_at_s = self._read_at_s
        return 0.0 if read_at_s is None else time.monotonic() - read_at_s

    def __iter__(self) -> Iterator[bytes]:
        return self

    def __next__(self) -> bytes:
        """Return the next bytes. Raises VideoError where the file is damaged beyond reading on."""
        with self._reading:
            if self._closed:
                raise StopIteration
            self._read_at_s = None
            try:
                item = next(self._messages)
            except VideoError:
                if self._closed:  # by another thread, meanwhile
                    raise StopIteration from None
                raise
            finally:
                self._read_at_s = time.monotonic()
        if isinstance(item, bytes):
            return item
        if isinstance(item, StreamEnd) and item.error:
            logger.info("a stream ended at %.1f s: %s", item.end_s, item.error)
        self.close()
        raise StopIteration

    def close(self) -> None:
        """End the child, wherever it is, and give the slots back."""
        self._closed = True
        self._decoder.kill()  # a thread that reads sees the end of the pipe
        with self._reading:
            self._messages.close()
            self._decoder.close()
        for slots in self._slots:
            slots.give(self)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
