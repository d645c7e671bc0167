"""Runs `vfindex` in its own process, as a user does."""

from __future__ import annotations

import ctypes
import functools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from launcher import Launcher

COMMAND = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]
TIMEOUT_S = 230  # for a busy machine


@dataclass(frozen=True)
class Ran:
    """The outcome of a command: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    def is_sentence(self) -> bool:
        """Return whether it failed properly: exit 1, one sentence on standard error, no traceback."""
        return self.code == 1 and self.err.startswith("vfindex: ") and self.err.count("\n") == 1


def _environment(cache: Path) -> dict[str, str]:
    """Return this process's environment with a cache; bytecode is written, as for users."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"VFINDEX_CACHE": str(cache)}


def start(cache: Path, *arguments: object, group: bool = False) -> subprocess.Popen[bytes]:
    """Start `vfindex ARGUMENTS`; paths may be bytes. group: in a process group of its own, as a shell starts it."""
    command = [*COMMAND, *(a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments)]
    return subprocess.Popen(
        command,
        env=_environment(cache),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        process_group=0 if group else None,
    )


@functools.cache
def _launcher(cache: Path) -> Launcher:
    return Launcher(_environment(cache))


def vfindex(cache: Path, *arguments: object, cwd: Path | None = None, prepare: Callable[[], None] | None = None) -> Ran:
    """Run `vfindex ARGUMENTS`; paths may be bytes. prepare: called in the new process first."""
    encoded = [a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments]
    environment = _environment(cache)
    if prepare is None and _launcher(cache).suits(environment):
        ended = _launcher(cache).run(encoded, environment, cwd, TIMEOUT_S)
        return Ran(ended.code, ended.out.decode(), ended.err.decode())
    done = subprocess.run(
        [*COMMAND, *encoded],
        env=environment,
        cwd=cwd,
        preexec_fn=prepare,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())


def obey_modes() -> None:
    """Take from root the right to read and write files whatever their modes; a `prepare` of `vfindex`."""
    libc = ctypes.CDLL(None)
    for capability in (1, 2):  # CAP_DAC_OVERRIDE, CAP_DAC_READ_SEARCH
        libc.prctl(24, capability, 0, 0, 0)  # PR_CAPBSET_DROP: not permitted to other users, who lack them anyway
