"""What this machine has: processor, memory, GPUs, media libraries; found out without importing torch."""

from __future__ import annotations

import json
import logging
import os
import re
import sqlite3
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from vfindex.storage.errors import ModelError, VfindexError

logger = logging.getLogger(__name__)

ANSWER_S = 60.0  # of a program that is asked; the first import of a library from a cold disk takes some seconds
# Name of a feature -> the flag of Linux's /proc/cpuinfo. bfloat16 is what larger models gain by.
_FEATURES = {
    "AVX2": "avx2",
    "AVX-512": "avx512f",
    "AVX512-BF16": "avx512_bf16",
    "AMX-BF16": "amx_bf16",
}
BFLOAT16 = frozenset({"AVX512-BF16", "AMX-BF16"})
_NVIDIA_SMI = ["nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader,nounits"]
_MEDIA = "import av, json; print(json.dumps([av.__version__, av.ffmpeg_version_info]))"


@dataclass(frozen=True, slots=True)
class Processor:
    """name: "" where the platform does not say. cores: usable by this process. features: of _FEATURES."""

    name: str
    cores: int
    features: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU by NVIDIA, as its driver tells of it."""

    name: str
    memory_bytes: int
    driver: str


def processor() -> Processor:
    """Return what the operating system tells of the processor."""
    text = _read("/proc/cpuinfo")
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    known = set(flags[1].split()) if flags else set()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Processor(
        name[1].strip() if name else "", cores, tuple(feature for feature, flag in _FEATURES.items() if flag in known)
    )


def available_bytes() -> int | None:
    """Return the memory that processes may still take, by the machine and by this container; None if nothing says."""
    found = re.search(r"^MemAvailable:\s*(\d+) kB$", _read("/proc/meminfo"), re.M)
    limit, used = _read("/sys/fs/cgroup/memory.max").strip(), _read("/sys/fs/cgroup/memory.current").strip()
    amounts = [int(found[1]) * 1024] if found else []
    if limit.isdecimal() and used.isdecimal():
        amounts.append(max(0, int(limit) - int(used)))
    return min(amounts, default=None)


def gpus() -> list[Gpu]:
    """Return the GPUs that nvidia-smi lists: none where there is no such program. Raises VfindexError if it fails."""
    try:
        lines = _ask(_NVIDIA_SMI).splitlines()
    except FileNotFoundError:
        return []
    found = []
    for line in lines:
        name, memory_mib, driver = (part.strip() for part in line.rsplit(",", 2))
        found.append(Gpu(name, int(memory_mib) << 20 if memory_mib.isdecimal() else 0, driver))
    return found


def has_cuda() -> bool:
    """Return whether torch may find a GPU here, without importing it; a driver that fails is told of."""
    try:
        return bool(gpus()) and torch_without_cuda() is None
    except VfindexError as exc:
        logger.warning("the GPU is not used: %s", exc)
        return False


def torch_without_cuda() -> str | None:
    """Return the version of a torch that was built for the processor alone, None for any other."""
    try:
        installed = version("torch")
    except PackageNotFoundError as exc:
        raise ModelError("torch is not installed; run: pip install torch") from exc
    return installed if installed.endswith("+cpu") else None


def media_versions() -> tuple[str, str]:
    """Return the versions of PyAV and of the FFmpeg inside it, from a process of its own. Raises VfindexError."""
    pyav, ffmpeg = json.loads(_ask([sys.executable, "-P", "-c", _MEDIA]))
    return str(pyav), str(ffmpeg)


def sqlite_version() -> str:
    """Return SQLite's version. Raises VfindexError where it was built without full text search."""
    connection = sqlite3.connect(":memory:")
    try:
        connection.execute("CREATE VIRTUAL TABLE words USING fts5(text)")
    except sqlite3.OperationalError as exc:
        raise VfindexError(
            f"SQLite {sqlite3.sqlite_version} has no full text search (FTS5); take a Python from python.org"
        ) from exc
    finally:
        connection.close()
    return sqlite3.sqlite_version


def _ask(command: list[str]) -> str:
    """Return what a program prints. Raises FileNotFoundError, VfindexError with its last line if it fails."""
    try:
        # A session of its own: at Ctrl-C it does not fail, but is ended by the parent.
        done = subprocess.run(
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=ANSWER_S, start_new_session=True
        )
    except subprocess.TimeoutExpired as exc:
        raise VfindexError(f"{command[0]} does not answer; see whether its driver hangs") from exc
    if done.returncode:
        said = (done.stderr + done.stdout).decode("utf-8", "replace").strip().splitlines()
        raise VfindexError(f"{command[0]} failed: {said[-1] if said else f'exit code {done.returncode}'}")
    return done.stdout.decode("utf-8", "replace").strip()


def _read(path: str) -> str:
    """Return a file of the kernel's, "" where this platform has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
