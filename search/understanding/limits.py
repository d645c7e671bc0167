"""Time limits of tasks that report their progress: the report is where one that is late, or not wanted, ends."""

from __future__ import annotations

import time
from collections.abc import Callable

from vfindex.storage.errors import QueryTimeout

# Called with the numbers of units done and of all.
Progress = Callable[[int, int], None]


def stopping(what: str, within_s: float, is_over: Callable[[], bool] = lambda: False) -> Progress:
    """Return progress that raises QueryTimeout after a time from now, or once nobody waits for the answer.

    what: the task, for the message.
    """
    until_s = time.monotonic() + within_s

    def check(done: int, of: int) -> None:
        if is_over() or time.monotonic() > until_s:
            raise QueryTimeout(what)

    return check
