"""What one client may take: requests a second, bytes and seconds of a body. And how many calls run at a time."""

from __future__ import annotations

import asyncio
import ipaddress
import time
from collections import OrderedDict
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from threading import Event, Lock
from typing import ParamSpec, TypeVar

from starlette.requests import Request
from starlette.types import Message, Receive

from vfindex.search.http.rest.answers import RETRY_S, Refusal
from vfindex.search.understanding.limits import Progress, stopping

P = ParamSpec("P")
T = TypeVar("T")
# Clients remembered by a rate limit; of more, the longest silent are forgotten.
MAX_CLIENTS = 10_000
# How often a task looks whether its client is still there.
_LOOK_S = 1.0
# Providers give each customer a network of this length at least.
_IPV6_PREFIX = 64


class RateLimit:
    """A token bucket for each client: `burst` requests at once, `per_s` in the long run."""

    def __init__(self, per_s: float, burst: float, now: Callable[[], float] = time.monotonic) -> None:
        self._per_s, self._burst, self._now = per_s, burst, now
        self._left: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> float:
        """Take one request of a client. Return 0, or in how many seconds it may come again."""
        now, key = self._now(), _network_of(client)
        left, at = self._left.pop(key, (self._burst, now))
        left = min(self._burst, left + (now - at) * self._per_s)
        allowed = left >= 1
        self._left[key] = (left - 1 if allowed else left, now)
        if len(self._left) > MAX_CLIENTS:
            self._left.popitem(last=False)
        return 0.0 if allowed else (1 - left) / self._per_s


def _network_of(client: str) -> str:
    """Return what a client cannot change at will: its address, of IPv6 its network."""
    try:
        address = ipaddress.ip_address(client)
    except ValueError:
        return client
    if address.version == 4:
        return client
    return str(ipaddress.ip_network((int(address), _IPV6_PREFIX), strict=False))


def too_many(wait_s: float) -> Refusal:
    """Return the refusal of a client that asks too often."""
    headers = {"retry-after": str(max(1, round(wait_s + 0.5)))}
    return Refusal(429, "TooManyRequests", "too many requests; wait a moment and try again", headers=headers)


class LimitedBody:
    """A request's body: refused beyond `most_bytes`, or when it is not complete after `within_s`."""

    def __init__(self, receive: Receive, most_bytes: int, within_s: float) -> None:
        self._receive, self._most_bytes = receive, most_bytes
        self._until_s, self._came, self._is_complete = time.monotonic() + within_s, 0, False

    async def __call__(self) -> Message:
        if self._is_complete:  # what comes now is the client's leaving
            return await self._receive()
        try:
            async with asyncio.timeout(self._until_s - time.monotonic()):
                message = await self._receive()
        except TimeoutError as exc:
            headers = {"connection": "close"}
            raise Refusal(408, "Timeout", "the body of the request did not come in time", headers=headers) from exc
        self._came += len(message.get("body", b""))
        self._is_complete = not message.get("more_body", False)
        if self._came > self._most_bytes:
            raise too_large(self._most_bytes)
        return message


def too_large(most_bytes: int) -> Refusal:
    """Return the refusal of a body of more than `most_bytes`."""
    headers = {"connection": "close"}
    return Refusal(413, "TooLarge", f"the body of the request is larger than {most_bytes:,} bytes", headers=headers)


class Incomplete(Exception):
    """An answer that cannot be sent to its end; the connection is closed."""


class Workers:
    """Threads for calls that block: at most `threads` at a time, and `waiting` that wait for their turn."""

    def __init__(self, threads: int, waiting: int, name: str) -> None:
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix=f"vfindex-{name}")
        self._most, self._present, self._lock = threads + waiting, 0, Lock()

    async def run(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
        """Return what a call returns. Raises Refusal if too many wait."""
        if self._present >= self._most:
            headers = {"retry-after": str(RETRY_S)}
            raise Refusal(503, "Busy", "too many searches are waiting; try again in a moment", headers=headers)
        with self._lock:
            self._present += 1
        future = self._pool.submit(partial(call, *args, **kwargs))
        future.add_done_callback(self._leave)
        return await asyncio.wrap_future(future)

    def _leave(self, _: object) -> None:
        with self._lock:
            self._present -= 1

    def close(self) -> None:
        """Wait for the calls that run; those that wait for their turn are cancelled."""
        self._pool.shutdown(cancel_futures=True)


class Tasks:
    """Threads for tasks that take long. Each has a time limit, and ends with its client and with the server."""

    def __init__(self, threads: int, waiting: int, within_s: float) -> None:
        self._workers, self._within_s, self._closed = Workers(threads, waiting, "task"), within_s, Event()

    async def run(self, request: Request, what: str, task: Callable[[Progress], T]) -> T:
        """Return what a task returns; it is given the progress to report. Raises Refusal, QueryTimeout.

        what: the task, for the message of a late one.
        """
        over = Event()

        def is_over() -> bool:
            return over.is_set() or self._closed.is_set()

        def call() -> T:
            return task(stopping(what, self._within_s, is_over))

        running = asyncio.ensure_future(self._workers.run(call))
        try:
            while not (await asyncio.wait({running}, timeout=_LOOK_S))[0]:
                if await request.is_disconnected():
                    over.set()
            return running.result()
        finally:
            over.set()

    def close(self) -> None:
        """End the tasks that run."""
        self._closed.set()
        self._workers.close()
