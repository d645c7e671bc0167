"""Confinement of the child processes that parse strangers' data: their environment, their limits, framed reading."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from vfindex import TELEMETRY_OFF

_MAX_OPEN_FILES = 64
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
# What Python and its libraries need to start, and nothing that could hold a token or a key.
_KEPT_NAMES = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"})
_KEPT_PREFIXES = ("LC_", "PYTHON", "ONEDNN_")
_ONE_THREAD = {name: "1" for name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")}


def child_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return what a child that parses strangers' data may know of our environment; its libraries run on one thread."""
    kept = {name: text for name, text in environment.items() if name in _KEPT_NAMES or name.startswith(_KEPT_PREFIXES)}
    return kept | TELEMETRY_OFF | _ONE_THREAD


def limit_process(memory_bytes: int, *, file_bytes: int = 0) -> None:
    """Bound memory and the length of any file written; forbid core dumps, many open files, processes and privileges.

    Where the platform has them: no process or thread is started from here on (RLIMIT_NPROC, which does not bind root),
    and no program run from here has more rights than this one (no_new_privs, Linux).
    """
    _forbid_privileges()
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: file_bytes,
        resource.RLIMIT_NOFILE: _MAX_OPEN_FILES,
        resource.RLIMIT_AS: memory_bytes,
        resource.RLIMIT_NPROC: 0,
    }
    for kind, bound in bounds.items():
        hard = resource.getrlimit(kind)[1]
        resource.setrlimit(kind, (bound if hard == resource.RLIM_INFINITY else min(bound, hard),) * 2)


def _forbid_privileges() -> None:
    if sys.platform == "linux" and ctypes.CDLL(None).prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0):
        raise OSError("prctl refuses PR_SET_NO_NEW_PRIVS")


def limit_cpu(budget_s: float) -> None:
    """Have the kernel end the process when it has used `budget_s` more of processor time."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
    soft = int(used.ru_utime + used.ru_stime + budget_s) + 1
    resource.setrlimit(resource.RLIMIT_CPU, (soft if hard == resource.RLIM_INFINITY else min(soft, hard), hard))


@contextmanager
def ended_after(user_s: float) -> Iterator[None]:
    """Have the kernel end the process by SIGVTALRM when the block takes more than `user_s` of processor time."""
    signal.setitimer(signal.ITIMER_VIRTUAL, user_s)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_VIRTUAL, 0)


def read_exactly(size: int) -> bytes:
    """Return `size` bytes from stdin; raises EOFError."""
    data = sys.stdin.buffer.read(size)
    if len(data) < size:
        raise EOFError
    return data
