"""The parent's end of a decode child: started, asked, listened to with a clock, killed, and its death explained."""

from __future__ import annotations

import logging
import os
import select
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from vfindex.indexer.media import protocol
from vfindex.indexer.media.limits import child_environment
from vfindex.storage.errors import Problem, Stage, VideoError

logger = logging.getLogger(__name__)

CHUNK_BYTES = 1 << 18
DEATH_S = 5.0  # a killed process is gone well before
TRACE_CHARS = 2000  # of a crash's last words, kept for the log
_NEXT = "check that it plays, or convert it; it is left alone until it changes"


@dataclass(frozen=True, slots=True)
class Limits:
    """What a file may cost before its decoder is killed.

    memory_bytes: address space of the child. 8192 x 8192 pictures with 17 reference frames take 1.7 GB; Python, numpy
        and FFmpeg reserve under 1 GB. idle_s: silence; the child gives a sign of life between packets, and one
        packet of 8K takes a few seconds on a busy machine. cpu_base_s, cpu_per_mb_s: processor time of one request;
        the slowest ordinary material (4K AV1 in software) takes some 6 s per megabyte of file. wall_factor: time spent
        waiting for the child over processor time, for slow disks and machines that do other work.
    """

    memory_bytes: int = 4 << 30
    idle_s: float = 60.0
    cpu_base_s: float = 60.0
    cpu_per_mb_s: float = 10.0
    wall_factor: float = 5.0

    def cpu_s(self, size_bytes: float) -> float:
        """Return the processor time that so many bytes of a file may take."""
        return self.cpu_base_s + self.cpu_per_mb_s * size_bytes / (1 << 20)


