"""`vfindex` run as a user runs it: in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

COMMAND = [sys.executable, "-P", "-c", "from vfindex.cli.app import main; main()"]
TIMEOUT_S = 230  # a machine that does five other things


@dataclass(frozen=True)
class Ran:
    """What a command left: exit code, standard output, standard error."""

    code: int
    out: str
    err: str

    def document(self) -> dict[str, Any]:
        document: dict[str, Any] = json.loads(self.out)
        return document

    def is_sentence(self) -> bool:
        """Return whether it failed as a user may expect: exit 1, a sentence on standard error, no traceback."""
        return self.code == 1 and self.err.startswith("vfindex: ") and self.err.count("\n") == 1


def _environment(cache: Path) -> dict[str, str]:
    """Return this process's environment with a cache; modules may keep their bytecode, as they do for users."""
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


def vfindex(cache: Path, *arguments: object, cwd: Path | None = None, prepare: Callable[[], None] | None = None) -> Ran:
    """Run `vfindex ARGUMENTS`; paths may be bytes. prepare: called in the new process first."""
    command = [*COMMAND, *(a if isinstance(a, bytes) else os.fsencode(str(a)) for a in arguments)]
    done = subprocess.run(
        command,
        env=_environment(cache),
        cwd=cwd,
        preexec_fn=prepare,
        capture_output=True,
        timeout=TIMEOUT_S,
    )
    return Ran(done.returncode, done.stdout.decode(), done.stderr.decode())
