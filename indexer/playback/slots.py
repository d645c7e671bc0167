"""How much may be under way at a time: a limit, a short wait, and the eviction of streams that nobody reads."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from threading import Condition
from typing import Protocol

from vfindex.storage.errors import Overloaded

WAIT_S = 5.0  # for others to end
STALLED_S = 60.0  # a stream that nobody reads for so long makes room for another


class Holder(Protocol):
    """What takes a slot."""

    def idle_s(self) -> float:
        """Return for how long nobody has waited for it; 0 while somebody does."""

    def close(self) -> None:
        """End it and give the slot back, from any thread."""


class Slots:
    """A number of slots. Safe for threads."""

    def __init__(self, most: int, what: str) -> None:
        """what: is under way, for the sentence of Overloaded."""
        self._most, self._what = max(1, most), what
        self._holders: list[Holder] = []
        self._free = Condition()  # its lock is reentrant: a stream may be collected while this thread holds it
        self._closed = False

    def take(self, holder: Holder) -> None:
        """Take a slot. Raises Overloaded after WAIT_S."""
        deadline_s = time.monotonic() + WAIT_S
        while not self._took(holder):
            stalled = self._stalled()
            if stalled is not None:
                stalled.close()
                continue
            left_s = deadline_s - time.monotonic()
            if left_s <= 0 or self._closed:
                raise Overloaded(f"{self._most} {self._what} already, the most at a time; try again in a minute")
            with self._free:
                if len(self._holders) >= self._most:
                    self._free.wait(left_s)

    def give(self, holder: Holder) -> None:
        """Give the slot back, if the holder has one."""
        with self._free:
            if holder in self._holders:
                self._holders.remove(holder)
                self._free.notify()

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold a slot for the block, which cannot be evicted. Raises Overloaded."""
        holder = _Busy()
        self.take(holder)
        try:
            yield
        finally:
            self.give(holder)

    def close(self) -> None:
        """End all holders; none can come any more."""
        self._closed = True
        with self._free:
            holders = list(self._holders)
            self._free.notify_all()
        for holder in holders:
            holder.close()

    def _took(self, holder: Holder) -> bool:
        with self._free:
            if self._closed or len(self._holders) >= self._most:
                return False
            self._holders.append(holder)
            return True

    def _stalled(self) -> Holder | None:
        with self._free:
            longest = max(self._holders, key=lambda each: each.idle_s(), default=None)
        return longest if longest is not None and longest.idle_s() > STALLED_S else None


class _Busy:
    """Somebody waits for it until it ends."""

    def idle_s(self) -> float:
        return 0.0

    def close(self) -> None:
        """It ends by itself."""
