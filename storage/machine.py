"""The processor, the cores and the memory that this process may use.

Affinity masks and the CPU and memory limits of cgroups (version 1 and 2) count as the size of the machine.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

_UNLIMITED_BYTES = 1 << 62  # cgroup version 1 writes 2**63 less a page where there is no limit


def usable_cores(root: Path = Path("/")) -> int:
    """Return the number of processor cores for this process, by its affinity mask and its cgroups; at least 1.

    A quota of 2.5 cores counts as 2. root: where proc and sys are mounted.
    """
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quotas = []
    for folder in _cgroups(root, "cpu"):
        quota, period = [*kernel_file(folder / "cpu.max").split(), "", ""][:2]
        if not quota:
            quota, period = (
                kernel_file(folder / "cpu.cfs_quota_us").strip(),
                kernel_file(folder / "cpu.cfs_period_us").strip(),
            )
        if quota.isdecimal() and period.isdecimal() and int(period):
            quotas.append(int(quota) // int(period))
    return max(1, min([allowed, *quotas]))


def processor_flags() -> frozenset[str]:
    """Return what the processor can do, in the words of Linux's /proc/cpuinfo; none on other platforms."""
    found = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", kernel_file("/proc/cpuinfo"), re.M)
    return frozenset(found[1].split()) if found else frozenset()


def memory_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory of the machine, or the limit of its cgroups if lower; None on an unknown platform."""
    amounts = [_meminfo(root, "MemTotal"), *(limit for limit, _ in _memory_limits(root))]
    return min((amount for amount in amounts if amount is not None), default=None)


def available_bytes(root: Path = Path("/")) -> int | None:
    """Return the memory that processes may still allocate, by the machine and by its cgroups; None if unknown."""
    amounts = [_meminfo(root, "MemAvailable"), *(max(0, limit - used) for limit, used in _memory_limits(root))]
    return min((amount for amount in amounts if amount is not None), default=None)


def _meminfo(root: Path, name: str) -> int | None:
    found = re.search(rf"^{name}:\s*(\d+) kB$", kernel_file(root / "proc/meminfo"), re.M)
    return int(found[1]) * 1024 if found else None


def _memory_limits(root: Path) -> Iterator[tuple[int, int]]:
    """Yield (limit, bytes in use) of each cgroup of this process that has a limit."""
    for folder in _cgroups(root, "memory"):
        for names in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            limit, used = (kernel_file(folder / name).strip() for name in names)
            if limit.isdecimal() and used.isdecimal() and int(limit) < _UNLIMITED_BYTES:
                yield int(limit), int(used)


def _cgroups(root: Path, controller: str) -> Iterator[Path]:
    """Yield the folders of this process's cgroup and of all above it, for one controller."""
    mount = root / "sys/fs/cgroup"
    for line in kernel_file(root / "proc/self/cgroup").splitlines():
        controllers, path = line.split(":", 2)[1:]
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 has one tree for all controllers; version 1 a tree for each. A container sees its own cgroup as the
        # root of the tree, whatever path the line has.
        tree = mount / controller if controllers else mount
        for above in (PurePosixPath(path), *PurePosixPath(path).parents):
            yield tree / str(above).lstrip("/")


def kernel_file(path: str | Path) -> str:
    """Return a file of the kernel, "" where this platform has none."""
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
