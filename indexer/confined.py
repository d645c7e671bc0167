"""What a child process does to itself before it touches what strangers made: limits, and framed reading."""

from __future__ import annotations

import resource
import sys

_MAX_OPEN_FILES = 64


def limit_process(memory_bytes: int, *, file_bytes: int = 0) -> None:
    """Bound memory and the length of any file written; forbid core dumps and many open files."""
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_AS: memory_bytes,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard),) * 2)


def limit_cpu(budget_s: float) -> None:
    """Have the kernel end the process when it has used `budget_s` more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + budget_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


def read_exactly(size: int) -> bytes:
    """Return `size` bytes from stdin; raises EOFError."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        raise EOFError
    return data
