"""An iterator read ahead in a thread, so that who makes its items and who uses them work at once."""

from __future__ import annotations

import queue
import threading
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

T = TypeVar("T")
# How often a full queue is looked at again for whether anyone still wants what is in it.
_POLL_S = 0.2


def read_ahead(items: Iterator[T], depth: int) -> Iterator[T]:
    """Yield `items` in order, up to `depth` of them fetched before they are asked for; raise what they raise.

    Closing this generator closes `items` and waits for that.
    """
    ready: queue.Queue[tuple[T] | None] = queue.Queue(depth)  # None: there are no more
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
    """Put an entry once there is room; return False if nobody wants it any more."""
    while not stopped.is_set():
        try:
            ready.put(entry, timeout=_POLL_S)
        except queue.Full:
            continue
        return True
    return False
