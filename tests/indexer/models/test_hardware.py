"""The size of a machine by its affinity mask and cgroups, and its GPUs as the CUDA driver lists them."""

from __future__ import annotations

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from vfindex.indexer.models import hardware
from vfindex.indexer.models.hardware import Gpu, available_bytes, cuda_devices, devices, memory_bytes, usable_cores
from vfindex.storage.errors import VfindexError

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


class Driver:
    """A libcuda with two devices. status: what cuInit returns."""

    def __init__(self, status: int = 0) -> None:
        self.status = status

    def cuInit(self, flags: int) -> int:
        return self.status

    def cuDeviceGetCount(self, count: Any) -> int:
        count.contents.value = 2
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:
        device.contents.value = 10 + index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:
        name.value = f"GPU {device.value}".encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:
        size.contents.value = device.value << 30
        return 0


def test_a_driver_that_cannot_be_asked_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    """The machine has no process or handle left for the child that asks it."""

    def refuse(*_: object, **__: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(hardware, "Child", refuse)
    hardware._devices.cache_clear()
    try:
        with pytest.raises(VfindexError, match=r"^the CUDA driver cannot be asked: .* \(Too many open files\)"):
            devices()
        assert hardware.usable_devices() == []
    finally:
        hardware._devices.cache_clear()


def test_the_driver_lists_the_devices() -> None:
    assert cuda_devices(Driver()) == [("GPU 10", 10 << 30), ("GPU 11", 11 << 30)]
    assert cuda_devices(Driver(status=100)) == []
    with pytest.raises(SystemExit, match="CUDA error 999"):
        cuda_devices(Driver(status=999))


def test_devices_are_queried_once_and_a_failure_is_cached(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def ask(code: str, name: str) -> str:
        calls.append(name)
        return '[["H100", 5]]'

    hardware._devices.cache_clear()
    monkeypatch.setattr(hardware, "_ask", ask)
    try:
        assert [(gpu.name, gpu.memory_bytes) for gpu in devices() + devices()] == [("H100", 5)] * 2
        assert calls == ["the CUDA driver"]
        hardware._devices.cache_clear()
        monkeypatch.undo()
        monkeypatch.setattr(hardware, "_CUDA", "raise SystemExit('CUDA error 999; run nvidia-smi')")
        for _ in range(2):
            with pytest.raises(VfindexError, match="the CUDA driver failed: CUDA error 999; run nvidia-smi"):
                devices()
        assert hardware.usable_devices() == []
    finally:
        hardware._devices.cache_clear()


def test_no_device_is_visible_if_all_are_hidden(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    hardware._devices.cache_clear()
    try:
        assert devices() == []
    finally:
        hardware._devices.cache_clear()


def test_torch_without_cuda_uses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware, "usable_devices", lambda: [Gpu("H100", 5, "550")])
    monkeypatch.setattr(hardware, "version", lambda _: "2.9.0+cpu")
    assert not hardware.has_cuda()
    monkeypatch.setattr(hardware, "version", lambda _: "2.9.0")
    assert hardware.has_cuda()
