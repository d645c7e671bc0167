"""Confinement of child processes that parse untrusted input: environment and resource limits."""

from __future__ import annotations

import ctypes
import os
import resource
import select
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager

from vfindex import TELEMETRY_OFF

STDERR_BYTES = 1 << 16  # kept of a crash's output; the child can write no longer file
PARENT_POLL_MS = 2000  # how soon a child notices that its parent was killed, where a fork keeps the pipe open
_MAX_OPEN_FILES = 64
_PR_SET_NO_NEW_PRIVS = 38  # linux/prctl.h
# What Python and its libraries need to start; nothing that may contain a token or key.
_KEPT_NAMES = frozenset({"PATH", "LANG", "LANGUAGE", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH"})
_KEPT_PREFIXES = ("LC_", "PYTHON", "ONEDNN_")
_THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def child_environment(*more: str, threads: int = 1) -> dict[str, str]:
    """Return the environment of a child: an allow-list without credentials.

    more: prefixes of further variables to keep. threads: of its numerical libraries.
    """
    prefixes = (*_KEPT_PREFIXES, *more)
    kept = {name: text for name, text in os.environ.items() if name in _KEPT_NAMES or name.startswith(prefixes)}
    return kept | TELEMETRY_OFF | dict.fromkeys(_THREADS, str(threads))


def end_with_parent() -> None:
    """End this process, from a thread, when its parent ends or closes our stdin.

    Also in the middle of native code that releases Python's lock. Call it before `limit_process` forbids threads.
    """
    threading.Thread(target=_follow, args=(os.getppid(),), daemon=True).start()


def _follow(parent: int) -> None:
    poll = select.poll()
    poll.register(sys.stdin.fileno(), 0)  # only hang-up and error, which are always reported
    while not poll.poll(PARENT_POLL_MS) and os.getppid() == parent:
        pass
    os._exit(0)


def limit_process(memory_bytes: int) -> None:
    """Bound this process: `memory_bytes` of address space, files of STDERR_BYTES, few open files, no core dumps.

    If the platform supports it: no new processes or threads (RLIMIT_NPROC, which does not bind root), and no program
    with more privileges (no_new_privs, Linux).
    """
    _forbid_privileges()
    bounds = {
        resource.RLIMIT_CORE: 0,
        resource.RLIMIT_FSIZE: STDERR_BYTES,
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