class Child:
    """A running decode child."""

    def __init__(self, limits: Limits, command: Sequence[str] | None) -> None:
        """Start it. Raises OSError where the machine lacks processes, files, memory or room in its temporary folder."""
        module = [sys.executable, "-P", "-m", "vfindex.indexer.media.worker", str(limits.memory_bytes)]
        self._limits = limits
        # A file cannot block the child as a full pipe would; the child bounds its size. Closed by close().
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115  it lives as long as the child
        try:
            self._process = subprocess.Popen(
                list(command) if command is not None else module,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=self._stderr,
                bufsize=0,
                start_new_session=True,  # Ctrl-C is for the parent, which ends the child in order
                env=child_environment(),
            )
        except OSError:
            self._stderr.close()
            raise
        self._unread = bytearray()
        self._cpu_s = self._wall_s = self._waited_s = 0.0
        self._killed = False

    def running(self) -> bool:
        """Return whether it can take a request."""
        return self._process.poll() is None

    def kill(self) -> None:
        """Kill it, from any thread; a request that waits for it ends with code `killed`."""
        self._killed = True
        self._process.kill()

    def close(self) -> None:
        """End it and release its pipes. It holds nothing worth tidying, so it is killed."""
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout, self._stderr):
            if pipe is not None:
                pipe.close()

    def ask(self, path: bytes, stage: Stage, request: dict[str, Any]) -> Iterator[tuple[dict[str, Any], bytes]]:
        """Yield the (header, payload) of every answer until it stops being asked.

        `share` in a request: of the file, as far as its time is concerned; without it, all of it may have to be read.
        Raises VideoError where it refuses the file, dies, hangs or runs over a limit; then it is not to be used again.
        """
        self._begin(path, request.get("share", 1.0))
        try:
            self._send({**request, "cpu_s": self._cpu_s}, path)
            while True:
                header, payload = protocol.unpack(self._read)
                if header.get("kind") == "error":
                    raise self._refusal(path, stage, header)
                if header.get("kind") != "beat":
                    yield header, payload
        except TimeoutError as exc:
            self._process.kill()
            raise self._problem(path, stage, "timeout", str(exc)) from exc
        except (EOFError, BrokenPipeError) as exc:
            code, reason = self._death()
            raise self._problem(path, stage, code, reason) from exc
        except protocol.WireError as exc:
            self._process.kill()
            raise self._problem(path, stage, "crashed", f"its decoder answered nonsense ({exc})") from exc

    def nonsense(self, path: bytes, stage: Stage, what: str) -> VideoError:
        """Return the error of an answer that cannot be: the child may have been taken over, so it is killed."""
        self._process.kill()
        return self._problem(path, stage, "crashed", f"its decoder answered nonsense ({what})")

    def _begin(self, path: bytes, share: float) -> None:
        try:
            size_bytes = os.lstat(path).st_size
        except OSError:
            size_bytes = 0  # the child will say what is wrong with the file
        self._cpu_s = self._limits.cpu_s(size_bytes * share)
        self._wall_s, self._waited_s = self._cpu_s * self._limits.wall_factor, 0.0

    def _send(self, request: dict[str, Any], path: bytes) -> None:
        if self._process.stdin is None:
            raise EOFError
        protocol.write_all(self._process.stdin.fileno(), protocol.pack(request, path))

    def _read(self, size: int) -> bytes:
        """Return exactly `size` bytes of the answer; raises EOFError where it ended, TimeoutError where it hangs.

        Only waiting counts: a consumer that takes its time between frames is not the child's fault.
        """
        if self._process.stdout is None:
            raise EOFError
        fd = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(fd, select.POLLIN)
        while len(self._unread) < size:
            left_s = min(self._limits.idle_s, self._wall_s - self._waited_s)
            began_s = time.monotonic()
            ready = left_s > 0 and poll.poll(left_s * 1000)
            self._waited_s += time.monotonic() - began_s
            if not ready and self._waited_s >= self._wall_s:
                raise TimeoutError(f"reading it took longer than the limit of {self._wall_s:g} s")
            if not ready:
                raise TimeoutError(f"its decoder gave no sign of life for {self._limits.idle_s:g} s")
            chunk = os.read(fd, max(CHUNK_BYTES, size - len(self._unread)))
            if not chunk:
                raise EOFError
            self._unread += chunk
        data = bytes(memoryview(self._unread)[:size])
        del self._unread[:size]
        return data

    def _death(self) -> tuple[str, str]:
        """Return (code, reason) of its end."""
        try:
            status = self._process.wait(DEATH_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            return "crashed", "its decoder closed its pipe and went on"
        trace = self._last_words()
        if self._killed:
            return "killed", "reading it was interrupted"
        if status == -signal.SIGXCPU:
            return "cpu", f"reading it took more than the limit of {self._cpu_s:g} s of processor time"
        if status == -signal.SIGVTALRM:
            return "header", "opening it takes too long: its header holds far more tags or tracks than any film"
        if status == -signal.SIGKILL or "MemoryError" in trace:
            return "memory", f"reading it took more memory than the limit of {self._limits.memory_bytes / 1e9:.1f} GB"
        logger.warning("decode child ended with status %d: %s", status, trace)
        if status < 0:
            return "crashed", f"its decoder crashed ({signal.Signals(-status).name})"
        return "crashed", f"its decoder ended with status {status}"

    def _last_words(self) -> str:
        size = self._stderr.seek(0, os.SEEK_END)
        self._stderr.seek(max(0, size - TRACE_CHARS))
        return self._stderr.read(TRACE_CHARS).decode("utf-8", "replace")

    def _problem(self, path: bytes, stage: Stage, code: str, reason: str) -> VideoError:
        again = "index it again" if code == "killed" else _NEXT
        return VideoError(Problem(path, stage, code, reason, again), quarantine=code not in ("killed", "header"))

    def _refusal(self, path: bytes, stage: Stage, header: dict[str, Any]) -> VideoError:
        words = [header.get(name) for name in ("code", "reason", "next")]
        if not all(isinstance(word, str) and 0 < len(word) <= TRACE_CHARS for word in words):
            return self.nonsense(path, stage, "a refusal without reason")
        code, reason, next_step = map(str, words)
        stage = "open" if header.get("stage") == "open" else "probe" if header.get("stage") == "probe" else stage
        if code == "memory":
            self._process.kill()  # its heap is in pieces
        return VideoError(Problem(path, stage, code, reason, next_step), quarantine=code == "memory")
