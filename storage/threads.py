"""Calls on another core while this thread does something else; in turn where no thread is to be had."""

from __future__ import annotations

import ctypes
import sys
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache
from typing import Generic, TypeVar

from vfindex.storage.machine import usable_cores

T = TypeVar("T")


class Begun(Generic[T]):
    """A call that another thread makes, or this one when it needs the result before one has begun."""

    def __init__(self, call: Callable[[], T]) -> None:
        self._call = call
        self._future: Future[T] | None = None
        # Without memory, above the limit of threads, and when the interpreter is ending, there is no other thread.
        with suppress(OSError, RuntimeError, MemoryError):
            self._future = _threads().submit(call)

    def result(self) -> T:
        """Return what the call returns. Raises what it raises."""
        if self._future is None or self._future.cancel():
            return self._call()
        return self._future.result()

    def end(self) -> None:
        """Wait until no other thread makes the call."""
        if self._future is not None and not self._future.cancel():
            wait([self._future])


@cache
def cores() -> int:
    """Return the number of usable cores, read once: it takes several files of the kernel."""
    return usable_cores()


@cache
def _threads() -> ThreadPoolExecutor:
    if sys.platform == "linux":
        # glibc ends a thread with it, and aborts the process if there is no memory left to load it.
        ctypes.CDLL("libgcc_s.so.1")
    return ThreadPoolExecutor(cores(), "vfindex")
