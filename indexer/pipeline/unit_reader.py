"""Reads a unit ahead in a thread: the frames and the audio of its taps."""

from __future__ import annotations

import math
import queue
import threading
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TypeVar

from vfindex.indexer.media.decoder import AudioBlock, Decoder, Frame, FrameTap, ReadEnd, Tap
from vfindex.indexer.options import Sampling
from vfindex.storage.errors import Problem, VideoError
from vfindex.storage.records import UnitPlan

# Frames and audio blocks that the decoder may be ahead of the encoder, and their bytes: 64 frames of 260 x 462 pixels
# are 23 MB, 25 frames of 1280 x 720 are 66 MB.
READ_AHEAD, READ_AHEAD_BYTES = 64, 64 << 20
# More frames than this in one unit mean a wrong duration, or an excessive --sampling.
MAX_UNIT_FRAMES = 50_000
# How often the producer at a full queue checks whether its consumer has stopped.
_POLL_S = 0.2
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class UnitRequest:
    """What to decode of a unit. sampling: of the frames. audio: index of the stream, None for no audio. share: of the
    processor time that the file may take.
    """

    taps: tuple[Tap, ...]
    sampling: Sampling
    audio: int | None = None
    share: float = 1.0


def decode_ahead(
    path: bytes, plan: UnitPlan, request: UnitRequest, decoder: Decoder
) -> Generator[Frame | AudioBlock | ReadEnd, None, None]:
    """Yield the frames and audio of a unit, decoded ahead of the consumer. Raises VideoError."""
    items = decoder.read(
        path,
        taps=request.taps,
        sampling=request.sampling,
        audio=request.audio,
        start_s=plan.start_s,
        end_s=plan.end_s,
        share=request.share,
    )
    for item in read_ahead(items, READ_AHEAD, weigh=_share_of_buffer):
        decoder.refuse_if_killed(path)
        yield item


def decode_unit(
    path: bytes, plan: UnitPlan, request: UnitRequest, decoder: Decoder, *, may_be_empty: bool = False
) -> Generator[Frame | AudioBlock | ReadEnd, None, None]:
    """Yield the frames and the audio of a unit, each tap's in order of time; last the ReadEnd.

    Raises VideoError, also if no frame of a FrameTap can be read, unless the unit may be empty: a part of a video with
    a frozen frame or without recording.
    """
    n_frames, last_s, end = 0, -math.inf, ReadEnd(0, None, None, 0, 0, "")
    for item in decode_ahead(path, plan, request, decoder):
        if isinstance(item, ReadEnd):
            end = item
            break
        yield item
        if isinstance(item, Frame):
            n_frames, last_s = n_frames + (item.time_s > last_s), item.time_s
            if n_frames >= MAX_UNIT_FRAMES:
                end = replace(end, error=f"more than {MAX_UNIT_FRAMES} frames; the rest was not read")
                break
    is_part = plan.start_s is not None or plan.end_s is not None
    is_sound = may_be_empty and is_part and not (end.frames or end.damaged or end.error)
    if not n_frames and not is_sound and any(isinstance(tap, FrameTap) for tap in request.taps):
        words = end.error or "no frame of it could be decoded"
        raise VideoError(Problem(path, "decode", "no_frames", words, "check that it plays, or copy it again"))
    yield end


def _share_of_buffer(item: Frame | AudioBlock | ReadEnd) -> int:
    """Return how many of the READ_AHEAD places an item takes."""
    size = item.pixels.nbytes if isinstance(item, Frame) else item.samples.nbytes if isinstance(item, AudioBlock) else 0
    return max(1, size * READ_AHEAD // READ_AHEAD_BYTES)


class _WeighedQueue(queue.Queue[tuple[T] | None]):
    """A queue whose size is the sum of its entries' weights; None weighs 1."""

    def __init__(self, most: int, weigh: Callable[[T], int]) -> None:
        super().__init__(most)
        self._weigh, self._weight = weigh, 0

    def _qsize(self) -> int:
        return self._weight

    def _put(self, item: tuple[T] | None) -> None:
        self._weight += self._weight_of(item)
        super()._put(item)

    def _get(self) -> tuple[T] | None:
        item: tuple[T] | None = super()._get()
        self._weight -= self._weight_of(item)
        return item

    def _weight_of(self, item: tuple[T] | None) -> int:
        return 1 if item is None else self._weigh(item[0])


def read_ahead(items: Iterator[T], depth: int, weigh: Callable[[T], int] = lambda _: 1) -> Iterator[T]:
    """Yield `items` in order, fetching up to a weight of `depth` ahead in a thread. Raises what they raise.

    Closing this generator closes `items` and waits for that.
    """
    ready = _WeighedQueue(depth, weigh)  # None: there are no more
    stopped = threading.Event()
    with ThreadPoolExecutor(1, thread_name_prefix="read-ahead") as thread:
        fetching = thread.submit(_fetch, items, ready, stopped)
        try:
            while (entry := ready.get()) is not None:
                yield entry[0]
        finally:
            stopped.set()
    fetching.result()


def _fetch(items: Iterator[T], ready: queue.Queue[tuple[T] | None], stopped: threading.Event) -> None:
    try:
        for item in items:
            if not _put(ready, (item,), stopped):
                break
    finally:
        if isinstance(items, Generator):
            items.close()
        _put(ready, None, stopped)


def _put(ready: queue.Queue[tuple[T] | None], entry: tuple[T] | None, stopped: threading.Event) -> bool:
    """Put an entry when there is room; return False if the consumer has stopped."""
    while not stopped.is_set():
        try:
            ready.put(entry, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
