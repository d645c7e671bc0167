"""Supervised child processes: own session, time limits, a sentence on their end, no leftover processes."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO, Self

from vfindex.indexer.media.limits import child_environment

CHUNK_BYTES = 1 << 18
DEATH_S = 5.0  # a process that closed its output or was killed ends much earlier
LAST_WORDS_BYTES = 2000  # of stderr: a traceback of ten calls


@dataclass(frozen=True, slots=True)
class Death:
    """How a child ended.

    status: exit status, or the negative signal that killed it; None if it closed its output and did not end.
    was_stopped: by `Child.kill`. last_words: the end of its stderr, at most LAST_WORDS_BYTES.
    """

    status: int | None
    was_stopped: bool
    last_words: str

    @property
    def is_out_of_memory(self) -> bool:
        """Return whether a memory limit, its own or the kernel's, is the likely cause."""
        return not self.was_stopped and (self.status == -signal.SIGKILL or "MemoryError" in self.last_words)

    @property
    def reason(self) -> str:
        """Return the program's last line if it exited properly, else "its process" and how it ended."""
        gave_up = self.status is not None and self.status > 0 and not self.is_out_of_memory
        return (gave_up and self._last_line()) or f"its process {self}"

    def __str__(self) -> str:
        """Return the end as a predicate: "crashed (SIGSEGV)"."""
        if self.was_stopped:
            return "was stopped"
        if self.status is None:
            return "closed its output and went on"
        if self.is_out_of_memory:
            return "was killed, as happens when memory runs out" if self.status < 0 else "ran out of memory"
        return (
            f"crashed ({signal.Signals(-self.status).name})" if self.status < 0 else f"ended with status {self.status}"
        )

    def _last_line(self) -> str:
        return (self.last_words.strip().splitlines() or [""])[-1]  # in Python, the exception


class Child:
    """A running program with pipes to its stdin and stdout. One thread talks to it; any thread may kill it."""

    def __init__(
        self, command: Sequence[str], *, environment: Mapping[str, str] | None = None, answers: bool = True
    ) -> None:
        """Start it. Raises OSError if the machine lacks processes, files, memory or temporary space.

        environment: `child_environment()` by default. answers: False adds its stdout to its stderr.
        """
        self._stopped = False
        self._unread = bytearray()
        # A full pipe would block the child, a file does not. Closed by close().
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the child
        self.start_clock()
        try:
            with _interrupts_held():
                self._process = subprocess.Popen(
                    list(command),
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE if answers else self._stderr,
                    stderr=self._stderr,
                    bufsize=0,
                    start_new_session=True,  # Ctrl-C reaches only the parent, which ends the child properly
                    env=child_environment() if environment is None else environment,
                )
        except Exception:
            self._stderr.close()
            raise
        except BaseException:  # Ctrl-C, once there is a process to kill
            self.close()
            raise
        os.set_blocking(_fd(self._process.stdin), False)

    @property
    def pid(self) -> int:
        """Return its process id, which is that of its session too."""
        return self._process.pid

    def running(self) -> bool:
        """Return whether it has not ended yet."""
        return self._wait(0) is None

    def start_clock(self, *, wall_s: float = math.inf, idle_s: float = math.inf) -> None:
        """Limit `send` and `read` from here on: wall_s of waiting in total, idle_s without a byte.

        Time that the parent spends between two calls does not count.
        """
        self._wall_s, self._idle_s, self._waited_s = wall_s, idle_s, 0.0

    def send(self, buffers: Sequence[bytes | memoryview]) -> None:
        """Write everything to its stdin. Raises BrokenPipeError if it has ended, TimeoutError."""
        fd = _fd(self._process.stdin)
        for buffer in buffers:
            rest = memoryview(buffer)
            while rest:
                self._wait_for(fd, select.POLLOUT)
                rest = rest[os.write(fd, rest) :]

    def end_input(self) -> None:
        """Close its stdin: it has been sent everything."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def read(self) -> bytes:
        """Return the unread output, b"" at its end. Raises TimeoutError."""
        fd = _fd(self._process.stdout)
        self._wait_for(fd, select.POLLIN)
        return os.read(fd, CHUNK_BYTES)

    def read_exactly(self, size: int) -> bytes:
        """Return `size` bytes of its stdout. Raises EOFError where it ends before, TimeoutError."""
        while len(self._unread) < size:
            chunk = self.read()
            if not chunk:
                raise EOFError
            self._unread += chunk
        data = bytes(memoryview(self._unread)[:size])
        del self._unread[:size]
        return data

    def kill(self) -> None:
        """Kill it and all processes of its session, from any thread."""
        self._stopped = True
        self._kill_session()

    def death(self, within_s: float | None = DEATH_S) -> Death:
        """Return how it ended. Kills it after `within_s`; None waits indefinitely."""
        status = self._wait(within_s)
        stopped = self._stopped
        if status is None:
            self._kill_session()
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - LAST_WORDS_BYTES))
        return Death(status, stopped, self._stderr.read(LAST_WORDS_BYTES).decode("utf-8", "replace"))

    def close(self) -> None:
        """Kill it if it runs, and release its pipes and its entry in the process table."""
        self._kill_session()
        self._wait(None)
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _wait(self, within_s: float | None) -> int | None:
        """Return its exit status, None while it runs. Kills processes that it left running."""
        if self._process.returncode is None:
            try:
                self._process.wait(within_s)
            except subprocess.TimeoutExpired:
                return None
            _kill_group(self._process.pid)
        return self._process.returncode

    def _kill_session(self) -> None:
        if self._process.returncode is None:  # else its id may be reused by now
            _kill_group(self._process.pid)

    def _wait_for(self, fd: int, event: int) -> None:
        left_s = self._wall_s - self._waited_s
        patience_s = max(0.0, min(self._idle_s, left_s))
        poll = select.poll()
        poll.register(fd, event)
        began_s = time.monotonic()
        is_ready = poll.poll(None if math.isinf(patience_s) else patience_s * 1000)
        self._waited_s += time.monotonic() - began_s
        if not is_ready and left_s <= self._idle_s:
            raise TimeoutError(f"took longer than the limit of {self._wall_s:g} s")
        if not is_ready:
            raise TimeoutError(f"gave no sign of life for {self._idle_s:g} s")


def cannot_start(exc: OSError) -> str:
    """Return why `Child` raised, and what to do: the machine lacks something, whatever the child is for."""
    lack = exc.strerror or str(exc)
    return f"its process cannot start ({lack}); free memory, processes or file handles (ulimit -n, -u) and try again"


def _kill_group(pid: int) -> None:
    with suppress(ProcessLookupError, PermissionError):  # no process is left; macOS refuses to signal a zombie
        os.killpg(pid, signal.SIGKILL)


def _fd(pipe: IO[bytes] | None) -> int:
    if pipe is None:
        raise EOFError("the child has no such pipe")
    return pipe.fileno()


@contextmanager
def _interrupts_held() -> Iterator[None]:
    """Delay Ctrl-C until the block ends: inside Popen it would leave an unreachable child."""
    if threading.current_thread() is not threading.main_thread():  # Python handles signals only in the main thread
        yield
        return
    came: list[int] = []
    handler = signal.signal(signal.SIGINT, lambda number, _: came.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler or signal.SIG_DFL)
    if came:
        signal.raise_signal(signal.SIGINT)
