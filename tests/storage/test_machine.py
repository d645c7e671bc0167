"""The size of a machine by its affinity mask and cgroups."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from vfindex.storage.machine import available_bytes, memory_bytes, usable_cores

MEMINFO = "MemTotal:       16000000 kB\nMemFree:         1000000 kB\nMemAvailable:   8000000 kB\n"


@pytest.fixture
def many_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)), raising=False)


def machine(root: Path, cgroup: str, **files: str) -> Path:
    """Return a root folder with /proc and a cgroup tree. files: path below /sys/fs/cgroup -> content."""
    contents = {"proc/self/cgroup": cgroup, "proc/meminfo": MEMINFO}
    contents |= {f"sys/fs/cgroup/{name}": text for name, text in files.items()}
    for name, text in contents.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{text}\n" if text else "")
    return root


VERSION_1 = "4:cpu,cpuacct:/docker/ab\n3:memory:/docker/ab\n1:name=systemd:/docker/ab"
NO_LIMIT = str((1 << 63) - 4096)


@pytest.mark.parametrize(
    ("cgroup", "files", "cores"),
    [
        ("", {}, 64),
        ("0::/", {"cpu.max": "max 100000"}, 64),
        ("0::/", {"cpu.max": "200000 100000"}, 2),
        ("0::/", {"cpu.max": "250000 100000"}, 2),
        ("0::/", {"cpu.max": "50000 100000"}, 1),
        ("0::/a/b", {"a/b/cpu.max": "800000 100000", "a/cpu.max": "400000 100000", "cpu.max": "max 100000"}, 4),
        (VERSION_1, {"cpu/docker/ab/cpu.cfs_quota_us": "300000", "cpu/docker/ab/cpu.cfs_period_us": "100000"}, 3),
        (VERSION_1, {"cpu/cpu.cfs_quota_us": "300000", "cpu/cpu.cfs_period_us": "100000"}, 3),
        (VERSION_1, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, 64),
    ],
)
def test_a_cpu_quota_counts_as_the_cores(
    many_cores: None, tmp_path: Path, cgroup: str, files: dict[str, str], cores: int
) -> None:
    assert usable_cores(machine(tmp_path, cgroup, **files)) == cores


@pytest.mark.parametrize(
    ("cgroup", "files", "limit", "free"),
    [
        ("", {}, 16_384_000_000, 8_192_000_000),
        ("0::/", {"memory.max": "max", "memory.current": "5"}, 16_384_000_000, 8_192_000_000),
        ("0::/", {"memory.max": "1000", "memory.current": "400"}, 1000, 600),
        ("0::/a", {"a/memory.max": "1000", "a/memory.current": "1500"}, 1000, 0),
        (VERSION_1, {"memory/memory.limit_in_bytes": "1000", "memory/memory.usage_in_bytes": "400"}, 1000, 600),
        (
            VERSION_1,
            {"memory/memory.limit_in_bytes": NO_LIMIT, "memory/memory.usage_in_bytes": "4"},
            16_384_000_000,
            8_192_000_000,
        ),
    ],
)
def test_a_memory_limit_counts_as_the_memory(
    tmp_path: Path, cgroup: str, files: dict[str, str], limit: int, free: int
) -> None:
    root = machine(tmp_path, cgroup, **files)
    assert (memory_bytes(root), available_bytes(root)) == (limit, free)
