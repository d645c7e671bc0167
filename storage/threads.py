"""Calls that another thread makes while this one does something else."""

from __future__ import annotations

import ctypes
import os
import sys
from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError, ThreadPoolExecutor, wait
from contextlib import suppress
from functools import cache, partial
from threading import Lock
from typing import Generic, TypeVar

from vfindex.storage.machine import usable_cores

T = TypeVar("T")


class Begun(Generic[T]):
    """A call that another thread makes, or the thread that wants its result if no other has begun it by then.

    The threads stay for later calls: a new one takes a search 1 ms longer.
    """

    def __init__(self, call: Callable[[], T]) -> None:
        self._call: Callable[[], T] | None = call
        self._future, self._claim = Future[T](), Lock()  # whoever has the claim makes the call
        try:
            _threads().submit(self._make)
        except (OSError, RuntimeError, MemoryError):
            # There is no memory, no further thread, or the interpreter is ending. What waits for threads that cannot be
            # started goes with their executor.
            _threads.cache_clear()

    def _make(self) -> None:
        try:
            if self._claim.acquire(blocking=False) and self._call is not None:
                call, self._call = self._call, None
                self._future.set_result(call())
        except BaseException as exc:  # noqa: BLE001  raised by `result`; an interrupt may come at any line
            with suppress(InvalidStateError):
                self._future.set_exception(exc)

    def result(self) -> T:
        """Return what the call returns. Raises what it raises."""
        self._make()
        return self._future.result()

    def end(self) -> None:
        """Wait until the call has been made; one that nobody has begun will not be."""
        if self._claim.acquire(blocking=False):
            self._call = None
            if self._future.cancel():
                self._future.set_running_or_notify_cancel()  # else nobody who waits for it sees that
        wait([self._future])


def parts_of(amount: int, enough: int) -> int:
    """Return into how many calls an amount of work is divided. enough: for a call, which gets less than twice that.

    A power of two, which the cores of most machines share evenly: of three calls, two cores make two at a time.
    """
    return 1 << max(0, (-(-amount // enough)).bit_length() - 1)


def together(call: Callable[[int], T], count: int) -> list[T]:
    """Return the results of call(0) to call(count - 1), made by this thread and others. Raises what a call raises.

    count: 1 or more.
    """
    begun: list[Begun[T]] = []
    try:
        for number in range(1, count):
            begun.append(Begun(partial(call, number)))
        return [call(0), *(each.result() for each in begun)]
    finally:
        for each in reversed(begun):  # the last are begun last: they are dropped before the first are waited for
            each.end()


@cache
def _threads() -> ThreadPoolExecutor:
    if sys.platform == "linux":
        # glibc ends a thread with it, and aborts the process if there is no memory left to load it.
        ctypes.CDLL("libgcc_s.so.1")
    return ThreadPoolExecutor(usable_cores(), "vfindex")


if hasattr(os, "register_at_fork"):  # a forked process has none of the threads
    os.register_at_fork(after_in_child=_threads.cache_clear)
